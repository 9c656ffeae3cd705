// Pooling, interpolation and copies of the listed pixels: the maximum over the window, x[p], or
// out[p][c] = sum over rows i and columns j of row_share[y][i] * column_share[x][j] * x[q(i, j)][c].
#include "rows.cuh"
#include "taps.cuh"
#include "whole.cuh"

namespace deltafx::cuda {
namespace {

// One pack of channels of a pixel: the maximum over its window, the sum of its taps by their weights, or as it is.
template <class T, int P>
__device__ void pool_pack(const Pool& pool, int p, int c, int n, float (&total)[P]) {
  const Window& w = pool.window;
  const T* x = static_cast<const T*>(pool.x.data);
  if (pool.kind == Pooling::none) {
    load_pack(x + p * pool.x.pitch + c, n, pool.x.packed, total);
    return;
  }
  float v[P];
  if (pool.kind == Pooling::maximum) {
    map(total, [](float) { return -INFINITY; });
    for_each_tap(w, p, [&](int, int, int q) {
      load_pack(x + q * pool.x.pitch + c, n, pool.x.packed, v);
      map_with(total, v, [](float a, float b) { return larger(a, b); });
    });
    return;
  }
  const int place = p % (w.out_rows * w.out_columns);
  const float* ys = pool.row_share + place / w.out_columns * w.kernel_rows;
  const float* xs = pool.column_share + place % w.out_columns * w.kernel_columns;
  map(total, [](float) { return 0.0f; });
  for_each_tap(w, p, [&](int i, int j, int q) {
    load_pack(x + q * pool.x.pitch + c, n, pool.x.packed, v);
    const float share = ys[i] * xs[j];
    map_with(total, v, [=](float a, float b) { return fmaf(b, share, a); });
  });
}

template <class T>
__global__ void __launch_bounds__(kRowThreads, kRowResident)
    pool_kernel(const __grid_constant__ Pool pool, const __grid_constant__ Job job, RowTile shape) {
  constexpr int P = kPack<T>;
  begin_kernel();
  for_each_tile<T>(job, shape, [&](int p, int c, int n, float (&total)[P]) { pool_pack<T>(pool, p, c, n, total); });
}

template <class T>
__global__ void __launch_bounds__(kWholeThreads)
    pool_all_kernel(const __grid_constant__ Pool pool, const __grid_constant__ Dense d) {
  constexpr int P = kPack<T>;
  begin_kernel();
  const int own = blockIdx.x * kWholeThreads + threadIdx.x, pixel = own / d.packs;
  if (pixel >= d.pixels) return;
  const Commit& commit = d.commit;
  const int c = (own - pixel * d.packs.by) * P, n = min(P, commit.out.channels - c);
  const int p[1] = {pixel};
  float x[1][P];
  pool_pack<T>(pool, pixel, c, n, x[0]);
  finish_packs<T>(d, p, c, n, true, x);
  store_pack(static_cast<T*>(commit.out.data) + pixel * commit.out.pitch + c, n, commit.out.packed, x[0]);
}

}  // namespace

cudaError_t pool(const Pool& pool, const Job& job, cudaStream_t stream) {
  const RowTile shape(job.commit.out.channels, job.capacity);
  return with_type(pool.x.dtype, [&](auto* type) {
    return launch_rows(&pool_kernel<std::remove_pointer_t<decltype(type)>>, job, shape, stream, pool, job, shape);
  });
}

cudaError_t copy(const Matrix& from, const Job& job, cudaStream_t stream) {
  return pool(Pool{from, {}, Pooling::none, nullptr, nullptr}, job, stream);
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
