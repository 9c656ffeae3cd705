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

// `from` has N for each of `to`, of which the first counts.
template <int N>
void unite_every(const uint8_t* from, uint8_t* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] |= from[N * i];
}

// Whether any input column of the window of output column x is set.
uint8_t any_tap(const uint8_t* from, const Window& w, int64_t x) {
  uint8_t set = 0;
  const int32_t* columns = w.columns + x * w.kernel_columns;
  for (int64_t j = 0; j < w.kernel_columns; ++j) set |= columns[j] >= 0 ? from[columns[j]] : 0;
  return set;
}

// Along a row: to[x] = any_tap(x). Returns whether anything is set. Inside, where taps lie at equal distances, it takes
// one tap of all outputs after another.
bool dilate_row(const uint8_t* from, const Window& w, uint8_t* to) {
  std::memset(to, 0, w.out_columns);
  if (!any(from, w.in_columns)) return false;
  for (int64_t x = 0; x < w.x.begin; ++x) to[x] = any_tap(from, w, x);
  for (int64_t x = w.x.end; x < w.out_columns; ++x) to[x] = any_tap(from, w, x);
  const int64_t inside = w.x.end - w.x.begin;
  for (int64_t j = 0; j < w.kernel_columns && inside > 0; ++j) {
    const uint8_t* taps = from + w.x.first(w.x.begin) + j * w.x.step;
    if (w.x.stride == 1) unite(taps, to + w.x.begin, inside);
    else if (w.x.stride == 2) unite_every<2>(taps, to + w.x.begin, inside);
    else for (int64_t x = 0; x < inside; ++x) to[w.x.begin + x] |= taps[x * w.x.stride];
  }
  return any(to, w.out_columns);
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
