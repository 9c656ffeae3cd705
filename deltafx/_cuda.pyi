# The compiled module: csrc/bindings/cuda_module.cpp.
from collections.abc import Sequence

compiler: str
architectures: str
codes: dict[str, int]
operands: dict[str, int]
relations: dict[str, int]
tiles: dict[str, int]
max_sources: int
max_steps: int
own_sources: int
most_units: int

def units(streams: int, plane: int, columns: int) -> int: ...
def unit_bytes(streams: int, plane: int, columns: int, windowed: bool, rows: list[int], across: list[int]) -> int: ...
def finds_by_itself(
    streams: int, plane: int, columns: int, windowed: bool, rows: list[int], across: list[int]
) -> bool: ...
def has_choices() -> bool: ...

class ChosenGraph:
    def add(
        self, forms: Sequence[int], *, tallies: int, inputs: int, count: int, many: int, refresh: int, streams: int,
        kept: int, kept_count: int, last: int,
    ) -> None: ...  # fmt: skip
    def instantiate(self) -> None: ...
    def launch(self, stream: int) -> None: ...

has_cudnn: bool

class FusedConvolution:
    """Only with `has_cudnn`."""

    def __init__(
        self, *, dtype: str, transposed: bool, x: Sequence[int], x_strides: Sequence[int], weight: Sequence[int],
        w_strides: Sequence[int], y: Sequence[int], y_strides: Sequence[int], residual_strides: Sequence[int] | None,
        padding: Sequence[int], stride: Sequence[int], dilation: Sequence[int],
        ending: Sequence[tuple[str, str, float]],
    ) -> None: ...  # fmt: skip
    @property
    def ways(self) -> list[bool]: ...
    def make(self, way: int) -> bool: ...
    def workspace(self, way: int) -> int: ...
    def run(self, way: int, *, x: int, weight: int, bias: int, residual: int, y: int, workspace: int) -> None: ...
