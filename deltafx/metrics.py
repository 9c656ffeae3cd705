"""How far a converted network's results are from the dense one's, in the terms of the task; summed up over frames."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from deltafx.detections import SEEN, Agreement, Detections, pairs
from deltafx.errors import unknown_name
from deltafx.measure import tensors_of

NEAR = 0.05  # of the map's longer side: a keypoint that moved less is where it was
WIDE = 2.0  # images with values above are of 0..255, the others of 0..1


class Metric(ABC):
    """Counts frame by frame; `error` is 0 where the results are the dense network's, and grows.

    `values()` has it in the task's usual terms. `distance` is smooth where `error` counts, for a search to go by: the
    squared distance of one frame's results, and their squared size.
    """

    name: ClassVar[str]
    default: ClassVar[float]  # what is accepted, if nothing is said

    @abstractmethod
    def fresh(self) -> Metric:
        """The same metric with nothing counted."""

    def kept(self, want: Any) -> Any:
        """What must be remembered of the dense network's outputs to be `want`, again and again."""
        return want

    @abstractmethod
    def add(self, got: Any, want: Any) -> None:
        """Count the outputs for one frame."""

    @property
    @abstractmethod
    def error(self) -> float: ...

    def values(self) -> dict[str, float]:
        return {self.name: self.error}

    def distance(self, got: Any, want: Any) -> tuple[float, float]:
        return squares(tensors_of(got), tensors_of(want))


def squares(got: Sequence[Tensor], want: Sequence[Tensor]) -> tuple[float, float]:
    """The squared L2 norm of the difference, and of `want`."""
    if len(got) != len(want) or any(a.shape != b.shape for a, b in zip(got, want)):
        return math.inf, 1.0
    error = sum((a.double() - b.double()).square().sum().item() for a, b in zip(got, want))
    return error, sum(b.double().square().sum().item() for b in want)


