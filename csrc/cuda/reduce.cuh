// Rows of pixels joined to their sum or maximum by a block: those of an image row to a partial result, and partial
// results to the total of a stream.
#pragma once

#include "whole.cuh"

namespace deltafx::cuda {

constexpr int kJoinThreads = 256;

__device__ inline float start_of(const Reduce& e) { return e.maximum ? -INFINITY : 0.0f; }
__device__ inline float join(float total, float x, bool larger_wins) {
  return larger_wins ? larger(total, x) : total + x;
}

// Joins `count` packs that are `pitch` apart. Where they are whole, eight reads are under way together.
template <class T, int P>
__device__ void join_packs(const T* from, int64_t pitch, int count, int n, bool packed, bool larger_wins,
                           float (&total)[P]) {
  static_assert(P % kPack<T> == 0, "whole pieces");
  if (packed && n >= P) {
#pragma unroll 8
    for (int k = 0; k < count; ++k) {
      Pack<T> raw[P / kPack<T>];
#pragma unroll
      for (int i = 0; i < P / kPack<T>; ++i)
        *reinterpret_cast<uint4*>(raw[i].of) = reinterpret_cast<const uint4*>(from + k * pitch)[i];
#pragma unroll
      for (int i = 0; i < P; ++i) total[i] = join(total[i], number(raw[i / kPack<T>].of[i % kPack<T>]), larger_wins);
    }
    return;
  }
#pragma unroll 1
  for (int k = 0; k < count; ++k) {
    float v[P];
    load_pack(from + k * pitch, n, packed, v);
    map_with(total, v, [&](float a, float b) { return join(a, b, larger_wins); });
  }
}

// Joins `count` rows of channels by a block's threads, several for each pack, and gives every pack to
// store(channel, count of channels, values). In an order that depends on nothing but how many channels there are.
// `parts` is in shared memory.
template <int P, class T, class F>
__device__ void join_rows(float (&parts)[kJoinThreads][P], const T* from, int64_t pitch, int count, int channels,
                          bool packed, const Reduce& e, F store) {
  const int packs = (channels + P - 1) / P, width = min(packs, kJoinThreads), lanes = kJoinThreads / width;
  const int lane = threadIdx.x / width, own = threadIdx.x - lane * width;
  for (int first = 0; first < packs; first += width) {
    const int c = (first + own) * P, n = min(P, channels - c);
    float total[P];
    map(total, [&](float) { return start_of(e); });
    if (lane < lanes && n > 0)
      join_packs(from + lane * pitch + c, lanes * pitch, (count - lane + lanes - 1) / lanes, n, packed, e.maximum,
                 total);
    write_tile(parts[threadIdx.x], total);
    __syncthreads();
    if (lane == 0 && n > 0) {
      for (int k = 1; k < lanes; ++k) {
        float v[P];
        read_tile(parts[k * width + own], v);
        map_with(total, v, [&](float a, float b) { return join(a, b, e.maximum); });
      }
      store(c, n, total);
    }
    __syncthreads();
  }
}

// Whether this block is the last one of those of a stream; it sees what the others have written then.
__device__ inline bool comes_last(int32_t* arrived, int blocks) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicAdd(arrived, 1) == blocks - 1;
    if (last) *arrived = 0;
  }
  __syncthreads();
  __threadfence();
  return last;
}

// One block for each image row. With `arrived`, the last one of a stream makes the total; without x, there is one for
// each stream, which does.
template <class T>
__global__ void __launch_bounds__(kJoinThreads)
    partial_kernel(const __grid_constant__ Reduce e, const __grid_constant__ Dense d) {
  constexpr int P = kPack<T>;
  __shared__ __align__(16) float parts[kJoinThreads][P];
  begin_kernel();
  const int line = blockIdx.x, channels = e.x.channels;
  int p[1] = {line};  // of the result
  if (e.x.data != nullptr) {
    p[0] = line / e.rows;
    if (e.mask != nullptr) {
      int touched = e.refresh[p[0]];
      for (int x = threadIdx.x; x < e.columns; x += blockDim.x) touched |= e.mask[line * e.columns + x];
      if (!__syncthreads_or(touched)) return;
    }
    const T* first = static_cast<const T*>(e.x.data) + static_cast<int64_t>(line) * e.columns * e.x.pitch;
    float* partial = e.partial + static_cast<int64_t>(line) * channels;
    join_rows(parts, first, e.x.pitch, e.columns, channels, e.x.packed, e,
              [&](int c, int n, const float (&total)[P]) { store_pack(partial + c, n, channels % 4 == 0, total); });
    if (e.arrived == nullptr || !comes_last(e.arrived + p[0], e.rows)) return;
  }
  const Matrix& out = d.commit.out;
  const float scale = e.maximum ? 1.0f : e.scale;
  const float* all = e.partial + static_cast<int64_t>(p[0]) * e.rows * channels;
  join_rows(parts, all, channels, e.rows, channels, channels % 4 == 0, e, [&](int c, int n, const float (&total)[P]) {
    float x[1][P];
    map_with(x[0], total, [=](float, float v) { return v * scale; });
    finish_packs<T>(d, p, c, n, true, x);
    store_pack(static_cast<T*>(out.data) + p[0] * out.pitch + c, n, out.packed, x[0]);
  });
}

}  // namespace deltafx::cuda
