"""Products of tensors: matrix products and einsum, of which one or both operands depend on the frame.

Dense spellings: `torch.matmul`, `@`, `torch.bmm`, `torch.mm`, `torch.einsum` with an equation.
Mask rule: an element of the product reads one row of the first operand and one column of the second, so the dimension
that is summed over becomes part of the pixel, and every other one keeps its pixels. Batch dimensions (heads, windows)
stay apart. In attention that says by itself what can be saved: a changed query changes its own row, a changed key or
value all rows of its window.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from deltafx.ops.base import FRAME, Call, CallOfTwo, FunctionOp, Masks, Sample, of_rank, seeded, spread, union


class MatMul(FunctionOp):
    """The product of two tensors over the last dimension of the first and the last but one of the second."""

    name = "matmul"
    locality = "global"
    functions: ClassVar[tuple[Callable, ...]] = (torch.matmul, operator.matmul, torch.bmm, torch.mm)
    methods = ("matmul", "bmm", "mm")

    @staticmethod
    @seeded
    def samples() -> list[Sample]:
        weight, vector, stack = torch.randn(13, 5), torch.randn(13), torch.randn(7, 4, 11)
        two = {
            "rows_and_columns": lambda x, y: torch.matmul(x, y.transpose(2, 3)),
            "operator": lambda x, y: x @ y.mT,
            "method": lambda x, y: x.matmul(y[:, :1].transpose(2, 3)),
            "queries_and_keys": lambda x, y: x.flatten(2).transpose(1, 2) @ y.flatten(2),
            "bmm": lambda x, y: torch.bmm(x[:, 0], mat2=y[:, 1].transpose(1, 2)) + x[:, 0].bmm(y[:, 1].transpose(1, 2)),
            "vectors": lambda x, y: torch.matmul(x.transpose(1, 3), y[0, :, 0, 0]),
            "from_the_left": lambda x, y: torch.matmul(y[0, 0, 0], x.transpose(2, 3)),
        }
        one = {
            "weight": lambda x: x @ weight,
            "weight_from_the_left": lambda x: torch.matmul(stack, x),
            "vector": lambda x: torch.matmul(x, vector),
            "heads": lambda x: x.mean((2, 3)).mm(weight[:7]) + torch.mm(input=x.mean((2, 3)), mat2=weight[:7]),
            "same": lambda x: x.transpose(2, 3) @ x,
        }
        return [
            *(Sample(name, CallOfTwo(function), (FRAME, FRAME)) for name, function in two.items()),
            *(Sample(name, Call(function)) for name, function in one.items()),
        ]

    def operands(self, inputs: Sequence[Any]) -> tuple[Any, Any]:
        return self.argument(inputs, 0, "input"), self.argument(inputs, 1, "other", "mat2")

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Tensor) -> Tensor:
        (a, b), (rows, columns) = self.operands(inputs), self.operands(masks)
        parts = []
        if rows is not None:
            rows = spread(rows, (-1,))
            parts.append(rows.squeeze(-1) if b.dim() == 1 < a.dim() else rows)
        if columns is not None:
            columns = spread(columns, (-2,) if b.dim() > 1 else (-1,))
            parts.append(columns.squeeze(-2) if a.dim() == 1 < b.dim() else columns)
        rank = output.dim()
        return union([of_rank(part, rank) if rank else part.reshape(()) for part in parts])

    def mixes_streams(self, inputs: Sequence[Any]) -> bool:
        a, b = self.operands(inputs)
        rank = max(a.dim(), b.dim())
        return mixes([a, b], [a.dim() == rank > 1, b.dim() == rank > 2])

    def is_linear(self, deltas: Sequence[bool]) -> bool:
        return sum(deltas) == 1


class Einsum(FunctionOp):
    """`torch.einsum`: the pixels of a letter that the result has stay apart, those of the others are summed over."""

    name = "einsum"
    locality = "global"
    functions: ClassVar[tuple[Callable, ...]] = (torch.einsum,)

    @staticmethod
    @seeded
    def samples() -> list[Sample]:
        weight, table = torch.randn(7, 5), torch.randn(11, 4, 13)
        two = {
            "attention": lambda x, y: torch.einsum("bchi,bchj->bcij", x, y),
            "ellipsis": lambda x, y: torch.einsum("...i,...i->...", x, y),
            "spaces": lambda x, y: torch.einsum("B C H W, B C h W -> B h H", x, y),
            "list": lambda x, y: torch.einsum("nchw,nchw->nhw", [x, y]),
            "implicit": lambda x, y: torch.einsum("nchw,nchv", x, y),
            "outer": lambda x, y: torch.einsum("nc,nd->ncd", x.mean((2, 3)), y.mean((2, 3))),
        }
        one = {
            "weight": lambda x: torch.einsum("nchw,cd->ndhw", x, weight),
            "relative_position": lambda x: torch.einsum("nchw,hkw->nchk", x, table),
            "transpose": lambda x: torch.einsum("nchw->nhwc", x),
            "sum": lambda x: torch.einsum("n...w->n...", x),
            "implicit_ellipsis": lambda x: torch.einsum("w...,w", x.transpose(0, 3), table[0, 0]).transpose(0, 2),
        }
        return [
            *(Sample(name, CallOfTwo(function), (FRAME, FRAME)) for name, function in two.items()),
            *(Sample(name, Call(function)) for name, function in one.items()),
        ]

    def operands(self, inputs: Sequence[Any]) -> list[Any]:
        _, *operands = self.fill(inputs)[0]
        return list(operands[0]) if isinstance(operands[0], (list, tuple)) else operands

    def letters(self, inputs: Sequence[Any]) -> tuple[list[str], str]:
        """The letters of each operand and of the result; the dimensions of an ellipsis are digits, from the last."""
        equation = str(self.args[0]).replace(" ", "")
        left, arrow, result = equation.partition("->")
        terms = left.split(",")
        digits = ""
        for index, (term, x) in enumerate(zip(terms, self.operands(inputs), strict=True)):
            if "..." in term:
                own = "".join(str(d) for d in reversed(range(x.dim() - len(term) + 3)))
                terms[index] = term.replace("...", own)
                digits = max(digits, own, key=len)
        if not arrow:
            every = "".join(terms)
            result = "..." + "".join(sorted(c for c in set(every) if c.isalpha() and every.count(c) == 1))
        return terms, result.replace("...", digits)

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Tensor) -> Tensor:
        terms, result = self.letters(inputs)
        parts = []
        for term, mask in zip(terms, self.operands(masks), strict=True):
            if mask is not None:
                mask = spread(mask, [d for d, letter in enumerate(term) if letter not in result])
                kept = [term.index(letter) for letter in result if letter in term]
                mask = mask.permute(*kept, *(d for d in range(len(term)) if d not in kept))
                mask = mask.reshape(mask.shape[: len(kept)])  # what is summed over has size 1
                parts.append(mask[tuple(slice(None) if letter in term else None for letter in result)])
        return union(parts)

    def refusal(self, inputs: Sequence[Any]) -> str | None:
        repeated = any(len(set(term)) < len(term) for term in self.letters(inputs)[0])
        return "it takes a diagonal" if repeated else None

    def mixes_streams(self, inputs: Sequence[Any]) -> bool:
        terms, result = self.letters(inputs)
        return not result or mixes(self.operands(inputs), [term.startswith(result[0]) for term in terms])

    def is_linear(self, deltas: Sequence[bool]) -> bool:
        return sum(deltas) == 1


def mixes(operands: Sequence[Tensor], kept: Sequence[bool]) -> bool:
    """Whether streams meet: where a dimension 0 that is not the result's may be theirs, by its size."""
    streams = {x.shape[0] for x, same in zip(operands, kept, strict=True) if same}
    others = [x for x, same in zip(operands, kept, strict=True) if not same]
    return not streams or any(x.dim() > 0 and x.shape[0] in streams for x in others)
