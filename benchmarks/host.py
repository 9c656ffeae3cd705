"""The host's share of a frame: what a call costs where the kernels have next to nothing to do.

Run as `python -m benchmarks.host`; see README.md.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.measure import output_of, surroundings

HERE = Path(__file__).resolve().parent
LOAD = "import deltafx, runpy, sys; sys.argv[:] = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"


def measured(checkout: Path, calls: int, backend: str) -> list[dict[str, Any]]:
    """The cases, run in a process of its own by the deltafx of a checkout."""
    command = [sys.executable, "-c", LOAD, str(HERE / "host_cases.py"), str(calls), backend]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(checkout), os.environ.get("PYTHONPATH", "")])}
    return json.loads(subprocess.run(command, check=True, capture_output=True, cwd=checkout, env=environment).stdout)


def summary(runs: list[list[dict[str, Any]]], index: int) -> dict[str, Any]:
    times = sorted(time for run in runs for time in run[index]["microseconds"])
    quarter = len(times) // 4
    return {
        "median": statistics.median(times), "lower": times[quarter], "upper": times[-1 - quarter],
        "calls": len(times), "operators": runs[0][index]["operators"],
    }  # fmt: skip


def main(
    before: Annotated[Path | None, typer.Option(help="another checkout, built in place, to compare with")] = None,
    backend: str = "cpu",
    rounds: Annotated[int, typer.Option(help="processes of each side, in turn")] = 5,
    calls: Annotated[int, typer.Option(help="of each network in each process")] = 1000,
    out: Annotated[Path, typer.Option(help="JSON; a table with the suffix .md is written beside it")] = Path(
        "benchmarks/results/host.json"
    ),
) -> None:
    """Measure what a call costs on the host."""
    sides = {"now": HERE.parent} if before is None else {"before": before.resolve(), "now": HERE.parent}
    runs: dict[str, list[list[dict[str, Any]]]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, checkout in sides.items():
            runs[side].append(measured(checkout, calls, backend))
    results = [
        {"case": row["case"], **{side: summary(each, index) for side, each in runs.items()}}
        for index, row in enumerate(runs["now"][0])
    ]
    facts = {**surroundings(), "cores": 1, "backend": backend}
    if before is not None:
        # The place of a checkout means nothing to others; its commit does.
        facts["command"] = facts["command"].replace(str(before), "...")
        facts["before"] = output_of("git", "-C", str(before), "describe", "--always", "--dirty")
    if backend == "cuda":
        facts["device"] = torch.cuda.get_device_name()
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({**facts, "results": results}, indent=1) + "\n")
    out.with_suffix(".md").write_text(table(facts, list(sides), results))
    print(out.with_suffix(".md").read_text())


def table(facts: dict[str, Any], sides: list[str], results: list[dict[str, Any]]) -> str:
    head = ["network", *(f"{side}, us" for side in sides), "operators called from Python"]
    lines = [*(f"* {key}: {value}" for key, value in facts.items()), "", f"| {' | '.join(head)} |"]
    lines.append("|---" * len(head) + "|")
    for row in results:
        times = ["{median:.0f} ({lower:.0f} to {upper:.0f})".format(**row[side]) for side in sides]
        counts = " / ".join(str(len(row[side]["operators"])) for side in sides)
        lines.append(f"| {' | '.join([row['case'], *times, counts])} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    typer.run(main)
