import json
import math

from deltafx.plain_json import to_json


def test_only_what_json_knows():
    text = to_json({"a": [1, math.inf, 0.5], "b": {"c": math.nan, "d": None, "e": "x"}})
    assert json.loads(text, parse_constant=None) == {"a": [1, None, 0.5], "b": {"c": None, "d": None, "e": "x"}}
    assert "NaN" not in text
    assert "Infinity" not in text
