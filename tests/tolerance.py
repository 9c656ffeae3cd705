"""The tolerances of all tests, by dtype: relative to the RMS of what is compared, for a result of a few operators."""

import torch

TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}
