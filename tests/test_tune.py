"""What there is to tune, without a GPU."""

import pytest
import torch
from torch import nn

import deltafx


def test_without_compiled_cuda_kernels_there_is_nothing_to_tune():
    dm = deltafx.convert(nn.Sequential(nn.Conv2d(3, 4, 3)).eval(), backend="cpu")
    with pytest.raises(ValueError, match="no convolution of this network runs on compiled CUDA kernels"):
        deltafx.tune(dm, [torch.randn(1, 3, 8, 8)])


def test_a_frame_is_needed():
    dm = deltafx.convert(nn.Sequential(nn.Conv2d(3, 4, 3)).eval(), backend="cpu")
    with pytest.raises(ValueError, match="at least one frame"):
        deltafx.tune(dm, [])
