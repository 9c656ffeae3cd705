"""What the user of `convert` can set, checked in one place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from os import PathLike
from typing import TYPE_CHECKING, Any

from deltafx.errors import ConvertError, unknown_name
from deltafx.gate import AUTO, InputGate
from deltafx.preprocess import Preprocess
from deltafx.truncation import NORMS, Threshold, is_number

if TYPE_CHECKING:
    from deltafx.calibration import Calibration

ISAS = ("avx512", "avx2", "portable")
PAYLOADS = ("value", "difference")
NO_THRESHOLD = Threshold(0.0)
CALIBRATED = "calibrated"


@dataclass(frozen=True)
class Mode:
    """A starting point for gate and thresholds; explicit arguments win.

    Calibrated networks withhold little at their ends, where the input is read and results leave, and much in between.
    """

    threshold: float
    at_ends: float
    input_gate: InputGate | None
    refresh_touched: int | None = None  # not with payload "difference", which has none


MODES = {
    "exact": Mode(0.0, 0.0, None),
    "balanced": Mode(0.2, 0.05, AUTO, refresh_touched=30),
    "fast": Mode(0.4, 0.05, replace(AUTO, threshold=2 * AUTO.threshold), refresh_touched=30),
}


@dataclass(frozen=True)
class Options:
    """Backend options.

    check: verify the design's rules at every node after every frame (slow; for tests and bug hunts).
    copy_outputs: return tensors of the caller's own; False gives views that hold until the next frame.
    cuda_graph: on a GPU, launch a frame's kernels as one CUDA graph, once the first frames have run.
    dense_switch: run a layer (on a GPU, a part of the network) densely in a frame that changes so much of it that this
        is faster. Off, the result does not depend on the frames before, bit for bit.
    frame_program: on the CPU, run a frame's compiled nodes as one program, once the first frames have run; off, each is
        called from Python.
    isa: the CPU's instruction set: "avx512", "avx2" or "portable"; None takes the best that it has.
    profile: note the time of every node, for `report`.
    max_state_bytes: refuse frames whose state would take more; the shapes used longest ago make room first.
    """

    check: bool = False
    copy_outputs: bool = True
    cuda_graph: bool = True
    dense_switch: bool = True
    frame_program: bool = True
    isa: str | None = None
    profile: bool = False
    max_state_bytes: int | None = None


@dataclass(frozen=True)
class Settings:
    """The arguments of `convert`, resolved."""

    mode: str = "exact"
    default_threshold: Threshold = NO_THRESHOLD
    threshold_at_ends: Threshold = NO_THRESHOLD  # of nodes that read the input, or whose result leaves
    thresholds: Mapping[str, Threshold] = field(default_factory=dict)
    calibration: Calibration | None = None  # where the thresholds come from
    norm: str = "rms"
    input_gate: InputGate | None = None
    payload: str = "value"
    backend: str = "reference"
    preprocess: Preprocess | None = None
    keep_dense: tuple[str, ...] = ()
    refresh_every: int | None = None
    refresh_within: int | None = None
    refresh_touched: int | None = None
    strict: bool = False
    dump: str | None = None
    options: Options = Options()

    @property
    def deciding(self) -> str:
        """What decides which changes count: "calibrated", or the mode."""
        return self.mode if self.calibration is None else CALIBRATED

    @property
    def is_exact(self) -> bool:
        thresholds = [self.default_threshold, self.threshold_at_ends, *self.thresholds.values()]
        return self.input_gate is None and all(threshold.value == 0 for threshold in thresholds)

    def threshold_of(self, path: str, *fused_from: str, at_end: bool) -> Threshold:
        """That of a node, which may be named by any of its parts."""
        names = {path, *fused_from} & self.thresholds.keys()
        if len(names) > 1:
            raise ConvertError(f"threshold: {' and '.join(sorted(names))} are one node, {path}; give one of them.")
        if names:
            return self.thresholds[names.pop()]
        return self.threshold_at_ends if at_end else self.default_threshold


def one_of(what: str, value: Any, known: Iterable[str]) -> Any:
    if value not in tuple(known):
        raise ConvertError(unknown_name(what, value, known))
    return value


def to_threshold(value: Any, what: str = "threshold") -> Threshold:
    if isinstance(value, Threshold):
        return value
    if not is_number(value):
        raise ConvertError(
            f"{what}: a number (a share of the node's root mean square), deltafx.absolute(x), a mapping of those or a "
            f"calibration is expected; got {value!r}."
        )
    try:
        return Threshold(value)
    except ConvertError as error:
        raise ConvertError(f"{what}: {error}") from None


def to_calibration(threshold: Any) -> Calibration | None:
    """A calibration, if that is what is given: one, or the name of one."""
    from deltafx.calibration import Calibration

    if isinstance(threshold, (str, PathLike)):
        return Calibration.load(threshold)
    return threshold if isinstance(threshold, Calibration) else None


def to_options(options: Any) -> Options:
    known = {option.name: option for option in fields(Options)}
    if not isinstance(options, Mapping):
        raise ConvertError(f"options: a mapping is expected; got {options!r}. Known: {', '.join(sorted(known))}.")
    for name, value in options.items():
        one_of("option", name, known)
        if isinstance(known[name].default, bool) and not isinstance(value, bool):
            raise ConvertError(f"option {name!r}: True or False is expected; got {value!r}.")
    result = Options(**options)
    if result.isa is not None:
        one_of("instruction set in option 'isa'", result.isa, ISAS)
    limit = result.max_state_bytes
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise ConvertError(f"option 'max_state_bytes': a number of bytes, 1 or more, is expected; got {limit!r}.")
    return result


def resolve(
    *, mode: str, threshold: Any, norm: str | None, input_gate: InputGate | str | None, preprocess: Preprocess | None,
    payload: str, backend: str, keep_dense: Any, refresh_every: int | None, strict: bool, dump: Any,
    options: Mapping[str, Any] | None, refresh_within: int | None = None,
    refresh_touched: int | None = None,
) -> Settings:  # fmt: skip
    """Check the arguments of `convert` that do not need the model, and fill in what the mode says."""
    defaults = MODES[one_of("mode", mode, MODES)]
    calibration = to_calibration(threshold)
    if calibration is not None:
        threshold = calibration.truncations()
        norm, input_gate = norm or calibration.norm, input_gate or calibration.input_gate
    if input_gate == "auto":
        input_gate = AUTO
    if input_gate is not None and not isinstance(input_gate, InputGate):
        raise ConvertError(f'input_gate: a deltafx.InputGate or "auto" is expected; got {input_gate!r}.')
    if preprocess is not None and not isinstance(preprocess, Preprocess):
        raise ConvertError(f"preprocess: a deltafx.Preprocess is expected; got {preprocess!r}.")
    if preprocess is not None and input_gate is not None and input_gate.grey_level is not None:
        raise ConvertError("input_gate: with preprocess a grey level is one level of the frame; leave grey_level out.")
    named = isinstance(threshold, Mapping)
    given = threshold is not None and not named
    default, at_ends = (threshold, threshold) if given else (defaults.threshold, defaults.at_ends)
    keep_dense = (keep_dense,) if isinstance(keep_dense, str) else tuple(keep_dense)
    for name in keep_dense:
        if not isinstance(name, str):
            raise ConvertError(f"keep_dense: module paths or operator names are expected; got {name!r}.")
    named_refreshes = {
        "refresh_every": refresh_every,
        "refresh_within": refresh_within,
        "refresh_touched": refresh_touched,
    }
    if all(every is None for every in named_refreshes.values()):
        if calibration is not None:
            named_refreshes = {name: getattr(calibration, name) for name in named_refreshes}
        elif payload == "value":
            named_refreshes["refresh_touched"] = defaults.refresh_touched
    for name, every in named_refreshes.items():
        if every is not None and (not isinstance(every, int) or isinstance(every, bool) or every < 1):
            raise ConvertError(f"{name}: a number of frames, 1 or more, is expected; got {every!r}.")
    behind = [name for name, every in named_refreshes.items() if every is not None and name != "refresh_every"]
    if len(behind) > 1:
        raise ConvertError(f"{' and '.join(behind)}: both see to what is withheld; give one of them.")
    if behind and payload == "difference":
        raise ConvertError(f"{behind[0]}: payload 'difference' has no background refresh; use refresh_every.")
    return Settings(
        mode=mode,
        default_threshold=to_threshold(default),
        threshold_at_ends=to_threshold(at_ends),
        thresholds={k: to_threshold(v, f"threshold[{k!r}]") for k, v in threshold.items()} if named else {},
        calibration=calibration,
        norm=one_of("norm", norm or NORMS[0], NORMS),
        input_gate=input_gate if input_gate is not None else defaults.input_gate,
        payload=one_of("payload", payload, PAYLOADS),
        backend=backend,
        preprocess=preprocess,
        keep_dense=keep_dense,
        **named_refreshes,
        strict=strict,
        dump=str(dump) if dump is not None else None,
        options=to_options(options if options is not None else {}),
    )
