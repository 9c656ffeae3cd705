// The kernels with AVX2 and FMA, for processors that have them.
#include "kernels.h"

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#elif defined(__GNUC__)
#pragma GCC target("avx2,fma")
#endif

namespace deltafx::cpu::avx2 {
#include "vec_avx2.h"
constexpr int kTileRows = 6, kPanelVecs = 2;  // 12 accumulators of the 16 registers
constexpr const char* kName = "avx2";
#include "all_kernels.h"
}  // namespace deltafx::cpu::avx2

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
