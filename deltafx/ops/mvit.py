"""The functions of torchvision's multiscale transformers (MViT) that tracing does not look into, known by their names.

Dense spellings: `_unsqueeze` and `_squeeze` (a dimension that the heads need, if it is missing), `_add_rel_pos` (what
each query sees of the positions, added to the logits), `_add_shortcut` (a residual, perhaps not of the first token).
Mask rules: the dimension is added to the mask too; what is added up is united, a query's whole row with its logits.
The last two write into their first argument: the pass `functionalise` gives them a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from deltafx.ops.base import Call, CallOfTwo, FunctionOp, Masks, Sample, everything, of_rank, seeded, spread, union

VIDEO = "torchvision.models.video.mvit"


class FitRank(FunctionOp):
    """`_unsqueeze(x, rank, dim)`, which gives the tensor and the rank that it had; `_squeeze` undoes it."""

    name = "fit_rank"
    locality = "view"
    function_names = (f"{VIDEO}._unsqueeze", f"{VIDEO}._squeeze")

    @staticmethod
    def samples() -> list[Sample]:
        from torchvision.models.video import mvit

        def there_and_back(x: Tensor) -> Tensor:
            y, rank = mvit._unsqueeze(x, 4, 1)
            return mvit._squeeze(y * 2, 4, 1, rank)

        return [
            Sample("tokens", Call(lambda x: there_and_back(x.flatten(2).transpose(1, 2)))),
            Sample("heads", Call(there_and_back)),
            Sample("alone", Call(lambda x: mvit._unsqueeze(x.flatten(2), 4, 1)[0])),
        ]

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Any) -> Any:
        return self(masks[0], *inputs[1:])

    def mixes_streams(self, inputs: Sequence[Any]) -> bool:
        return self.template(2, "expand_dim") == 0

    def is_linear(self, deltas: Sequence[bool]) -> bool:
        return False  # a rank is no difference


class AddPositions(FunctionOp):
    """Logits `[N, heads, queries, keys]` plus a product of each query with a table; both have a first, class token."""

    name = "add_positions"
    locality = "pointwise"
    function_names = (f"{VIDEO}._add_rel_pos",)
    writes_input = True

    @staticmethod
    def signature(attn, q, q_thw, k_thw, rel_pos_h, rel_pos_w, rel_pos_t): ...

    @staticmethod
    @seeded
    def samples() -> list[Sample]:
        from torchvision.models.video import mvit

        height, width, time = torch.randn(7, 6), torch.randn(5, 6), torch.randn(3, 6)

        def attend(x: Tensor, y: Tensor) -> Tensor:
            tokens = [z.flatten(2).transpose(1, 2).unsqueeze(1) for z in (x, y)]
            logits = tokens[0] @ tokens[1].transpose(2, 3)
            return mvit._add_rel_pos(logits, tokens[0], (2, 3, 2), (1, 4, 3), height, width, time).softmax(-1)

        return [Sample("softmax", CallOfTwo(attend), ((2, 6, 13), (2, 6, 13)))]

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Tensor) -> Tensor:
        changed = self.arguments(masks)
        tables = ("rel_pos_h", "rel_pos_w", "rel_pos_t")
        if any(changed[name] is not None for name in tables):
            return everything(masks, inputs, output)
        rows = None if changed["q"] is None else spread(changed["q"], (-1,))
        return union([changed["attn"], rows])


class AddShortcut(FunctionOp):
    """A residual, of all tokens or of all but the first."""

    name = "add_shortcut"
    locality = "pointwise"
    function_names = (f"{VIDEO}._add_shortcut",)
    writes_input = True

    @staticmethod
    def samples() -> list[Sample]:
        from torchvision.models.video import mvit

        def add(x: Tensor, y: Tensor, whole: bool) -> Tensor:
            x = x * 2
            mvit._add_shortcut(x, y, whole)  # the result is not read
            return x

        shapes = ((2, 7, 11, 13), (2, 7, 11, 13))
        return [
            Sample("all", CallOfTwo(lambda x, y: add(x, y, True)), shapes),
            Sample("without_first", CallOfTwo(lambda x, y: add(x, y, False)), shapes),
        ]

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Tensor) -> Tensor:
        return of_rank(union(masks), output.dim())
