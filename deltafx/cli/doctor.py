"""`deltafx doctor`."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
from dataclasses import asdict, dataclass
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deltafx.cli import common

HELP = f"""What is installed, compiled and visible; why something is not used, and what to do about it.

[bold]Examples[/bold]

  deltafx doctor

  deltafx doctor --operators

  deltafx doctor --json

{common.EXIT_CODES}
"""

# Packages by the name they are imported by: what they are for, and how they are installed.
PACKAGES = {
    "torchvision": ("networks of torchvision, boxes", "pip install torchvision"),
    "av": ("video files, cameras and streams", "pip install 'deltafx[demo]'"),
    "PIL": ("films", "pip install 'deltafx[demo]'"),
    "onnx2torch": ("ONNX files, CenterFace", "pip install 'deltafx[demo]'"),
    "timm": ("networks of timm", "pip install 'deltafx[zoo]'"),
    "pydot": ("pictures of graphs", "pip install 'deltafx[draw]'"),
    "model_explorer": ("`deltafx explore`", "pip install 'deltafx[explore]'"),
    "effdet": ("EfficientDet, for `deltafx coverage`", "pip install 'deltafx[zoo]'"),
}

REBUILD = "pip install --no-build-isolation --force-reinstall --no-deps . (with a C++17 compiler)"
REBUILD_CUDA = "the same with nvcc, of the CUDA version of this PyTorch, on PATH or under CUDA_HOME"


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, how it is, and what to do where that is not well."""

    what: str
    well: bool
    state: str
    fix: str | None = None


def doctor(
    operators: Annotated[
        bool, typer.Option("--operators", help="which operators have a delta form, and which a CPU kernel")
    ] = False,
    as_json: common.JsonOption = False,
) -> int:
    if operators:
        return show_operators(as_json)
    found = findings()
    if as_json:
        common.print_json([asdict(finding) for finding in found])
    else:
        shown = Table(show_header=False, box=None)
        for finding in found:
            mark = "[green]ok[/green]" if finding.well else "[yellow]--[/yellow]"
            fix = f"-> {finding.fix}" if finding.fix else ""
            shown.add_row(mark, finding.what, escape(finding.state), escape(fix))  # brackets are no markup there
        Console(highlight=False).print(shown)
    return 0 if next(each.well for each in found if each.what == "backend cpu") else common.FAILED


def show_operators(as_json: bool) -> int:
    from deltafx.supported import supported_operators

    families = supported_operators()
    if as_json:
        common.print_json([asdict(family) for family in families])
        return 0
    shown = Table("operator", "a change reaches", "spelled", "CPU kernel", box=box.SIMPLE_HEAD)
    for family in families:
        kernel = "compiled" if family.compiled else "reference"
        shown.add_row(family.name, family.locality, ", ".join(family.spellings), kernel)
    Console(highlight=False).print(shown)
    return 0


def findings() -> list[Finding]:
    import torch

    from deltafx.build_info import build_info
    from deltafx.cache import cache_dir

    info = build_info()
    cpu = info["cpu"]
    found = [
        Finding("deltafx", True, f"{info['deltafx']}, Python {info['python']}, {info['platform']}"),
        Finding("torch", True, info["torch"]),
        backend("cpu", info["backends"]["cpu"], REBUILD),
        backend("cuda", info["backends"]["cuda"], REBUILD_CUDA if torch.version.cuda else None),
        Finding("CUDA device", torch.cuda.is_available(), str(info["cuda"])),
    ]  # fmt: skip
    if isinstance(cpu, dict):
        best, *others = cpu["instruction_sets"]
        state = f"{best}{' (also ' + ', '.join(others) + ')' if others else ''}, built with {cpu['compiler']}"
        found.append(Finding("instruction set", best != "portable", state))
    threads, cores = torch.get_num_threads(), os.cpu_count() or 1
    fix = f"torch.set_num_threads({cores}), or OMP_NUM_THREADS={cores}" if threads < cores else None
    found.append(Finding("threads", fix is None, f"{threads} of {cores}", fix))
    found += [package(name, *facts) for name, facts in PACKAGES.items()]
    npm = shutil.which("npm")
    found.append(Finding("npm", npm is not None, npm or "not installed; the demo shows another clip, without faces",
                         None if npm else "install Node.js"))  # fmt: skip
    dot = shutil.which("dot")
    found.append(Finding("dot", dot is not None, dot or "not installed; it is for pictures of graphs",
                         None if dot else "install Graphviz: apt install graphviz, brew install graphviz"))  # fmt: skip
    folder = cache_dir()
    writable = os.access(next(each for each in (folder, *folder.parents) if each.exists()), os.W_OK)
    found.append(Finding("cache", writable, str(folder), None if writable else "DELTAFX_CACHE=FOLDER names another"))
    return found


def backend(name: str, state: str, fix: str | None) -> Finding:
    well = state == "available"
    return Finding(f"backend {name}", well, state, None if well else fix)


def package(name: str, purpose: str, install: str) -> Finding:
    if importlib.util.find_spec(name) is None:
        return Finding(name, False, f"not installed; it is for {purpose}", install)
    distribution = importlib.metadata.packages_distributions().get(name, [name])[0]
    return Finding(name, True, f"{importlib.metadata.version(distribution)}, for {purpose}")


def register(app: typer.Typer) -> None:
    app.command(help=HELP)(common.reported(doctor))
