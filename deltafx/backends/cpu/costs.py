"""From which share of computed pixels on PyTorch's dense operators are faster than the compiled kernels, and whether
these multiply bfloat16 faster in pairs than as float32.

A compiled kernel takes time in proportion to the pixels that it computes, a dense operator the same for any number of
them, so the quotient of both for a whole map is that share. It is measured once for each kind of layer, instruction
set, dtype and number of threads, and kept in a file, so that the same frames give the same bits in every run on one
machine.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from deltafx import _cpu
from deltafx.backends.matrix import matrix, to_matrix
from deltafx.backends.window import Window, sliding, transposed
from deltafx.cache import cache_dir

NEVER = math.inf
CLEARLY = 0.9  # a dense operator that takes a larger part of the kernel's time is not worth other bits
CHANNELS, HEIGHT, WIDTH, GROUPS = 64, 36, 48, 16
KINDS = ("pointwise", "window", "grouped", "transposed")
PAIRS = "pairs"  # the time of products in pairs over that of float32 ones, of a pointwise layer
LEAST_SECONDS, LEAST_ROUNDS = 0.05, 8


def dense_share(kind: str, filled: float, isa: str, dtype: torch.dtype) -> float:
    """For a layer of one of KINDS, `filled` of whose packed weights hold numbers; `NEVER` if compiled is faster."""
    share = quotients(isa, dtype, torch.get_num_threads())[kind]
    if kind == "grouped":  # multiplies all places, whatever they hold
        share *= filled / sample_filled(isa)
    return share if share < CLEARLY else NEVER


def pairs_pay(isa: str) -> bool:
    """Whether bfloat16 is multiplied faster in pairs. Some processors take as long for a pair as for two float32."""
    return quotients(isa, torch.bfloat16, torch.get_num_threads())[PAIRS] < CLEARLY


def sample_filled(isa: str) -> float:
    per_group = CHANNELS // GROUPS
    return per_group / (math.ceil(per_group / _cpu.panel(isa)) * _cpu.panel(isa))


@functools.cache
def quotients(isa: str, dtype: torch.dtype, threads: int) -> dict[str, float]:
    """The time of the dense operator over that of the compiled kernel, of each kind; and that of PAIRS."""
    facts = {
        "processor": processor(), "isa": isa, "dtype": str(dtype), "threads": threads, "torch": torch.__version__,
        "kernels": hashlib.sha256(Path(str(_cpu.__file__)).read_bytes()).hexdigest()[:16],
    }  # fmt: skip
    name = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    path = cache_dir() / "costs" / f"{name}.json"
    kept = read(path)
    if kept is None:
        pairs = round(measure_pairs(isa), 2) if dtype == torch.bfloat16 and _cpu.pairs(isa) else 1.0
        kinds = {kind: round(measure(kind, isa, dtype, pairs < CLEARLY), 2) for kind in KINDS}
        kept = keep(path, facts, {**kinds, PAIRS: pairs})
    return kept


def read(path: Path) -> dict[str, float] | None:
    """What an earlier run measured, if it can be read."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))["quotients"]
        return {kind: float(kept[kind]) for kind in (*KINDS, PAIRS)}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep(path: Path, facts: dict[str, Any], measured: dict[str, float]) -> dict[str, float]:
    """Write it down; of several processes that measure at once the first one counts."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".json", delete=False, encoding="utf-8") as file:
            json.dump({**facts, "quotients": measured}, file, indent=1)
        try:
            if read(path) is None:
                path.unlink(missing_ok=True)  # it is damaged
            with contextlib.suppress(FileExistsError):
                os.link(file.name, path)
        finally:
            os.unlink(file.name)
    except OSError as error:
        warnings.warn(
            f"what layers cost was measured and cannot be kept at {path} ({error}); another run may measure something "
            f"else, and round some layers in another way. Set DELTAFX_CACHE to a folder that can be written.",
            stacklevel=2,
        )
    return read(path) or measured


def measure(kind: str, isa: str, dtype: torch.dtype, pairs: bool = False) -> float:
    return time_over(dense_side(kind, isa, dtype), compiled_side(kind, isa, dtype, pairs))


def measure_pairs(isa: str) -> float:
    in_pairs, singly = (compiled_side("pointwise", isa, torch.bfloat16, pairs) for pairs in (True, False))
    return time_over(in_pairs, singly)


def time_over(side: Callable[[int], Any], other: Callable[[int], Any]) -> float:
    """The time that one side takes over that of the other, both called in turn with the number of the round."""
    best, started, rounds = [math.inf, math.inf], time.perf_counter(), 0
    with torch.inference_mode():
        while rounds < LEAST_ROUNDS or time.perf_counter() - started < LEAST_SECONDS:
            for i, each in enumerate((side, other)):
                start = time.perf_counter()
                each(rounds)
                best[i] = min(best[i], time.perf_counter() - start)
            rounds += 1
    return best[0] / best[1]


def layer(kind: str) -> tuple[Tensor, Callable[[Tensor], Tensor], Window]:
    """A weight by taps `[groups, taps, in, out]`, the dense operator and the window."""
    generator = torch.Generator().manual_seed(0)
    if kind == "transposed":
        weight = torch.randn(CHANNELS, CHANNELS, 4, 4, generator=generator)
        rows, columns = (transposed(size, 2 * size, 4, 2, 1, 1) for size in (HEIGHT, WIDTH))
        by_tap = weight.unsqueeze(0).flatten(3).permute(0, 3, 1, 2)
        window = Window(rows, columns, HEIGHT, WIDTH)
        return by_tap, lambda x: F.conv_transpose2d(x, weight.to(x.dtype), stride=2, padding=1), window
    groups, side = GROUPS if kind == "grouped" else 1, 1 if kind == "pointwise" else 3
    weight = torch.randn(CHANNELS, CHANNELS // groups, side, side, generator=generator)
    rows, columns = (sliding(size, size, side, 1, 1, side // 2) for size in (HEIGHT, WIDTH))
    by_tap = weight.reshape(groups, -1, CHANNELS // groups, side * side).permute(0, 3, 2, 1)
    window = Window(rows, columns, HEIGHT, WIDTH)
    return by_tap, lambda x: F.conv2d(x, weight.to(x.dtype), padding=side // 2, groups=groups), window


def frames(dtype: torch.dtype) -> list[Tensor]:
    """Two, which differ in every pixel."""
    generator = torch.Generator().manual_seed(1)
    shape = (1, CHANNELS, HEIGHT, WIDTH)
    return [torch.randn(shape, generator=generator).to(dtype, memory_format=torch.channels_last) for _ in range(2)]


def ending(window: Window, isa: str, dtype: torch.dtype, channels: int = CHANNELS) -> tuple[Any, ...]:
    """What operators take after their own arguments, for all pixels of an output without steps."""
    pixels = window.pixels
    out = torch.zeros(pixels, channels, dtype=dtype)
    tally, mask = torch.zeros(5, dtype=torch.int64), torch.zeros(pixels, dtype=torch.uint8)
    listed, refresh = torch.arange(pixels + 1, dtype=torch.int32), torch.zeros(1, dtype=torch.bool)
    return (listed, pixels, [], [], [], None, refresh, 0.0, False, isa, out, mask, tally)


def compiled_side(kind: str, isa: str, dtype: torch.dtype, pairs: bool = False) -> Callable[[int], Any]:
    from deltafx.backends.cpu.convolution import can_be_pairs, pack

    by_tap, _, window = layer(kind)
    xs = [matrix(x, (1, 1, HEIGHT, WIDTH)) for x in frames(dtype)]
    packed = pack(by_tap, isa, pairs and can_be_pairs(by_tap, dtype, isa))
    given = (packed, None, by_tap.shape[0], *window.arguments, *ending(window, isa, dtype))
    return lambda i: torch.ops.deltafx.convolve.default(xs[i % 2], *given)


def dense_side(kind: str, isa: str, dtype: torch.dtype) -> Callable[[int], Any]:
    _, whole, window = layer(kind)
    xs, given = frames(dtype), ending(window, isa, dtype)
    pixel = (1, 1, len(window.rows), len(window.columns))
    return lambda i: torch.ops.deltafx.copy.default(to_matrix(whole(xs[i % 2]), pixel), *given)


def processor() -> str:
    """What tells machines apart on which other kernels may be faster."""
    known = torch.cpu.get_capabilities()
    return " ".join([str(known.get("cpu_name")), *sorted(name for name, there in known.items() if there is True)])
