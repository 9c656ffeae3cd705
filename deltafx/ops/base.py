"""What an operator is: the dense PyTorch function and the mask rule that goes with it.

An operator is a small `nn.Module` that holds weights and constants but no state. Called with tensors it *is* the dense
function; that is the reference for every backend. Beside it stands its mask rule, `candidates`: which output pixels can
change when the given input pixels did.

Masks are uint8, have the rank of their tensor, and size 1 in its channel dimensions (see `deltafx.delta.Delta`).
"""

from __future__ import annotations

import copy
import functools
import inspect
import pydoc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

Masks = Sequence[Any]  # one per input, nested like it; None where it is not a delta (a constant, a number)
T = TypeVar("T")


class Op(nn.Module):
    """One canonical operator. `forward` is the dense function of the inputs."""

    name: str = ""  # the operator's, or its family's, name
    locality: str = ""  # pointwise, window, resample, view, concatenation, global, head or island
    module_types: ClassVar[tuple[type[nn.Module], ...]] = ()  # the dense spellings it covers
    functions: ClassVar[tuple[Callable, ...]] = ()
    function_names: ClassVar[tuple[str, ...]] = ()  # of functions of libraries that need not be installed
    methods: ClassVar[tuple[str, ...]] = ()
    writes_input: ClassVar[bool] = False  # whether the dense functions write into their first input
    input_rank: int | None = None  # rank of the first input, where the operator fixes it
    takes_nests: ClassVar[bool] = False  # whether an input may be a tuple or list of tensors

    @property
    def spelling(self) -> str:
        """What reports call it: of a family, the member."""
        return self.name

    @classmethod
    def from_module(cls, module: nn.Module) -> Op:
        """The operator for a leaf module of one of the types in `module_types`, applied to one tensor."""
        raise NotImplementedError

    @staticmethod
    def samples() -> list[Sample]:
        """Dense modules in every configuration that matters, for tests and benchmarks."""
        return []

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Tensor) -> Tensor:
        """The mask of output pixels that can change when the input pixels in `masks` did: never too small."""
        raise NotImplementedError

    def refusal(self, inputs: Sequence[Any]) -> str | None:
        """Why there is no mask rule for inputs of these shapes and arguments, or None. The node is then an island."""
        if self.input_rank is None or inputs[0].dim() == self.input_rank:
            return None
        return f"the input has {inputs[0].dim()} dimensions; a batch dimension is needed ({self.input_rank} in all)"

    def is_linear(self, deltas: Sequence[bool]) -> bool:
        """Whether f(x + d) - f(x) depends on d alone, for the inputs flagged as deltas."""
        return False

    def mixes_streams(self, inputs: Sequence[Any]) -> bool:
        """Whether row n of the output depends on, or stands for, anything but row n of the inputs."""
        return False


@dataclass(frozen=True)
class Slot:
    """The place of the op's input number `index` in an argument template."""

    index: int


