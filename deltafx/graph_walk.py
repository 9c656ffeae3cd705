"""Going through the graph node by node, as filling a plan does twice: see `survey` and `buffers`."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from deltafx.node import VIEW, SliceOf
from deltafx.plan import Plan
from deltafx.state import Leaf


class GraphWalk(fx.Interpreter):
    """An interpreter that knows the plan and the leaf module behind a node."""

    def __init__(self, graph_module: fx.GraphModule, plan: Plan):
        super().__init__(graph_module)
        self.plan = plan
        self.extra_traceback = False  # errors reach the user as they were raised

    def leaf_module(self, node: Any) -> Any:
        if isinstance(node, fx.Node) and node.op == "call_module":
            return self.module.get_submodule(node.target)  # type: ignore[arg-type]
        return None

    def call_module(self, target: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        return self.module.get_submodule(target).forward(*args, **kwargs)  # without the user's hooks: it is no frame

    def inputs_of(self, node: fx.Node) -> list[Any]:
        return [self.env[a] if isinstance(a, fx.Node) else a for a in node.args]

    def slice_of(self, node: fx.Node, part: Leaf) -> fx.Node | None:
        """The concatenation whose buffer holds this node's output, where shapes and dtypes allow it."""
        storage = getattr(self.leaf_module(node), "storage", None)
        if not isinstance(storage, SliceOf):
            return None
        if any(getattr(self.leaf_module(u), "storage", None) == VIEW for u in node.users):
            return None  # the strides of a slice do not allow every view
        (user,) = [u for u in node.users if getattr(self.leaf_module(u), "path", None) == storage.path]
        target = self.plan.nodes[storage.path]
        whole = target.leaves[0]
        if target.reason is not None or len(whole.shape) != len(part.shape):
            return None
        if (whole.dtype, whole.quantizer) != (part.dtype, part.quantizer):
            return None
        return user


def storage_of(tensor: Tensor | None) -> int:
    assert tensor is not None
    return tensor.untyped_storage().data_ptr()
