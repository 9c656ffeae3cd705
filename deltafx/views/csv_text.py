"""The nodes as comma-separated values."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deltafx.report import Report


def csv_text(report: Report) -> str:
    from deltafx.report import NodeReport

    text = io.StringIO()
    writer = csv.DictWriter(text, [each.name for each in fields(NodeReport)], lineterminator="\n")
    writer.writeheader()
    for node in report.nodes:
        writer.writerow({name: cell(name, value) for name, value in asdict(node).items()})
    return text.getvalue()


def cell(name: str, value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return ("x" if name == "shape" else " ").join(map(str, value))
    return "" if value is None else value