class FunctionOp(Op):
    """An operator that calls a PyTorch function exactly as the model did.

    `args` and `kwargs` are templates in which every value that the graph computes is a `Slot`.
    """

    signature: ClassVar[Callable | None] = None  # names the arguments, for mask rules

    def __init__(self, function: Callable, args: Sequence[Any] = (Slot(0),), kwargs: dict[str, Any] | None = None):
        super().__init__()
        self.function = function
        self.args = tuple(args)
        self.kwargs = dict(kwargs or {})

    def forward(self, *inputs: Any) -> Any:
        args, kwargs = self.fill(inputs)
        return self.function(*args, **kwargs)

    def fill(self, inputs: Sequence[Any]) -> tuple[tuple, dict]:
        return fill(self.args, inputs), fill(self.kwargs, inputs)

    def template(self, position: int, *names: str, default: Any = None) -> Any:
        """One argument, with its slots, given by position or under one of its names (torch takes `axis` for `dim`)."""
        given = [self.kwargs[name] for name in names if name in self.kwargs]
        return given[0] if given else self.args[position] if len(self.args) > position else default

    def argument(self, inputs: Sequence[Any], position: int, *names: str, default: Any = None) -> Any:
        """One argument of the call."""
        return fill(self.template(position, *names, default=default), inputs)

    def arguments(self, inputs: Sequence[Any]) -> dict[str, Any]:
        """The call's arguments by name, defaults filled in."""
        signature = type(self).signature
        assert signature is not None
        args, kwargs = self.fill(inputs)
        bound = inspect.signature(signature).bind(*args, **kwargs)
        bound.apply_defaults()
        return bound.arguments

    def __getstate__(self) -> dict[str, Any]:
        """Functions travel by name: some of torch.nn.functional cannot be pickled as objects."""
        name = fx.node._get_qualified_name(self.function)
        known = pydoc.locate(name) is self.function
        return {**self.__dict__, "function": name if known else self.function}

    def __setstate__(self, state: dict[str, Any]) -> None:
        function = state["function"]
        super().__setstate__({**state, "function": pydoc.locate(function) if isinstance(function, str) else function})

    def extra_repr(self) -> str:
        constants = [f"{a!r}" for a in self.args if not isinstance(a, Slot)]
        constants += [f"{k}={v!r}" for k, v in self.kwargs.items() if not isinstance(v, Slot)]
        return ", ".join([getattr(self.function, "__name__", str(self.function)), *constants])


def fill(template: Any, inputs: Sequence[Any]) -> Any:
    """The template with its slots replaced by inputs; its lists are new ones, which the function may write to."""
    if isinstance(template, Slot):
        return inputs[template.index]
    if isinstance(template, slice):
        return slice(*(fill(part, inputs) for part in (template.start, template.stop, template.step)))
    if isinstance(template, dict):
        return {name: fill(part, inputs) for name, part in template.items()}
    if isinstance(template, list):
        return [fill(part, inputs) for part in template]
    if isinstance(template, tuple):
        parts = [fill(part, inputs) for part in template]
        return type(template)(*parts) if hasattr(template, "_fields") else tuple(parts)
    return template


# ---------------------------------------------------------------------------------------------------------------------
# Masks


def pixel_mask(mask: Tensor, shape: Sequence[int], channels: Sequence[int]) -> Tensor:
    """The mask in the layout whose channel dimensions are `channels`: same changes, never fewer pixels."""
    rank = len(shape)
    channels = [c % rank for c in channels]
    reduced = mask.amax(channels, keepdim=True) if channels else mask
    return reduced.expand([1 if d in channels else size for d, size in enumerate(shape)])


def union(masks: Masks) -> Tensor:
    """Pixels in any of the masks, broadcast like the tensors they belong to."""
    result: Tensor | None = None
    for mask in masks:
        if mask is not None:
            result = mask if result is None else torch.bitwise_or(result, mask)
    assert result is not None, "an operator without a delta input has no mask"
    return result


def of_rank(mask: Tensor, rank: int) -> Tensor:
    """The mask of a tensor that broadcasting gives more dimensions, in front."""
    return mask.reshape([1] * (rank - mask.dim()) + list(mask.shape))


def spread(mask: Tensor, dims: Sequence[int]) -> Tensor:
    """Each output along `dims` reads all of `dims`: those dimensions become channel dimensions."""
    return mask.amax(tuple(dims), keepdim=True) if dims else mask


def any_delta(masks: Masks) -> bool:
    """Whether any of the masks, which may be nested, is one."""
    return any(mask is not None for mask in pytree.tree_leaves(list(masks)))


def everything(masks: Masks, inputs: Sequence[Any], output: Tensor) -> Tensor:
    """The whole output if anything changed: the mask rule of an island."""
    changed = torch.stack([mask.amax() for mask in pytree.tree_leaves(list(masks)) if mask is not None]).amax()
    pixel = [1 if d == channel_dimension(output) else size for d, size in enumerate(output.shape)]
    return changed.expand(pixel).contiguous()


def channel_dimension(tensor: Any) -> int | None:
    """The channel dimension of a tensor whose layout nothing else tells: 1, as in `[N, C, *spatial]`."""
    return 1 if tensor.dim() > 1 else None


