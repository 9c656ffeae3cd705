"""One self-contained HTML page of a report; the libraries in `lib` are in it, so that it needs no network.

They are the packages' own minified files, committed as they were published: an installed deltafx makes pages without
Node and without a network, and a build needs neither. `lib/libraries.json` says which they are and has their hashes;
`make page-libraries` fetches them anew.
"""

from __future__ import annotations

import html
import json
import math
from importlib import resources
from typing import Any

from torch.utils import _pytree as pytree

STYLES = ("lib/tabulator_simple.min.css", "lib/uPlot.min.css", "page.css")
SCRIPTS = (
    "lib/cytoscape.min.js",
    "lib/cytoscape-dagre.min.js",
    "lib/tabulator.min.js",
    "lib/uPlot.iife.min.js",
)


def render(title: str, content: dict[str, Any]) -> str:
    """The page with `content`, which the script `page.js` shows."""
    parts = {
        "title": html.escape(title),
        "styles": "\n".join(without_source_map(read(name)) for name in STYLES),
        "licences": html.escape(read("lib/LICENCES.txt")),
        "data": as_script(content),
        "libraries": "\n".join(f"<script>{without_source_map(read(name))}</script>" for name in SCRIPTS),
        "script": read("page.js"),
    }
    first, *pieces = read("page.html").split("{{")
    return first + "".join(parts[name] + rest for name, _, rest in (piece.partition("}}") for piece in pieces))


def read(name: str) -> str:
    return resources.files(__name__).joinpath(*name.split("/")).read_text(encoding="utf-8")


def without_source_map(text: str) -> str:
    """What browsers' tools would look for on the network."""
    lines = text.rstrip().splitlines()
    return "\n".join(lines[:-1] if "sourceMappingURL" in lines[-1] and lines[-1].startswith(("//#", "/*#")) else lines)


def as_script(content: dict[str, Any]) -> str:
    """JSON that no browser takes for the end of a script; what it has no number for is null."""

    def finite(x: Any) -> Any:
        return None if isinstance(x, float) and not math.isfinite(x) else x

    text = json.dumps(pytree.tree_map(finite, content), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
