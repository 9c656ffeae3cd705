"""deltafx turns a trained CNN into one for video, which computes only what changed since the last frame."""

from deltafx.convert import convert
from deltafx.errors import ConvertError, FrameError
from deltafx.gate import InputGate
from deltafx.truncation import absolute

__version__ = "0.1.0"

__all__ = ["ConvertError", "FrameError", "InputGate", "__version__", "absolute", "convert"]
