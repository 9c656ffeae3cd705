"""What `benchmarks.kernels` makes of the table that Nsight Compute prints."""

from __future__ import annotations

import csv
import io

import pytest

from benchmarks.kernels import SHARES, TIME, WAITS, rows_of, summed, table

COLUMNS = ["ID", "Kernel Name", TIME, *SHARES.values(), *WAITS.values()]


def printed(launches: list[tuple[str, float, float]]) -> str:
    """Kernel, time, and what every other counter says."""
    said = io.StringIO()
    writer = csv.writer(said, quoting=csv.QUOTE_ALL)
    writer.writerow(COLUMNS)
    writer.writerow(["", "", "us", *("%" for _ in SHARES), *("inst" for _ in WAITS)])
    for number, (kernel, time, count) in enumerate(launches):
        writer.writerow([number, kernel, f"{time:,}", *[count] * (len(SHARES) + len(WAITS))])
    return said.getvalue()


LAUNCHES = [
    ("void deltafx::cuda::convolve_kernel<Traits<half, 64>>(Parameters)", 1_200.0, 10.0),
    ("collect_kernel(Collect)", 100.0, 1.0),
    ("convolve_kernel(Parameters)", 400.0, 50.0),
]


def test_launches_have_their_kernel_and_their_time() -> None:
    rows = list(rows_of(printed(LAUNCHES)))
    assert [row["kernel"] for row in rows] == ["convolve_kernel", "collect_kernel", "convolve_kernel"]
    assert [row["us"] for row in rows] == [1200.0, 100.0, 400.0]


def test_shares_are_weighted_by_time() -> None:
    first, second = summed(list(rows_of(printed(LAUNCHES))))
    assert (first["kernel"], first["launches"], first["us"]) == ("convolve_kernel", 2, 1600.0)
    assert first["tensor cores"] == pytest.approx((1200 * 10 + 400 * 50) / 1600)
    assert (second["kernel"], second["us"]) == ("collect_kernel", 100.0)


def test_a_counter_that_the_device_lacks_is_zero() -> None:
    (row,) = rows_of(printed(LAUNCHES[:1]).replace('"10.0"', '"n/a"'))
    assert row["memory"] == 0.0


def test_the_table_has_a_row_for_each_kernel_of_a_case() -> None:
    kernels = [{"case": "net:1", **row} for row in summed(list(rows_of(printed(LAUNCHES))))]
    cases = [{"case": "net:1", "ms": 2.0, "ms_in_kernels": 1.7}, {"case": "net:8", "ms": 1.0, "ms_in_kernels": 0.0}]
    result = {"command": "python -m benchmarks.kernels", "date": "today", "cases": cases, "kernels": kernels}
    text = "\n".join(table(result))
    assert "## net:1: 2.00 ms a call, 1.70 in its kernels" in text
    assert text.count("_kernel |") == 2
