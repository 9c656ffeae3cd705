"""Take attention layers apart into their projections, which work on each token by itself, and what lies between.

Why: `nn.MultiheadAttention` is one leaf module, and in it one changed token changes everything. But three quarters of
its work are linear layers, which need computing only for the tokens that changed. ViTs and DETRs have one per block.
Left as they are: layers with hooks, named in `keep_dense`, with masks that are computed from the frame, with extra keys
(`add_bias_kv`, `add_zero_attn`), and those whose result is read as anything but a pair.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from deltafx.ops import computes_like
from deltafx.passes.canonicalise_operators import kept_dense
from deltafx.passes.context import Context, constant_of, leaf_module, place_constant
from deltafx.watched import has_hooks


@dataclass
class Layer:
    """One call of an attention layer, its weights `[E, E]` for query, key and value one below the other."""

    inputs: tuple[fx.Node, fx.Node, fx.Node]
    heads: int
    weights: tuple[Tensor, ...]  # one, or three
    bias: Tensor | None
    out_weight: Tensor
    out_bias: Tensor | None
    mask: Tensor | None
    batch_first: bool
    weights_wanted: bool  # by the caller: the attention itself
    average: bool


def take_attention_apart(graph_module: fx.GraphModule, context: Context) -> int:
    count = 0
    for node in list(graph_module.graph.nodes):
        layer = attention_layer(graph_module, node)
        if layer is None or not read_as_pair(node, layer) or kept_dense(node, {"MultiheadAttention"}, context):
            continue
        Builder(graph_module, node).replace(layer)
        count += 1
    graph_module.delete_all_unused_submodules()
    return count


def attention_layer(graph_module: fx.GraphModule, node: fx.Node) -> Layer | None:
    """The layer that a node calls, if its weights and masks are constants."""
    module = leaf_module(graph_module, node)
    if isinstance(module, nn.MultiheadAttention) and computes_like(module, nn.MultiheadAttention):
        hooked = has_hooks(module) or (module.training and module.dropout)
        return None if hooked else layer_of_module(graph_module, node, module)
    return layer_of_function(graph_module, node) if node.target is F.multi_head_attention_forward else None


def layer_of_module(graph_module: fx.GraphModule, node: fx.Node, module: nn.MultiheadAttention) -> Layer | None:
    call = arguments(graph_module, module.forward, node)
    weights: tuple[Tensor, ...] = (module.in_proj_weight,)
    if not module._qkv_same_embed_dim:
        weights = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
    if module.bias_k is not None or module.add_zero_attn or not plain_masks(call):
        return None
    return Layer(
        (call["query"], call["key"], call["value"]), module.num_heads, weights, module.in_proj_bias,
        module.out_proj.weight, module.out_proj.bias, call["attn_mask"], module.batch_first, call["need_weights"],
        call["average_attn_weights"],
    )  # fmt: skip


def layer_of_function(graph_module: fx.GraphModule, node: fx.Node) -> Layer | None:
    call = arguments(graph_module, F.multi_head_attention_forward, node)
    names: tuple[str, ...] = ("in_proj_weight",)
    if call["use_separate_proj_weight"]:
        names = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
    weights = tuple(call[name] for name in names)
    biases = [call[name] for name in ("in_proj_bias", "out_proj_bias") if call[name] is not None]
    constant = all(isinstance(x, Tensor) for x in (*weights, call["out_proj_weight"], *biases))
    extra = call["add_zero_attn"] or any(call[n] is not None for n in ("bias_k", "bias_v", "static_k", "static_v"))
    draws = call["training"] and call["dropout_p"] > 0
    if extra or draws or not constant or not plain_masks(call):
        return None
    return Layer(
        (call["query"], call["key"], call["value"]), call["num_heads"], weights, call["in_proj_bias"],
        call["out_proj_weight"], call["out_proj_bias"], call["attn_mask"], False, call["need_weights"],
        call["average_attn_weights"],
    )  # fmt: skip


def arguments(graph_module: fx.GraphModule, function: Callable, node: fx.Node) -> dict[str, Any]:
    """The call's arguments by name, with the tensors that constants are."""
    bound = inspect.signature(function).bind(*node.args, **node.kwargs)
    bound.apply_defaults()

    def value(argument: fx.Node) -> Any:
        constant = constant_of(graph_module, argument)
        return argument if constant is None else constant

    return fx.node.map_arg(bound.arguments, value)


def plain_masks(call: dict[str, Any]) -> bool:
    """Whether the only mask, if any, is a constant `[queries, keys]`."""
    mask = call["attn_mask"]
    same = mask is None or (isinstance(mask, Tensor) and mask.dim() == 2)
    return same and call["key_padding_mask"] is None and not (call["is_causal"] and mask is None)


