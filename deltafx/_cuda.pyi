# The compiled module: csrc/bindings/cuda_module.cpp.
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

def grid(streams: int, plane: int, columns: int) -> int: ...
def finds_by_itself(
    streams: int, plane: int, columns: int, windowed: bool, rows: list[int], across: list[int]
) -> bool: ...
