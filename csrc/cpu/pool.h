// Pooling and interpolation of the listed pixels: the maximum over the window, or
// out[p][c] = sum over rows i and columns j of row_share[y][i] * column_share[x][j] * x[q(i, j)][c].
#pragma once

template <class T>
int64_t pool_as(const Pool2d& p, const Job& job) {
  const Window& w = p.window;
  return for_each_row<T>(p.x, w, job, [&](const Tap<T>* taps, int count, const Place& place, float* row) {
    if (p.maximum) {
      for_each_block(p.x.channels, [&](int64_t c, int n) {
        Vec largest = Vec::all(-INFINITY);
        for (int t = 0; t < count; ++t) largest = maximum(largest, load_some(taps[t].x + c, n));
        largest.store(row + c);
      });
      return;
    }
    const float* ys = p.row_share + place.y * w.kernel_rows;
    const float* xs = p.column_share + place.x * w.kernel_columns;
    for_each_block(p.x.channels, [&](int64_t c, int n) {
      Vec sum = Vec::all(0.0f);
      for (int t = 0; t < count; ++t)
        sum = fma(load_some(taps[t].x + c, n), Vec::all(ys[taps[t].row] * xs[taps[t].column]), sum);
      sum.store(row + c);
    });
  });
}

inline int64_t pool(const Pool2d& p, const Job& job) {
  return p.x.dtype == Dtype::bfloat16 ? pool_as<Bfloat16>(p, job) : pool_as<float>(p, job);
}
