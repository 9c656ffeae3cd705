"""`deltafx tune` where there is no GPU."""

import pytest
import torch


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_it_says_that_it_needs_a_gpu(run):
    done = run("tune", "--model", "mobilenet_v2")
    assert done.code == 1
    assert "PyTorch sees none here" in done.err