def broadcasts_streams(tensors: Sequence[Tensor]) -> bool:
    """Whether one of fewer dimensions than the others, where those of the streams are no more in front, is as long."""
    rank = max(x.dim() for x in tensors)
    streams = {x.shape[:1] for x in tensors if x.dim() == rank}
    return any(0 < x.dim() < rank and x.shape[:1] in streams for x in tensors)


def moves_streams(op: Op, inputs: Sequence[Any]) -> bool:
    """Sends the number of each row of the first input through a rearrangement: whether it comes out in its place."""
    shape = inputs[0].shape
    if not shape:
        return True
    rows = torch.arange(shape[0], device=inputs[0].device)
    moved = op(rows.view(-1, *[1] * (len(shape) - 1)).expand(shape), *inputs[1:])
    return not all(
        part.dim() > 0 and part.shape[0] == shape[0] and bool((part == rows.view(-1, *[1] * (part.dim() - 1))).all())
        for part in ([moved] if isinstance(moved, Tensor) else moved)
    )


def to_mask(count: Tensor) -> Tensor:
    """The mask of where a sum or maximum of set pixels, which may be rounded, is at least one."""
    return (count > 0.5).to(torch.uint8)


# ---------------------------------------------------------------------------------------------------------------------
# Weights


def borrow(tensor: Tensor) -> nn.Parameter:
    """A parameter of our own over the caller's storage: moving ours to another dtype leaves theirs alone."""
    return nn.Parameter(tensor.detach(), requires_grad=False)


@torch.no_grad()  # which TorchScript's own copies need
def borrow_module(module: nn.Module) -> nn.Module:
    """A copy of a module that shares the storage of its parameters and nothing else."""
    memo: dict[int, Any] = {id(parameter): borrow(parameter) for parameter in module.parameters()}
    for part in module.modules():  # such as the weight that a hook computes, which cannot be copied
        memo |= {id(value): value.detach().clone() for value in vars(part).values() if isinstance(value, Tensor)}
    clone = copy.deepcopy(module, memo)
    for part in clone.modules():
        if hasattr(part, "inplace") and not isinstance(part, torch.jit.ScriptModule):
            part.inplace = False  # type: ignore[assignment]
    return clone


def tuple_of(value: Any, length: int) -> tuple:
    """`3` or `(3, 3)` as PyTorch accepts them, as a tuple of `length`."""
    if isinstance(value, (tuple, list, torch.Size)):
        return tuple(value) * length if len(value) == 1 else tuple(value)
    return (value,) * length


def by_type(module: nn.Module, table: dict[type[nn.Module], T]) -> T:
    """The entry for a module's type, or for the type it is a subclass of."""
    return next(entry for kind, entry in table.items() if isinstance(module, kind))


# ---------------------------------------------------------------------------------------------------------------------
# Samples

FRAME = (2, 7, 11, 13)  # two streams, a prime number of channels, odd sizes


@dataclass(frozen=True)
class Sample:
    """A dense module in evaluation mode and the shapes of its inputs, whose values lie between `low` and `high`."""

    name: str
    module: nn.Module
    inputs: tuple[tuple[int, ...], ...] = (FRAME,)
    low: float = -2.0
    high: float = 2.0

    def __post_init__(self) -> None:
        self.module.eval().requires_grad_(False)  # where a weight wants gradients, PyTorch may choose other kernels

    def random_inputs(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        return tuple(torch.empty(s).uniform_(self.low, self.high, generator=generator) for s in self.inputs)


class Call(nn.Module):
    """A function of one tensor as a module: the sample of a functional or method spelling."""

    def __init__(self, function: Callable):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


class CallOfTwo(Call):
    """A function of two tensors as a module."""

    def forward(self, x: Tensor, y: Tensor) -> Any:  # type: ignore[override]
        return self.function(x, y)


def seeded(build: Callable[[], list[Sample]]) -> Callable[[], list[Sample]]:
    """Samples whose weights are the same in every call, whatever was drawn before."""

    @functools.wraps(build)
    def samples() -> list[Sample]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return build()

    return samples
