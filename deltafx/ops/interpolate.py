"""Interpolation, up and down.

Dense spellings: `F.interpolate` in every mode, `nn.Upsample` and its subclasses.
Mask rule: interpolation is separable, so its footprint is found by sending a NaN through one axis at a time: exactly
the outputs that read a pixel turn NaN, whatever the mode, alignment or antialiasing.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deltafx.ops.base import FRAME, Call, CallOfTwo, FunctionOp, Masks, Sample, Slot, pixel_mask


class Interpolate(FunctionOp):
    """`F.interpolate` in every mode."""

    name = "interpolate"
    locality = "resample"
    module_types = (nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d)
    functions = (F.interpolate, F.upsample)

    @staticmethod
    def signature(
        input, size=None, scale_factor=None, mode="nearest", align_corners=None, recompute_scale_factor=None,
        antialias=False,
    ): ...  # fmt: skip

    @staticmethod
    def samples() -> list[Sample]:
        frames = {
            "nearest": {"scale_factor": 2},
            "nearest_1.7": {"scale_factor": 1.7},
            "nearest_1.2_1.1": {"scale_factor": (1.2346, 1.086)},
            "nearest_down": {"size": (5, 4)},
            "nearest_exact": {"size": (17, 9), "mode": "nearest-exact"},
            "bilinear": {"scale_factor": 2, "mode": "bilinear"},
            "bilinear_down": {"size": (4, 6), "mode": "bilinear"},
            "bilinear_1.7": {"scale_factor": (1.7, 0.6), "mode": "bilinear"},
            "bilinear_recomputed": {"scale_factor": 1.7, "mode": "bilinear", "recompute_scale_factor": True},
            "bilinear_corners": {"size": (23, 29), "mode": "bilinear", "align_corners": True},
            "bilinear_corners_of_scale": {"scale_factor": 2.3, "mode": "bilinear", "align_corners": True},
            "bilinear_one_axis": {"size": (11, 26), "mode": "bilinear"},
            "bilinear_to_one": {"size": (1, 1), "mode": "bilinear"},
            "bilinear_same": {"size": (11, 13), "mode": "bilinear"},
            "bicubic": {"size": (17, 26), "mode": "bicubic"},
            "bicubic_corners": {"scale_factor": 1.5, "mode": "bicubic", "align_corners": True},
            "antialias": {"size": (5, 4), "mode": "bilinear", "antialias": True},
            "antialias_scale": {"scale_factor": 0.37, "mode": "bilinear", "antialias": True},
            "antialias_bicubic": {"size": (4, 20), "mode": "bicubic", "antialias": True},
            "area": {"size": (5, 4), "mode": "area"},
        }

        def smaller(x: Tensor, y: Tensor) -> Tensor:
            return F.interpolate(x, size=y.shape[2:], mode="bilinear", antialias=True) + y

        functions = [Sample(n, Call(lambda x, o=o: F.interpolate(x, **o))) for n, o in frames.items()]
        return [
            *functions,
            Sample("size_of_other", CallOfTwo(lambda x, y: F.interpolate(x, y.shape[2:]) + y), ((2, 7, 5, 6), FRAME)),
            Sample("antialias_size_of_other", CallOfTwo(smaller), (FRAME, (2, 7, 5, 6))),
            Sample("linear", Call(lambda x: F.interpolate(x, 17, mode="linear")), ((2, 7, 13),)),
            Sample("trilinear", nn.Upsample(scale_factor=(2, 1, 1.5), mode="trilinear"), ((2, 3, 3, 5, 7),)),
            Sample("upsample", nn.Upsample(size=(20, 30), mode="bilinear", align_corners=True)),
            Sample("upsampling_nearest", nn.UpsamplingNearest2d(scale_factor=3)),
            Sample("upsampling_bilinear", nn.UpsamplingBilinear2d(size=(7, 29))),
        ]

    @classmethod
    def from_module(cls, module: nn.Module) -> Interpolate:
        assert isinstance(module, nn.Upsample)
        names = ("size", "scale_factor", "mode", "align_corners", "recompute_scale_factor")
        return cls(F.interpolate, (Slot(0),), {name: getattr(module, name) for name in names})

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Tensor) -> Tensor:
        assert masks[0] is not None
        call = self.arguments(inputs)
        before, after = inputs[0].shape[2:], output.shape[2:]
        mask = pixel_mask(masks[0], inputs[0].shape, channels=(1,))
        options = (call["mode"], call["align_corners"], call["antialias"], len(before), mask.device)
        scales = self.scales(call, len(before))
        for dim, (size, new, scale) in enumerate(zip(before, after, scales, strict=True), start=2):
            first, last = axis_footprint(size, new, scale, *options)
            set_before = F.pad(mask.movedim(dim, -1).cumsum(-1), (1, 0))  # how many pixels are set before each one
            mask = (set_before[..., last + 1] > set_before[..., first]).to(torch.uint8).movedim(-1, dim)
        return mask

    @staticmethod
    def scales(call: dict[str, Any], rank: int) -> Sequence[float | None]:
        """The scale of each axis that PyTorch computes positions with; None where it takes the ratio of the sizes."""
        scales = call["scale_factor"]
        if scales is None or call["recompute_scale_factor"]:
            return [None] * rank
        return scales if isinstance(scales, (tuple, list)) else [scales] * rank

    def refusal(self, inputs: Sequence[Any]) -> str | None:
        if self.arguments(inputs)["antialias"] and 1 in (inputs[0].shape[-1], self(*inputs).shape[-1]):
            return "PyTorch's antialiasing is not separable where the width is 1"
        return None

    def is_linear(self, deltas: Sequence[bool]) -> bool:
        return True


@functools.lru_cache(maxsize=256)
def axis_footprint(
    size: int, new: int, scale: float | None, mode: str, align_corners: bool | None, antialias: bool, rank: int,
    device: torch.device,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The first and the last input position, `[new]` each, that the output positions of one axis read."""
    first = torch.full((new,), size, device=device)
    last = torch.full((new,), -1, device=device)
    for positions in torch.arange(size, device=device).split(64):  # as channels of one tensor, but not all at once
        out = resample_axis(positions, float("nan"), size, new, scale, mode, align_corners, antialias, rank)
        read, numbers = out.isnan(), positions.unsqueeze(1)
        first = torch.minimum(first, torch.where(read, numbers, size).amin(0))
        last = torch.maximum(last, torch.where(read, numbers, -1).amax(0))
    return first, last


