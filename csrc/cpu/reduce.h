// The mean, sum or maximum over all pixels of each stream. A row's partial result is computed again if a pixel of it was
// updated; the total is made of all partials, in order.
#pragma once

inline bool any_set(const uint8_t* bytes, int64_t n) {
  uint8_t set = 0;
  for (int64_t i = 0; i < n; ++i) set |= bytes[i];
  return set;
}

// total = total + x, or the larger of both.
inline Vec join(Vec total, Vec x, bool larger) { return larger ? maximum(total, x) : total + x; }

template <class T>
int64_t reduce_as(const Reduce& e, const Job& job) {
  const int64_t channels = e.x.channels, stride = tile_stride(channels);
  const Vec start = Vec::all(e.maximum ? -INFINITY : 0.0f);
  spread(job.pool, e.streams * e.rows, [&](int64_t line) {
    const bool all = e.refresh && e.refresh[line / e.rows];
    if (!all && !any_set(e.mask + line * e.columns, e.columns)) return;
    const T* x = static_cast<const T*>(e.x.data) + line * e.columns * e.x.pitch;
    for_each_block(channels, [&](int64_t c, int n) {
      Vec total = start;
      for (int64_t column = 0; column < e.columns; ++column)
        total = join(total, load_some(x + column * e.x.pitch + c, n), e.maximum);
      total.store(e.partial + line * channels + c, n);
    });
  });
  float* tile = scratch(0, stride);
  int64_t updated = 0;
  for (int64_t i = 0; i < job.count; ++i) {
    const float* partial = e.partial + job.pixels[i] * e.rows * channels;
    for_each_block(channels, [&](int64_t c, int n) {
      Vec total = start;
      for (int64_t row = 0; row < e.rows; ++row) total = join(total, load_some(partial + row * channels + c, n), e.maximum);
      (e.maximum ? total : total * Vec::all(e.scale)).store(tile + c);
    });
    updated += commit_rows(job.commit, tile, stride, job.pixels + i, 1);
  }
  return updated;
}

inline int64_t reduce(const Reduce& e, const Job& job) {
  return e.x.dtype == Dtype::bfloat16 ? reduce_as<Bfloat16>(e, job) : reduce_as<float>(e, job);
}
