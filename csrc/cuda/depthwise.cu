// Convolutions with narrow groups, depthwise ones above all, which no tensor core helps:
// out[p][o] = sum over taps t and the channels c of o's group of x[q(p, t)][c] * weight[t][c][o].
#include "rows.cuh"

namespace deltafx::cuda {
namespace {

template <class T>
__global__ void __launch_bounds__(kRowThreads, kRowResident)
    depthwise_kernel(const __grid_constant__ Depthwise d, const __grid_constant__ Job job, RowTile shape) {
  constexpr int P = kPack<T>;
  begin_kernel();
  const int channels = job.commit.out.channels;
  const bool plain = d.in_per_group == 1 && d.out_per_group == 1, packed = channels % P == 0;
  const T* x = static_cast<const T*>(d.x.data);
  for_each_tile<T>(job, shape, [&](int p, int c, int n, float (&sum)[P]) {
    map(sum, [](float) { return 0.0f; });
    for_each_tap(d.window, p, [&](int i, int j, int q) {
      const float* weight = d.weight + (i * d.window.kernel_columns + j) * d.in_per_group * channels + c;
      const T* from = x + q * d.x.pitch;
      float w[P], v[P];
      for (int k = 0; k < d.in_per_group; ++k, weight += channels) {
        load_pack(weight, n, packed, w);
        if (plain) {
          load_pack(from + c, n, d.x.packed, v);
        } else {
#pragma unroll
          for (int e = 0; e < P; ++e)
            v[e] = e < n ? number(from[(c + e) / d.out_per_group * d.in_per_group + k]) : 0.0f;
        }
#pragma unroll
        for (int e = 0; e < P; ++e) sum[e] = fmaf(v[e], w[e], sum[e]);
      }
    });
  });
}

}  // namespace

cudaError_t depthwise(const Depthwise& d, const Job& job, cudaStream_t stream) {
  const RowTile shape(job.commit.out.channels, job.capacity);
  return with_type(d.x.dtype, [&](auto* type) {
    return launch_rows(&depthwise_kernel<std::remove_pointer_t<decltype(type)>>, job, shape, stream, d, job, shape);
  });
}

}  // namespace deltafx::cuda
