"""What a calibrated detector's disagreements with the dense network consist of: which objects, for how long, how sure.

Run as `python -m benchmarks.mistakes`; see README.md.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torchvision.ops import box_iou

import deltafx
from benchmarks import nanodet
from benchmarks.accuracy_cases import CASES
from benchmarks.measure import surroundings
from deltafx.calibration import Calibration
from deltafx.converted import silence
from deltafx.detections import SAME, SEEN, SURE, Agreement, Detections, pairs
from deltafx.video import read_frames

SHOWN = 8  # objects in the table


@dataclass
class Mistaken:
    """An object that one network is sure of and the other does not see: `only` says in which it is."""

    only: str  # "delta" or "dense"
    label: int
    box: list[int]
    frames: list[int] = field(default_factory=list)
    sure: list[float] = field(default_factory=list)  # its scores
    others: list[float] = field(default_factory=list)  # those of the same object and label in the other network

    def is_same(self, only: str, label: int, box: list[int]) -> bool:
        overlap = box_iou(torch.tensor([self.box]).float(), torch.tensor([box]).float()).item()
        return (self.only, self.label) == (only, label) and overlap > SAME


def unseen(sure: Detections, others: Detections) -> Iterator[tuple[int, list[int], float, float]]:
    """Label, box and score of what is SURE, and not SEEN by the other network, and the score that it has there."""
    sure = sure.above(SURE)
    seen = {first for first, _ in pairs(sure, others.above(SEEN))}
    for number in range(len(sure)):
        if number not in seen:
            overlap = box_iou(sure.boxes[number : number + 1], others.boxes)[0]
            near = others.scores[(overlap > SAME) & (others.labels == sure.labels[number])]
            box = [round(x) for x in sure.boxes[number].tolist()]
            score = near.max().item() if len(near) else 0.0
            yield int(sure.labels[number]), box, sure.scores[number].item(), score


def table(found: dict[str, Any]) -> str:
    lines = [f"* {key}: {value}" for key, value in found.items() if key not in ("results", "f1_with_hysteresis")]
    objects = sorted(found["results"], key=lambda each: -len(each["frames"]))
    count = sum(len(each["frames"]) for each in objects)
    lines += [f"* F1 with hysteresis: {found['f1_with_hysteresis']:.4f}, {count} mistakes, {len(objects)} objects", ""]
    lines += ["| seen only by | label | box | mistakes | frames | its scores | the other network's |", "|---" * 7 + "|"]
    for each in objects[:SHOWN]:
        scores, others = (f"{min(x):.2f} to {max(x):.2f}" for x in (each["sure"], each["others"]))
        frames = f"{each['frames'][0]} to {each['frames'][-1]}"
        lines.append(
            f"| {each['only']} | {each['label']} | {each['box']} | {len(each['frames'])} | {frames} | {scores} "
            f"| {others} |"
        )
    return "\n".join(lines) + "\n"


def main(
    data: Annotated[Path, typer.Option(help="a folder with vtest.avi and nanodet_g_576x768.onnx")] = Path("data"),
    calibration: Annotated[Path, typer.Option(help="of NanoDet")] = Path(
        "benchmarks/results/calibrations/nanodet_0.02.json"
    ),
    out: Annotated[Path, typer.Option(help="JSON; a table with the suffix .md is written beside it")] = Path(
        "benchmarks/results/mistakes.json"
    ),
) -> None:
    """NanoDet on the frames of the street clip on which `benchmarks.accuracy` measures it."""
    torch.set_num_threads(1)
    network = nanodet.load(data)
    dm = deltafx.convert(network.model, preprocess=network.preprocess, threshold=Calibration.load(calibration))
    silence(dm)
    first, end = CASES["nanodet"].measured
    agreement, objects = Agreement(), list[Mistaken]()
    for number, frame in enumerate(itertools.islice(read_frames(data / "vtest.avi", end), first, end), first):
        with torch.inference_mode():
            (want,) = nanodet.detections(network.model(network.preprocess(frame)))
            (got,) = nanodet.detections(dm(frame))
        agreement.add(got, want)
        for only, sure, others in (("delta", got, want), ("dense", want, got)):
            for label, box, score, other in unseen(sure, others):
                found = next((each for each in objects if each.is_same(only, label, box)), None)
                if found is None:
                    found = Mistaken(only, label, box)
                    objects.append(found)
                found.frames.append(number)
                found.sure.append(round(score, 3))
                found.others.append(round(other, 3))
    results = {**surroundings(), "f1_with_hysteresis": agreement.f1_with_hysteresis}
    results["results"] = [asdict(each) for each in objects]
    out.write_text(json.dumps(results) + "\n")
    out.with_suffix(".md").write_text(table(results))
    typer.echo(table(results))


if __name__ == "__main__":
    typer.run(main)
