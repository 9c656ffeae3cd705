// What a dense frame needs beside a library's convolutions. finish: out[p] = steps(x[p] + bias), which reads x and the
// operands of the steps once and writes the result once. pool_all: the same on what the windows give.
#include "dense.h"

#include "pool.cuh"

namespace deltafx::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kTogether = 4;  // packs of a thread, whose reads are under way together

template <class T, int R, int P>
__device__ inline void finish_packs(const Dense& d, const int (&p)[R], int c, int n, bool even, float (&x)[R][P]) {
  const Commit& commit = d.commit;
  int streams[R];
#pragma unroll
  for (int r = 0; r < R; ++r) streams[r] = p[r] / d.plane;
  if (commit.bias != nullptr) {
    float y[P];
    load_pack(commit.bias + c, n, true, y);
#pragma unroll
    for (int r = 0; r < R; ++r) map_with(x[r], y, [](float s, float b) { return s + b; });
  }
  for (int s = 0; s < commit.step_count; ++s) apply_step<T>(commit.steps[s], p, streams, c, n, even, x);
}

// A thread has one pack of channels of kTogether pixels.
template <class T>
__global__ void __launch_bounds__(kThreads)
    finish_kernel(const __grid_constant__ Matrix from, const __grid_constant__ Dense d) {
  constexpr int P = kPack<T>, R = kTogether;
  begin_kernel();
  const int own = blockIdx.x * kThreads + threadIdx.x, group = own / d.packs, apart = (d.pixels + R - 1) / R;
  if (group >= apart) return;
  const Commit& commit = d.commit;
  const int c = (own - group * d.packs.by) * P, n = min(P, commit.out.channels - c);
  int p[R];
  float x[R][P];
  Pack<T> raw[R];
#pragma unroll
  for (int r = 0; r < R; ++r)
    p[r] = min(group + r * apart, d.pixels - 1);  // beyond the last: it is read, and not written
#pragma unroll
  for (int r = 0; r < R; ++r)
    raw[r] = load_raw(static_cast<const T*>(from.data) + p[r] * from.pitch + c, n, from.packed);
#pragma unroll
  for (int r = 0; r < R; ++r)
#pragma unroll
    for (int i = 0; i < P; ++i) x[r][i] = number(raw[r].of[i]);
  finish_packs<T>(d, p, c, n, true, x);
  T* const out = static_cast<T*>(commit.out.data) + c;
#pragma unroll
  for (int r = 0; r < R; ++r)
    if (group + r * apart < d.pixels) store_pack(out + p[r] * commit.out.pitch, n, commit.out.packed, x[r]);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    pool_all_kernel(const __grid_constant__ Pool pool, const __grid_constant__ Dense d) {
  constexpr int P = kPack<T>;
  begin_kernel();
  const int own = blockIdx.x * kThreads + threadIdx.x, pixel = own / d.packs;
  if (pixel >= d.pixels) return;
  const Commit& commit = d.commit;
  const int c = (own - pixel * d.packs.by) * P, n = min(P, commit.out.channels - c);
  const int p[1] = {pixel};
  float x[1][P];
  pool_pack<T>(pool, pixel, c, n, x[0]);
  finish_packs<T>(d, p, c, n, true, x);
  store_pack(static_cast<T*>(commit.out.data) + pixel * commit.out.pitch + c, n, commit.out.packed, x[0]);
}

template <class T>
Dense dense_of(const Commit& commit, int pixels, int plane) {
  return {commit, pixels, divisor(plane), divisor(static_cast<int32_t>(divide_up(commit.out.channels, kPack<T>)))};
}

// Blocks of one thread for each item, or an error where the items are too many to be told apart.
template <class F>
cudaError_t launch_items(int64_t items, F launching) {
  return items < INT32_MAX - kThreads ? launching(Blocks{divide_up(items, kThreads), kThreads, 0})
                                      : cudaErrorInvalidValue;
}

}  // namespace

cudaError_t finish(const Matrix& from, const Commit& commit, int pixels, int plane, cudaStream_t stream) {
  return with_type(from.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const Dense d = dense_of<T>(commit, pixels, plane);
    return launch_items(divide_up(pixels, kTogether) * d.packs.by,
                        [&](const Blocks& blocks) { return launch(&finish_kernel<T>, blocks, stream, from, d); });
  });
}

cudaError_t pool_all(const Pool& pool, const Commit& commit, int pixels, int plane, cudaStream_t stream) {
  return with_type(pool.x.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const Dense d = dense_of<T>(commit, pixels, plane);
    return launch_items(int64_t{pixels} * d.packs.by,
                        [&](const Blocks& blocks) { return launch(&pool_all_kernel<T>, blocks, stream, pool, d); });
  });
}

}  // namespace deltafx::cuda
