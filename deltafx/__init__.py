"""deltafx turns a trained CNN into one for video, which computes only what changed since the last frame."""

from deltafx import testing
from deltafx.build_info import build_info
from deltafx.calibrate import calibrate
from deltafx.calibration import Calibration
from deltafx.compare import Comparison, compare
from deltafx.convert import convert
from deltafx.converted import reset
from deltafx.detections import Detections
from deltafx.errors import ConvertError, FrameError
from deltafx.estimate import Estimate, estimate
from deltafx.gate import InputGate
from deltafx.graph_module import DeltaGraphModule
from deltafx.parts import DeltaParts
from deltafx.preprocess import Preprocess
from deltafx.report import Report, report
from deltafx.truncation import absolute
from deltafx.verify import Verification, verify

__version__ = "0.1.0"


__all__ = [
    "Calibration", "Comparison", "ConvertError", "DeltaGraphModule", "DeltaParts", "Detections", "Estimate",
    "FrameError", "InputGate", "Preprocess", "Report", "Verification", "__version__", "absolute", "build_info",
    "calibrate", "compare", "convert", "estimate", "report", "reset", "testing", "verify",
]  # fmt: skip
