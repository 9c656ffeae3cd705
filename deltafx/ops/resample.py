"""Changes of resolution: interpolation, padding and cropping, pixel shuffle, roll and flip.

Dense spellings: `F.interpolate`, `nn.Upsample*`; `F.pad`, `nn.ZeroPad*d` and its siblings; `nn.PixelShuffle`,
`nn.PixelUnshuffle`; `torch.roll`, `torch.flip`.
Mask rules: interpolation is separable, so its footprint is found by sending a NaN through one axis at a time: exactly
the outputs that read a pixel turn NaN, whatever the mode, alignment or antialiasing. The others move the mask as they
move the tensor.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deltafx.ops.base import FunctionOp, Masks, Slot, pixel_mask, to_mask


class Interpolate(FunctionOp):
    """`F.interpolate` in every mode."""

    name = "interpolate"
    locality = "resample"
    modules = (nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d)
    functions = (F.interpolate, F.upsample)

    @staticmethod
    def signature(  # type: ignore[override]
        input, size=None, scale_factor=None, mode="nearest", align_corners=None, recompute_scale_factor=None,
        antialias=False,
    ): ...  # fmt: skip

    @classmethod
    def from_module(cls, module: nn.Module) -> Interpolate:
        assert isinstance(module, nn.Upsample)
        names = ("size", "scale_factor", "mode", "align_corners", "recompute_scale_factor")
        return cls(F.interpolate, (Slot(0),), {name: getattr(module, name) for name in names})

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Tensor) -> Tensor:
        assert masks[0] is not None
        call = self.arguments(inputs)
        before, after = inputs[0].shape[2:], output.shape[2:]
        mask = pixel_mask(masks[0], inputs[0].shape, channels=(1,)).float()
        scales = call["scale_factor"]
        if scales is None or call["recompute_scale_factor"]:
            scales = [None] * len(before)
        elif not isinstance(scales, (tuple, list)):
            scales = [scales] * len(before)
        options = (call["mode"], call["align_corners"], call["antialias"])
        for size, new, scale in zip(before, after, scales, strict=True):
            reads = axis_footprint(size, new, scale, *options).to(mask.device)
            mask = torch.tensordot(mask, reads, dims=([2], [1]))  # from the front of the axes to their end
        return to_mask(mask)

    def is_linear(self, deltas: Sequence[bool]) -> bool:
        return True


@functools.lru_cache(maxsize=256)
def axis_footprint(
    size: int, new: int, scale: float | None, mode: str, align_corners: bool | None, antialias: bool
) -> Tensor:
    """`[new, size]`: 1 where output position i of one axis reads input position j."""
    planar = {"linear": "linear", "bilinear": "bilinear", "bicubic": "bicubic", "trilinear": "linear"}.get(mode, mode)
    probes = torch.zeros(1, size, size)
    probes[0].fill_diagonal_(float("nan"))
    if planar in ("bilinear", "bicubic"):
        probes = probes.unsqueeze(-1)
    target: dict[str, Any] = {"size": [new] + [1] * (probes.dim() - 3)}
    if scale is not None:
        target = {"scale_factor": [scale] + [1.0] * (probes.dim() - 3)}
    if antialias:
        target["antialias"] = True
    out = F.interpolate(probes, mode=planar, align_corners=align_corners, **target)
    return out.isnan().float().reshape(size, new).t().contiguous()


class Pad(FunctionOp):
    """`F.pad` in every mode; negative padding crops."""

    name = "pad"
    locality = "resample"
    modules = (
        nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d,
        nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d, nn.ReplicationPad1d, nn.ReplicationPad2d,
        nn.ReplicationPad3d, nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d,
    )  # fmt: skip
    functions = (F.pad,)

    @staticmethod
    def signature(input, pad, mode="constant", value=None): ...  # type: ignore[override]

    @classmethod
    def from_module(cls, module: nn.Module) -> Pad:
        kind = type(module).__name__
        mode = {"Refl": "reflect", "Repl": "replicate", "Circ": "circular"}.get(kind[:4], "constant")
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

    def mixes_streams(self, inputs: Sequence[Any]) -> bool:
        return len(self.arguments(inputs)["pad"]) // 2 >= inputs[0].dim()

    def is_linear(self, deltas: Sequence[bool]) -> bool:
        return True


class PixelShuffle(FunctionOp):
    """`[N, C r², H, W]` to `[N, C, r H, r W]`: a pixel becomes r × r pixels."""

    name = "pixel_shuffle"
    locality = "resample"
    modules = (nn.PixelShuffle,)
    functions = (F.pixel_shuffle,)
    input_rank = 4

    @staticmethod
    def signature(input, upscale_factor): ...  # type: ignore[override]

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
    modules = (nn.PixelUnshuffle,)
    functions = (F.pixel_unshuffle,)
    input_rank = 4

    @staticmethod
    def signature(input, downscale_factor): ...  # type: ignore[override]

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


class Shift(FunctionOp):
    """`torch.roll` and `torch.flip`: the mask moves with the tensor."""

    name = "shift"
    locality = "resample"
    functions = (torch.roll, torch.flip)
    methods = ("roll", "flip")

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Tensor) -> Tensor:
        assert masks[0] is not None
        return self(masks[0], *inputs[1:])  # along a channel dimension, of size 1, nothing moves

    def refusal(self, inputs: Sequence[Any]) -> str | None:
        args, kwargs = self.fill(inputs)
        if self.function in (torch.roll, torch.Tensor.roll) and len(args) < 3 and "dims" not in kwargs:
            return "it rolls the flattened tensor"
        return None

    def mixes_streams(self, inputs: Sequence[Any]) -> bool:
        rows = torch.arange(inputs[0].shape[0]).view(-1, *[1] * (inputs[0].dim() - 1))
        return not torch.equal(self(rows, *inputs[1:]), rows)

    def is_linear(self, deltas: Sequence[bool]) -> bool:
        return True
