"""Converted networks on the CPU beside the same networks in eager PyTorch, channels last, in one run.

Run as `python -m benchmarks.cpu` (or `make bench`); see README.md for the cases and the columns.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torchvision import models

import deltafx
from benchmarks.measure import Times, interleaved, surroundings
from deltafx.measure import relative_error, tensors_of
from deltafx.testing import blobs, clip, force_masks, scale_weights

OPTIONS: dict[str, dict[str, Any]] = {"fcn_resnet50": {"weights_backbone": None}}
LEAST_SHARE = 0.05  # of the MACs: a run with forced masks that computes less is void
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}

# How many times faster than eager it must be, by case, in float32 with the best instruction set; `None` holds for the
# networks that are not named.
BARS: dict[str, dict[str | None, float]] = {
    "5 % in blobs": {"resnet50": 4, "fcn_resnet50": 4, "mobilenet_v2": 3},
    "one 32x32 blob": {"resnet50": 20},
    "nothing changed": {None: 50, "mobilenet_v2": 15},
    "everything changed": {None: 0.9},
}


@dataclass(frozen=True)
class Result:
    """One row: a network in one case."""

    network: str
    case: str
    ours: Times
    eager: Times
    share: float  # of the MACs, in the last frame
    bar: float | None

    @property
    def ratio(self) -> float:
        return self.eager.median / self.ours.median

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": self.ratio}


def network(name: str, height: int, width: int, dtype: torch.dtype) -> nn.Module:
    """The network with random weights in which activations stay near 1."""
    torch.manual_seed(0)
    model = models.get_model(name, weights=None, **OPTIONS.get(name, {}))
    return scale_weights(model, torch.cat(list(clip(6, height // 4, width // 4, streams=1)))).to(dtype)


def noisy(height: int, width: int, dtype: torch.dtype) -> list[Tensor]:
    """Frames of one scene that differ from each other in every pixel."""
    generator = torch.Generator().manual_seed(0)
    (scene,) = clip(1, height, width, streams=1)
    return [(scene + 0.05 * torch.randn(scene.shape, generator=generator)).to(dtype) for _ in range(4)]


def cases(dm: nn.Module, frames: list[Tensor]) -> Iterator[tuple[str, AbstractContextManager, list[Tensor]]]:
    """Name, what holds while it runs, and the frames that it goes through."""
    height, width = frames[0].shape[-2:]
    one = torch.zeros(height, width)
    one[height // 2 : height // 2 + 32, width // 2 : width // 2 + 32] = 1
    yield "5 % in blobs", force_masks(dm, blobs(height, width, 0.05, size=48)), frames
    yield "one 32x32 blob", force_masks(dm, one), frames
    yield "nothing changed", nullcontext(), frames[:1]
    yield "everything changed", nullcontext(), frames


def measure(name: str, height: int, width: int, dtype: torch.dtype, seconds: float, **options: Any) -> Iterator[Result]:
    model = network(name, height, width, dtype)
    frames = noisy(height, width, dtype)
    dm = deltafx.convert(model, **options)
    eager = model.to(memory_format=torch.channels_last)
    theirs = [frame.contiguous(memory_format=torch.channels_last) for frame in frames]
    dm(frames[1])
    error = relative_error(tensors_of(dm(frames[0])), tensors_of(eager(theirs[0])))
    if not error <= TOLERANCE[dtype]:
        raise SystemExit(f"{name}: the outputs differ by {error:.1e} (relative)")

    for case, held, shown in cases(dm, frames):
        with held:
            dm(shown[0])
            ours, other = interleaved(
                [lambda i, shown=shown: dm(shown[i % len(shown)]), lambda i: eager(theirs[i % len(theirs)])], seconds
            )
            totals = deltafx.report(dm).totals
        share = totals["macs"] / totals["macs_dense"]
        if case == "5 % in blobs" and share < LEAST_SHARE:
            raise SystemExit(f"{name}: VOID, only {share:.1%} of the MACs were computed")
        bars = BARS[case] if dtype == torch.float32 and not options["options"]["isa"] else {}
        yield Result(name, case, ours, other, share, bars.get(name, bars.get(None)))


def table(results: list[Result], title: str) -> Table:
    shown = Table(title=title)
    shown.add_column("network")
    shown.add_column("case")
    for column in ("MACs computed", "deltafx ms", "eager ms", "times faster", "asked for"):
        shown.add_column(column, justify="right")
    for row in results:
        met = row.bar is None or row.ratio >= row.bar
        shown.add_row(
            row.network, row.case, f"{row.share:.1%}", spread(row.ours), spread(row.eager),
            f"{row.ratio:.2f}", "" if row.bar is None else f"{row.bar:g}{'' if met else ' MISSED'}",
        )  # fmt: skip
    return shown


def spread(times: Times) -> str:
    return f"{times.median:.2f} ({times.lower:.2f}..{times.upper:.2f})"


def markdown(results: list[Result], facts: dict[str, Any]) -> str:
    head = ["network", "case", "MACs computed", "deltafx ms", "eager ms", "times faster", "asked for"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in results:
        bar = "" if row.bar is None else f"{row.bar:g}"
        cells = [
            row.network,
            row.case,
            f"{row.share:.1%}",
            spread(row.ours),
            spread(row.eager),
            f"{row.ratio:.2f}",
            bar,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*(f"* {key}: {value}" for key, value in facts.items()), "", *lines, ""])


def main(
    networks: Annotated[str, typer.Option(help="names of torchvision, with commas between")] = ",".join(
        ("resnet50", "mobilenet_v2", "fcn_resnet50")
    ),
    height: int = 576,
    width: int = 768,
    threads: int = 2,
    bfloat16: bool = False,
    backend: str = "cpu",
    isa: str | None = None,
    dense_switch: bool = True,
    seconds: Annotated[float, typer.Option(help="how long a case takes at least")] = 10.0,
    out: Annotated[Path, typer.Option(help="JSON; a table with the suffix .md is written beside it")] = Path(
        "benchmarks/results/cpu.json"
    ),
) -> None:
    """Measure converted networks on the CPU beside eager PyTorch."""
    torch.set_num_threads(threads)
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    options = {"isa": isa, "dense_switch": dense_switch}
    results: list[Result] = []
    with torch.inference_mode():
        for name in networks.split(","):
            for result in measure(name, height, width, dtype, seconds, backend=backend, options=options):
                results.append(result)
                print(f"{result.network}, {result.case}: {result.ratio:.2f} times faster", flush=True)
    facts = {**surroundings(), "frame": f"{width}x{height}", "dtype": str(dtype), "backend": backend, **options}
    Console(width=140).print(table(results, f"{width}x{height}, {dtype}, {threads} threads"))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({**facts, "results": [result.to_dict() for result in results]}, indent=1) + "\n")
    out.with_suffix(".md").write_text(markdown(results, facts))


if __name__ == "__main__":
    typer.run(main)
