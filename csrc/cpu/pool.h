// Pooling and interpolation of the listed pixels: the maximum over the window, or
// out[p][c] = sum over rows i and columns j of row_share[y][i] * column_share[x][j] * x[q(i, j)][c].
#pragma once

template <class T>
int64_t pool_as(const Pool2d& p, const Job& job) {
  const Window& w = p.window;
  const int64_t plane = w.out_rows * w.out_columns;
  return for_each_row<T>(p.x, w, job, [&](const Tap<T>* taps, int count, int32_t pixel, float* row) {
    if (p.maximum) {
      for_each_block(p.x.channels, [&](int64_t c, int n) {
        Vec largest = Vec::all(-INFINITY);
        for (int t = 0; t < count; ++t) largest = maximum(largest, load_some(taps[t].x + c, n));
        largest.store(row + c);
      });
      return;
    }
    const int64_t place = pixel % plane;
    const float* ys = p.row_share + place / w.out_columns * w.kernel_rows;
    const float* xs = p.column_share + place % w.out_columns * w.kernel_columns;
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
