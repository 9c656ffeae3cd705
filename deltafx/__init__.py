"""deltafx turns a trained CNN into one for video, which computes only what changed since the last frame."""

from deltafx import testing
from deltafx.build_info import build_info
from deltafx.calibrate import calibrate
from deltafx.calibration import Calibration
from deltafx.compare import Comparison, compare
from deltafx.convert import convert
from deltafx.converted import history, reset
from deltafx.detections import Detections
from deltafx.errors import ConvertError, FrameError
from deltafx.estimate import Estimate, estimate
from deltafx.gate import InputGate
from deltafx.graph_module import DeltaGraphModule
from deltafx.html import html
from deltafx.parts import DeltaParts
from deltafx.preprocess import Preprocess
from deltafx.record import record
from deltafx.report import Report, report
from deltafx.truncation import absolute
from deltafx.tune import Tuning, tune
from deltafx.verify import Verification, verify
from deltafx.views.draw import draw
from deltafx.views.explore import explore
from deltafx.views.graph import to_graphml, to_networkx
from deltafx.views.heatmap import heatmap

__version__ = "0.1.0"


__all__ = [
    "Calibration", "Comparison", "ConvertError", "DeltaGraphModule", "DeltaParts", "Detections", "Estimate",
    "FrameError", "InputGate", "Preprocess", "Report", "Tuning", "Verification", "__version__", "absolute",
    "build_info", "calibrate", "compare", "convert", "draw", "estimate", "explore", "heatmap", "history", "html",
    "record", "report", "reset", "testing", "to_graphml", "to_networkx", "tune", "verify",
]  # fmt: skip
