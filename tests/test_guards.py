"""What a frame runs under is put back as it was, whatever happens."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

import deltafx
from deltafx.guards import FrameLock, OrdinaryTensors

MODES = {
    "gradients": torch.enable_grad,
    "no gradients": torch.no_grad,
    "inference": torch.inference_mode,
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fails", [False, True])
def test_within_it_tensors_are_ordinary_and_then_all_is_as_before(mode, fails):
    with MODES[mode]():
        before = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        with pytest.raises(KeyError) if fails else nullcontext(), OrdinaryTensors():
            assert not torch.is_grad_enabled()
            assert not torch.zeros(1).is_inference()
            if fails:
                raise KeyError
        assert before == (torch.is_grad_enabled(), torch.is_inference_mode_enabled())


def test_a_lock_refuses_the_second_and_lets_go_after_an_error():
    lock = FrameLock()
    with lock:
        for _ in range(2):  # one that is refused does not unlock it
            with pytest.raises(deltafx.FrameError, match="already running a frame"), lock:
                pass
    with pytest.raises(KeyError), lock:
        raise KeyError
    with lock:
        pass
