// Hopper's matrix instructions, which four warps issue together: 64 rows at once, both operands straight from shared memory.
// The tiles lie there as multiply.cuh says, which is what the hardware calls a swizzle of 128 bytes.
#pragma once

#include <type_traits>

#include "multiply.cuh"

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
namespace deltafx::cuda {

// Eight rows of 128 bytes are 1024 bytes, then come the next eight. Shared memory ends before 2^18.
__device__ inline uint64_t tile_descriptor(uint32_t address) {
  uint64_t descriptor;
  asm("mov.b64 %0, {%1, %2};" : "=l"(descriptor) : "r"(address >> 4 | 1u << 16), "r"(1024u >> 4 | 1u << 30));
  return descriptor;
}

#define DELTAFX_WGMMA_64(TYPE) \
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32." TYPE "." TYPE " {" \
               "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
               "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31" \
               "}, %32, %33, 1, 1, 1, 0, 0;" \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), \
                 "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), \
                 "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), \
                 "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), \
                 "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), \
                 "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), \
                 "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), \
                 "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]) \
               : "l"(a), "l"(b))
#define DELTAFX_WGMMA_128(TYPE) \
  asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32." TYPE "." TYPE " {" \
               "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
               "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
               "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
               "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63" \
               "}, %64, %65, 1, 1, 1, 0, 0;" \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), \
                 "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), \
                 "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), \
                 "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), \
                 "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), \
                 "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), \
                 "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), \
                 "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), \
                 "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), \
                 "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), \
                 "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), \
                 "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), \
                 "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), \
                 "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), \
                 "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), \
                 "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63]) \
               : "l"(a), "l"(b))

// d += a * b for 64 rows and 2 * R columns, 16 deep.
template <class T, int R>
__device__ inline void warpgroup_multiply(float (&d)[R], uint64_t a, uint64_t b) {
  static_assert(R == 32 || R == 64, "64 or 128 columns");
  if constexpr (std::is_same_v<T, __half>) {
    if constexpr (R == 32) DELTAFX_WGMMA_64("f16");
    else DELTAFX_WGMMA_128("f16");
  } else {
    if constexpr (R == 32) DELTAFX_WGMMA_64("bf16");
    else DELTAFX_WGMMA_128("bf16");
  }
}
#undef DELTAFX_WGMMA_64
#undef DELTAFX_WGMMA_128

// The part of a tile of M x N that one thread computes. As TensorCores, for 16-bit numbers.
template <class T, int M, int N>
struct Warpgroups {
  static_assert(M % 64 == 0 && sizeof(T) == 2, "64 rows of 16-bit numbers");
  static constexpr bool kWaits = true;  // in `finish`, not in `step`
  float sum[N / 2];

  __device__ void clear() {
#pragma unroll
    for (int k = 0; k < N / 2; ++k) sum[k] = 0.0f;
  }

  // Begins to multiply a step; `finish` waits for the steps before.
  __device__ void step(uint32_t a, uint32_t b) {
    a += threadIdx.x / 128 * 64 * kRowBytes;
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
    for (int k = 0; k < kRowBytes; k += 32)
      warpgroup_multiply<T>(sum, tile_descriptor(a + k), tile_descriptor(b + k));
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
  }

  __device__ void finish() {
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
    for (int k = 0; k < N / 2; ++k) asm volatile("" : "+f"(sum[k])::"memory");  // not read before this point
  }

  // What was copied to shared memory by this thread may now be read by the instructions.
  __device__ static void publish() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

  __device__ void store(float* tile, int stride) const {
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4;
#pragma unroll
    for (int j = 0; j < N / 8; ++j) {
      float* to = tile + row * stride + j * 8 + lane % 4 * 2;
      *reinterpret_cast<float2*>(to) = make_float2(sum[j * 4], sum[j * 4 + 1]);
      *reinterpret_cast<float2*>(to + 8 * stride) = make_float2(sum[j * 4 + 2], sum[j * 4 + 3]);
    }
  }
};

}  // namespace deltafx::cuda
#endif
