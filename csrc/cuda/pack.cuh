// Numbers of any dtype, 16 bytes at once where they lie so.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels.h"

namespace deltafx::cuda {

template <class T>
constexpr int kPack = 16 / sizeof(T);

__device__ inline float number(float x) { return x; }
__device__ inline float number(__half x) { return __half2float(x); }
__device__ inline float number(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline float number(uint8_t x) { return static_cast<float>(x); }

template <class T>
__device__ T rounded(float x);
template <>
__device__ inline float rounded<float>(float x) { return x; }
template <>
__device__ inline __half rounded<__half>(float x) { return __float2half_rn(x); }
template <>
__device__ inline __nv_bfloat16 rounded<__nv_bfloat16>(float x) { return __float2bfloat16_rn(x); }

// The first n of a pack; the others are 0.
template <class T, int P>
__device__ inline void load_pack(const T* from, int n, bool packed, float (&x)[P]) {
  if (packed && n >= P) {
    alignas(16) T raw[P];
    if constexpr (sizeof(T) * P == 32) {
      reinterpret_cast<uint4*>(raw)[0] = reinterpret_cast<const uint4*>(from)[0];
      reinterpret_cast<uint4*>(raw)[1] = reinterpret_cast<const uint4*>(from)[1];
    } else {
      *reinterpret_cast<uint4*>(raw) = *reinterpret_cast<const uint4*>(from);
    }
#pragma unroll
    for (int i = 0; i < P; ++i) x[i] = number(raw[i]);
    return;
  }
#pragma unroll
  for (int i = 0; i < P; ++i) x[i] = i < n ? number(from[i]) : 0.0f;
}

template <class T, int P>
__device__ inline void store_pack(T* to, int n, bool packed, const float (&x)[P]) {
  if (packed && n >= P) {
    alignas(16) T raw[P];
#pragma unroll
    for (int i = 0; i < P; ++i) raw[i] = rounded<T>(x[i]);
    *reinterpret_cast<uint4*>(to) = *reinterpret_cast<uint4*>(raw);
    return;
  }
#pragma unroll
  for (int i = 0; i < P; ++i)
    if (i < n) to[i] = rounded<T>(x[i]);
}

// Calls f with a null pointer of the type that a feature map of this dtype has.
template <class F>
cudaError_t with_type(Dtype dtype, F f) {
  if (dtype == Dtype::float16) return f(static_cast<__half*>(nullptr));
  if (dtype == Dtype::bfloat16) return f(static_cast<__nv_bfloat16*>(nullptr));
  if (dtype == Dtype::float32) return f(static_cast<float*>(nullptr));
  return cudaErrorInvalidValue;
}

}  // namespace deltafx::cuda
