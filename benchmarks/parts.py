"""Detectors, which convert by parts, beside the dense ones; and what it brings that tensors carry their masks along.

Run as `python -m benchmarks.parts`; see README.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import torch
import typer
from torch import Tensor
from torchvision import models

import deltafx
from benchmarks.measure import interleaved, surroundings
from deltafx.plan import Plan
from deltafx.testing import blobs, force_masks

HEAD = (
    "network",
    "case",
    "MACs computed",
    "deltafx ms",
    "without hand-over ms",
    "eager ms",
    "times faster",
    "hand-over brings",
)


def detector(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return models.get_model(name, weights=None, weights_backbone=None).eval()


def pictures(height: int, width: int) -> list[Tensor]:
    """They differ from each other in every pixel."""
    generator = torch.Generator().manual_seed(0)
    scene = torch.rand(3, height, width, generator=generator)
    return [(scene + 0.05 * torch.rand(scene.shape, generator=generator)).clamp(0, 1) for _ in range(4)]


def measure(name: str, height: int, width: int, seconds: float) -> Iterator[dict[str, Any]]:
    model, frames = detector(name), pictures(height, width)
    dm, comparing = deltafx.convert(model), deltafx.convert(model)
    eager = model.to(memory_format=torch.channels_last)

    def compared(frame: Tensor) -> None:
        with patch.object(Plan, "known_changes", lambda *args: None):
            comparing([frame])

    dm([frames[0]])
    compared(frames[0])
    blob_mask = blobs(height, width, 0.05, size=48)
    cases: list[tuple[str, AbstractContextManager, AbstractContextManager, list[Tensor]]] = [
        ("5 % in blobs", force_masks(dm, blob_mask), force_masks(comparing, blob_mask), frames),
        ("5 % in blobs moved", nullcontext(), nullcontext(), moved(frames[0], blob_mask)),
        ("nothing changed", nullcontext(), nullcontext(), frames[:1]),
    ]
    for case, held, also_held, shown in cases:
        with held, also_held:
            times = interleaved(
                [
                    lambda i, shown=shown: dm([shown[i % len(shown)]]),
                    lambda i, shown=shown: compared(shown[i % len(shown)]),
                    lambda i, shown=shown: eager([shown[i % len(shown)]]),
                ],
                seconds,
            )
            totals = deltafx.report(dm).totals
        ours, without, theirs = (each.median for each in times)
        yield {
            "network": name, "case": case, "share": totals["macs"] / totals["macs_dense"], "ms": ours,
            "ms_without_handover": without, "ms_eager": theirs, "ratio": theirs / ours, "handover": without / ours,
        }  # fmt: skip


def moved(frame: Tensor, mask: Tensor) -> list[Tensor]:
    """The frame, and the frame with other pixels in the blobs."""
    return [frame, torch.where(mask.bool(), 1 - frame, frame)]


def main(
    networks: Annotated[str, typer.Option(help="detectors of torchvision, with commas between")] = ",".join(
        ("fasterrcnn_mobilenet_v3_large_320_fpn", "ssdlite320_mobilenet_v3_large", "retinanet_resnet50_fpn")
    ),
    height: int = 576,
    width: int = 768,
    seconds: Annotated[float, typer.Option(help="how long a case takes at least")] = 20.0,
    out: Annotated[Path, typer.Option(help="JSON; a table with the suffix .md is written beside it")] = Path(
        "benchmarks/results/parts.json"
    ),
) -> None:
    """Measure detectors that convert by parts."""
    results = []
    with torch.inference_mode():
        for name in networks.split(","):
            for row in measure(name, height, width, seconds):
                results.append(row)
                print(f"{row['network']}, {row['case']}: {row['ratio']:.2f} times faster", flush=True)
    facts = {**surroundings(), "frame": f"{width}x{height}"}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({**facts, "results": results}, indent=1) + "\n")
    lines = [f"* {key}: {value}" for key, value in facts.items()]
    lines += ["", f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    for row in results:
        figures = [f"{row[key]:.1f}" for key in ("ms", "ms_without_handover", "ms_eager")]
        cells = [
            row["network"],
            row["case"],
            f"{row['share']:.1%}",
            *figures,
            f"{row['ratio']:.2f}",
            f"{row['handover']:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    out.with_suffix(".md").write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    typer.run(main)
