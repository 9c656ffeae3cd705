"""What a frame runs under. Classes, which cost less to enter than generators: they are entered in every frame."""

from __future__ import annotations

import threading
from typing import Any

import torch

from deltafx.errors import FrameError


class FrameLock:
    """The state belongs to one sequence of frames: whoever comes while it is in use is refused."""

    __slots__ = ("lock",)

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __enter__(self) -> None:
        if not self.lock.acquire(blocking=False):
            raise FrameError(
                "this converted model is already running a frame, in another thread or further up the stack; its state "
                "belongs to one sequence of frames. Convert, or copy.deepcopy, the model once for each thread."
            )

    def __exit__(self, *error: Any) -> None:
        self.lock.release()


class OrdinaryTensors:
    """Neither inference mode nor gradients: state outlives both, and what is returned may be used outside of them."""

    __slots__ = ("gradients", "inference")

    def __enter__(self) -> None:
        self.inference = torch.inference_mode(False) if torch.is_inference_mode_enabled() else None
        if self.inference is not None:
            self.inference.__enter__()
        self.gradients = torch.is_grad_enabled()
        if self.gradients:
            torch.set_grad_enabled(False)

    def __exit__(self, *error: Any) -> None:
        if self.gradients:
            torch.set_grad_enabled(True)
        if self.inference is not None:
            self.inference.__exit__(*error)
