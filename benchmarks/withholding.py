"""Other ways to decide what is withheld, at the input and inside, by what they cost at equal savings.

NanoDet on a street clip, thresholds as in mode "fast", scaled. What the compiled backends cannot do is done by the
reference, which can be made to decide in any way.

Run as `python -m benchmarks.withholding`; see README.md.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from torch import Tensor

import deltafx
from benchmarks import nanodet
from benchmarks.measure import surroundings
from deltafx.backends import reference
from deltafx.converted import graphs_of, silence
from deltafx.gate import InputGate
from deltafx.measure import tensors_of
from deltafx.metrics import Detection
from deltafx.networks import Network
from deltafx.report import report
from deltafx.retune import retune, truncation_points
from deltafx.sensitivity import Gradients
from deltafx.settings import MODES
from deltafx.truncation import Threshold, changed
from deltafx.video import read_frames

FAST = MODES["fast"]
SCALES = (0.6, 0.75, 0.9, 1.1)  # of the thresholds inside
SAVED = 9.5  # times fewer MACs, at which ways are compared
LOOKED_AT = (0, 20, 40)  # frames for the weights of channels
DRAWS = 2

Decide = Callable[[str, Tensor, Tensor, Any, float, str], Tensor]  # path, new, old, shape of the mask, threshold, norm


@dataclass(frozen=True)
class Way:
    """How it is decided what is withheld."""

    gate: InputGate
    decide: Decide | None = None  # None: as the compiled backends do
    norm: str = "rms"
    at_ends: float = FAST.at_ends


def sizes(new: Tensor, old: Tensor, weights: Tensor | None = None) -> Tensor:
    squares = (new.float() - old.float()).square()
    return (squares if weights is None else squares * weights).mean(1, keepdim=True).sqrt()


def by_block(block: int) -> Decide:
    """All pixels of a block are propagated, or none, by the norm over its pixels and channels."""

    def decide(path: str, new: Tensor, old: Tensor, pixel: Any, threshold: float, norm: str) -> Tensor:
        squares = sizes(new, old).square()
        means = F.avg_pool2d(squares, block, ceil_mode=True, count_include_pad=False)
        passed = (means.sqrt() > threshold).float()
        wide = F.interpolate(passed, scale_factor=block, mode="nearest")
        return wide[..., : squares.shape[2], : squares.shape[3]].to(torch.uint8)

    return decide


def with_hysteresis(weak: float, reach: int) -> Decide:
    """A change above the share `weak` of the threshold counts near one above all of it."""

    def decide(path: str, new: Tensor, old: Tensor, pixel: Any, threshold: float, norm: str) -> Tensor:
        size = sizes(new, old)
        near = F.max_pool2d((size > threshold).float(), 2 * reach + 1, 1, reach) > 0
        return (near & (size > weak * threshold)).to(torch.uint8)

    return decide


def with_weights(weights: dict[str, Tensor]) -> Decide:
    """Channels count by what their change does to the result."""

    def decide(path: str, new: Tensor, old: Tensor, pixel: Any, threshold: float, norm: str) -> Tensor:
        return (sizes(new, old, weights.get(path)) > threshold).to(torch.uint8)

    return decide


def weights_of_channels(dm: Any, shown: list[Any]) -> dict[str, Tensor]:
    """By path, `[1, C, 1, 1]` with a mean of 1: the squared gradient of random projections of the results."""
    found: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(0)
    dm(shown[0])
    (graph,) = graphs_of(dm)
    given: list[tuple] = []
    hook = graph.register_forward_pre_hook(lambda _, args: given.append(args))
    for frame in shown:
        dm(frame)
    hook.remove()
    for args in given:
        with torch.inference_mode(False), torch.enable_grad():
            walk = Gradients(graph)
            results = [each for each in tensors_of(walk.run(*args)) if each.requires_grad]
            for _ in range(DRAWS):
                drawn = [torch.randn(each.shape, generator=generator) for each in results]
                outputs = list(walk.outputs.values())
                gradients = torch.autograd.grad(results, outputs, drawn, retain_graph=True, allow_unused=True)
                for path, gradient in zip(walk.outputs, gradients, strict=True):
                    if gradient is not None:
                        square = gradient.square().sum((0, 2, 3)).view(1, -1, 1, 1)
                        found[path] = found.get(path, torch.zeros_like(square)) + square
    return {path: each / each.mean() for path, each in found.items()}


class Street:
    """The network, the frames, and what the dense network finds in them."""

    def __init__(self, folder: Path, count: int):
        self.network: Network = nanodet.load(folder)
        self.shown = list(read_frames(folder / "vtest.avi", count))
        with torch.inference_mode():
            self.wanted = [nanodet.detections(self.network.model(self.network.preprocess(x))) for x in self.shown]

    def curve(self, way: Way) -> list[dict[str, float]]:
        backend = "cpu" if way.decide is None else "reference"
        dm = deltafx.convert(self.network.model, preprocess=self.network.preprocess, backend=backend)
        silence(dm)
        dm(self.shown[0])
        points = truncation_points(dm)
        known: dict[int, str] = {}  # paths, by where their buffers are

        def decide(new: Tensor, old: Tensor, pixel: Any, threshold: Any, norm: str) -> Tensor:
            assert way.decide is not None
            if threshold is None or new.dim() != 4:
                return changed(new, old, pixel, threshold, norm)
            return way.decide(known.get(old.data_ptr(), ""), new, old, pixel, threshold, norm)

        found = []
        for scale in SCALES:
            inside, ends = Threshold(scale * FAST.threshold), Threshold(way.at_ends)
            retune(dm, {path: ends if node.at_end else inside for path, node in points.items()}, way.norm, way.gate)
            dm(self.shown[0])
            for graph in graphs_of(dm):
                states = graph.runtime.plans[0].nodes
                known.update({states[path].nest.value.data_ptr(): path for path in points if path in states})
            if way.decide is not None:
                reference.changed = decide
            try:
                found.append({"scale": scale, **self.measure(dm)})
            finally:
                reference.changed = changed
        return found

    def measure(self, dm: Any) -> dict[str, float]:
        deltafx.reset(dm)
        metric, difference, size = Detection(nanodet.detections), 0.0, 0.0
        macs = []
        for frame, want in zip(self.shown, self.wanted, strict=True):
            got = nanodet.detections(dm(frame))
            metric.add(got, want)
            distance = metric.distance(got, want)
            difference, size = difference + distance[0], size + distance[1]
            macs.append(report(dm).totals["macs"])
        ratio = report(dm).totals["macs_dense"] * (len(macs) - 1) / sum(macs[1:])
        return {"macs_ratio": ratio, "error": metric.error, "distance": difference / size}


def at(curve: list[dict[str, float]], saved: float) -> tuple[float, float] | None:
    """Distance and error at so many times fewer MACs: between the two points around; None where there are none."""
    points = sorted(curve, key=lambda each: each["macs_ratio"])
    place = next((i for i, each in enumerate(points) if each["macs_ratio"] >= saved), 0)
    if place == 0:
        return None
    low, high = points[place - 1], points[place]
    share = math.log(saved / low["macs_ratio"]) / math.log(high["macs_ratio"] / low["macs_ratio"])
    distance = math.exp((1 - share) * math.log(low["distance"]) + share * math.log(high["distance"]))
    return distance, (1 - share) * low["error"] + share * high["error"]


def ways_of(street: Street) -> dict[str, Way]:
    assert FAST.input_gate is not None
    gate = FAST.input_gate
    dm = deltafx.convert(street.network.model, preprocess=street.network.preprocess)
    weights = weights_of_channels(dm, [street.shown[number] for number in LOOKED_AT if number < len(street.shown)])
    return {
        'mode "fast"': Way(gate),
        "thresholds at the ends 0.12": Way(gate, at_ends=0.12),
        "thresholds at the ends 0.02": Way(gate, at_ends=0.02),
        "gate: half the threshold": Way(replace(gate, threshold=gate.threshold / 2)),
        "gate: 1.5 times the threshold": Way(replace(gate, threshold=1.5 * gate.threshold)),
        "gate: the same, and half of that within 8 pixels": Way(
            replace(gate, threshold=1.5 * gate.threshold, weak=0.5, reach=8)
        ),
        "gate: three neighbours needed": Way(replace(gate, neighbours=3)),
        "gate: dilation 2": Way(replace(gate, dilation=2)),
        "inside: largest channel instead of RMS, thresholds as they are": Way(gate, norm="max"),
        "inside: blocks of 2x2": Way(gate, by_block(2)),
        "inside: blocks of 4x4": Way(gate, by_block(4)),
        "inside: 0.7 of the threshold counts next to all of it": Way(gate, with_hysteresis(0.7, 1)),
        "inside: channels weighted by sensitivity": Way(gate, with_weights(weights)),
    }


def table(found: dict[str, Any]) -> str:
    lines = [f"* {key}: {value}" for key, value in found.items() if key != "results"]
    lines += ["", f"| what is withheld | distance of scores at {SAVED:g}x fewer MACs | error there | measured |"]
    lines += ["|---" * 4 + "|"]
    for row in found["results"]:
        found_there = at(row["curve"], SAVED)
        there = "not reached | " if found_there is None else " | ".join(f"{each:.3f}" for each in found_there)
        curve = ", ".join(f"{each['macs_ratio']:.1f}x {each['distance']:.3f}" for each in row["curve"])
        lines.append(f"| {row['way']} | {there} | {curve} |")
    return "\n".join(lines) + "\n"


def main(
    data: Annotated[Path, typer.Option(help="a folder with vtest.avi and nanodet_g_576x768.onnx")] = Path("data"),
    frames: Annotated[int, typer.Option(help="how many, from the start")] = 60,
    out: Annotated[Path, typer.Option(help="JSON; a table with the suffix .md is written beside it")] = Path(
        "benchmarks/results/withholding.json"
    ),
) -> None:
    """Every way, at every scale of the thresholds."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {**surroundings(), "frames": frames, "results": []}
    street = Street(data, frames)
    for name, way in ways_of(street).items():
        found["results"].append({"way": name, "curve": street.curve(way)})
        out.write_text(json.dumps(found, indent=1) + "\n")
        out.with_suffix(".md").write_text(table(found))
        typer.echo(f"{name}: {found['results'][-1]['curve']}", err=True)


if __name__ == "__main__":
    typer.run(main)
