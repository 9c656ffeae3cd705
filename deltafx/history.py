"""Before and after: what each pass made of the dense graph, and which node stands for which layer in the end."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import fx

from deltafx.errors import unknown_name
from deltafx.node import DeltaNode, DeltaToDense, DenseToDelta
from deltafx.ops import Op

KINDS = {DenseToDelta: "dense_to_delta", DeltaToDense: "delta_to_dense"}


@dataclass(frozen=True)
class Line:
    """One node of a graph at some time: its public name, what it computes, the names of what it reads."""

    path: str
    operator: str
    inputs: tuple[str, ...]
    fused_from: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.path} = {self.operator}({', '.join(self.inputs)})"


@dataclass(frozen=True)
class Pass:
    """What one pass did: how many rewrites it counted, and the lines that went, came, and are others now."""

    name: str
    rewrites: int
    removed: tuple[Line, ...]
    added: tuple[Line, ...]
    changed: tuple[tuple[Line, Line], ...]

    @property
    def did_nothing(self) -> bool:
        return not (self.removed or self.added or self.changed)

    @property
    def summary(self) -> str:
        """In one sentence."""
        counts = f"{len(self.removed)} nodes went, {len(self.added)} came, {len(self.changed)} are others"
        return f"{self.name}: {self.rewrites} rewrites; {'nothing changed' if self.did_nothing else counts}"

    def __str__(self) -> str:
        lines = [self.summary]
        lines += [f"- {line}" for line in self.removed]
        lines += [f"+ {line}" for line in self.added]
        for before, after in self.changed:
            lines += [f"  {before}", f"  -> {after}"]
        return "\n".join(lines)


@dataclass(frozen=True)
class Pair:
    """A node of the dense graph, and the one that computes it now; without one, the pass that it went in."""

    path: str
    operator: str
    now: str | None
    now_operator: str | None
    went_in: str | None


@dataclass(frozen=True)
class History:
    """The dense graph, every pass, and the result.

    `str()` pairs before and after, `history["fold_affine"]` is what one pass did, line by line as text; `to_dict()` is
    for JSON.
    """

    before: tuple[Line, ...]
    passes: tuple[Pass, ...]
    after: tuple[Line, ...]

    def __getitem__(self, name: str) -> Pass:
        """The pass of this name; KeyError if there is none."""
        for step in self.passes:
            if step.name == name:
                return step
        raise KeyError(unknown_name("pass", name, [step.name for step in self.passes]))

    def pairs(self) -> tuple[Pair, ...]:
        """Every node of the dense graph, in order, beside the one that computes it after the last pass."""
        owner = {path: line for line in self.after for path in (*line.fused_from, line.path)}
        went = {line.path: step.name for step in self.passes for line in step.removed}
        found = []
        for line in self.before:
            now = owner.get(line.path)
            gone = None if now else went.get(line.path)
            operator = now.operator if now else None
            found.append(Pair(line.path, line.operator, now.path if now else None, operator, gone))
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "pairs": [asdict(pair) for pair in self.pairs()]}

    def __str__(self) -> str:
        from deltafx.views.text import table

        rows = [
            (
                pair.path,
                pair.operator,
                pair.now or "-",
                pair.now_operator or (f"gone in {pair.went_in}" if pair.went_in else "not computed"),
            )
            for pair in self.pairs()
        ]
        steps = [step.summary for step in self.passes]
        return "\n".join([table(("dense", "operator", "now in", "operator now"), rows), "", *steps])


class Journal:
    """Notes, pass by pass, how a graph changes."""

    def __init__(self, graph_module: fx.GraphModule):
        self.before = self.last = lines_of(graph_module)
        self.passes: list[Pass] = []

    def note(self, name: str, rewrites: int, graph_module: fx.GraphModule) -> None:
        if not rewrites:
            self.passes.append(Pass(name, 0, (), (), ()))
            return
        old, new = ({line.path: line for line in lines} for lines in (self.last, lines_of(graph_module)))
        self.passes.append(
            Pass(
                name,
                rewrites,
                tuple(line for path, line in old.items() if path not in new),
                tuple(line for path, line in new.items() if path not in old),
                tuple((old[path], line) for path, line in new.items() if path in old and old[path] != line),
            )
        )
        self.last = tuple(new.values())

    @property
    def history(self) -> History:
        return History(self.before, tuple(self.passes), self.last)


def lines_of(graph_module: fx.GraphModule) -> tuple[Line, ...]:
    """The nodes that compute something; inputs and constants are named where they are read."""
    lines = []
    for node in graph_module.graph.nodes:
        if node.op in ("placeholder", "get_attr", "output"):
            continue
        module = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
        fused = module.fused_from if isinstance(module, DeltaNode) else node.meta.get("fused_from", ())
        inputs = tuple(source.meta["path"] for source in node.all_input_nodes)
        lines.append(Line(node.meta["path"], operator_of(node, module), inputs, tuple(fused)))
    return tuple(lines)


def operator_of(node: fx.Node, module: Any) -> str:
    """What a node computes, in a word or a few."""
    if module is None:
        return getattr(node.target, "__name__", str(node.target))
    if isinstance(module, DeltaNode):
        return module.operator
    return KINDS.get(type(module), module.spelling if isinstance(module, Op) else type(module).__name__)
