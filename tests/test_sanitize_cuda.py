"""Whose errors are found; the tools themselves need a GPU."""

from tools.sanitize_cuda import END, judge

OURS = """========= COMPUTE-SANITIZER
3x3
========= Uninitialized __global__ memory read of size 4 bytes
=========     at void deltafx::cuda::<unnamed>::partial_kernel<float>(deltafx::cuda::Reduce)+0x50
=========     by thread (0,0,0) in block (1,0,0)
=========     Address 0x7f0000000000
=========
========= Uninitialized __global__ memory read of size 4 bytes
=========     at void at::native::reduce_kernel<512, 1>(T1)+0x50
=========     by thread (0,0,0) in block (1,0,0)
"""
CALL = """========= Program hit cudaErrorInvalidValue (error 1) due to "invalid argument".
=========     Saved host backtrace up to driver entry point at error
"""


def test_errors_in_kernels_of_others_are_counted_apart():
    found = judge("initcheck", f"{OURS}\n{END}\n========= ERROR SUMMARY: 2 errors\n")
    assert (found.ours, found.others, found.finished, found.well) == (1, 1, True, False)
    assert "partial_kernel" in found.first
    assert "at::native" not in found.first


def test_races_of_others_are_not_ours():
    race = "========= Error: Race reported between Write access at {0}+0x10 and Read access at {0}+0x20 [4 hazards]\n"
    assert judge("racecheck", race.format("void at::native::scan_kernel<float>(T1)") + END).ours == 0
    assert judge("racecheck", race.format("void deltafx::cuda::convolve_kernel<Half>(Conv)") + END).ours == 1


def test_a_call_that_fails_is_ours():
    assert judge("memcheck", CALL + END).ours == 1


def test_cases_that_did_not_end_are_no_success():
    assert not judge("memcheck", "========= ERROR SUMMARY: 0 errors").well
    assert judge("memcheck", f"{END}\n========= ERROR SUMMARY: 0 errors").well