def read_as_pair(node: fx.Node, layer: Layer) -> bool:
    """Whether everyone who reads the result picks one of the two things that it consists of."""
    picks = {user.args[1] if user.target is operator.getitem else None for user in node.users if not unread(user)}
    return picks <= ({0, 1} if layer.weights_wanted else {0})


def unread(pick: fx.Node) -> bool:
    """Whether a result is only taken out of its pair, as in `x, _ = layer(x, x, x)`."""
    return pick.target is operator.getitem and not pick.users


class Builder:
    """Writes the nodes of a layer in the place of its call."""

    def __init__(self, graph_module: fx.GraphModule, node: fx.Node):
        self.graph_module, self.node = graph_module, node

    def replace(self, layer: Layer) -> None:
        with self.graph_module.graph.inserting_before(self.node):
            results = self.attend(layer)
        for user in list(self.node.users):
            if not unread(user):
                user.replace_all_uses_with(results[user.args[1]])  # type: ignore[index]
            self.graph_module.graph.erase_node(user)
        self.graph_module.graph.erase_node(self.node)

    def attend(self, layer: Layer) -> list[fx.Node]:
        """The nodes of the result and, where somebody reads it, of the attention."""
        parts = self.project(layer)
        size = layer.out_weight.shape[1] // layer.heads
        names = ("query", "key", "value")
        split = [self.call("unflatten", f"{n}.heads", x, -1, (layer.heads, size)) for n, x in zip(names, parts)]
        turn = ("transpose", (-3, -2)) if layer.batch_first else ("movedim", (0, -2))
        query, key, value = (self.call(turn[0], f"{n}.turn", x, *turn[1]) for n, x in zip(names, split))
        mask = None if layer.mask is None else self.constant("attn_mask", added(layer.mask, layer.out_weight))
        attention = None
        if any(not unread(user) and user.args[1] == 1 for user in self.node.users):
            scaled = self.call(torch.mul, "scale", query, size**-0.5)
            logits = self.call(torch.matmul, "logits", scaled, self.call("transpose", "key.columns", key, -2, -1))
            logits = logits if mask is None else self.call(torch.add, "masked", logits, mask)
            attention = self.call(F.softmax, "attention", logits, dim=-1)
            mixed = self.call(torch.matmul, "mixed", attention, value)
        else:
            mixed = self.call(F.scaled_dot_product_attention, "attention", query, key, value, attn_mask=mask)
        back = (-3, -2) if layer.batch_first else (-2, 0)
        mixed = self.call("flatten", "joined", self.call(turn[0], "turn", mixed, *back), -2)
        results = [self.linear("out_proj", mixed, layer.out_weight, layer.out_bias)]
        if attention is not None:
            results.append(self.call(torch.mean, "mean", attention, dim=-3) if layer.average else attention)
        return results

    def project(self, layer: Layer) -> list[fx.Node]:
        """Query, key and value: from one linear layer where all three are of the same tokens."""
        query, key, value = layer.inputs
        sizes = [layer.out_weight.shape[1]] * 3
        if query is key is value and len(layer.weights) == 1:
            whole = self.linear("in_proj", query, layer.weights[0], layer.bias)
            chunks = self.call("chunk", "in_proj.chunk", whole, 3, -1)
            return [self.call(operator.getitem, f"in_proj.part{i}", chunks, i) for i in range(3)]
        weights = layer.weights if len(layer.weights) == 3 else layer.weights[0].split(sizes)
        biases = [None] * 3 if layer.bias is None else layer.bias.split(sizes)
        names = ("q_proj", "k_proj", "v_proj")
        return [self.linear(*each) for each in zip(names, layer.inputs, weights, biases)]

    def linear(self, name: str, x: fx.Node, weight: Tensor, bias: Tensor | None) -> fx.Node:
        given = None if bias is None else self.constant(f"{name}.bias", bias)
        return self.call(F.linear, name, x, self.constant(f"{name}.weight", weight), given)

    def call(self, target: Any, name: str, *args: Any, **kwargs: Any) -> fx.Node:
        op = "call_method" if isinstance(target, str) else "call_function"
        return self.named(self.graph_module.graph.create_node(op, target, args, kwargs), name)

    def constant(self, name: str, tensor: Tensor) -> fx.Node:
        place = place_constant(self.graph_module, f"{self.node.meta['path']}.{name}", tensor)
        return self.named(self.graph_module.graph.get_attr(place), name)

    def named(self, node: fx.Node, name: str) -> fx.Node:
        node.meta = {**self.node.meta, "path": f"{self.node.meta['path']}.{name}"}
        return node


def added(mask: Tensor, weight: Tensor) -> Tensor:
    """A mask that is added to the logits: where the layer's is true, a query does not see a key."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=weight.dtype).masked_fill(mask, float("-inf"))
