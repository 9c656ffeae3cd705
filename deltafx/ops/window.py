"""The mask rule of everything with a window: pad the mask as the tensor is padded, then take the window's maximum."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from deltafx.ops.base import pixel_mask, to_mask

MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def window_mask(
    mask: Tensor,
    input_shape: Sequence[int],
    output_shape: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[tuple[int, int]],
    padding_mode: str = "constant",
) -> Tensor:
    """Output pixels whose window touches a set pixel.

    `padding` gives (before, after) for each spatial dimension. The output may be larger than the padding implies
    (ceil mode): the mask is extended by unset pixels, as the dense operator extends its input by ignored ones.
    """
    rank = len(kernel)
    mask = pixel_mask(mask, input_shape, channels=(1,)).float()
    mask = F.pad(mask, [p for pair in reversed(padding) for p in pair], mode=padding_mode)
    output_size = output_shape[-rank:]
    reach = [(o - 1) * s + d * (k - 1) + 1 for o, s, d, k in zip(output_size, stride, dilation, kernel, strict=True)]
    missing = [max(0, r - size) for r, size in zip(reach, mask.shape[2:], strict=True)]
    mask = F.pad(mask, [p for m in reversed(missing) for p in (0, m)])
    touched = MAX_POOL[rank](mask, tuple(kernel), tuple(stride), 0, tuple(dilation))
    for dim, size in enumerate(output_size, start=2):
        touched = touched.narrow(dim, 0, size)
    return to_mask(touched)
