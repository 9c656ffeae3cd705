"""Attention of queries, keys and values, of which all may depend on the frame.

Dense spelling: `F.scaled_dot_product_attention`. Mask rule: a query's result changes if the query did, or any key or
value that it is set against; the batch dimensions (heads, windows) stay apart. So over a whole frame one changed token
changes everything, and over windows, its window. A masked key counts too: one that is not finite is read all the same.
The mask that is added to the logits may depend on the frame as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deltafx.ops.base import Call, FunctionOp, Masks, Sample, broadcasts_streams, of_rank, seeded, spread, union


class Attention(FunctionOp):
    """`softmax(query @ key.T * scale + mask) @ value`."""

    name = "attention"
    locality = "global"
    functions = (F.scaled_dot_product_attention,)

    @staticmethod
    def signature(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False): ...

    @staticmethod
    @seeded
    def samples() -> list[Sample]:
        bias, keep = torch.randn(1, 2, 15, 15), torch.rand(15, 15) > 0.3
        attend = F.scaled_dot_product_attention
        tokens = (2, 12, 3, 5)

        def split(x: Tensor) -> Tensor:
            """Two heads of 6 channels: `[2, 2, 15, 6]`."""
            return x.flatten(2).transpose(1, 2).unflatten(2, (2, 6)).transpose(1, 2)

        def mean(x: Tensor) -> Tensor:
            return x.flatten(2).mean(1, keepdim=True).unsqueeze(1)

        one = {
            "self": lambda x: attend(split(x), split(x * 2), split(x - 1)),
            "bias": lambda x: attend(split(x), split(x), split(x), attn_mask=bias),
            "keep": lambda x: attend(split(x), split(x), split(x), keep),
            "causal": lambda x: attend(split(x), split(x), split(x), is_causal=True, scale=0.5),
            "one_head": lambda x: attend(x.flatten(2).transpose(1, 2), x.flatten(2).mT, x.flatten(2).mT),
            "constant_keys": lambda x: attend(split(x), bias[..., :6], bias[..., :6]),
            "constant_queries": lambda x: attend(bias[:, :, :4, :6].expand(2, 2, 4, 6), split(x), split(x)),
            "shared_heads": lambda x: attend(split(x), split(x)[:, :1], split(x)[:, :1], enable_gqa=True),
            "windows": lambda x: attend(*[x.flatten(2).mT.unflatten(1, (5, 3)).transpose(1, 2)] * 3),
            "bias_of_frame": lambda x: attend(split(x), split(x), split(x), mean(x).mT - mean(x)),
        }
        return [Sample(name, Call(function), (tokens,)) for name, function in one.items()]

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Tensor) -> Tensor:
        changed = self.arguments(masks)
        parts = [spread(changed[name], (-1,)) for name in ("query", "attn_mask") if changed[name] is not None]
        for name in ("key", "value"):
            if changed[name] is not None:
                part = spread(changed[name], (-2, -1))
                if output.dim() > 2 and part.shape[-3] not in (1, output.shape[-3]):  # several queries share a head
                    part = part.repeat_interleave(output.shape[-3] // part.shape[-3], -3)
                parts.append(part)
        return union([of_rank(part, output.dim()) for part in parts])

    def mixes_streams(self, inputs: Sequence[Any]) -> bool:
        call = self.arguments(inputs)
        operands = [call[name] for name in ("query", "key", "value", "attn_mask") if call[name] is not None]
        return max(x.dim() for x in operands) < 3 or broadcasts_streams(operands)
