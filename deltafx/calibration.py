"""What a calibration found: the input gate and a threshold for each truncation point, and what they cost and save."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from deltafx.errors import ConvertError, unknown_name
from deltafx.gate import InputGate
from deltafx.node import DeltaNode
from deltafx.plain_json import to_json
from deltafx.truncation import Threshold

FORMAT = 1
SAME_WEIGHTS = 0.01  # the share by which the norm of a node's weights may differ; another dtype rounds them
LISTED = 20  # differences that an error names


@dataclass(frozen=True)
class Measured:
    """What thresholds did on a run of frames. `macs_ratio`: how many times fewer multiply-accumulates than dense."""

    scale: float  # by which the shape of the thresholds was multiplied
    error: float  # in the metric's own measure
    macs_ratio: float
    values: dict[str, float]  # the same in the task's usual terms
    frames: int
    deviation: float = 0.0  # by which the error of as many other frames may differ, by chance
    distance: float = 0.0  # the smooth one, as a share of the outputs' squared size


@dataclass(frozen=True)
class Calibration:
    """Thresholds (shares of each node's root mean square) by node path, and the gate, found by `deltafx.calibrate`.

    `fingerprint` tells, for each truncation point, the network that they are for. `predicted` was measured on the
    frames that were calibrated on, `verified` on others; `frontier` is what was measured on the way, by scale.
    `deltafx.convert(model, threshold=calibration)` applies it.
    """

    thresholds: dict[str, float]
    norm: str
    input_gate: InputGate | None
    refresh_every: int | None
    refresh_within: int | None
    refresh_touched: int | None
    fingerprint: dict[str, dict[str, Any]]
    metric: str
    method: str
    max_error: float | None
    target_speedup: float | None
    predicted: Measured
    verified: Measured | None
    frontier: tuple[Measured, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def save(self, path: str | PathLike[str]) -> None:
        """Write it as JSON."""
        Path(path).write_text(to_json({"format": FORMAT, **asdict(self)}))

    @classmethod
    def load(cls, name: str | PathLike[str]) -> Calibration:
        """From a file that `save` wrote, or of a network of the zoo, by its name.

        Raises ConvertError where there is none, or it is of another format.
        """
        from deltafx import models_zoo

        path = Path(name)
        if str(name) in models_zoo.calibrated():
            path = models_zoo.calibrated()[str(name)]
        elif not path.is_file():
            known = [*models_zoo.calibrated(), "FILE.json"]
            raise ConvertError(unknown_name("calibration", str(name), known))
        try:
            record = json.loads(path.read_text())
            if record.pop("format") != FORMAT:
                raise ValueError(f"it is not of format {FORMAT}")
            gate = record["input_gate"]
            record["input_gate"] = None if gate is None else InputGate(**gate)
            record.setdefault("refresh_touched", None)  # files of before there was one
            record["frontier"] = tuple(measured(each) for each in record["frontier"])
            record["notes"] = tuple(record["notes"])
            return cls(**{**record, **{k: measured(record[k]) for k in ("predicted", "verified")}})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConvertError(f"{path}: not a calibration that can be read ({error}); calibrate again.") from error

    def truncations(self) -> dict[str, Threshold]:
        return {path: Threshold(value) for path, value in self.thresholds.items()}

    def check(self, found: Mapping[str, dict[str, Any]]) -> None:
        """Refuse a network whose truncation points are not those that were calibrated, with a list of what differs."""
        wrong = [f"{path}: is not in this network" for path in self.fingerprint if path not in found]
        wrong += [f"{path}: was not calibrated" for path in found if path not in self.fingerprint]
        for path, mine in self.fingerprint.items():
            theirs = found.get(path)
            if theirs is not None and (difference := differs(mine, theirs)):
                wrong.append(f"{path}: {difference}")
        if wrong:
            rows = "\n".join(f"  {each}" for each in wrong[:LISTED])
            more = f"\n  and {len(wrong) - LISTED} more" if len(wrong) > LISTED else ""
            raise ConvertError(
                f"threshold: the calibration is for another network; {len(wrong)} of its truncation points differ:\n"
                f"{rows}{more}\nCalibrate this one: deltafx.calibrate(dm, frames)."
            )

    def __str__(self) -> str:
        of = f"{self.metric} error {self.predicted.error:.3g} on {self.predicted.frames} frames"
        lines = [f"{len(self.thresholds)} thresholds: {self.predicted.macs_ratio:.1f}x fewer MACs, {of}"]
        if self.verified is not None:
            values = ", ".join(f"{name} {value:.4g}" for name, value in self.verified.values.items())
            lines.append(
                f"on {self.verified.frames} other frames: {self.verified.macs_ratio:.1f}x fewer MACs, error "
                f"{self.verified.error:.3g} ({values})"
            )
        return "\n".join([*lines, *self.notes])


def measured(record: dict[str, Any] | None) -> Measured | None:
    return None if record is None else Measured(**record)


def fingerprint_of(node: DeltaNode) -> dict[str, Any]:
    """What of a node must be as it was when it was calibrated: operators, sizes of weights, and their norm."""
    weights = list(node.parameters())
    squared = sum(weight.detach().double().square().sum().item() for weight in weights if weight.is_floating_point())
    return {
        "operator": node.operator,
        "weights": [list(weight.shape) for weight in weights],
        "norm": float(f"{math.sqrt(squared):.5g}"),
    }


def differs(mine: dict[str, Any], theirs: dict[str, Any]) -> str | None:
    """In words, if it does."""
    for name in ("operator", "weights"):
        if mine[name] != theirs[name]:
            return f"{name} {theirs[name]}, calibrated {mine[name]}"
    if abs(mine["norm"] - theirs["norm"]) > SAME_WEIGHTS * mine["norm"]:
        return f"weights of norm {theirs['norm']}, calibrated with {mine['norm']}"
    return None
