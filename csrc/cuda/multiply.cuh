// Multiplying the tiles of one step of a convolution, which stand in shared memory: rows of 128 bytes in pieces of 16,
// piece q of row r at place q ^ (r & 7), so that neither filling nor reading meets a bank twice.
#pragma once

#include "pack.cuh"

namespace deltafx::cuda {

constexpr int kRowBytes = 128, kPieces = 8;

__device__ inline uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

__device__ inline uint32_t piece_offset(int row, int piece) { return row * kRowBytes + ((piece ^ (row & 7)) << 4); }

// Four 8x8 matrices of 16 bit; lane i gives the address of row i % 8 of matrix i / 8.
__device__ inline void load_matrices(uint32_t address, uint32_t (&x)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(address));
}

__device__ inline uint32_t to_tf32(uint32_t bits) {
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(__uint_as_float(bits)));
  return bits;
}

// c += a * b for 16 rows, 8 columns and 32 bytes of depth, which for all types lie in the lanes in the same way.
template <class T>
__device__ inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

template <>
__device__ inline void multiply_add<__half>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
__device__ inline void multiply_add<__nv_bfloat16>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
__device__ inline void multiply_add<float>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Where the part of a tile with COLUMNS columns begins that a warp computes, in parts of M x N.
template <int M, int N, int COLUMNS>
struct Part {
  int m, n, lane;
  __device__ Part()
      : m(threadIdx.x / 32 / (COLUMNS / N) * M), n(threadIdx.x / 32 % (COLUMNS / N) * N), lane(threadIdx.x % 32) {}
};

// What one thread computes of a tile with COLUMNS columns, on tensor cores; a warp has M x N of it. Every sum runs over
// the depth in order, whatever the tile.
template <class T, int M, int N, int COLUMNS>
struct TensorCores {
  static constexpr bool kWaits = false;
  float sum[M / 16][N / 8][4];

  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < M / 16; ++i)
#pragma unroll
      for (int j = 0; j < N / 8; ++j)
#pragma unroll
        for (int k = 0; k < 4; ++k) sum[i][j][k] = 0.0f;
  }

  // a and b: shared addresses of the tiles.
  __device__ void step(uint32_t a, uint32_t b) {
    const auto [m, n, lane] = Part<M, N, COLUMNS>();
#pragma unroll
    for (int piece = 0; piece < kPieces; piece += 2) {
      uint32_t x[M / 16][4], y[N / 16][4];
#pragma unroll
      for (int i = 0; i < M / 16; ++i) {
        load_matrices(a + piece_offset(m + i * 16 + (lane & 15), piece + (lane >> 4)), x[i]);
        if constexpr (sizeof(T) == 4)
#pragma unroll
          for (int k = 0; k < 4; ++k) x[i][k] = to_tf32(x[i][k]);
      }
#pragma unroll
      for (int j = 0; j < N / 16; ++j) {
        const int row = n + j * 16 + ((lane >> 4) << 3) + (lane & 7);
        load_matrices(b + piece_offset(row, piece + ((lane >> 3) & 1)), y[j]);
        if constexpr (sizeof(T) == 4)
#pragma unroll
          for (int k = 0; k < 4; ++k) y[j][k] = to_tf32(y[j][k]);
      }
#pragma unroll
      for (int i = 0; i < M / 16; ++i)
#pragma unroll
        for (int j = 0; j < N / 8; ++j) multiply_add<T>(sum[i][j], x[i], y[j / 2][j % 2 * 2], y[j / 2][j % 2 * 2 + 1]);
    }
  }

  __device__ void finish() {}  // steps are done when they return
  __device__ static void publish() {}

  __device__ void store(float* tile, int stride) const {
    const auto [m, n, lane] = Part<M, N, COLUMNS>();
#pragma unroll
    for (int i = 0; i < M / 16; ++i)
#pragma unroll
      for (int j = 0; j < N / 8; ++j) {
        float* to = tile + (m + i * 16 + lane / 4) * stride + n + j * 8 + lane % 4 * 2;
        *reinterpret_cast<float2*>(to) = make_float2(sum[i][j][0], sum[i][j][1]);
        *reinterpret_cast<float2*>(to + 8 * stride) = make_float2(sum[i][j][2], sum[i][j][3]);
      }
  }
};

// The same in float32 without rounding to tf32: lane 4 * g + t has rows g + 8 * i and columns t + 4 * j.
template <int M, int N, int COLUMNS>
struct Exact {
  static constexpr bool kWaits = false;
  float sum[M / 8][N / 4];

  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < M / 8; ++i)
#pragma unroll
      for (int j = 0; j < N / 4; ++j) sum[i][j] = 0.0f;
  }

  __device__ static float4 read(uint32_t address) {
    float4 x;
    asm volatile("ld.shared.v4.f32 {%0,%1,%2,%3}, [%4];" : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w) : "r"(address));
    return x;
  }

  __device__ void step(uint32_t a, uint32_t b) {
    const auto [m, n, lane] = Part<M, N, COLUMNS>();
#pragma unroll 2
    for (int piece = 0; piece < kPieces; ++piece) {
      float4 x[M / 8];
#pragma unroll
      for (int i = 0; i < M / 8; ++i) x[i] = read(a + piece_offset(m + i * 8 + lane / 4, piece));
#pragma unroll
      for (int j = 0; j < N / 4; ++j) {
        const float4 y = read(b + piece_offset(n + j * 4 + lane % 4, piece));
#pragma unroll
        for (int i = 0; i < M / 8; ++i) {
          sum[i][j] = fmaf(x[i].x, y.x, sum[i][j]);
          sum[i][j] = fmaf(x[i].y, y.y, sum[i][j]);
          sum[i][j] = fmaf(x[i].z, y.z, sum[i][j]);
          sum[i][j] = fmaf(x[i].w, y.w, sum[i][j]);
        }
      }
    }
  }

  __device__ void finish() {}
  __device__ static void publish() {}

  __device__ void store(float* tile, int stride) const {
    const auto [m, n, lane] = Part<M, N, COLUMNS>();
#pragma unroll
    for (int i = 0; i < M / 8; ++i)
#pragma unroll
      for (int j = 0; j < N / 4; ++j) tile[(m + i * 8 + lane / 4) * stride + n + j * 4 + lane % 4] = sum[i][j];
  }
};

}  // namespace deltafx::cuda
