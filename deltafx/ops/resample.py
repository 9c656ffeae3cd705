"""Operators that move pixels: padding and cropping, pixel shuffle, channel shuffle, roll and flip.

Dense spellings: `F.pad`, `nn.ZeroPad*d` and its siblings; `nn.PixelShuffle`, `nn.PixelUnshuffle`, `nn.ChannelShuffle`
and their functions; `torch.roll`, `torch.flip`.
Mask rule: the mask moves as the tensor does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deltafx.ops.base import Call, FunctionOp, Masks, Sample, Slot, by_type, pixel_mask, spread, to_mask

PADDING_MODES: dict[type[nn.Module], str] = {
    nn.modules.padding._ReflectionPadNd: "reflect",
    nn.modules.padding._ReplicationPadNd: "replicate",
    nn.modules.padding._CircularPadNd: "circular",
    nn.Module: "constant",
}


class Pad(FunctionOp):
    """`F.pad` in every mode; negative padding crops."""

    name = "pad"
    locality = "resample"
    module_types = (
        nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d,
        nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d, nn.ReplicationPad1d, nn.ReplicationPad2d,
        nn.ReplicationPad3d, nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d,
    )  # fmt: skip
    functions = (F.pad,)

    @staticmethod
    def signature(input, pad, mode="constant", value=None): ...

    @staticmethod
    def samples() -> list[Sample]:
        functions = {
            "zeros": lambda x: F.pad(x, (1, 2, 0, 3)),
            "value": lambda x: F.pad(x, [2, 0], value=0.5),
            "negative": lambda x: F.pad(x, (-1, 2, 3, -4)),
            "crop": lambda x: F.pad(x, (-1, -2, -3, -4)),
            "channels": lambda x: F.pad(x, (1, 0, 0, 0, 2, 3)),
            "reflect": lambda x: F.pad(x, (3, 1, 0, 2), mode="reflect"),
            "replicate": lambda x: F.pad(x, (3, 0, 5, 2), "replicate"),
            "circular": lambda x: F.pad(x, (3, 1, 0, 2), mode="circular"),
            "replicate_negative": lambda x: F.pad(x, (-3, 1, 2, -2), mode="replicate"),
        }
        modules = [
            nn.ZeroPad2d((0, 1, 2, 3)), nn.ConstantPad2d(2, 3.5), nn.ReflectionPad2d((4, 0, 1, 2)),
            nn.ReplicationPad2d(3), nn.CircularPad2d((1, 2, 3, 0)),
        ]  # fmt: skip
        lines = [
            nn.ZeroPad1d(1), nn.ConstantPad1d((0, 3), 1.5), nn.ReflectionPad1d(2), nn.ReplicationPad1d((1, 4)),
            nn.CircularPad1d(2),
        ]  # fmt: skip
        volumes = [
            nn.ZeroPad3d(1), nn.ConstantPad3d((0, 1, 2, 0, 1, 0), 1.5), nn.ReflectionPad3d(1), nn.ReplicationPad3d(2),
            nn.CircularPad3d((1, 0, 1, 2, 0, 1)),
        ]  # fmt: skip
        return [
            *(Sample(name, Call(function)) for name, function in functions.items()),
            *(Sample(type(module).__name__, module) for module in modules),
            *(Sample(type(module).__name__, module, ((2, 7, 13),)) for module in lines),
            *(Sample(type(module).__name__, module, ((2, 3, 4, 5, 7),)) for module in volumes),
        ]

    @classmethod
    def from_module(cls, module: nn.Module) -> Pad:
        mode = by_type(module, PADDING_MODES)
        options = {"value": getattr(module, "value", 0.0)} if mode == "constant" else {}
        return cls(F.pad, (Slot(0), tuple(module.padding), mode), options)  # type: ignore[arg-type]

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Tensor) -> Tensor:
        assert masks[0] is not None
        call = self.arguments(inputs)
        shape = inputs[0].shape
        mask, pad = masks[0], list(call["pad"])
        for d in range(len(pad) // 2):  # a channel dimension keeps its size 1
            dim = len(shape) - 1 - d
            if mask.shape[dim] == 1 and shape[dim] > 1:
                pad[2 * d : 2 * d + 2] = [0, 0]
        if call["mode"] == "constant":
            return F.pad(mask, pad)
        return to_mask(F.pad(mask.float(), pad, mode=call["mode"]))

    def refusal(self, inputs: Sequence[Any]) -> str | None:
        call = self.arguments(inputs)
        if call["mode"] == "circular" and min(call["pad"]) < 0:
            return "it crops and pads circularly at once"
        return None

    def mixes_streams(self, inputs: Sequence[Any]) -> bool:
        return len(self.arguments(inputs)["pad"]) // 2 >= inputs[0].dim()

    def is_linear(self, deltas: Sequence[bool]) -> bool:
        return True


class PixelShuffle(FunctionOp):
    """`[N, C r², H, W]` to `[N, C, r H, r W]`: a pixel becomes r × r pixels."""

    name = "pixel_shuffle"
    locality = "resample"
    module_types = (nn.PixelShuffle,)
    functions = (F.pixel_shuffle,)
    input_rank = 4

    @staticmethod
    def signature(input, upscale_factor): ...

    @staticmethod
    def samples() -> list[Sample]:
        shape = (2, 18, 5, 7)
        return [
            Sample("module", nn.PixelShuffle(3), (shape,)),
            Sample("function", Call(lambda x: F.pixel_shuffle(x, upscale_factor=3)), (shape,)),
        ]

    @classmethod
    def from_module(cls, module: nn.Module) -> PixelShuffle:
        assert isinstance(module, nn.PixelShuffle)
        return cls(F.pixel_shuffle, (Slot(0), module.upscale_factor))

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Tensor) -> Tensor:
        assert masks[0] is not None
        factor = self.arguments(inputs)["upscale_factor"]
        mask = pixel_mask(masks[0], inputs[0].shape, channels=(1,))
        return mask.repeat_interleave(factor, 2).repeat_interleave(factor, 3)

    def is_linear(self, deltas: Sequence[bool]) -> bool:
        return True


class PixelUnshuffle(FunctionOp):
    """`[N, C, r H, r W]` to `[N, C r², H, W]`: r × r pixels become one."""

    name = "pixel_unshuffle"
    locality = "resample"
    module_types = (nn.PixelUnshuffle,)
    functions = (F.pixel_unshuffle,)
    input_rank = 4

    @staticmethod
    def signature(input, downscale_factor): ...

    @staticmethod
    def samples() -> list[Sample]:
        shape = (2, 5, 6, 9)
        return [
            Sample("module", nn.PixelUnshuffle(3), (shape,)),
            Sample("function", Call(lambda x: F.pixel_unshuffle(x, downscale_factor=3)), (shape,)),
        ]

    @classmethod
    def from_module(cls, module: nn.Module) -> PixelUnshuffle:
        assert isinstance(module, nn.PixelUnshuffle)
        return cls(F.pixel_unshuffle, (Slot(0), module.downscale_factor))

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Tensor) -> Tensor:
        assert masks[0] is not None
        mask = pixel_mask(masks[0], inputs[0].shape, channels=(1,))
        return F.pixel_unshuffle(mask, self.arguments(inputs)["downscale_factor"]).amax(1, keepdim=True)

    def is_linear(self, deltas: Sequence[bool]) -> bool:
        return True


class ChannelShuffle(FunctionOp):
    """The channels in another order."""

    name = "channel_shuffle"
    locality = "pointwise"
    module_types = (nn.ChannelShuffle,)
    functions = (F.channel_shuffle,)

    @staticmethod
    def samples() -> list[Sample]:
        shape = (2, 6, 11, 13)
        return [
            Sample("module", nn.ChannelShuffle(3), (shape,)),
            Sample("function", Call(lambda x: F.channel_shuffle(x, 2)), (shape,)),
        ]

    @classmethod
    def from_module(cls, module: nn.Module) -> ChannelShuffle:
        assert isinstance(module, nn.ChannelShuffle)
        return cls(F.channel_shuffle, (Slot(0), module.groups))

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Tensor) -> Tensor:
        assert masks[0] is not None
        return spread(masks[0], (1,))

    def is_linear(self, deltas: Sequence[bool]) -> bool:
        return True


class Shift(FunctionOp):
    """`torch.roll` and `torch.flip`: the mask moves with the tensor."""

    name = "shift"
    locality = "resample"
    functions = (torch.roll, torch.flip)
    methods = ("roll", "flip")

    @staticmethod
    def samples() -> list[Sample]:
        functions = {
            "roll": lambda x: torch.roll(x, (-2, 3), (2, 3)),
            "roll_method": lambda x: x.roll(shifts=5, dims=-1),
            "roll_channels": lambda x: torch.roll(x, 2, 1),
            "flip": lambda x: torch.flip(x, [-1]),
            "flip_channels": lambda x: x.flip(1, 2),
        }
        return [Sample(name, Call(function)) for name, function in functions.items()]

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Tensor) -> Tensor:
        assert masks[0] is not None
        return self(masks[0], *inputs[1:])  # along a channel dimension, of size 1, nothing moves

    def refusal(self, inputs: Sequence[Any]) -> str | None:
        rolls = self.function in (torch.roll, torch.Tensor.roll)
        return "it rolls the flattened tensor" if rolls and self.argument(inputs, 2, "dims") in (None, ()) else None

    def mixes_streams(self, inputs: Sequence[Any]) -> bool:
        rows = torch.arange(inputs[0].shape[0]).view(-1, *[1] * (inputs[0].dim() - 1))
        return not torch.equal(self(rows, *inputs[1:]), rows)

    def is_linear(self, deltas: Sequence[bool]) -> bool:
        return True
