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
EARLIER = (0, 5, 10, 20, 30, 40)  # frames before those that are measured: the first is computed in full, and is held


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


def note(objects: list[Mistaken], number: int, got: Detections, want: Detections) -> None:
    """The mistakes of one frame."""
    for only, sure, others in (("delta", got, want), ("dense", want, got)):
        for label, box, score, other in unseen(sure, others):
            found = next((each for each in objects if each.is_same(only, label, box)), None)
            if found is None:
                found = Mistaken(only, label, box)
                objects.append(found)
            found.frames.append(number)
            found.sure.append(round(score, 3))
            found.others.append(round(other, 3))


def table(found: dict[str, Any]) -> str:
    apart = ("results", "f1_with_hysteresis", "begun_earlier")
    lines = [f"* {key}: {value}" for key, value in found.items() if key not in apart]
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
    lines += ["", "The same frames, where the first frame of all, which is computed in full, is an earlier one:", ""]
    lines += ["| frames earlier | F1 with hysteresis | F1 |", "|---" * 3 + "|"]
    lines += [
        f"| {each['frames']} | {each['f1_with_hysteresis']:.3f} | {each['f1']:.3f} |" for each in found["begun_earlier"]
    ]
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
    first, end = CASES["nanodet"].measured
    converted = {}
    for earlier in EARLIER:
        converted[earlier] = deltafx.convert(
            network.model, preprocess=network.preprocess, threshold=Calibration.load(calibration)
        )
        silence(converted[earlier])
    agreements, objects = {earlier: Agreement() for earlier in EARLIER}, list[Mistaken]()
    start = first - max(EARLIER)
    for number, frame in enumerate(itertools.islice(read_frames(data / "vtest.avi", end), start, end), start):
        with torch.inference_mode():
            running = {earlier: dm for earlier, dm in converted.items() if number >= first - earlier}
            found = {earlier: nanodet.detections(dm(frame))[0] for earlier, dm in running.items()}
            if number < first:
                continue
            (want,) = nanodet.detections(network.model(network.preprocess(frame)))
        for earlier, got in found.items():
            agreements[earlier].add(got, want)
        note(objects, number, found[0], want)
    results = {**surroundings(), "f1_with_hysteresis": agreements[0].f1_with_hysteresis}
    results["begun_earlier"] = [
        {"frames": earlier, "f1_with_hysteresis": each.f1_with_hysteresis, "f1": each.f1}
        for earlier, each in agreements.items()
    ]
    results["results"] = [asdict(each) for each in objects]
    out.write_text(json.dumps(results) + "\n")
    out.with_suffix(".md").write_text(table(results))
    typer.echo(table(results))


if __name__ == "__main__":
    typer.run(main)
