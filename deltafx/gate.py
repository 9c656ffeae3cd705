"""The input gate: which pixels of a new frame are taken as changed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from deltafx.errors import ConvertError
from deltafx.ops.base import to_mask
from deltafx.truncation import is_number

BINS, STEPS = 256, 4  # of the histogram of changes: STEPS bins a grey level, the middle one around 0
MIDDLE = BINS // 2
SIGMA = 1.4826  # the standard deviation of normal noise is so many times its median absolute deviation
MEMORY = 32  # frames over which noise is averaged
MOST_REACH = 32  # pixels
MOST = 4  # a threshold that follows noise grows to so many times itself
FRAMES, NOISE, DRIFT, LIMIT, LEARNED = range(5)  # what is learned of a stream: frames seen, and sizes in grey levels


@dataclass(frozen=True)
class InputGate:
    """A pixel passes if the change around it exceeds `threshold`, in 8-bit grey levels of the input's range.

    With `window` 1 the change is the largest over the pixel's channels (DeltaCNN's rule). With a larger, odd window it
    is the mean of the signed change over the channels and the window: noise averages out, motion does not. What passes
    is dilated by `dilation` pixels.

    Before that, pixels may ask their neighbours. Hysteresis: where the change exceeds only the share `weak` of the
    threshold, a pixel passes at a distance of up to `reach` pixels (along rows and columns) from one that exceeds all
    of it. And one that does is taken for noise, and does not pass, unless `neighbours` of the eight around it exceed
    that share of it; what is not finite passes in any case.

    Two numbers make it adapt, stream by stream; the change is then always the mean. `drift`: a change of the whole
    frame's brightness by up to so many grey levels (flicker, exposure), the median over its pixels, does not count.
    `noise`: the threshold follows the noise, so many times its standard deviation (1.48 times the median absolute
    change, averaged over about 32 frames), between `threshold` and four times that. What was learned is forgotten by a
    reset, and saved with the model.

    `grey_level` is the size of one grey level in the input's units. Not given, it is inferred from the smallest and
    the largest value of the first frame that is finite and not of one colour: integers, and values above 2 with none
    below 0, mean 0..255 (1); others of 0 and above, 0..1 (1/255); values within -1..1, 2/255; anything else a frame
    normalised by the ImageNet mean and deviation (1/57.4).
    """

    threshold: float
    window: int = 1
    dilation: int = 0
    grey_level: float | None = None
    noise: float = 0.0
    drift: float = 0.0
    weak: float = 1.0
    reach: int = 0
    neighbours: int = 0

    def __post_init__(self) -> None:
        threshold, window, dilation, level = self.threshold, self.window, self.dilation, self.grey_level
        if not is_number(threshold) or not 0 <= threshold < float("inf"):
            raise ConvertError(f"InputGate: threshold is a finite number of grey levels, 0 or more; got {threshold!r}.")
        if not isinstance(window, int) or window < 1 or window % 2 == 0:
            raise ConvertError(f"InputGate: window is an odd number of pixels, 1 or more; got {window!r}.")
        if not isinstance(dilation, int) or dilation < 0:
            raise ConvertError(f"InputGate: dilation is a number of pixels, 0 or more; got {dilation!r}.")
        self.check_neighbourhood()
        for name in ("noise", "drift"):
            if not is_number(getattr(self, name)) or not 0 <= getattr(self, name) <= MIDDLE / STEPS:
                raise ConvertError(
                    f"InputGate: {name} is a number between 0 and {MIDDLE // STEPS}; got {getattr(self, name)!r}."
                )
        if level is not None and not (is_number(level) and 0 < level < float("inf")):
            raise ConvertError(f"InputGate: grey_level is a finite number larger than 0; got {level!r}.")

    def check_neighbourhood(self) -> None:
        weak, reach, neighbours = self.weak, self.reach, self.neighbours
        if not is_number(weak) or not 0 < weak <= 1:
            raise ConvertError(f"InputGate: weak is a share of the threshold, above 0 and up to 1; got {weak!r}.")
        for name, value, most in (("reach", reach, MOST_REACH), ("neighbours", neighbours, 8)):
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
                raise ConvertError(f"InputGate: {name} is a number of pixels between 0 and {most}; got {value!r}.")
        if (weak < 1) != (reach > 0):
            raise ConvertError(
                f"InputGate: hysteresis needs weak below 1 and reach above 0; got weak={weak!r} and reach={reach!r}."
            )

    @property
    def asks_neighbours(self) -> bool:
        return self.reach > 0 or self.neighbours > 0

    @property
    def adapts(self) -> bool:
        return self.noise > 0 or self.drift > 0

    def mask(self, change: Tensor, grey_level: float, learned: Tensor | None = None) -> Tensor:
        """The pixels that pass, `[N, 1, H, W]`, for a change `[N, C, H, W]`. A non-finite change passes.

        A gate that adapts decides by what it has `learned` of each stream, float32 `[N, LEARNED]`.
        """
        size = self.sizes(change)
        limit = torch.tensor(self.threshold * grey_level, dtype=torch.float32, device=size.device)
        if learned is not None:
            size = size - (learned[:, DRIFT] * grey_level).view(-1, 1, 1, 1)
            limit = (learned[:, LIMIT] * grey_level).view(-1, 1, 1, 1)
        passed = ~(size.abs() <= limit)
        if self.asks_neighbours:
            passed = self.with_neighbours(size.abs(), passed, limit)
        if not self.dilation:
            return to_mask(passed)
        return to_mask(F.max_pool2d(passed.float(), 2 * self.dilation + 1, 1, self.dilation))

    def with_neighbours(self, size: Tensor, strong: Tensor, limit: Tensor) -> Tensor:
        """Of the `strong` pixels those that do not stand alone, and of the weak ones those near them."""
        weak = ~(size <= limit * self.weak)
        if self.neighbours:
            around = F.avg_pool2d(weak.float(), 3, 1, 1, divisor_override=1) - weak.float()
            strong = strong & ((around >= self.neighbours) | ~size.isfinite())
        if not self.reach:
            return strong
        return weak & (F.max_pool2d(strong.float(), 2 * self.reach + 1, 1, self.reach) > 0)

    def sizes(self, change: Tensor) -> Tensor:
        """How large the change around each pixel is: `[N, 1, H, W]`."""
        if self.window == 1 and not self.adapts:
            return change.abs().amax(1, keepdim=True)
        mean = change.mean(1, keepdim=True)
        if self.window == 1:
            return mean
        return F.avg_pool2d(mean, self.window, 1, self.window // 2, count_include_pad=False)

    def learn(self, change: Tensor, grey_level: float, learned: Tensor, refresh: Tensor) -> None:
        """Settle this frame's drift and threshold of each stream; nothing is learned of those in `refresh`, `[N]`."""
        learned[:, DRIFT], learned[:, LIMIT] = 0, self.threshold
        sizes = self.sizes(change)
        for n in (~refresh).nonzero().flatten().tolist():
            self.learn_stream(sizes[n], grey_level, learned[n])

    def learn_stream(self, sizes: Tensor, grey_level: float, learned: Tensor) -> None:
        bins = torch.floor(sizes[sizes.isfinite()] * (STEPS / grey_level) + 0.5).clamp(-MIDDLE, MIDDLE - 1)
        counts = torch.bincount(bins.long() + MIDDLE, minlength=BINS).tolist()
        middle, spread = median_and_deviation(counts)
        if abs(middle) <= self.drift * STEPS:
            learned[DRIFT] = middle / STEPS
        learned[FRAMES] += 1
        learned[NOISE] += (spread * (SIGMA / STEPS) - learned[NOISE]) / min(learned[FRAMES].item(), MEMORY)
        learned[LIMIT] = (self.noise * learned[NOISE]).clamp(self.threshold, MOST * self.threshold)


AUTO = InputGate(threshold=4, window=7, dilation=5, noise=4, drift=12)


def median_and_deviation(counts: list[int]) -> tuple[int, int]:
    """The median of a histogram, counted from its middle bin, and the median distance of its entries from that."""
    half, total, middle = (sum(counts) + 1) // 2, 0, 0
    while middle < BINS - 1 and total + counts[middle] < half:
        total += counts[middle]
        middle += 1
    spread, total = 0, counts[middle]
    while total < half:
        spread += 1
        total += sum(counts[i] for i in (middle - spread, middle + spread) if 0 <= i < BINS)
    return middle - MIDDLE, spread


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
