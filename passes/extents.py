"""What can be said of a tensor's shape before any frame was seen: enough to know which two are equal.

An `Extent` holds the number of channels and a name for the spatial grid. Names are built from what made the grid, so
that two convolutions with the same arithmetic over the same grid give equal names, and a 3x3 with stride 2 and padding 1
the same as a 1x1 with stride 2. None means unknown, which equals nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx

from deltafx.node import DeltaNode
from deltafx.ops import AdaptivePool, Affine, AvgPool, Concat, Conv, MaxPool, Op
from deltafx.ops.base import tuple_of
from deltafx.passes.context import leaf_module

ONE = "one pixel"


@dataclass(frozen=True)
class Extent:
    """`channels` is a number or a name, `grid` a name; None where unknown."""

    channels: Any = None
    grid: Any = None

    @property
    def known(self) -> bool:
        return self.channels is not None and self.grid is not None


UNKNOWN = Extent()


def extents(graph_module: fx.GraphModule) -> dict[fx.Node, Extent]:
    """The extent of every node of a canonical or rewritten graph."""
    known: dict[fx.Node, Extent] = {}
    for node in graph_module.graph.nodes:
        module = leaf_module(graph_module, node)
        sources = [known.get(arg, UNKNOWN) for arg in node.args if isinstance(arg, fx.Node) and arg.op != "get_attr"]
        if node.op == "placeholder":
            known[node] = Extent(f"channels of {node.target}", f"grid of {node.target}")
        elif isinstance(module, DeltaNode):
            known[node] = after(module.head, sources)  # later stages do not change it
        elif isinstance(module, Op):
            known[node] = after(module, sources)
        elif module is not None and len(sources) == 1:
            known[node] = sources[0]  # dense_to_delta, delta_to_dense
    return known


def after(op: Op, sources: list[Extent]) -> Extent:
    if not sources:
        return UNKNOWN
    source = sources[0]
    if isinstance(op, Conv):
        pads = tuple(before + behind for before, behind in op.padding)
        return Extent(op.weight.shape[0], moved(source.grid, op.kernel, op.stride, op.dilation, pads))
    if isinstance(op, (MaxPool, AvgPool)):
        call = op.arguments((None,) * 9)
        kernel = tuple_of(call["kernel_size"], op.rank)
        stride = tuple_of(call["stride"], op.rank) if call["stride"] else kernel
        pads = tuple(2 * p for p in tuple_of(call["padding"], op.rank))
        grid = moved(source.grid, kernel, stride, tuple_of(call.get("dilation", 1), op.rank), pads)
        return Extent(source.channels, ("ceil", grid) if call["ceil_mode"] and max(stride) > 1 else grid)
    if isinstance(op, AdaptivePool):
        size = tuple_of(op.arguments((None,) * 9)["output_size"], op.rank)
        grid = ONE if set(size) == {1} else ("adaptive", size)
        return Extent(source.channels, None if None in size else grid)
    if isinstance(op, Concat) and op.name == "cat":
        return Extent(None, None)
    if isinstance(op, Affine) or (op.locality == "pointwise" and len(sources) == 1):
        return source
    if op.locality == "pointwise":
        return source if all(other == source for other in sources) else UNKNOWN
    return UNKNOWN


def moved(grid: Any, kernel: tuple, stride: tuple, dilation: tuple, pads: tuple) -> Any:
    """The grid of a window operator: `floor((size + excess) / stride) + 1` for each dimension."""
    if grid is None or grid == ONE:
        return grid if grid == ONE and all(k == 1 for k in kernel) and not any(pads) else None
    excess = tuple(p - d * (k - 1) - 1 for p, d, k in zip(pads, dilation, kernel, strict=True))
    if all(e == -1 for e in excess) and all(s == 1 for s in stride):
        return grid
    return ("window", grid, excess, tuple(stride))
