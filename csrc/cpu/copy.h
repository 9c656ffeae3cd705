// The new values of the listed pixels stand in a matrix: a pointwise chain's first operand, an operand of a
// concatenation, or a result that was computed densely.
#pragma once

template <class T>
void read_row(const T* from, float* row, int64_t channels) {
  int64_t c = 0;
  for (; c + Vec::width <= channels; c += Vec::width) Vec::load(from + c).store(row + c);
  if (c < channels) Vec::load(from + c, static_cast<int>(channels - c)).store(row + c);  // a tile row is whole vectors
}

template <class T>
int64_t copy_of(const Matrix& x, const Job& job) {
  return for_each_tile(job, 1, near_rows(x.channels), 4 * x.channels, [&](const int32_t* pixels, int rows, float* tile, int64_t stride, bool) {
    for (int r = 0; r < rows; ++r)
      read_row(static_cast<const T*>(x.data) + pixels[r] * x.pitch, tile + r * stride, x.channels);
  });
}

inline int64_t copy(const Matrix& x, const Job& job) {
  return x.dtype == Dtype::bfloat16 ? copy_of<Bfloat16>(x, job) : copy_of<float>(x, job);
}
