"""Frames as cameras give them: 8-bit pixels, normalised where they changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deltafx.errors import ConvertError, FrameError
from deltafx.truncation import is_number

LEVELS = 256


@dataclass(frozen=True)
class Preprocess:
    """The model sees `(x / 255 - mean) / std` of frames as OpenCV and PyAV give them.

    A frame is uint8, `[H, W, C]` for one stream or `[N, H, W, C]`, a tensor or a NumPy array. `mean` and `std` have a
    number for each channel of the model's input, between 0 and 1 as torchvision gives them. With `swap_channels` the
    frame has them in the other order (OpenCV's BGR, for a model of RGB). Input gates then count in the frame's levels.

    Raises ConvertError for statistics that are not numbers, or of different lengths.
    """

    mean: Sequence[float]
    std: Sequence[float]
    swap_channels: bool = False

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = getattr(self, name)
            if not isinstance(values, Sequence) or not values or not all(map(is_number, values)):
                raise ConvertError(f"Preprocess: {name} is a number for each channel; got {values!r}.")
            object.__setattr__(self, name, tuple(float(value) for value in values))
        if len(self.mean) != len(self.std) or not all(0 < value < float("inf") for value in self.std):
            raise ConvertError(
                f"Preprocess: std has a number larger than 0 for each channel of mean; got mean={self.mean}, "
                f"std={self.std}."
            )

    def __call__(self, frame: Any) -> Tensor:
        """The dense model's input for a raw frame: float32 `[N, C, H, W]`."""
        return self.normalised(self.frames(frame), torch.float32)

    def levels(self, dtype: torch.dtype) -> Tensor:
        """What becomes of each level in each channel of the model's input: `[C, 256]`."""
        mean, std = (torch.tensor(values).unsqueeze(1) for values in (self.mean, self.std))
        return ((torch.arange(LEVELS) / 255 - mean) / std).to(dtype)

    def frames(self, frame: Any) -> Tensor:
        """The frame as a uint8 tensor `[N, C, H, W]`, a view of it; raises FrameError where it is something else."""
        given = frame
        if isinstance(frame, np.ndarray) and frame.dtype == np.uint8:
            # PyTorch has no negative strides, which a flipped picture has.
            given = torch.from_numpy(np.ascontiguousarray(frame) if min(frame.strides, default=0) < 0 else frame)
        right = isinstance(given, Tensor) and given.dtype == torch.uint8 and given.dim() in (3, 4)
        if not right or given.shape[-1] != len(self.mean):
            what = f"{frame.dtype} {tuple(frame.shape)}" if hasattr(frame, "shape") else type(frame).__name__
            raise FrameError(
                f"the model was converted with preprocess, so a frame is uint8 [H, W, {len(self.mean)}] or "
                f"[N, H, W, {len(self.mean)}], a tensor or a NumPy array; got {what}. Convert without preprocess to "
                f"give it normalised frames."
            )
        return (given if given.dim() == 4 else given.unsqueeze(0)).permute(0, 3, 1, 2)

    def read(self, inputs: Sequence[Any]) -> list[Any]:
        """A call's inputs, of which the first is a frame."""
        return [self.frames(inputs[0]), *inputs[1:]]

    def values(self, frames: Tensor, levels: Tensor) -> Tensor:
        """The model's input for raw frames, both `[N, C, H, W]`."""
        channels = frames.flip(1) if self.swap_channels else frames
        row = torch.arange(0, levels.numel(), LEVELS, device=levels.device, dtype=torch.int32)
        places = channels.permute(0, 2, 3, 1) + row  # of one table: twice as fast as an index for each dimension
        return levels.flatten().index_select(0, places.flatten()).view(places.shape).permute(0, 3, 1, 2)

    def normalised(self, frames: Tensor, dtype: torch.dtype) -> Tensor:
        """`values` where the frames are."""
        return self.values(frames, self.levels(dtype).to(frames.device))

    def arguments(self, args: Sequence[Any], dtype: torch.dtype) -> tuple:
        """A call's arguments as the model takes them: the first is a raw frame."""
        frames, *others = self.read(args)
        return (self.normalised(frames, dtype), *others)
