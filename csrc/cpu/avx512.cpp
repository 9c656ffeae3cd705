// The kernels with AVX-512, for processors that have it. Of avx512_bf16, which not all of those have, compilers use only
// what is named, and that is products in pairs.
#include "kernels.h"

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma"))), \
                             apply_to = function)
#elif defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // of GCC's own intrinsics
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,prefer-vector-width=512")
#endif

namespace deltafx::cpu::avx512 {
#include "vec_avx512.h"
constexpr int kTileRows = 14, kPanelVecs = 2;  // 28 accumulators of the 32 registers
constexpr const char* kName = "avx512";
#include "all_kernels.h"
}  // namespace deltafx::cpu::avx512

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
