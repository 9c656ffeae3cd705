// How the pixels of a node lie in a grid of words: the host's part of the mask rule.
#include <algorithm>

#include "kernels.h"
#include "launch.cuh"

namespace deltafx::cuda {

Divisor divisor(int32_t by) {
  int shift = 0;
  while (int64_t{1} << shift < by) ++shift;
  const uint64_t power = uint64_t{1} << (31 + shift);
  return {by, static_cast<uint32_t>((power + by - 1) / by), shift - 1};
}

Grid grid_of(int streams, int plane, int columns) {
  const int rows = static_cast<int>(divide_up(plane, columns)), row_words = static_cast<int>(divide_up(columns, 32));
  const int most = std::max(1, kMostUnits / streams);  // units of a stream
  const int enough = std::max(32 / row_words, static_cast<int>(divide_up(rows, most)));
  const int unit_rows = std::clamp(enough, 1, rows), stream_units = static_cast<int>(divide_up(rows, unit_rows));
  return {streams, divisor(rows), columns, divisor(plane), divisor(row_words), unit_rows, divisor(stream_units)};
}

int64_t unit_bytes(const Grid& grid, bool windowed, const Axis& down, const Axis& across) {
  int64_t words = int64_t{grid.unit_rows} * grid.row_words.by;
  if (windowed && down.stride != 0) {
    const int64_t read = int64_t{grid.unit_rows - 1} * down.stride + int64_t{down.taps - 1} * down.dilation + 1;
    words += std::min<int64_t>(read, down.in) * divide_up(across.in, 32);
  }
  return words * 4;
}

bool finds_by_itself(const Grid& grid, bool windowed, const Axis& row_axis, const Axis& column_axis) {
  if (grid.words() > (windowed ? kOwnWindows : kOwnWords)) return false;
  if (!windowed) return true;
  return row_axis.stride != 0 && grid.streams * row_axis.in * divide_up(column_axis.in, 32) <= kStagedWords;
}

}  // namespace deltafx::cuda
