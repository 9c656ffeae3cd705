# The compiled module: csrc/bindings/cpu_module.cpp.
compiler: str
instruction_sets: list[str]
codes: dict[str, int]
operands: dict[str, int]
relations: dict[str, int]

def panel(isa: str) -> int: ...
