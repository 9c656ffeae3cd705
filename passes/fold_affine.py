"""Fold a scale and shift per channel into the convolution before or after it.

Why: a batch norm left in the graph is one more buffer and one more pass over every updated pixel. Nearly all networks
have convolution + batch norm; torchvision's frozen batch norm arrives as a multiplication and an addition by constants;
pre-activation networks have batch norm + convolution, which is legal only where nothing is padded with zeros.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from deltafx.ops import Affine, Conv, ConvTranspose, Op, Pointwise, SamePadded
from deltafx.passes.context import Context, constant_of, leaf_module, remove_unread, replace_module

PRODUCTS, QUOTIENTS, SUMS = ("mul", "multiply"), ("div", "divide", "true_divide", "truediv"), ("add", "sub")


def fold_affine(graph_module: fx.GraphModule, context: Context) -> int:
    count = 0
    for node in list(graph_module.graph.nodes):
        op = leaf_module(graph_module, node)
        if isinstance(op.inner if isinstance(op, SamePadded) else op, (Conv, ConvTranspose)):
            count += fold_followers(graph_module, node, op)
    for node in list(graph_module.graph.nodes):
        count += fold_into_consumer(graph_module, node)
    return count + remove_unread(graph_module.graph)


def fold_followers(graph_module: fx.GraphModule, node: fx.Node, op: Any) -> int:
    """Fold every scale and shift that follows a convolution, together, so that weights are rounded once."""
    convolution = op.inner if isinstance(op, SamePadded) else op
    scale: Any = per_channel(1.0, convolution)
    shift: Any = per_channel(0.0, convolution)
    parts, last = [node], node
    while len(last.users) == 1:
        (user,) = last.users
        constants = scale_and_shift(graph_module, user, convolution) if variable_input(user) is last else None
        if constants is None:
            break
        scale, shift = scale * constants[0], shift * constants[0] + constants[1]
        parts.append(user)
        last = user
    folded = op.scaled(scale, shift) if len(parts) > 1 else None
    if folded is None:
        return 0
    replace(graph_module, node, folded, tuple(parts))
    last.replace_all_uses_with(node)
    for part in reversed(parts[1:]):
        graph_module.graph.erase_node(part)
    return len(parts) - 1


def fold_into_consumer(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    affine = leaf_module(graph_module, node)
    if not isinstance(affine, Affine) or len(node.users) != 1:
        return False
    (user,) = node.users
    convolution = leaf_module(graph_module, user)
    if not isinstance(convolution, Conv):
        return False
    folded = convolution.prescaled(*affine.exact)
    if folded is None:
        return False
    replace(graph_module, user, folded, (node, user))
    node.replace_all_uses_with(node.all_input_nodes[0])
    graph_module.graph.erase_node(node)
    return True


def replace(graph_module: fx.GraphModule, node: fx.Node, folded: Op, parts: tuple[fx.Node, ...]) -> None:
    """The node calls `folded` from now on, which stands for all `parts`."""
    origins = tuple(path for part in parts for path in part.meta.get("fused_from", (part.meta["path"],)))
    node.meta = {**node.meta, "fused_from": origins}
    replace_module(graph_module, node, folded)


def variable_input(node: fx.Node) -> fx.Node | None:
    """The one input that is not a constant."""
    variable = [source for source in node.all_input_nodes if source.op != "get_attr"]
    return variable[0] if len(variable) == 1 and node.args.count(variable[0]) == 1 else None


def scale_and_shift(
    graph_module: fx.GraphModule, node: fx.Node, convolution: Conv | ConvTranspose
) -> tuple[Tensor, Tensor] | None:
    """The node as `x * scale + shift` per output channel of the convolution that gives x, in float64."""
    op: Any = leaf_module(graph_module, node)
    if isinstance(op, Affine):
        return op.exact
    name = getattr(getattr(op, "function", None), "__name__", "")
    if not isinstance(op, Pointwise) or name not in (*PRODUCTS, *QUOTIENTS, *SUMS) or op.kwargs or len(op.args) != 2:
        return None
    sources: list[Any] = list(node.args)
    operands = op.fill([None if source.op != "get_attr" else source for source in sources])[0]
    if name in (*QUOTIENTS, "sub") and operands[0] is not None:
        return None
    other = operands[1] if operands[0] is None else operands[0]
    constant = constant_of(graph_module, other) if isinstance(other, fx.Node) else other
    vector = per_channel(constant, convolution)
    if vector is None:
        return None
    if name in PRODUCTS:
        return vector, torch.zeros_like(vector)
    if name in QUOTIENTS:
        return vector.reciprocal(), torch.zeros_like(vector)
    return torch.ones_like(vector), -vector if name == "sub" else vector


def per_channel(constant: object, convolution: Conv | ConvTranspose) -> Tensor | None:
    """A number or a tensor that broadcasts along the channels only, as a vector `[C_out]`."""
    weight = convolution.weight
    out = weight.shape[0] if isinstance(convolution, Conv) else weight.shape[1] * convolution.groups
    if isinstance(constant, (int, float)) and not isinstance(constant, bool):
        return torch.full((out,), float(constant), dtype=torch.float64, device=weight.device)
    if not isinstance(constant, Tensor) or constant.dim() > weight.dim():
        return None
    if torch.result_type(weight, constant) != weight.dtype:
        return None  # the product would have another dtype than the convolution
    shape = (1,) * (weight.dim() - constant.dim()) + tuple(constant.shape)
    if any(size != 1 for d, size in enumerate(shape) if d != 1) or shape[1] not in (1, out):
        return None
    return constant.detach().double().reshape(-1).expand(out)
