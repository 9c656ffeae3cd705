// Convolutions with narrow groups at the listed pixels.
#include "depthwise.cuh"
#include "rows.cuh"

namespace deltafx::cuda {
namespace {

template <class T>
__global__ void __launch_bounds__(kRowThreads, kRowResident)
    depthwise_kernel(const __grid_constant__ Depthwise d, const __grid_constant__ Job job, RowTile shape) {
  begin_kernel();
  const int channels = job.commit.out.channels;
  for_each_tile<T>(job, shape,
                   [&](int p, int c, int n, float (&sum)[kPack<T>]) { depthwise_pack<T>(d, p, channels, c, n, sum); });
}

}  // namespace

cudaError_t depthwise(const Depthwise& d, const Job& job, cudaStream_t stream) {
  const RowTile shape(job.commit.out.channels, job.capacity);
  return with_type(d.x.dtype, [&](auto* type) {
    return launch_rows(&depthwise_kernel<std::remove_pointer_t<decltype(type)>>, job, shape, stream, d, job, shape);
  });
}

}  // namespace deltafx::cuda
