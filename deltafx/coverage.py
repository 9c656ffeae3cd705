"""Which networks convert, how much of each is in delta form, and whether the result is the dense network's.

Every network is built, converted and run over four frames at threshold 0, beside itself in float32 and in float64; see
`deltafx.coverage_models` for the list.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import re
import textwrap
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

import deltafx
from deltafx.coverage_models import DETECTION, QUANTIZED, SHOWN, Case, build, pictures_of
from deltafx.detections import Detections, matches
from deltafx.measure import relative_error, tensors_of
from deltafx.models_zoo.assets import AssetError
from deltafx.parts import NOT_STREAMS

T = TypeVar("T")
MATCHES, DIFFERS, FAILED, SKIPPED = "matches", "differs", "failed", "skipped"
GRACE_S = 10  # for a process that has sent its row to end by itself
# The error against float64 may be this many times the dense float32 network's own, plus this much.
TIMES, PLUS = 3, 1e-6
# Of a detector: maps that no decision has gone into yet. Boxes hang on the order of scores that may be nearly equal.
WATCHED = ("backbone", "rpn.head", "head")
PLUS_BOXES = 0.02  # of all: so many more than TIMES as many as the dense float32 network may be lost or be others


@dataclass(frozen=True)
class Reason:
    """Why nodes are not in delta form: how many have this operator and reason, and their MACs."""

    operator: str
    reason: str
    nodes: int
    macs: int


@dataclass(frozen=True)
class Row:
    """One network. What was not reached is None."""

    name: str
    family: str
    shape: tuple[int, ...]  # of an input
    status: str  # "matches", "differs", "failed" or "skipped"
    why: str | None = None  # it is not "matches"
    parts: int | None = None  # delta graphs; 1: captured whole
    delta_nodes: int | None = None
    islands: int | None = None
    eager: int | None = None  # modules that are in no delta graph
    macs: int | None = None  # of a dense frame
    per_proposal: int | None = None  # MACs of what runs for each of the proposals, whose number the picture decides
    share: float | None = None  # of the other MACs in delta form; None without any
    computed: float | None = None  # share of them that the last frame computed, in which a disc was changed
    errors: tuple[float, ...] = ()  # relative, by frame, against float64; of a quantized network against itself
    errors_dense: tuple[float, ...] = ()  # the dense float32 network's own
    boxes: int | None = None  # that a detector finds in float64
    boxes_lost: int | None = None  # those of them that the converted network does not find
    boxes_lost_dense: int | None = None
    seconds: float | None = None  # of the processor, for `convert` and the first frame, which does the rest of the work
    reasons: tuple[Reason, ...] = ()

    @property
    def converted(self) -> bool:
        return self.status in (MATCHES, DIFFERS)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Row:
        """The row that `to_dict` made these of, also where JSON has lists for its tuples and null for infinity."""
        errors = {name: tuple(math.inf if each is None else each for each in fields[name])
                  for name in ("errors", "errors_dense")}  # fmt: skip
        reasons = tuple(Reason(**each) for each in fields["reasons"])
        return cls(**{**fields, **errors, "shape": tuple(fields["shape"]), "reasons": reasons})


def cover(cases: Iterable[Case], timeout: float | None = None) -> Iterator[Row]:
    """A row for each case, as it is done. `timeout` is in seconds, for one case.

    Each runs in a process of its own: what it leaves behind, and what it does to its process, ends with it.
    """
    methods = multiprocessing.get_all_start_methods()
    processes = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if "forkserver" in methods:
        processes.set_forkserver_preload(["torch", "torchvision", __name__])  # imported once, not in every process
    for case in cases:
        receiver, sender = processes.Pipe(duplex=False)
        process = processes.Process(target=send_row, args=(case, sender), daemon=True)  # type: ignore[attr-defined]
        process.start()
        sender.close()  # the process has its own; without that one `receiver` ends
        try:
            row = received(case, receiver, process, timeout)
        finally:
            process.kill()
            process.join()
        yield row


def send_row(case: Case, sender: Connection) -> None:
    sender.send(row_of(case))


def received(case: Case, receiver: Connection, process: BaseProcess, timeout: float | None) -> Row:
    if not receiver.poll(timeout):
        return failed(case, f"not done after {timeout:g} s")
    try:
        row = receiver.recv()
    except EOFError:
        row = None
    process.join(GRACE_S)
    if row is None:
        reason = "; was it short of memory?" if process.exitcode == -9 else ""
        return failed(case, f"its process ended with exit code {process.exitcode}{reason}")
    return row


def row_of(case: Case) -> Row:
    """The row of one network; an error becomes a row."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            model = build(case)
        except (ImportError, AssetError) as error:
            return replace(failed(case, error), status=SKIPPED)
        except Exception as error:
            return failed(case, error)
        try:
            return examined(case, model)
        except Exception as error:
            return failed(case, error)


