"""deltafx turns a trained CNN into one for video, which computes only what changed since the last frame."""

from collections.abc import Sequence

from deltafx import testing
from deltafx.build_info import build_info
from deltafx.compare import Comparison, compare
from deltafx.convert import convert
from deltafx.detections import Detections
from deltafx.errors import ConvertError, FrameError
from deltafx.estimate import Estimate, estimate
from deltafx.gate import InputGate
from deltafx.graph_module import DeltaGraphModule
from deltafx.preprocess import Preprocess
from deltafx.report import Report, report
from deltafx.truncation import absolute
from deltafx.verify import Verification, verify

__version__ = "0.1.0"


def reset(dm: DeltaGraphModule, streams: Sequence[int] | None = None) -> None:
    """Compute the next frame in full, for all streams or for those given.

    After a reset of all streams, the number of streams may change, and the report's means start again.
    """
    if not isinstance(dm, DeltaGraphModule):
        raise TypeError(f"reset takes what deltafx.convert returned; got {type(dm).__name__}.")
    dm.runtime.reset(None if streams is None else [int(stream) for stream in streams])


__all__ = [
    "Comparison", "ConvertError", "DeltaGraphModule", "Detections", "Estimate", "FrameError", "InputGate", "Preprocess",
    "Report", "Verification", "__version__", "absolute", "build_info", "compare", "convert", "estimate", "report",
    "reset", "testing", "verify",
]  # fmt: skip
