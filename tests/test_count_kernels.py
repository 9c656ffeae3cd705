"""What counts as a kernel, by the symbols of a build."""

import subprocess
import sys

import pytest

from tools import count_kernels

HIDDEN = "deltafx::cuda::(anonymous namespace)"
SYMBOLS = f"""
0000000000000620 t void {HIDDEN}::sum_kernel<{HIDDEN}::Tile<float, 64> >({HIDDEN}::Sum)
0000000000000070 t void {HIDDEN}::sum_kernel<{HIDDEN}::Tile<float, 64> >({HIDDEN}::Sum) [clone .cold]
0000000000000520 t void {HIDDEN}::sum_kernel<__half>(deltafx::cuda::Sum, int)
0000000000000520 t deltafx::cuda::probe_kernel()
0000000000000520 t deltafx::cuda::probe_kernel()
0000000000000580 T __device_stub__ZN7deltafx4cuda12probe_kernelEv()
0000000000000710 T deltafx::cuda::launch(deltafx::cuda::Sum const&, CUstream_st*)
"""


def test_each_is_counted_once():
    templates, plain = count_kernels.kernels(SYMBOLS)
    assert templates == ["sum_kernel<__half>", "sum_kernel<deltafx::cuda::Tile<float, 64> >"]
    assert plain == ["probe_kernel"]


@pytest.mark.parametrize(("most", "code"), [(2, 0), (1, 1)])
def test_too_many_are_an_error(most: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    def nm(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 0, stdout=SYMBOLS)

    monkeypatch.setattr(count_kernels.subprocess, "run", nm)
    monkeypatch.setattr(count_kernels, "MOST", most)
    monkeypatch.setattr(sys, "argv", ["count_kernels", "a.o"])
    assert count_kernels.main() == code
    said = capsys.readouterr()
    assert said.out.startswith(f"2 instantiations of kernel templates (at most {most}), 1 kernels")
    assert ("sum_kernel<__half>" in said.err) == bool(code)
