"""How many kernels a build has for each architecture; too many are an error.

    python -m tools.count_kernels build/cuda/*.o

Every instantiation of a template takes its time to compile, and its place in memory: what can be decided at run time
is, and types and tiles are what templates are for.
"""

from __future__ import annotations

import re
import subprocess
import sys

MOST = 40  # instantiations of templates
# Of a kernel, the function that launches it, which the host's compiler makes: as `nm --demangle` names it.
KERNEL = re.compile(r" [tTW] (?:void )?deltafx::cuda::(\w+_kernel)(<.*>)?\([^)]*\)$")


def kernels(symbols: str) -> tuple[list[str], list[str]]:
    """Instantiations of templates, and kernels that are none, each once."""
    lines = symbols.replace("(anonymous namespace)::", "").splitlines()
    found = {match[1] + (match[2] or "") for match in map(KERNEL.search, lines) if match}
    return sorted(name for name in found if "<" in name), sorted(name for name in found if "<" not in name)


def main() -> int:
    symbols = subprocess.run(["nm", "--demangle", *sys.argv[1:]], check=True, capture_output=True, text=True).stdout
    templates, plain = kernels(symbols)
    print(f"{len(templates)} instantiations of kernel templates (at most {MOST}), {len(plain)} kernels that are none")
    if len(templates) <= MOST:
        return 0
    print("too many:", *templates, sep="\n  ", file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