class Mean(Metric):
    """The mean of a number that is found for each frame."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def fresh(self) -> Metric:
        return type(self)()

    @abstractmethod
    def of_frame(self, got: Any, want: Any) -> float: ...

    def add(self, got: Any, want: Any) -> None:
        self.found.append(self.of_frame(got, want))

    @property
    def error(self) -> float:
        return sum(self.found) / len(self.found) if self.found else 0.0


class Relative(Metric):
    """The L2 norm of the difference of all outputs over all frames, as a share of that of the outputs."""

    name = "relative"
    default = 0.05

    def __init__(self) -> None:
        self.difference = self.size = 0.0

    def fresh(self) -> Relative:
        return Relative()

    def add(self, got: Any, want: Any) -> None:
        difference, size = self.distance(got, want)
        self.difference += difference
        self.size += size

    @property
    def error(self) -> float:
        if self.difference == 0:
            return 0.0
        return math.sqrt(self.difference / self.size) if self.size else math.inf


class Top1(Mean):
    """The share of streams and frames that are put into another class; the first output is logits `[N, classes]`."""

    name = "top1"
    default = 0.01

    def of_frame(self, got: Any, want: Any) -> float:
        classes = [tensors_of(each)[0].argmax(1) for each in (got, want)]
        return (classes[0] != classes[1]).double().mean().item()


class Miou(Metric):
    """1 minus the mean over classes of the intersection over union; the first output is logits `[N, classes, H, W]`."""

    name = "miou"
    default = 0.02

    def __init__(self) -> None:
        self.counts = torch.zeros(2, 0, dtype=torch.int64)  # intersections and unions, by class

    def fresh(self) -> Miou:
        return Miou()

    def add(self, got: Any, want: Any) -> None:
        logits = [tensors_of(each)[0] for each in (got, want)]
        count = logits[0].shape[1]
        a, b = (each.argmax(1).flatten().cpu() for each in logits)
        both = torch.bincount(a[a == b], minlength=count)
        either = torch.bincount(a, minlength=count) + torch.bincount(b, minlength=count) - both
        found = torch.stack([both, either])
        self.counts = found if self.counts.shape[1] == 0 else self.counts + found

    @property
    def error(self) -> float:
        both, either = self.counts[:, self.counts[1] > 0]
        return 1 - (both / either).mean().item() if len(both) else 0.0

    def values(self) -> dict[str, float]:
        return {"miou": 1 - self.error}


class Psnr(Metric):
    """The root mean square of the difference, as a share of the peak (1, or 255 for values above 2): 0.01 is 40 dB."""

    name = "psnr"
    default = 0.01

    def __init__(self) -> None:
        self.difference, self.count, self.peak = 0.0, 0, 1.0

    def fresh(self) -> Psnr:
        return Psnr()

    def add(self, got: Any, want: Any) -> None:
        tensors = tensors_of(want)
        self.difference += squares(tensors_of(got), tensors)[0]
        self.count += sum(each.numel() for each in tensors)
        if max(each.max().item() for each in tensors) > WIDE:
            self.peak = 255.0

    @property
    def error(self) -> float:
        return math.sqrt(self.difference / self.count) / self.peak if self.count else 0.0

    def values(self) -> dict[str, float]:
        return {"psnr": -20 * math.log10(self.error) if self.error else math.inf}


class Keypoints(Mean):
    """The share of keypoints that moved by more than 5 % of the longer side; the first output is heat maps
    `[N, K, H, W]`."""

    name = "keypoints"
    default = 0.02

    def of_frame(self, got: Any, want: Any) -> float:
        maps = [tensors_of(each)[0] for each in (got, want)]
        width = maps[0].shape[-1]
        places = [torch.stack([each.flatten(2).argmax(2) // width, each.flatten(2).argmax(2) % width]) for each in maps]
        moved = (places[0] - places[1]).double().square().sum(0).sqrt()
        return (moved > NEAR * max(maps[0].shape[-2:])).double().mean().item()

    def values(self) -> dict[str, float]:
        return {"pck": 1 - self.error}


class Detection(Metric):
    """1 minus F1 with hysteresis (see `Agreement`), of what `postprocess` finds in the outputs for each stream."""

    name = "detection"
    default = 0.02

    def __init__(self, postprocess: Callable[[Any], Sequence[Detections]] | None = None):
        self.postprocess = postprocess
        self.agreement = Agreement()
        self.seen: list[tuple[Detections, Detections]] = []

    def fresh(self) -> Detection:
        return Detection(self.postprocess)

    def kept(self, want: Any) -> list[Detections]:
        return self.read(want)

    def read(self, outputs: Any) -> list[Detections]:
        if isinstance(outputs, list) and all(isinstance(each, Detections) for each in outputs):
            return outputs  # has been read
        found = self.postprocess(outputs) if self.postprocess is not None else outputs
        try:
            return [
                each if isinstance(each, Detections) else Detections(**{k: each[k] for k in FIELDS}) for each in found
            ]
        except (TypeError, KeyError, IndexError):
            raise ValueError(
                "metric 'detection': the outputs are no lists of boxes, scores and labels; give "
                "postprocess=function, which makes a list of deltafx.Detections of them, one for each stream."
            ) from None

    def add(self, got: Any, want: Any) -> None:
        for a, b in zip(self.read(got), self.read(want), strict=True):
            self.agreement.add(a, b)
            self.seen.append((a, b))

    @property
    def error(self) -> float:
        return 1 - self.agreement.f1_with_hysteresis

    def values(self) -> dict[str, float]:
        found = {"f1": self.agreement.f1, "f1_with_hysteresis": self.agreement.f1_with_hysteresis}
        precision = mean_average_precision(self.seen)
        return found if precision is None else {**found, "map": precision}

    def distance(self, got: Any, want: Any) -> tuple[float, float]:
        """Of the scores above SEEN - 0.15: of pairs how far they differ, of the others by how much they exceed it."""
        least = SEEN - 0.15
        error = size = 0.0
        for a, b in zip(self.read(got), self.read(want), strict=True):
            a, b = a.above(least), b.above(least)
            found = pairs(a, b)
            error += sum((a.scores[i] - b.scores[j]).item() ** 2 for i, j in found)
            for each, matched in ((a, {i for i, _ in found}), (b, {j for _, j in found})):
                error += sum((s - least) ** 2 for i, s in enumerate(each.scores.tolist()) if i not in matched)
            size += b.scores.double().square().sum().item()
        return error, size


FIELDS = ("boxes", "scores", "labels")


def mean_average_precision(seen: list[tuple[Detections, Detections]]) -> float | None:
    """COCO's, with the dense network's detections of 0.5 and above for truth; None without torchmetrics."""
    try:
        from torchmetrics.detection import MeanAveragePrecision
    except ImportError:
        return None
    metric = MeanAveragePrecision()

    def record(each: Detections, names: Sequence[str]) -> dict[str, Tensor]:
        return {name: getattr(each, name) for name in names}

    truth = [record(want.above(0.5), ("boxes", "labels")) for _, want in seen]
    metric.update([record(got, FIELDS) for got, _ in seen], truth)
    found = metric.compute()["map"].item()
    return found if found >= 0 else 1.0  # -1: there was nothing to find


class Function(Mean):
    """The mean of the user's own function of (delta output, dense output)."""

    name = "function"

    def __init__(self, function: Callable[[Any, Any], float]):
        super().__init__()
        self.function = function

    def fresh(self) -> Function:
        return Function(self.function)

    def of_frame(self, got: Any, want: Any) -> float:
        return float(self.function(got, want))


METRICS: dict[str, type[Metric]] = {
    each.name: each for each in (Relative, Top1, Detection, Keypoints, Miou, Psnr)
}  # fmt: skip


def metric_of(metric: Any, postprocess: Callable[[Any], Any] | None) -> Metric:
    """The metric that a user means: a name, a function, a Metric, or None for "relative"."""
    if isinstance(metric, Metric):
        return metric.fresh()
    if metric is None:
        metric = "relative"
    if callable(metric):
        return Function(metric)
    if metric not in METRICS:
        raise ValueError(unknown_name("metric", metric, METRICS))
    return Detection(postprocess) if metric == "detection" else METRICS[metric]()
