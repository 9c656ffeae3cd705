"""What there is to tune, without a GPU."""

import pytest
import torch
from torch import nn

import deltafx
from deltafx.tune import node_by_node


def test_without_compiled_cuda_kernels_there_is_nothing_to_tune():
    dm = deltafx.convert(nn.Sequential(nn.Conv2d(3, 4, 3)).eval(), backend="cpu")
    with pytest.raises(ValueError, match="no convolution of this network runs on compiled CUDA kernels"):
        deltafx.tune(dm, [torch.randn(1, 3, 8, 8)])


def test_a_frame_is_needed():
    dm = deltafx.convert(nn.Sequential(nn.Conv2d(3, 4, 3)).eval(), backend="cpu")
    with pytest.raises(ValueError, match="at least one frame"):
        deltafx.tune(dm, [])


def test_its_frames_run_node_by_node_and_later_ones_as_before() -> None:
    """A captured frame may be dense, and then marks every pixel."""
    dm = deltafx.convert(nn.Conv2d(3, 4, 3).eval(), backend="reference")
    dm(torch.rand(1, 3, 8, 9))
    (plan,) = dm.runtime.plans
    plan.captures = True
    with node_by_node(dm) as uncapture:
        assert plan.captures
        uncapture()
        assert not plan.captures
    assert plan.captures
