// The mean, sum or maximum over all pixels of each stream. A row's partial result is computed again if a pixel of it
// was updated; the total is made of all partials, in order.
#include "reduce.cuh"
#include "rows.cuh"

namespace deltafx::cuda {
namespace {

static_assert(kJoinThreads == kRowThreads, "one block joins rows in either kernel");

template <class T>
__global__ void __launch_bounds__(kRowThreads, kRowResident)
    total_kernel(const __grid_constant__ Reduce e, const __grid_constant__ Job job, RowTile shape) {
  constexpr int P = kPack<T>;
  __shared__ __align__(16) float parts[kJoinThreads][P];
  begin_kernel();
  const int channels = e.x.channels;
  const float scale = e.maximum ? 1.0f : e.scale;
  fill_tiles<T>(job, shape, [&](const int32_t* streams, int count, float* tile) {
    for (int row = 0; row < count; ++row) {
      const float* partial = e.partial + static_cast<int64_t>(streams[row]) * e.rows * channels;
      join_rows(parts, partial, channels, e.rows, channels, channels % 4 == 0, e, [&](int c, int, float (&total)[P]) {
        map(total, [=](float v) { return v * scale; });
        write_tile(tile + row * shape.stride + c, total);
      });
    }
  });
}

template <class T>
cudaError_t launch_partial(const Reduce& e, const Dense& d, cudaStream_t stream) {
  const int64_t blocks = e.x.data == nullptr ? e.streams : static_cast<int64_t>(e.streams) * e.rows;
  return launch(&partial_kernel<T>, Blocks{blocks, kJoinThreads, 0}, stream, e, d);
}

}  // namespace

cudaError_t reduce(const Reduce& e, const Job& job, cudaStream_t stream) {
  const RowTile shape(job.commit.out.channels, job.capacity);
  return with_type(e.x.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const cudaError_t error = launch_partial<T>(e, Dense{}, stream);
    if (error != cudaSuccess) return error;
    return launch_rows(&total_kernel<T>, job, shape, stream, e, job, shape);
  });
}

cudaError_t reduce_all(const Reduce& e, const Commit& commit, cudaStream_t stream) {
  return with_type(e.x.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    return launch_partial<T>(e, dense_of<T>(commit, e.streams, 1), stream);
  });
}

}  // namespace deltafx::cuda
