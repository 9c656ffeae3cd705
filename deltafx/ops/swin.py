"""The two functions of torchvision's Swin transformers that tracing does not look into, known by their names.

Dense spellings: `shifted_window_attention` and `shifted_window_attention_3d` (a whole layer: padding, shift, windows,
projections, attention, and back), and `_patch_merging_pad` (2 x 2 tokens become one). They work on maps with the
channels last. Mask rule: a token's result reads all tokens of its window, so a window is computed if one of its tokens
changed; what the layer masks after a shift is read with weight 0, and counts if it is not finite. The projections could
be computed for changed tokens alone, but a window changes as a whole in the layer before: there is little to win.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deltafx.ops.base import Call, FunctionOp, Masks, Sample, any_delta, everything, pixel_mask, seeded, to_mask
from deltafx.ops.window import MAX_POOL


class WindowAttention(FunctionOp):
    """Attention within the windows of a map `[N, *spatial, C]`, all weights of which are constants."""

    name = "window_attention"
    locality = "window"
    function_names = (
        "torchvision.models.swin_transformer.shifted_window_attention",
        "torchvision.models.video.swin_transformer.shifted_window_attention_3d",
    )

    @staticmethod
    def signature(
        input, qkv_weight, proj_weight, relative_position_bias, window_size, num_heads, shift_size, *rest, **options
    ): ...

    @staticmethod
    @seeded
    def samples() -> list[Sample]:
        from torchvision.models import swin_transformer
        from torchvision.models.video import swin_transformer as video

        qkv, proj, bias, scale = torch.randn(18, 6), torch.randn(6, 6), torch.randn(18), torch.full((2, 1, 1), 1.5)

        def layer(window: list[int], shift: list[int], **options: Any) -> Call:
            tokens = torch.Size(window).numel()
            position = torch.linspace(-1, 1, 2 * tokens * tokens).view(1, 2, tokens, tokens)
            module, name = (swin_transformer, "shifted_window_attention")
            if len(window) == 3:
                module, name = (video, "shifted_window_attention_3d")
            # Looked up when it is called: tracing puts another function in its place.
            return Call(lambda x: getattr(module, name)(
                x.movedim(1, -1), qkv, proj, position, window, 2, shift_size=shift, training=False, **options
            ).movedim(-1, 1))  # fmt: skip

        frame, video_frame = (2, 6, 11, 13), (2, 6, 4, 5, 7)
        return [
            Sample("windows", layer([4, 4], [0, 0], qkv_bias=bias), (frame,)),
            Sample("shifted", layer([4, 4], [2, 2], qkv_bias=bias, proj_bias=bias[:6]), (frame,)),
            Sample("shifted_unevenly", layer([3, 5], [1, 2]), (frame,)),
            Sample("wider_than_the_map", layer([16, 4], [8, 2]), (frame,)),
            Sample("cosine", layer([4, 4], [2, 2], qkv_bias=bias, logit_scale=scale), (frame,)),
            Sample("volume", layer([2, 3, 3], [0, 0, 0], qkv_bias=bias), (video_frame,)),
            Sample("volume_shifted", layer([2, 3, 4], [1, 1, 2]), (video_frame,)),
        ]

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Tensor) -> Tensor:
        if masks[0] is None or any_delta(masks[1:]):
            return everything(masks, inputs, output)  # a weight depends on the frame
        call = self.arguments(inputs)
        window, size = list(call["window_size"]), output.shape[1:-1]
        rank = len(size)
        mask = pixel_mask(masks[0], output.shape, channels=(-1,)).movedim(-1, 1)
        padded = [-(-length // w) * w for length, w in zip(size, window, strict=True)]
        mask = F.pad(mask, [p for length, full in zip(reversed(size), reversed(padded)) for p in (0, full - length)])
        # Along a side that one window covers there is no shift.
        shift = [0 if w >= full else s for s, w, full in zip(call["shift_size"], window, padded, strict=True)]
        dims = tuple(range(2, rank + 2))
        mask = MAX_POOL[rank](torch.roll(mask, [-s for s in shift], dims).float(), window, window)
        for dim, w in zip(dims, window):
            mask = mask.repeat_interleave(w, dim)
        mask = torch.roll(mask, shift, dims)
        for dim, length in zip(dims, size):
            mask = mask.narrow(dim, 0, length)
        return to_mask(mask).movedim(1, -1)


class PatchMerging(FunctionOp):
    """`[..., H, W, C]` to `[..., H / 2, W / 2, 4 C]`, rounded up."""

    name = "patch_merging"
    locality = "resample"
    function_names = ("torchvision.models.swin_transformer._patch_merging_pad",)

    @staticmethod
    def samples() -> list[Sample]:
        from torchvision.models import swin_transformer

        merge = Call(lambda x: swin_transformer._patch_merging_pad(x.movedim(1, -1)))
        shapes = {"odd": (2, 7, 11, 13), "even": (2, 7, 10, 12), "volume": (2, 7, 3, 5, 6)}
        return [Sample(name, merge, (shape,)) for name, shape in shapes.items()]

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Tensor) -> Tensor:
        assert masks[0] is not None
        return self(pixel_mask(masks[0], inputs[0].shape, channels=(-1,))).amax(-1, keepdim=True)

    def mixes_streams(self, inputs: Sequence[Any]) -> bool:
        return inputs[0].dim() < 4

    def is_linear(self, deltas: Sequence[bool]) -> bool:
        return True
