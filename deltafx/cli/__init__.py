"""The command line: one typer app, a command a file."""

from __future__ import annotations

import importlib

import typer

app = typer.Typer(
    name="deltafx",
    help="Runs trained CNNs on video and computes only what changed.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

# Files of this folder, in the order of the help.
COMMANDS = (
    "demo", "run", "compare", "estimate", "calibrate", "inspect", "draw", "html", "explore", "record", "bench",
    "tune", "coverage", "doctor",
)  # fmt: skip

for each in COMMANDS:
    importlib.import_module(f"deltafx.cli.{each}").register(app)
