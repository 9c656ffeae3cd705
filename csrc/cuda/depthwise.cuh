// Convolutions with narrow groups, depthwise ones above all, which no tensor core helps:
// out[p][o] = sum over taps t and the channels c of o's group of x[q(p, t)][c] * weight[t][c][o].
#pragma once

#include "steps.cuh"
#include "taps.cuh"

namespace deltafx::cuda {

// Whether output channel c reads input channel c alone, 16 bytes at once.
__host__ __device__ inline bool is_plain(const Depthwise& d, int channels, int pack) {
  return d.in_per_group == 1 && d.out_per_group == 1 && channels % pack == 0 && d.x.packed;
}

// A pack of channels of a pixel: c and n - 1 following ones.
template <class T, int P>
__device__ void depthwise_pack(const Depthwise& d, int p, int channels, int c, int n, float (&sum)[P]) {
  map(sum, [](float) { return 0.0f; });
  const int kernel_columns = d.window.kernel_columns;
  if (is_plain(d, channels, P)) {
    for_each_pack<T>(d.window, d.x, p, c, [&](int i, int j, const Pack<T>& raw, bool there) {
      float w[P];
      read_tile(d.weight + (i * kernel_columns + j) * channels + c, w);
#pragma unroll
      for (int e = 0; e < P; ++e) sum[e] = fmaf(there ? number(raw.of[e]) : 0.0f, w[e], sum[e]);
    });
    return;
  }
  for_each_tap(d.window, p, [&](int i, int j, int q) {
    const float* weight = d.weight + (i * kernel_columns + j) * d.in_per_group * channels + c;
    const T* from = static_cast<const T*>(d.x.data) + q * d.x.pitch;
    for (int k = 0; k < d.in_per_group; ++k, weight += channels) {
      float w[P];
      load_pack(weight, n, channels % P == 0, w);
#pragma unroll
      for (int e = 0; e < P; ++e)
        if (e < n) sum[e] = fmaf(number(from[(c + e) / d.out_per_group * d.in_per_group + k]), w[e], sum[e]);
    }
  });
}

}  // namespace deltafx::cuda
