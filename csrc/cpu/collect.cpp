// Dilation and compaction of masks. A window's maximum is taken axis by axis; image rows without a set pixel are left
// out, which in a sparse frame are most.
#include "collect.h"

namespace deltafx::cpu {
namespace {

bool any(const uint8_t* bytes, int64_t n) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    uint64_t eight;
    std::memcpy(&eight, bytes + i, 8);
    if (eight) return true;
  }
  for (; i < n; ++i)
    if (bytes[i]) return true;
  return false;
}

void unite(const uint8_t* from, uint8_t* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] |= from[i];
}

// Along a row: to[x] = whether any input column of x's window is set. Returns whether anything is.
bool dilate_row(const uint8_t* from, const Window& w, uint8_t* to) {
  std::memset(to, 0, w.out_columns);
  if (!any(from, w.in_columns)) return false;
  const int32_t* column = w.columns;
  uint8_t touched = 0;
  for (int64_t x = 0; x < w.out_columns; ++x) {
    uint8_t set = 0;
    for (int64_t j = 0; j < w.kernel_columns; ++j, ++column) set |= *column >= 0 ? from[*column] : 0;
    to[x] = set;
    touched |= set;
  }
  return touched;
}

// One stream's window maximum, united with `out`.
void dilate(const uint8_t* mask, const Window& w, uint8_t* out) {
  const int64_t bytes = w.in_rows * (w.out_columns + 1);
  uint8_t* dilated = reinterpret_cast<uint8_t*>(scratch(2, bytes / 4 + 1));
  uint8_t* touched = dilated + w.in_rows * w.out_columns;
  for (int64_t y = 0; y < w.in_rows; ++y)
    touched[y] = dilate_row(mask + y * w.in_columns, w, dilated + y * w.out_columns);
  for (int64_t y = 0; y < w.out_rows; ++y) {
    for (int64_t i = 0; i < w.kernel_rows; ++i) {
      const int32_t from = w.rows[y * w.kernel_rows + i];
      if (from >= 0 && touched[from]) unite(dilated + from * w.out_columns, out + y * w.out_columns, w.out_columns);
    }
  }
}

// Appends the numbers of the set pixels to the list.
int64_t compact(const uint8_t* mask, int64_t n, int32_t base, int32_t* pixels) {
  int64_t count = 0, p = 0;
  for (; p + 8 <= n; p += 8) {
    uint64_t eight;
    std::memcpy(&eight, mask + p, 8);
    if (!eight) continue;
    if (eight == 0x0101010101010101) {
      for (int k = 0; k < 8; ++k) pixels[count + k] = base + static_cast<int32_t>(p) + k;
      count += 8;
      continue;
    }
    for (int k = 0; k < 8; ++k) {
      pixels[count] = base + static_cast<int32_t>(p) + k;
      count += mask[p + k];
    }
  }
  for (; p < n; ++p)
    if (mask[p]) pixels[count++] = base + static_cast<int32_t>(p);
  return count;
}

}  // namespace

int64_t collect(const Collect& job) {
  const Window& w = job.window;
  const int64_t plane = w.out_rows * w.out_columns, in_plane = w.in_rows * w.in_columns;
  int64_t count = 0;
  for (int64_t n = 0; n < job.streams; ++n) {
    uint8_t* out = job.candidates + n * plane;
    bool all = job.refresh && job.refresh[n];
    for (int64_t s = 0; s < job.source_count && !all; ++s)
      all = job.sources[s].relation == Relation::per_stream && job.sources[s].mask[n];
    std::memset(out, all, plane);
    for (int64_t s = 0; s < job.source_count && !all; ++s) {
      const Source& source = job.sources[s];
      if (source.relation == Relation::window) dilate(source.mask + n * in_plane, w, out);
      if (source.relation == Relation::same) unite(source.mask + n * plane, out, plane);
    }
    count += compact(out, plane, static_cast<int32_t>(n * plane), job.pixels + count);
  }
  return count;
}

}  // namespace deltafx::cpu
