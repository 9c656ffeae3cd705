"""What the user of `convert` can set, checked in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from deltafx.errors import ConvertError, unknown_name
from deltafx.gate import InputGate
from deltafx.truncation import NORMS, Threshold

PAYLOADS = ("value", "difference")


@dataclass(frozen=True)
class Mode:
    """A starting point for gate and threshold; explicit arguments win."""

    threshold: float
    input_gate: InputGate | None


MODES = {
    "exact": Mode(0.0, None),
    "balanced": Mode(0.1, InputGate(threshold=6, window=7, dilation=5)),
    "fast": Mode(0.2, InputGate(threshold=8, window=7, dilation=5)),
}


@dataclass(frozen=True)
class Options:
    """Backend options.

    check: verify the design's rules at every node after every frame (slow; for tests and bug hunts).
    copy_outputs: return tensors of the caller's own; False gives views that hold until the next frame.
    max_state_bytes: refuse frames whose state would take more.
    """

    check: bool = False
    copy_outputs: bool = True
    max_state_bytes: int | None = None


@dataclass(frozen=True)
class Settings:
    """The arguments of `convert`, resolved."""

    mode: str = "exact"
    default_threshold: Threshold = Threshold(0.0)
    thresholds: Mapping[str, Threshold] = field(default_factory=dict)
    norm: str = "rms"
    input_gate: InputGate | None = None
    payload: str = "value"
    backend: str = "reference"
    keep_dense: tuple[str, ...] = ()
    refresh_every: int | None = None
    strict: bool = False
    dump: str | None = None
    options: Options = Options()

    @property
    def is_exact(self) -> bool:
        thresholds = [self.default_threshold, *self.thresholds.values()]
        return self.input_gate is None and all(threshold.value == 0 for threshold in thresholds)


def one_of(what: str, value: Any, known: Any) -> Any:
    if value not in known:
        raise ConvertError(unknown_name(what, value, known))
    return value


def to_threshold(value: Any, what: str = "threshold") -> Threshold:
    if isinstance(value, Threshold):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConvertError(
            f"{what}: a number (a share of the node's root mean square) or deltafx.absolute(x) is expected; "
            f"got {value!r}."
        )
    try:
        return Threshold(float(value))
    except ValueError as error:
        raise ConvertError(f"{what}: {error}") from None


def resolve(
    *, mode: str, threshold: Any, norm: str, input_gate: InputGate | None, payload: str, backend: str,
    keep_dense: Any, refresh_every: int | None, strict: bool, dump: Any, options: Mapping[str, Any] | None,
) -> Settings:  # fmt: skip
    """Check the arguments of `convert` that do not need the model, and fill in what the mode says."""
    defaults = MODES[one_of("mode", mode, MODES)]
    if input_gate is not None and not isinstance(input_gate, InputGate):
        raise ConvertError(f"input_gate: a deltafx.InputGate is expected; got {input_gate!r}.")
    named = isinstance(threshold, Mapping)
    default = defaults.threshold if threshold is None or named else threshold
    if isinstance(keep_dense, str):
        keep_dense = (keep_dense,)
    if refresh_every is not None and (not isinstance(refresh_every, int) or refresh_every < 1):
        raise ConvertError(f"refresh_every: a number of frames, 1 or more, is expected; got {refresh_every!r}.")
    known = {option.name for option in fields(Options)}
    for name in options or {}:
        one_of("option", name, known)
    return Settings(
        mode=mode,
        default_threshold=to_threshold(default),
        thresholds={k: to_threshold(v, f"threshold[{k!r}]") for k, v in threshold.items()} if named else {},
        norm=one_of("norm", norm, NORMS),
        input_gate=input_gate if input_gate is not None else defaults.input_gate,
        payload=one_of("payload", payload, PAYLOADS),
        backend=backend,
        keep_dense=tuple(keep_dense),
        refresh_every=refresh_every,
        strict=strict,
        dump=str(dump) if dump is not None else None,
        options=Options(**(options or {})),
    )
