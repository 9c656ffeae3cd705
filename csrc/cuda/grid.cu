// How the pixels of a node lie in a grid of words: the host's part of the mask rule.
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
  for (int unit_rows = row_words < 32 ? 32 / row_words : 1;; unit_rows *= 2) {
    const int stream_units = static_cast<int>(divide_up(rows, unit_rows));
    if (streams * stream_units <= kMostUnits || stream_units == 1)
      return {streams, divisor(rows), columns, divisor(plane), divisor(row_words), unit_rows, divisor(stream_units)};
  }
}

bool finds_by_itself(const Grid& grid, bool windowed, const Axis& row_axis, const Axis& column_axis) {
  if (grid.words() > (windowed ? kOwnWindows : kOwnWords)) return false;
  if (!windowed) return true;
  return row_axis.stride != 0 && grid.streams * row_axis.in * divide_up(column_axis.in, 32) <= kStagedWords;
}

}  // namespace deltafx::cuda
