// Where output pixels lie, and the input pixels behind them.
#pragma once

// An output pixel: stream, row and column. Lists ascend, so most pixels follow their neighbour.
struct Place {
  int32_t pixel = -2;
  int32_t n = 0, y = 0, x = 0;

  Place at(int32_t next, const Window& w) const {
    const uint32_t columns = static_cast<uint32_t>(w.out_columns), rows = static_cast<uint32_t>(w.out_rows);
    if (next == pixel + 1 && x + 1 < w.out_columns) return {next, n, y, x + 1};
    const uint32_t line = static_cast<uint32_t>(next) / columns, stream = line / rows;
    return {next, static_cast<int32_t>(stream), static_cast<int32_t>(line - stream * rows),
            static_cast<int32_t>(static_cast<uint32_t>(next) - line * columns)};
  }
};

// Where the rows of a map lie that is stored whole.
template <class T>
struct Stored {
  const T* data;
  int64_t pitch;  // elements from pixel to pixel
  int64_t rows, columns;
  static constexpr bool kFar = true;  // it pays to fetch it ahead

  static Stored of(const Matrix& x, const Window& w) {
    return {static_cast<const T*>(x.data), x.pitch, w.in_rows, w.in_columns};
  }
  const T* line(int64_t n, int64_t y) const { return data + (n * rows + y) * columns * pitch; }
};

template <class T>
struct Tap {
  const T* x;     // the first channel of the input pixel
  int32_t row, column;  // which tap of the window it is
};

// Lists the taps of an output pixel that exist, in order; returns how many there are.
template <class T, class Lines>
int list_taps(const Lines& lines, const Window& w, const Place& place, Tap<T>* taps) {
  const int32_t* ys = w.rows + place.y * w.kernel_rows;
  const int32_t* xs = w.columns + place.x * w.kernel_columns;
  int count = 0;
  for (int32_t i = 0; i < w.kernel_rows; ++i) {
    if (ys[i] < 0) continue;
    const T* row = lines.line(place.n, ys[i]);
    for (int32_t j = 0; j < w.kernel_columns; ++j)
      if (xs[j] >= 0) taps[count++] = {row + xs[j] * lines.pitch, i, j};
  }
  return count;
}

// Of a thread, for the taps of one pixel.
template <class T>
Tap<T>* tap_list(const Window& window) {
  const int64_t all = window.kernel_rows * window.kernel_columns;
  return reinterpret_cast<Tap<T>*>(scratch(1, divide_up(all * static_cast<int64_t>(sizeof(Tap<T>)), sizeof(float)) + 2));
}

// Runs body(taps, count, place, row) for the row of every pixel of a tile.
template <class T, class F>
int64_t for_each_row(const Matrix& x, const Window& window, const Job& job, F body) {
  const int64_t cost = x.channels * window.kernel_rows * window.kernel_columns;
  return for_each_tile(job, 1, near_rows(x.channels), cost, [&](const int32_t* pixels, int rows, float* tile, int64_t stride, bool) {
    Tap<T>* taps = tap_list<T>(window);
    const auto lines = Stored<T>::of(x, window);
    Place place;
    for (int r = 0; r < rows; ++r) {
      place = place.at(pixels[r], window);
      body(taps, list_taps(lines, window, place, taps), place, tile + r * stride);
    }
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
