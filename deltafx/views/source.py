"""What a view is made from: a report, or a converted model, whose report is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deltafx.converted import Converted
    from deltafx.report import Report


def report_of(dm: Converted | Report, what: str) -> Report:
    """Raises TypeError where `dm` is neither; `what` is the name of the view."""
    from deltafx.converted import check_converted
    from deltafx.report import Report, report

    if isinstance(dm, Report):
        return dm
    check_converted(dm, what)
    return report(dm)
