"""How much memory the state of a stream takes, and what it would take with the `difference` payload.

    python -m benchmarks.state --networks resnet50,mobilenet_v2 --height 736 --width 1280

Nothing is run but one dense frame, from which a plan knows its buffers before it makes them. `outputs` are the bytes of
all nodes' results in the model's dtype, which no converted network can do without, views left out and a concatenation's
parts counted once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import nn
from torch.utils import _pytree as pytree

import deltafx
from benchmarks import gpu_networks
from benchmarks.gpu_figures import output_bytes
from benchmarks.gpu_networks import Missing
from benchmarks.measure import surroundings
from deltafx.plan import Plan
from deltafx.settings import Options
from deltafx.survey import survey

HEAD = ("network", "frame", "outputs MiB", "value MiB", "of outputs", "difference MiB", "of outputs")


def planned(dm: Any, frame: torch.Tensor) -> Plan:
    """What the converted network would keep for frames like this one; no state is made."""
    leaves, spec = pytree.tree_flatten([frame])
    plan = Plan(leaves, spec, frame.shape[0], {}, Options())
    with torch.no_grad():
        survey(dm, plan, [frame])
    return plan


def measure(name: str, model: nn.Module, height: int, width: int, arguments: dict[str, Any]) -> dict[str, Any]:
    frame = torch.randn(1, 3, height, width, dtype=torch.bfloat16)
    model = model.to(torch.bfloat16)
    value = deltafx.convert(model, backend="cpu", **arguments)
    plan = planned(value, frame)
    outputs = output_bytes(value, plan)
    difference = deltafx.convert(model, backend="reference", payload="difference", **arguments)
    sizes = {"value": plan.predicted_bytes, "difference": planned(difference, frame).predicted_bytes}
    shares = {f"{payload}_of_outputs": size / outputs for payload, size in sizes.items()}
    return {"network": name, "frame": f"{width}x{height}", "outputs": outputs, **sizes, **shares}


def main(
    networks: Annotated[
        str, typer.Option(help="with commas between; see benchmarks/gpu_networks.py")
    ] = "resnet50,mobilenet_v2,fcn_resnet50,efficientnet_b0,fasterrcnn_first_stage,hrnet_w32",
    height: Annotated[int, typer.Option(help="HRNet takes multiples of 32")] = 736,
    width: int = 1280,
    out: Annotated[Path, typer.Option(help="JSON; a table with the suffix .md is written beside it")] = Path(
        "benchmarks/results/state.json"
    ),
) -> None:
    """Measure what state takes, in bfloat16, for one stream."""
    results = []
    for name in networks.split(","):
        try:
            case = gpu_networks.load(name, Path("../shared/data"))
        except Missing as reason:
            print(f"{name}: {reason}")
            continue
        results.append(measure(name, case.model, height, width, case.arguments))
        print(results[-1], flush=True)
    facts = {**surroundings(), "dtype": "torch.bfloat16"}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({**facts, "results": results}, indent=1) + "\n")
    lines = [
        *(f"* {key}: {value}" for key, value in facts.items()),
        "",
        f"| {' | '.join(HEAD)} |",
        "|---" * len(HEAD) + "|",
    ]
    for row in results:
        size = {key: f"{row[key] / 2**20:,.1f}" for key in ("outputs", "value", "difference")}
        cells = (
            row["network"], row["frame"], size["outputs"], size["value"], f"{row['value_of_outputs']:.3f}",
            size["difference"], f"{row['difference_of_outputs']:.2f}",
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    out.with_suffix(".md").write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    typer.run(main)
