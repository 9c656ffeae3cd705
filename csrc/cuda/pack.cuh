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
__device__ inline float rounded<float>(float x) {
  return x;
}
template <>
__device__ inline __half rounded<__half>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ inline __nv_bfloat16 rounded<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

// 16 bytes as they lie in memory.
template <class T>
struct alignas(16) Pack {
  T of[kPack<T>];
};

// What follows is read and written whole nearly always. What does it one by one is a function of its own: kernels are
// fetched from memory like data, and run once.
template <class T>
__device__ __noinline__ uint4 load_some(const T* from, int n) {
  Pack<T> raw;
#pragma unroll
  for (int i = 0; i < kPack<T>; ++i) raw.of[i] = i < n ? from[i] : rounded<T>(0.0f);
  return *reinterpret_cast<uint4*>(raw.of);
}

template <class T>
__device__ __noinline__ void store_some(T* to, int n, uint4 bits) {
  Pack<T> raw;
  *reinterpret_cast<uint4*>(raw.of) = bits;
#pragma unroll
  for (int i = 0; i < kPack<T>; ++i)
    if (i < n) to[i] = raw.of[i];
}

// The first n of a pack; the others are 0.
template <class T>
__device__ inline Pack<T> load_raw(const T* from, int n, bool packed) {
  Pack<T> raw;
  *reinterpret_cast<uint4*>(raw.of) =
      packed && n >= kPack<T> ? *reinterpret_cast<const uint4*>(from) : load_some(from, n);
  return raw;
}

template <class T, int P>
__device__ inline void load_pack(const T* from, int n, bool packed, float (&x)[P]) {
  constexpr int kPart = kPack<T>;  // float32 for 16-bit numbers is twice as long
#pragma unroll
  for (int at = 0; at < P; at += kPart) {
    const Pack<T> raw = load_raw(from + at, n - at, packed);
#pragma unroll
    for (int i = 0; i < kPart; ++i) x[at + i] = number(raw.of[i]);
  }
}

template <class T, int P>
__device__ inline void store_pack(T* to, int n, bool packed, const float (&x)[P]) {
  constexpr int kPart = kPack<T>;
#pragma unroll
  for (int at = 0; at < P; at += kPart) {
    Pack<T> raw;
#pragma unroll
    for (int i = 0; i < kPart; ++i) raw.of[i] = rounded<T>(x[at + i]);
    const uint4 bits = *reinterpret_cast<const uint4*>(raw.of);
    if (packed && n - at >= kPart)
      *reinterpret_cast<uint4*>(to + at) = bits;
    else
      store_some(to + at, n - at, bits);
  }
}

// A pack of a tile in shared memory, whose rows begin at multiples of 16 bytes.
template <int P>
__device__ inline void read_tile(const float* from, float (&x)[P]) {
#pragma unroll
  for (int i = 0; i < P; i += 4) {
    const float4 four = *reinterpret_cast<const float4*>(from + i);
    x[i] = four.x, x[i + 1] = four.y, x[i + 2] = four.z, x[i + 3] = four.w;
  }
}

template <int P>
__device__ inline void write_tile(float* to, const float (&x)[P]) {
#pragma unroll
  for (int i = 0; i < P; i += 4) *reinterpret_cast<float4*>(to + i) = make_float4(x[i], x[i + 1], x[i + 2], x[i + 3]);
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
