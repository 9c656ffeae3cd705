"""`deltafx.html`: everything that is known of a converted model, as one page."""

from __future__ import annotations

import base64
import copy
import datetime
import importlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from deltafx.bench import Bench, run_bench
from deltafx.build_info import build_info
from deltafx.converted import Converted, check_converted, history, settings_of
from deltafx.masks import HeatMaps, input_of, leaves_of, mask_of, node_over_frame
from deltafx.networks import Network
from deltafx.playback import Playback, Shown
from deltafx.report import Report, report
from deltafx.video import Video
from deltafx.views.colours import STOPS, UNKNOWN
from deltafx.views.graph import to_networkx
from deltafx.views.heatmap import lit
from deltafx.views.page import render

MAPS, MAP_WIDTH, COARSEST = (
    7,
    320,
    4,
)  # pictures in the strip; their width; nodes with fewer rows or columns are left out


def html(
    dm: Converted,
    path: str | PathLike[str],
    *,
    dense: nn.Module | None = None,
    clip: str | PathLike[str] | Iterable[np.ndarray] | None = None,
    postprocess: Callable[[Any], list[Any]] | None = None,
    title: str | None = None,
    frames: int | None = None,
    size: tuple[int, int] | None = None,
) -> Bench | None:
    """Write a page about `dm` that needs no network: figures, hints, graph, table of the nodes, and what passes did.

    With `dense`, the model it was converted from, and `clip`, both run over the clip first, and the page has charts of
    time, work and error frame by frame, and pictures of where it computes; what was measured is returned. Without them
    it shows what the last frames did.

    Args:
        dm: with a clip, converted with `preprocess`, so that it takes uint8 frames.
        clip: a video file, a camera's number or a stream's URL; or uint8 RGB frames `[H, W, 3]` of one size.
        postprocess: what the outputs say of each stream, as that of `deltafx.models_zoo` does; then F1 is shown.
        frames: how many; all by default.
        size: height and width to resize a video's frames to.

    Raises ValueError for a clip without the dense model, or the other way round, and for a model without `preprocess`.
    """
    check_converted(dm, "html")
    if (dense is None) != (clip is None):
        raise ValueError("html: clip and dense belong together: the charts compare the two over the clip.")
    if dense is None or clip is None:
        page(dm, path, title or "deltafx")
        return None
    preprocess = settings_of(dm).preprocess
    if preprocess is None:
        raise ValueError(
            "html: the model takes normalised frames; to show it a clip, convert it with "
            "preprocess=deltafx.Preprocess(mean=..., std=...)."
        )
    name = title or type(dense).__name__
    # Playing changes its memory format.
    network = Network(name, copy.deepcopy(dense), preprocess, postprocess)
    if isinstance(clip, (str, PathLike)):
        with Video(clip) as video:
            return measured_page(network, dm, path, video.frames(frames, size), str(clip))
    return measured_page(network, dm, path, limited(clip, frames), "frames")


def limited(frames: Iterable[np.ndarray], count: int | None) -> Iterator[np.ndarray]:
    for number, frame in enumerate(frames):
        if number == count:
            return
        yield frame


def measured_page(
    network: Network,
    dm: Converted,
    path: str | PathLike[str],
    frames: Iterable[np.ndarray],
    clip: str,
    each: Callable[[Shown], None] = lambda shown: None,
) -> Bench:
    """The page of a network and what was converted from it, after both ran over uint8 RGB frames of one size."""
    importlib.import_module("deltafx.picture")  # before anything runs: it says what is missing
    maps: list[HeatMaps] = []
    last: list[np.ndarray] = []

    def look(shown: Shown, playback: Playback) -> None:
        if not maps:
            maps.append(HeatMaps(nodes_to_show(dm)))  # the first frame is in full, and says nothing
        else:
            maps[0].add(dm)
        last[:] = [shown.frame]
        each(shown)

    mode = settings_of(dm).deciding
    done = run_bench(network, frames, clip=clip, modes=(), converted={mode: dm}, each=look)
    pictures = strip(dm, maps[0], last[0])
    page(dm, path, f"{network.name}, {mode}", done.reports[mode], done.result, pictures)
    return done


def page(
    dm: Converted,
    path: str | PathLike[str],
    title: str,
    of: Report | None = None,
    run: dict[str, Any] | None = None,
    maps: list[dict[str, str]] | None = None,
) -> None:
    """Write the page; `of` is the report, if it was read already."""
    of = of or report(dm)
    graph = to_networkx(of)
    shown = ("path", "label", "groups", "kind", "operator")
    info = build_info()
    profiled = "; times with profiling on" if of.totals["milliseconds"] is not None else ""
    content = {
        "title": title,
        "report": of.to_dict(),
        "subtrees": [asdict(each) for each in of.subtrees()],
        "hints": [asdict(each) for each in of.hints()],
        "run": run,
        "maps": maps or [],
        "history": {name: each.to_dict() for name, each in history(dm).items()},
        "graph": {
            "nodes": [{key: data[key] for key in shown} for _, data in graph.nodes(data=True)],
            "edges": [[a, b, data["elements"], data["handed_over"]] for a, b, data in graph.edges(data=True)],
        },
        "colours": {"stops": STOPS, "unknown": UNKNOWN},
        "made": f"deltafx {info['deltafx']}, PyTorch {info['torch']}, {info['platform']}, "
        f"{datetime.date.today().isoformat()}{profiled}",
    }
    Path(path).write_text(render(title, content), encoding="utf-8")


def nodes_to_show(dm: Converted) -> list[str]:
    """The input, and some nodes from the first to the last, whose grids are fine enough for a picture."""
    grids = {path: mask_of(dm, path).shape for path in leaves_of(dm)}
    fine = [path for path, grid in grids.items() if min(grid) >= COARSEST and not path.startswith("dense_to_delta.")]
    count = min(MAPS - 1, len(fine))
    chosen = [fine[round(i * (len(fine) - 1) / max(1, count - 1))] for i in range(count)]
    return list(dict.fromkeys([input_of(dm), *chosen]))


def strip(dm: Converted, maps: HeatMaps, frame: np.ndarray) -> list[dict[str, str]]:
    """The pictures of where nodes were updated, as `data:` addresses."""
    from deltafx.picture import jpeg

    grid = mask_of(dm, input_of(dm)).shape
    found = []
    for node, rates in maps.rates().items():
        data = base64.b64encode(jpeg(lit(frame, node_over_frame(rates, grid, frame)), MAP_WIDTH)).decode()
        found.append({"node": node, "picture": f"data:image/jpeg;base64,{data}"})
    return found
