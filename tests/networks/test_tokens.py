"""Transformers and video networks, small ones: exact over a clip, and in delta form."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.maxvit import MaxVit
from torchvision.models.swin_transformer import SwinTransformer, SwinTransformerBlockV2
from torchvision.models.video import mvit, resnet
from torchvision.models.video.swin_transformer import SwinTransformer3d

import deltafx
from deltafx.measure import relative_error, tensors_of
from deltafx.testing import clip, scale_weights


def mvit_of(version: int) -> nn.Module:
    stages = [(16, 32, 1, (1, 1, 1), (1, 4, 4)), (32, 64, 2, (1, 2, 2), (1, 2, 2)), (64, 64, 2, (1, 1, 1), (1, 2, 2))]
    blocks = [mvit.MSBlockConfig(heads, i, o, [3, 3, 3], [3, 3, 3], list(q), list(kv)) for i, o, heads, q, kv in stages]
    newer = version == 2
    return mvit.MViT(
        (32, 32), 4, blocks, residual_pool=newer, residual_with_cls_embed=not newer, rel_pos_embed=newer,
        proj_after_attn=newer, num_classes=7,
    )  # fmt: skip


def video_resnet(conv: Any) -> nn.Module:
    return resnet.VideoResNet(resnet.BasicBlock, [conv] * 4, [1, 1, 1, 1], resnet.BasicStem, num_classes=7)


# The network, the shape of its frames without streams, and the share of MACs in delta form.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], float]] = {
    "vit": (lambda: models.VisionTransformer(32, 8, 2, 3, 48, 96, num_classes=7), (32, 32), 0.6),
    "swin": (lambda: SwinTransformer([4, 4], 16, [2, 2], [2, 4], [3, 4], num_classes=7), (50, 66), 0.95),
    "swin_v2": (
        lambda: SwinTransformer([4, 4], 16, [2, 2], [2, 4], [4, 4], num_classes=7, block=SwinTransformerBlockV2),
        (50, 66),
        0.95,
    ),
    "maxvit": (lambda: MaxVit((64, 64), 16, 4, [16, 32], [1, 1], 8, 0.0, num_classes=7), (64, 64), 0.95),
    "swin3d": (lambda: SwinTransformer3d([2, 4, 4], 16, [2, 2], [2, 4], [3, 3, 3], num_classes=7), (5, 34, 42), 0.95),
    "mvit_v1": (lambda: mvit_of(1), (4, 32, 32), 0.95),
    "mvit_v2": (lambda: mvit_of(2), (4, 32, 32), 0.95),
    "r3d": (lambda: video_resnet(resnet.Conv3DSimple), (3, 24, 33), 0.99),
    "r2plus1d": (lambda: video_resnet(resnet.Conv2Plus1D), (3, 24, 33), 0.99),
}  # fmt: skip
each_network = pytest.mark.parametrize("name", NETWORKS)


def frames_of(shape: tuple[int, ...], count: int = 19) -> Iterator[Tensor]:
    """The clip, from before a black frame until after one that is not finite; video networks see the last pictures."""
    pictures = list(clip(count, *shape[-2:]))
    for number in range(10, count):
        if len(shape) == 2:
            yield pictures[number]
        else:
            yield torch.stack(pictures[number - shape[0] : number], 2)


@functools.lru_cache(maxsize=1)
def network(name: str) -> tuple[nn.Module, list[Tensor]]:
    build, shape, _ = NETWORKS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build().eval()
        for parameter in model.parameters():
            if parameter.dim() > 1 and not parameter.any():  # a head, or position encoding, that starts at 0
                nn.init.normal_(parameter, std=0.3)
    frames = list(frames_of(shape))
    return scale_weights(model, torch.cat(frames[:2])), frames


def run(model: nn.Module, frames: list[Tensor]) -> list[list[Tensor]]:
    with torch.no_grad():
        return [tensors_of(model(frame)) for frame in frames]


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@each_network
def test_error_is_that_of_the_dense_network(name: str, backend: str) -> None:
    model, frames = network(name)
    exact = run(copy.deepcopy(model).double(), [frame.double() for frame in frames])
    dm = deltafx.convert(model, backend=backend)
    rows: Any = zip(run(dm, frames), run(model, frames), exact, strict=True)
    for number, (ours, theirs, want) in enumerate(rows):
        got, bar = relative_error(ours, want), 3 * relative_error(theirs, want) + 1e-6
        assert got <= bar, f"frame {number}: {got:.1e} over {bar:.1e}"


@each_network
def test_macs_are_in_delta_form(name: str) -> None:
    model, frames = network(name)
    dm = deltafx.convert(model)
    dm(frames[0])
    totals = deltafx.report(dm).totals
    assert totals["macs_delta_form"] >= NETWORKS[name][2] * totals["macs_dense"]


@each_network
def test_history_leaves_no_trace(name: str) -> None:
    model, frames = network(name)
    dm, fresh = deltafx.convert(model, backend="reference"), deltafx.convert(model, backend="reference")
    for frame in frames:
        got = tensors_of(dm(frame))
    assert relative_error(got, tensors_of(fresh(frames[-1]))) == 0


@pytest.mark.parametrize("name", ["swin", "swin3d"])
def test_windows_are_computed_where_a_token_changed(name: str) -> None:
    model, frames = network(name)
    dm = deltafx.convert(model)
    dm(frames[0])
    changed = frames[0].clone()
    changed[0, ..., :2, :2] += 1
    dm(changed)
    totals = deltafx.report(dm).totals
    assert totals["macs"] < 0.5 * totals["macs_dense"]