def failed(case: Case, error: Exception | str) -> Row:
    """The first line is the reason, without the folders in which packages are installed."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    if not isinstance(error, (str, deltafx.ConvertError, deltafx.FrameError, ImportError, AssetError)):
        text = f"{type(error).__name__}: {text}"
    text = re.sub(r"/\S*?/(site|dist)-packages/", "", text)
    return Row(case.name, case.family, case.shape, FAILED, textwrap.shorten(text, 300, placeholder=" ..."))


def examined(case: Case, model: nn.Module) -> Row:
    pictures = pictures_of(case)
    dense = in_order(run(model, pictures, case))
    started = time.process_time()
    dm = deltafx.convert(model)
    seconds = time.process_time() - started
    delta = run(dm, in_order(pictures), case)
    facts = figures(deltafx.report(dm))
    row = replace(failed(case, ""), status=MATCHES, why=None, seconds=seconds + delta[0].seconds, **facts)
    del dm  # of the largest networks there is not room for three
    if case.family == QUANTIZED and case.form != "float":
        refuse_constant(dense)
        return judged(row, errors_of(delta, dense), [0.0] * len(SHOWN), plus=0.0)
    with InFloat64():
        exact = in_order(run(model.double(), pytree.tree_map_only(Tensor, Tensor.double, pictures), case))
    refuse_constant(exact)
    row = judged(row, errors_of(delta, exact), errors_of(dense, exact))
    return row if case.family != DETECTION else judged_by_boxes(row, delta, dense, exact)


def refuse_constant(seen: Sequence[Seen]) -> None:
    if not any(errors_of(seen[1:], [seen[0]] * (len(seen) - 1))):
        raise RuntimeError("its result is the same for every frame, so that nothing was compared")


def judged(row: Row, errors: Sequence[float], errors_dense: Sequence[float], plus: float = PLUS) -> Row:
    """The row with its errors, and whether they are small enough in every frame."""
    why = None
    for number, (ours, theirs) in enumerate(zip(errors, errors_dense, strict=True)):
        if not ours <= TIMES * theirs + plus and why is None:
            why = f"frame {number}: relative error {ours:.1e}, the dense network's own is {theirs:.1e}"
    status = MATCHES if why is None else DIFFERS
    return replace(row, errors=tuple(errors), errors_dense=tuple(errors_dense), status=status, why=why)


def judged_by_boxes(row: Row, delta: Sequence[Seen], dense: Sequence[Seen], exact: Sequence[Seen]) -> Row:
    """The row with its boxes, which differs if the converted network loses many that the dense one does not."""
    boxes = sum(len(found) for seen in exact for found in seen.detections())
    lost, lost_dense = boxes_lost(delta, exact), boxes_lost(dense, exact)
    row = replace(row, boxes=boxes, boxes_lost=lost, boxes_lost_dense=lost_dense)
    if lost <= TIMES * lost_dense + PLUS_BOXES * boxes or row.status == DIFFERS:
        return row
    return replace(row, status=DIFFERS, why=f"{lost} of {boxes} boxes are not found; dense, {lost_dense} are not")


def boxes_lost(got: Sequence[Seen], want: Sequence[Seen]) -> int:
    pairs = [pair for ours, theirs in zip(got, want) for pair in zip(ours.detections(), theirs.detections())]
    return sum(len(theirs) - matches(theirs, ours) for ours, theirs in pairs)


def figures(report: Any) -> dict[str, Any]:
    """What a row has from the report of a converted network."""
    totals = report.totals
    counted: dict[tuple[str, str], list[int]] = {}
    for node in report.nodes:
        if node.reason is not None:
            macs = counted.setdefault((node.operator, node.reason), [])
            macs.append(node.macs_dense or 0)
    per_proposal = sum(node.macs_dense or 0 for node in report.nodes if node.reason == NOT_STREAMS)
    rest = totals["macs_dense"] - per_proposal
    reasons = [Reason(*key, nodes=len(macs), macs=sum(macs)) for key, macs in counted.items()]
    return {
        "parts": totals["graphs"],
        "delta_nodes": totals["delta_nodes"],
        "islands": totals["dense_nodes"],
        "eager": totals["eager_modules"],
        "macs": totals["macs_dense"],
        "per_proposal": per_proposal,
        "share": totals["macs_delta_form"] / rest if rest else None,
        "computed": (totals["macs"] - per_proposal) / rest if rest else None,
        "reasons": tuple(sorted(reasons, key=lambda reason: (-reason.macs, -reason.nodes))),
    }


# ---------------------------------------------------------------------------------------------------------------------
# Running and comparing


@dataclass(frozen=True)
class Seen:
    """One frame: the tensors that are compared, all that the network gave, and the seconds of the processor it took."""

    tensors: list[Tensor]
    outputs: Any
    seconds: float

    def detections(self) -> list[Detections]:
        """By image; boxes without an area, which random weights give, overlap nothing and are left out."""
        found = [Detections(each["boxes"].double(), each["scores"], each["labels"]) for each in self.outputs]
        return [each[(each.boxes[:, 2:] > each.boxes[:, :2]).all(1)] for each in found]


def run(module: nn.Module, frames: Sequence[tuple[Any, ...]], case: Case) -> list[Seen]:
    done = []
    with watching(module, WATCHED if case.family == DETECTION else ()) as seen:
        for frame in frames:
            started = time.process_time()
            outputs = module(*frame)
            seconds = time.process_time() - started
            maps = [tensor for result in seen.values() for tensor in result]
            done.append(Seen(maps or tensors_of(outputs), outputs, seconds))
            seen.clear()
    return done


class InFloat64(TorchFunctionMode):
    """Within the context, what a model's code makes float32 (`coordinates.float()`) is float64."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (Tensor.double if func is Tensor.float else func)(*args, **(kwargs or {}))


def in_order(by_picture: Sequence[T]) -> list[T]:
    """By frame, what is known by picture: the dense network gives the same for the same picture."""
    return [by_picture[place] for place in SHOWN]


def errors_of(got: Sequence[Seen], want: Sequence[Seen]) -> list[float]:
    """By frame; infinite where they are not as many tensors."""
    return [
        relative_error(ours.tensors, theirs.tensors) if len(ours.tensors) == len(theirs.tensors) else math.inf
        for ours, theirs in zip(got, want, strict=True)
    ]


@contextlib.contextmanager
def watching(module: nn.Module, paths: Sequence[str]) -> Iterator[dict[str, list[Tensor]]]:
    """Within the context, what the submodules at `paths` give, those of them that exist.

    A network converted by parts keeps the dense network's modules as `model`.
    """
    root = getattr(module, "model", module)
    seen: dict[str, list[Tensor]] = {}

    def keep(path: str) -> Any:
        return lambda module, args, result: seen.update({path: [tensor.clone() for tensor in tensors_of(result)]})

    modules = dict(root.named_modules())
    hooks = [modules[path].register_forward_hook(keep(path)) for path in paths if path in modules]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
