// Pooling and interpolation of the listed pixels: the maximum over the window, or
// out[p][c] = sum over rows i and columns j of row_share[y][i] * column_share[x][j] * x[q(i, j)][c].
#include "pool.cuh"

namespace deltafx::cuda {
namespace {

template <class T>
__global__ void __launch_bounds__(kRowThreads, kRowResident)
    pool_kernel(const __grid_constant__ Pool pool, const __grid_constant__ Job job, RowTile shape) {
  constexpr int P = kPack<T>;
  begin_kernel();
  for_each_tile<T>(job, shape, [&](int p, int c, int n, float (&total)[P]) { pool_pack<T>(pool, p, c, n, total); });
}

template <class T>
__global__ void __launch_bounds__(kRowThreads, kRowResident)
    copy_kernel(const __grid_constant__ Matrix from, const __grid_constant__ Job job, RowTile shape) {
  begin_kernel();
  const T* x = static_cast<const T*>(from.data);
  for_each_tile<T>(job, shape, [&](int p, int c, int n, float (&values)[kPack<T>]) {
    load_pack(x + p * from.pitch + c, n, from.packed, values);
  });
}

}  // namespace

cudaError_t pool(const Pool& pool, const Job& job, cudaStream_t stream) {
  const RowTile shape(job.commit.out.channels, job.capacity);
  return with_type(pool.x.dtype, [&](auto* type) {
    return launch_rows(&pool_kernel<std::remove_pointer_t<decltype(type)>>, job, shape, stream, pool, job, shape);
  });
}

cudaError_t copy(const Matrix& from, const Job& job, cudaStream_t stream) {
  const RowTile shape(job.commit.out.channels, job.capacity);
  return with_type(from.dtype, [&](auto* type) {
    return launch_rows(&copy_kernel<std::remove_pointer_t<decltype(type)>>, job, shape, stream, from, job, shape);
  });
}

}  // namespace deltafx::cuda
