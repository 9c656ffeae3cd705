// One pack of channels of a pooled pixel: the maximum over its window, or the sum of its taps by their weights.
#pragma once

#include "rows.cuh"

namespace deltafx::cuda {

template <class T, int P>
__device__ void pool_pack(const Pool& pool, int p, int c, int n, float (&total)[P]) {
  const Window& w = pool.window;
  const T* x = static_cast<const T*>(pool.x.data);
  float v[P];
  if (pool.maximum) {
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

}  // namespace deltafx::cuda
