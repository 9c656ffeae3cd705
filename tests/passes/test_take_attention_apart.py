"""Attention layers become linear layers around a scaled dot product; what has no such form stays one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deltafx.passes.take_attention_apart import take_attention_apart
from tests.passes.helpers import apply, assert_follows, calls, net, operators

TOKENS = (2, 9, 12)
MASK = torch.ones(9, 9, dtype=torch.bool).triu(1)


def attention(**options: Any) -> nn.MultiheadAttention:
    layer = nn.MultiheadAttention(12, 3, **{"batch_first": True, **options})
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -0.5, 0.5)
    return layer.eval()


def first(layer: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    """A network of a layer on the tokens, of which the result is read alone."""
    return net(lambda self, x: self.layer(x, x, x, *args, **kwargs)[0], layer=layer)


def clip() -> list[Tensor]:
    """Tokens, the same with one of one stream changed, the same again, and others."""
    tokens = torch.randn(TOKENS)
    changed = tokens.clone()
    changed[1, 4] += 1
    return [tokens, changed, changed.clone(), torch.randn(TOKENS)]


def pair(result: Any) -> tuple[Tensor, Tensor]:
    return result[0], result[1]


APART: dict[str, tuple[Callable, nn.Module]] = {
    "self": (lambda self, x: self.layer(x, x, x, need_weights=False)[0], attention()),
    "cross": (lambda self, x: self.layer(x[:, :5], x * 2, x * 2)[0], attention()),
    "three": (lambda self, x: self.layer(x, x * 2, x + 1)[0], attention(bias=False)),
    "sequence_first": (lambda self, x: self.layer(x, x, x)[0], attention(batch_first=False)),
    "other_sizes": (lambda self, x: self.layer(x, x[..., :7], x[..., :5])[0], attention(kdim=7, vdim=5)),
    "weights": (lambda self, x: pair(self.layer(x, x, x)), attention()),
    "weights_of_heads": (lambda self, x: pair(self.layer(x, x, x, average_attn_weights=False)), attention()),
    "mask": (lambda self, x: self.layer(x, x, x, attn_mask=self.mask)[0], attention()),
    "mask_and_weights": (lambda self, x: pair(self.layer(x, x, x, attn_mask=self.mask, is_causal=True)), attention()),
    "float_mask": (lambda self, x: self.layer(x, x, x, attn_mask=self.mask.float())[0], attention()),
    "without_streams": (lambda self, x: self.layer(x[0], x[0], x[0])[0], attention()),
    "sequence_without_streams": (lambda self, x: self.layer(x[0], x[0], x[0])[0], attention(batch_first=False)),
}


@pytest.mark.parametrize("name", APART)
def test_takes_layer_apart(name: str) -> None:
    forward, layer = APART[name]
    model = net(forward, layer=layer, mask=MASK)
    graph_module, count = apply(take_attention_apart, model, torch.randn(TOKENS))
    assert count == 1
    assert "MultiheadAttention" not in calls(graph_module)
    converted = assert_follows(model, clip())
    assert not any("MultiheadAttention" in name for name in operators(converted).values())
    assert not any(state.reason for state in converted.runtime.plans[0].nodes.values())


def test_takes_function_apart() -> None:
    """As the pooling of CLIP's ResNets calls it: three weights, and their biases in one."""
    layer = attention(batch_first=False)
    rows = layer.in_proj_weight.detach().split(12)

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        return F.multi_head_attention_forward(
            query=x[:1], key=x, value=x, embed_dim_to_check=12, num_heads=3, q_proj_weight=self.q, k_proj_weight=self.k,
            v_proj_weight=self.v, in_proj_weight=None, in_proj_bias=torch.cat([self.b, self.b, self.b]), bias_k=None,
            bias_v=None, add_zero_attn=False, dropout_p=0.0, out_proj_weight=self.o, out_proj_bias=None,
            use_separate_proj_weight=True, training=False, need_weights=False,
        )[0]  # fmt: skip

    out, bias = layer.out_proj.weight.detach(), torch.randn(12)
    model = net(forward, q=rows[0], k=rows[1], v=rows[2], b=bias, o=out)
    _, count = apply(take_attention_apart, model, torch.randn(TOKENS))
    assert count == 1
    assert_follows(model, clip())


def test_changed_token_is_projected_alone() -> None:
    model = net(lambda self, x: self.layer(*[x.flatten(2).transpose(1, 2)] * 3)[0], layer=attention())
    image = torch.randn(2, 12, 3, 3)
    changed = image.clone()
    changed[1, :, 2, 1] += 1
    converted = assert_follows(model, [image, changed])
    states = converted.runtime.plans[0].nodes
    rates = {path: state.leaves[0].mask.float().mean() for path, state in states.items() if state.leaves}
    assert rates["layer.in_proj"] == 1 / 18
    assert rates["layer.out_proj"] == 1 / 2  # all tokens of that stream


@pytest.mark.parametrize(
    "model",
    [
        first(attention(add_bias_kv=True)),
        first(attention(add_zero_attn=True)),
        net(lambda self, x: self.layer(x, x, x, key_padding_mask=x[..., 0] > 3)[0], layer=attention()),
        net(lambda self, x: self.layer(x, x, x, attn_mask=x[0, :, :9])[0], layer=attention()),
        first(attention(), attn_mask=torch.zeros(6, 9, 9)),
        net(lambda self, x: self.layer(x, x, x), layer=attention()),
        net(lambda self, x: F.multi_head_attention_forward(
            x, x, x, 12, 3, x[0, :1, :].expand(36, 12), None, None, None, False, 0.0, self.w, None
        )[0], w=torch.randn(12, 12)),
    ],
    ids=["bias_kv", "zero_attn", "key_padding", "mask_of_frame", "mask_of_heads", "read_as_whole", "weight_of_frame"],
)  # fmt: skip
def test_keeps_other_layers(model: nn.Module) -> None:
    _, count = apply(take_attention_apart, model, torch.randn(TOKENS))
    assert count == 0
    assert_follows(model, clip())


def test_keeps_what_is_named_in_keep_dense() -> None:
    for name in ("layer", "MultiheadAttention"):
        _, count = apply(take_attention_apart, first(attention()), torch.randn(TOKENS), keep_dense=[name])
        assert count == 0


def test_keeps_layer_with_hook() -> None:
    layer = attention()
    layer.register_forward_hook(lambda module, args, output: (output[0] * 2, output[1]))
    assert apply(take_attention_apart, first(layer), torch.randn(TOKENS))[1] == 0


def test_keeps_subclass_that_computes_something_else() -> None:
    kind = type("Other", (nn.MultiheadAttention,), {"forward": lambda self, q, k, v: (q + k * v, None)})
    kind.__module__ = nn.MultiheadAttention.__module__  # tracing stops at what stands in torch.nn
    assert apply(take_attention_apart, first(kind(12, 3)), torch.randn(TOKENS))[1] == 0


def test_layer_called_twice() -> None:
    model = net(lambda self, x: self.layer(self.layer(x, x, x)[0], x, x)[0], layer=attention())
    assert apply(take_attention_apart, model, torch.randn(TOKENS))[1] == 2
    assert_follows(model, clip())
