# The compiled module: csrc/bindings/cuda_module.cpp.
compiler: str
architectures: str
codes: dict[str, int]
operands: dict[str, int]
relations: dict[str, int]
max_sources: int
max_steps: int

def scan_blocks(pixels: int) -> int: ...
