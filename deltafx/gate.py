"""The input gate: which pixels of a new frame are taken as changed."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from deltafx.errors import ConvertError
from deltafx.ops.base import to_mask
from deltafx.truncation import is_number


@dataclass(frozen=True)
class InputGate:
    """A pixel passes if the change around it exceeds `threshold`, in 8-bit grey levels of the input's range.

    With `window` 1 the change is the largest over the pixel's channels (DeltaCNN's rule). With a larger, odd window it
    is the mean of the signed change over the channels and the window: noise averages out, motion does not. What passes
    is dilated by `dilation` pixels.

    `grey_level` is the size of one grey level in the input's units. Not given, it is inferred from the smallest and
    the largest value of the first frame that is finite and not of one colour: integers, and values above 2 with none
    below 0, mean 0..255 (1); others of 0 and above, 0..1 (1/255); values within -1..1, 2/255; anything else a frame
    normalised by the ImageNet mean and deviation (1/57.4).
    """

    threshold: float
    window: int = 1
    dilation: int = 0
    grey_level: float | None = None

    def __post_init__(self) -> None:
        threshold, window, dilation, level = self.threshold, self.window, self.dilation, self.grey_level
        if not is_number(threshold) or not 0 <= threshold < float("inf"):
            raise ConvertError(f"InputGate: threshold is a finite number of grey levels, 0 or more; got {threshold!r}.")
        if not isinstance(window, int) or window < 1 or window % 2 == 0:
            raise ConvertError(f"InputGate: window is an odd number of pixels, 1 or more; got {window!r}.")
        if not isinstance(dilation, int) or dilation < 0:
            raise ConvertError(f"InputGate: dilation is a number of pixels, 0 or more; got {dilation!r}.")
        if level is not None and not (is_number(level) and 0 < level < float("inf")):
            raise ConvertError(f"InputGate: grey_level is a finite number larger than 0; got {level!r}.")

    def mask(self, change: Tensor, grey_level: float) -> Tensor:
        """The pixels that pass, `[N, 1, H, W]`, for a change `[N, C, H, W]`. A non-finite change passes."""
        if self.window == 1:
            size = change.abs().amax(1, keepdim=True)
        else:
            mean = change.mean(1, keepdim=True)
            size = F.avg_pool2d(mean, self.window, 1, self.window // 2, count_include_pad=False).abs()
        passed = ~(size <= self.threshold * grey_level)
        if not self.dilation:
            return to_mask(passed)
        return to_mask(F.max_pool2d(passed.float(), 2 * self.dilation + 1, 1, self.dilation))


def infer_grey_level(frame: Tensor) -> float:
    """The size of one 8-bit grey level in the units of a frame; see `InputGate`."""
    if not frame.is_floating_point():
        return 1.0
    finite = frame[frame.isfinite()]
    if finite.numel() == 0:
        return 1 / 57.4
    low, high = finite.min().item(), finite.max().item()
    if low >= 0:
        return 1.0 if high > 2 else 1 / 255
    return 2 / 255 if low >= -1 and high <= 1 else 1 / 57.4