@functools.lru_cache(maxsize=256)
def axis_weights(
    size: int, new: int, scale: float | None, mode: str, align_corners: bool | None, antialias: bool, rank: int,
    device: torch.device,
) -> Tensor:  # fmt: skip
    """The weight `[new, size]` of each input position in each output position of one axis."""
    parts = [
        resample_axis(positions, 1.0, size, new, scale, mode, align_corners, antialias, rank)
        for positions in torch.arange(size, device=device).split(64)
    ]
    return torch.cat(parts).t().contiguous()


def resample_axis(
    positions: Tensor, value: float, size: int, new: int, scale: float | None, mode: str, align_corners: bool | None,
    antialias: bool, rank: int,
) -> Tensor:  # fmt: skip
    """What becomes of `value` at each of some positions of one axis, and 0 elsewhere: `[positions, new]`.

    `rank` is the number of axes, because kernels of another rank round `scale` otherwise. The others grow from 2 to 3:
    where no axis changes, some kernels copy, and do not read the neighbour that they would otherwise give weight 0.
    """
    others = rank - 1
    target: dict[str, Any] = {"size": [new, *[3] * others]}
    if scale is not None:
        target = {"scale_factor": [scale, *[1.5] * others]}
    probes = torch.zeros(1, len(positions), size, *[2] * others, device=positions.device)
    probes[0, range(len(positions)), positions] = value
    out = F.interpolate(probes, mode=mode, align_corners=align_corners, antialias=antialias, **target)
    return out.view(len(positions), new, -1)[..., 0]
