// The input pixels behind an output pixel, as a list without those that do not exist.
#pragma once

template <class T>
struct Tap {
  const T* x;     // the first channel of the input pixel
  int32_t row, column;  // which tap of the window it is
};

// Lists the taps of an output pixel in order; returns how many there are.
template <class T>
int list_taps(const Matrix& x, const Window& w, int64_t pixel, Tap<T>* taps) {
  const int64_t plane = w.out_rows * w.out_columns, n = pixel / plane, place = pixel % plane;
  const int32_t* ys = w.rows + place / w.out_columns * w.kernel_rows;
  const int32_t* xs = w.columns + place % w.out_columns * w.kernel_columns;
  int count = 0;
  for (int32_t i = 0; i < w.kernel_rows; ++i) {
    if (ys[i] < 0) continue;
    const T* row = static_cast<const T*>(x.data) + (n * w.in_rows + ys[i]) * w.in_columns * x.pitch;
    for (int32_t j = 0; j < w.kernel_columns; ++j)
      if (xs[j] >= 0) taps[count++] = {row + xs[j] * x.pitch, i, j};
  }
  return count;
}

// Runs body(taps, count, pixel, row) for the row of every pixel of a tile.
template <class T, class F>
int64_t for_each_row(const Matrix& x, const Window& window, const Job& job, F body) {
  const int64_t all = window.kernel_rows * window.kernel_columns;
  const int64_t floats = divide_up(all * static_cast<int64_t>(sizeof(Tap<T>)), sizeof(float)) + 2;
  return for_each_tile(job, 64, [&](const int32_t* pixels, int rows, float* tile, int64_t stride) {
    Tap<T>* taps = reinterpret_cast<Tap<T>*>(scratch(1, floats));
    for (int r = 0; r < rows; ++r) body(taps, list_taps(x, window, pixels[r], taps), pixels[r], tile + r * stride);
  });
}

// Runs f(c, n) for every vector of channels: n of them from c on, of which the last vector may have fewer.
template <class F>
void for_each_block(int64_t channels, F f) {
  for (int64_t c = 0; c < channels; c += Vec::width) f(c, static_cast<int>(least(Vec::width, channels - c)));
}

template <class T>
Vec load_some(const T* p, int n) {
  return n == Vec::width ? Vec::load(p) : Vec::load(p, n);
}
