// The taps of output pixels: where in the input they lie, and reading what is there.
#pragma once

#include "candidates.cuh"
#include "pack.cuh"

namespace deltafx::cuda {

// The taps of one output pixel: what stands in the tables of its window, and where its stream's input begins.
struct TapTables {
  const int32_t *rows, *columns;
  int first;

  __device__ TapTables(const Window& w, int p) {
    const int plane = w.out_rows * w.out_columns, place = p % plane;
    first = p / plane * w.in_rows * w.in_columns;
    rows = w.rows + place / w.out_columns * w.kernel_rows;
    columns = w.columns + place % w.out_columns * w.kernel_columns;
  }
};

// Walks over the taps of an output pixel: f(tap row, tap column, input pixel), in order.
template <class F>
__device__ void for_each_tap(const Window& w, int p, F f) {
  const TapTables taps(w, p);
  for (int i = 0; i < w.kernel_rows; ++i) {
    const int row = taps.rows[i];
    if (row < 0) continue;
    for (int j = 0; j < w.kernel_columns; ++j) {
      const int column = taps.columns[j];
      if (column >= 0) f(i, j, taps.first + row * w.in_columns + column);
    }
  }
}

// Reads the pack of channels at c behind each tap of an output pixel: f(tap row, tap column, pack, whether it is
// there), in order. All of the matrix is packed, and the pack is whole. Nothing is read by a branch, so that the reads
// of taps that follow each other are under way together.
template <class T, class F>
__device__ inline void for_each_pack(const Window& w, const Matrix& x, int p, int c, F f) {
  const TapTables taps(w, p);
  const T* from = static_cast<const T*>(x.data) + c;
  for (int i = 0; i < w.kernel_rows; ++i) {
    const int row = taps.rows[i], line = taps.first + max(row, 0) * w.in_columns;
#pragma unroll 3
    for (int j = 0; j < w.kernel_columns; ++j) {
      const int column = taps.columns[j];
      Pack<T> raw;
      *reinterpret_cast<uint4*>(raw.of) = *reinterpret_cast<const uint4*>(from + (line + max(column, 0)) * x.pitch);
      f(i, j, raw, row >= 0 && column >= 0);
    }
  }
}

}  // namespace deltafx::cuda
