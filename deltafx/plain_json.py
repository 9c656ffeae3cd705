"""Results as JSON."""

from __future__ import annotations

import json
import math
from typing import Any

from torch.utils import _pytree as pytree


def to_json(result: Any) -> str:
    """What JSON has no number for, such as the error between two results of different form, becomes null."""

    def finite(x: Any) -> Any:
        return None if isinstance(x, float) and not math.isfinite(x) else x

    return json.dumps(pytree.tree_map(finite, result), indent=1) + "\n"
