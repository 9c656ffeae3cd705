// dense_to_delta: which pixels of a frame changed, and taking those over.
//
// Exact: a pixel passes if any channel is not equal to what was propagated last. Gated with window 1: if the largest
// change of its channels exceeds the threshold; with a larger window: if the change's mean over channels and window
// does. A gate that adapts first takes the mean change of every pixel, settles each stream's drift and threshold from
// their histogram, and then decides. Where neighbours count, pixels get a strength first: of the strong ones those pass
// that do not stand alone, and of the weak ones those near them. What passes is dilated. Reads the frame once, and the
// pixels that pass once more.
#pragma once

// Element types of a frame, beside float.
inline float number(float x) { return x; }
inline float number(uint8_t x) { return static_cast<float>(x); }
inline float number(Bfloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float wide;
  std::memcpy(&wide, &bits, sizeof wide);
  return wide;
}

inline uint8_t exceeds(float change, float threshold) { return !(std::fabs(change) <= threshold); }

inline bool asks_neighbours(const Enter& e) { return e.reach > 0 || e.neighbours > 0; }

// Whether a pixel passes or, where its neighbours count, its strength.
inline uint8_t judge(const Enter& e, float change, float threshold) {
  const uint8_t strong = exceeds(change, threshold);
  if (!asks_neighbours(e)) return strong;
  return exceeds(change, threshold * e.weak) + strong + exceeds(change, FLT_MAX);
}

inline void judge_all(const Enter& e, const float* change, float drift, float threshold, int64_t count,
                      uint8_t* __restrict result) {
  if (asks_neighbours(e))
    for (int64_t i = 0; i < count; ++i) result[i] = judge(e, change[i] - drift, threshold);
  else
    for (int64_t i = 0; i < count; ++i) result[i] = exceeds(change[i] - drift, threshold);
}

// F is the frame's type, V that of what was propagated last: a uint8 frame is compared with the last raw frame.
template <class F, class V>
struct Compare {
  const Enter& e;
  const V* last;
  int64_t last_pitch;

  const F* frame_row(int64_t n, int64_t c, int64_t y) const {
    return static_cast<const F*>(e.frame) + n * e.stride[0] + c * e.stride[1] + y * e.stride[2];
  }
  const V* last_row(int64_t n, int64_t c, int64_t y) const {
    return last + (n * e.rows + y) * e.columns * last_pitch + c;
  }

  // Three bytes a pixel, side by side, as cameras give them: loops over them have steps that the compiler knows.
  bool is_packed() const {
    return sizeof(F) == 1 && e.channels == 3 && e.stride[1] == 1 && e.stride[3] == 3 && last_pitch == 3;
  }

  void packed_row(int64_t n, int64_t y, uint8_t* __restrict passed) const {
    const F* f = frame_row(n, 0, y);
    const V* old = last_row(n, 0, y);
    if (std::memcmp(f, old, 3 * e.columns) == 0) return;  // `passed` is zero
    for (int64_t x = 0, columns = e.columns; x < columns; ++x)
      passed[x] = f[3 * x] != old[3 * x] || f[3 * x + 1] != old[3 * x + 1] || f[3 * x + 2] != old[3 * x + 2];
  }

  void packed_mean_row(int64_t n, int64_t y, float* __restrict mean) const {
    const F* f = frame_row(n, 0, y);
    const V* old = last_row(n, 0, y);
    for (int64_t x = 0, columns = e.columns; x < columns; ++x) {
      const int now = f[3 * x] + f[3 * x + 1] + f[3 * x + 2], before = old[3 * x] + old[3 * x + 1] + old[3 * x + 2];
      mean[x] = static_cast<float>(now - before) / 3.0f;
    }
  }

  // As `row`, for float32, three channels side by side, and a frame whose rows are; returns how many pixels it looked at.
  int64_t plain_row(int64_t n, int64_t y, uint8_t* passed) const {
    int64_t x = 0;
    if constexpr (sizeof(F) == sizeof(float) && sizeof(V) == sizeof(float)) {
      const float *r = frame_row(n, 0, y), *g = frame_row(n, 1, y), *b = frame_row(n, 2, y), *old = last_row(n, 0, y);
      for (; x + Vec::width <= e.columns; x += Vec::width) {
        const uint32_t bits = differing(Vec::load(r + x), every_third<0>(old + 3 * x)) |
                              differing(Vec::load(g + x), every_third<1>(old + 3 * x)) |
                              differing(Vec::load(b + x), every_third<2>(old + 3 * x));
        if (!bits) continue;  // `passed` is zero
        for (int i = 0; i < Vec::width; ++i) passed[x + i] = bits >> i & 1;
      }
    }
    return x;
  }

  // passed[x]: whether pixel (n, y, x) differs at all, or what the gate makes of its largest change of a channel.
  void row(int64_t n, int64_t y, uint8_t* passed) const {
    std::memset(passed, 0, e.columns);
    if constexpr (sizeof(F) == 1)
      if (!e.gated && is_packed()) return packed_row(n, y, passed);
    const bool plain = !e.gated && e.channels == 3 && last_pitch == 3 && e.stride[3] == 1;
    const int64_t start = plain ? plain_row(n, y, passed) : 0;
    for (int64_t c = 0; c < e.channels; ++c) {
      const F* f = frame_row(n, c, y);
      const V* old = last_row(n, c, y);
      if (e.gated) {
        for (int64_t x = 0; x < e.columns; ++x) {
          const uint8_t found = judge(e, number(f[x * e.stride[3]]) - number(old[x * last_pitch]), e.threshold);
          if (found > passed[x]) passed[x] = found;
        }
      } else {
        for (int64_t x = start; x < e.columns; ++x)
          passed[x] |= !(number(f[x * e.stride[3]]) == number(old[x * last_pitch]));
      }
    }
  }

  // mean[x]: the change of pixel (n, y, x), mean over its channels.
  void mean_row(int64_t n, int64_t y, float* mean) const {
    if constexpr (sizeof(F) == 1)
      if (is_packed()) return packed_mean_row(n, y, mean);
    for (int64_t x = 0; x < e.columns; ++x) mean[x] = 0.0f;
    for (int64_t c = 0; c < e.channels; ++c) {
      const F* f = frame_row(n, c, y);
      const V* old = last_row(n, c, y);
      for (int64_t x = 0; x < e.columns; ++x) mean[x] += number(f[x * e.stride[3]]) - number(old[x * last_pitch]);
    }
    const float channels = static_cast<float>(e.channels);
    for (int64_t x = 0; x < e.columns; ++x) mean[x] /= channels;
  }

  // Rows [first, end) of stream n: the mean change over the window, of which only what lies in the frame counts. Sums are
  // made anew for every pixel: a running sum would keep a NaN that has left the window, and rounding. `take(p, means)` is
  // told a row of them, whose first pixel is p.
  template <class Take>
  void window_rows(int64_t n, int64_t first, int64_t end, const Take& take) const {
    const int64_t reach = e.window / 2, columns = e.columns;
    const int64_t top = most(0, first - reach), bottom = least(e.rows, end + reach);
    float* sums = scratch(1, (bottom - top + 3) * columns);
    float* mean = sums + (bottom - top) * columns;
    float *total = mean + columns, *wide = total + columns;
    for (int64_t x = 0; x < columns; ++x)
      wide[x] = static_cast<float>(least(columns, x + reach + 1) - most(0, x - reach));
    for (int64_t y = top; y < bottom; ++y) {
      mean_row(n, y, mean);
      float* sum = sums + (y - top) * columns;
      for (int64_t x = 0; x < columns; ++x) sum[x] = 0.0f;
      for (int64_t d = -reach; d <= reach; ++d)
        for (int64_t x = most(0, -d); x < least(columns, columns - d); ++x) sum[x] += mean[x + d];
    }
    for (int64_t y = first; y < end; ++y) {
      const int64_t from = most(0, y - reach), to = least(e.rows, y + reach + 1);
      for (int64_t x = 0; x < columns; ++x) total[x] = 0.0f;
      for (int64_t i = from; i < to; ++i)
        for (int64_t x = 0; x < columns; ++x) total[x] += sums[(i - top) * columns + x];
      const float high = static_cast<float>(to - from);
      for (int64_t x = 0; x < columns; ++x) total[x] /= high * wide[x];
      take((n * e.rows + y) * columns, total);
    }
  }
};

// The bin of each change, as a number; kBins for what is not finite.
inline Vec bins_of(Vec change, float scale) {
  const Vec place = fma(change, Vec::all(scale), Vec::all(0.5f)), rounded = round(place);
  const Vec floored = where_greater(rounded, place, rounded - Vec::all(1.0f), rounded);
  const Vec bounded = min(max(floored, Vec::all(-kBins / 2)), Vec::all(kBins / 2 - 1));
  const Vec nothing = Vec::all(kBins), bin = bounded + Vec::all(kBins / 2);
  return where_nan(change, nothing, where_greater(abs(change), Vec::all(kFinite), nothing, bin));
}

// The histogram of rows [first, end) of stream n's mean change; what is not finite is left out. Most changes are noise and
// fall into few bins: several histograms take turns, so that none waits for what it was just added to.
inline void count_changes(const Enter& e, int64_t n, int64_t first, int64_t end, int32_t* counts) {
  constexpr int kTurns = 4;
  const float scale = static_cast<float>(kSteps / e.level);
  const float* change = e.change + (n * e.rows + first) * e.columns;
  const int64_t count = (end - first) * e.columns;
  int32_t turns[kTurns][kBins + 1] = {};
  for (int64_t p = 0; p < count; p += Vec::width) {
    float bins[Vec::width];
    const int some = static_cast<int>(least(Vec::width, count - p));
    bins_of(some == Vec::width ? Vec::load(change + p) : Vec::load(change + p, some), scale).store(bins);
    for (int i = 0; i < some; ++i) ++turns[i % kTurns][static_cast<int>(bins[i])];
  }
  for (int bin = 0; bin < kBins; ++bin) {
    counts[bin] = 0;
    for (int turn = 0; turn < kTurns; ++turn) counts[bin] += turns[turn][bin];
  }
}

// How many bytes there are in front of the first that is set.
inline int64_t first_set(const uint8_t* mask, int64_t limit) {
  int64_t n = 0;
  for (uint64_t word; n + 8 <= limit; n += 8) {
    std::memcpy(&word, mask + n, sizeof word);
    if (word != 0) break;
  }
  while (n < limit && !mask[n]) ++n;
  return n;
}

// Every set byte sets those at a distance of up to `reach` along the row and across rows, in place.
inline void dilate_mask(uint8_t* mask, int64_t rows, int64_t columns, int64_t reach) {
  uint8_t* wide = reinterpret_cast<uint8_t*>(scratch(2, rows * columns / 4 + 1));
  std::memset(wide, 0, rows * columns);
  for (int64_t y = 0; y < rows; ++y)
    for (int64_t x = first_set(mask + y * columns, columns); x < columns; ++x) {
      const int64_t from = most(0, x - reach), to = least(columns, x + reach + 1);
      std::memset(wide + y * columns + from, 1, to - from);
      x += first_set(mask + y * columns + x + 1, columns - x - 1);
    }
  for (int64_t y = 0; y < rows; ++y) {
    uint8_t* out = mask + y * columns;
    for (int64_t i = most(0, y - reach); i < least(rows, y + reach + 1); ++i)
      for (int64_t x = 0; x < columns; ++x) out[x] |= wide[i * columns + x];
  }
}

// Strengths become whether a pixel passes.
inline void ask_neighbours(const Enter& e, uint8_t* mask) {
  const int64_t plane = e.rows * e.columns;
  uint8_t* strengths = reinterpret_cast<uint8_t*>(scratch(3, plane / 4 + 1));
  std::memcpy(strengths, mask, plane);
  for (int64_t y = 0, p = 0; y < e.rows; ++y)
    for (int64_t x = 0; x < e.columns; ++x, ++p) {
      mask[p] = strengths[p] >= kStrong;
      if (strengths[p] != kStrong || e.neighbours == 0) continue;
      int64_t around = -1;  // it counts itself
      for (int64_t i = most(0, y - 1); i < least(e.rows, y + 2); ++i)
        for (int64_t j = most(0, x - 1); j < least(e.columns, x + 2); ++j)
          around += strengths[i * e.columns + j] != kStill;
      mask[p] = around >= e.neighbours;
    }
  if (e.reach == 0) return;
  dilate_mask(mask, e.rows, e.columns, e.reach);
  for (int64_t p = 0; p < plane; ++p) mask[p] &= strengths[p] != kStill;
}

// Takes a pixel over: the raw one, if there is one, and its value.
template <class F, class V>
void take_pixel(const Enter& e, int64_t n, int64_t y, int64_t x, int64_t p) {
  const F* f = static_cast<const F*>(e.frame) + n * e.stride[0] + y * e.stride[2] + x * e.stride[3];
  V* value = static_cast<V*>(e.value.data) + p * e.value.pitch;
  for (int64_t c = 0; c < e.channels; ++c) {
    if constexpr (sizeof(F) == sizeof(uint8_t)) {
      const uint8_t level = f[c * e.stride[1]];
      const int64_t channel = e.swap ? e.channels - 1 - c : c;
      e.raw[p * e.channels + c] = level;
      const float shown = e.levels[channel * 256 + level];
      if constexpr (sizeof(V) == sizeof(float)) value[channel] = shown;
      else Vec::all(shown).store(value + channel, 1);
    } else {
      value[c] = f[c * e.stride[1]];
    }
  }
}

// How many set bytes there are in front.
inline int64_t run_of(const uint8_t* mask, int64_t limit) {
  int64_t n = 0;
  while (n < limit && mask[n]) ++n;
  return n;
}

// Takes neighbours over.
template <class F, class V>
void take_run(const Enter& e, int64_t n, int64_t y, int64_t x, int64_t p, int64_t run) {
  if constexpr (sizeof(F) == sizeof(float) && sizeof(V) == sizeof(float)) {
    if (e.channels == 3) {
      const float* f = static_cast<const float*>(e.frame) + n * e.stride[0] + y * e.stride[2] + x * e.stride[3];
      float* value = static_cast<float*>(e.value.data) + p * e.value.pitch;
      const int64_t channel = e.stride[1], column = e.stride[3], pitch = e.value.pitch;
      for (int64_t i = 0; i < run; ++i, f += column, value += pitch)
        value[0] = f[0], value[1] = f[channel], value[2] = f[2 * channel];
      return;
    }
  }
  for (int64_t i = 0; i < run; ++i) take_pixel<F, V>(e, n, y, x + i, p + i);
}

// The gate that adapts, up to dilation.
template <class F, class L>
void adapt(const Enter& e, const Compare<F, L>& compare, int64_t bands) {
  spread(e.pool, e.streams * bands, [&](int64_t task) {
    const int64_t n = task / bands, first = task % bands * kBand, end = least(e.rows, first + kBand);
    if (e.refresh && e.refresh[n]) return;
    if (e.window > 1)
      compare.window_rows(n, first, end, [&](int64_t p, const float* means) {
        std::copy(means, means + e.columns, e.change + p);
      });
    else for (int64_t y = first; y < end; ++y) compare.mean_row(n, y, e.change + (n * e.rows + y) * e.columns);
    count_changes(e, n, first, end, e.counts + task * kBins);
  });
  for (int64_t n = 0; n < e.streams; ++n) {
    int64_t sums[kBins] = {};
    for (int64_t band = 0; band < bands; ++band)
      for (int i = 0; i < kBins; ++i) sums[i] += e.counts[(n * bands + band) * kBins + i];
    learn(e.refresh && e.refresh[n], middle_of(sums), e.least, e.noise, e.drift, e.learned + n * kLearned);
  }
  spread(e.pool, e.streams * bands, [&](int64_t task) {
    const int64_t n = task / bands, first = task % bands * kBand, end = least(e.rows, first + kBand);
    if (e.refresh && e.refresh[n]) return;
    const float* learned = e.learned + n * kLearned;
    const float drift = learned[kDrift] * e.level, limit = learned[kLimit] * e.level;
    const int64_t p = (n * e.rows + first) * e.columns;
    judge_all(e, e.change + p, drift, limit, (end - first) * e.columns, e.mask + p);
  });
}

template <class F, class V, class L>
int64_t enter_as(const Enter& e, const L* last, int64_t last_pitch) {
  const Compare<F, L> compare{e, last, last_pitch};
  const int64_t bands = divide_up(e.rows, kBand), plane = e.rows * e.columns;
  if (!e.forced && e.learned)
    adapt(e, compare, bands);
  else if (!e.forced)
    spread(e.pool, e.streams * bands, [&](int64_t task) {
      const int64_t n = task / bands, first = task % bands * kBand, end = least(e.rows, first + kBand);
      if (e.refresh && e.refresh[n]) return;
      if (e.gated && e.window > 1)
        return compare.window_rows(n, first, end, [&](int64_t p, const float* means) {
          judge_all(e, means, 0.0f, e.threshold, e.columns, e.mask + p);
        });
      for (int64_t y = first; y < end; ++y) compare.row(n, y, e.mask + (n * e.rows + y) * e.columns);
    });
  spread(e.pool, e.streams, [&](int64_t n) {
    uint8_t* mask = e.mask + n * plane;
    if (e.refresh && e.refresh[n]) std::memset(mask, 1, plane);
    else if (e.forced) std::memcpy(mask, e.forced + n * plane, plane);
    else if (e.gated) {
      if (asks_neighbours(e)) ask_neighbours(e, mask);
      if (e.dilation > 0) dilate_mask(mask, e.rows, e.columns, e.dilation);
    }
  });
  std::atomic<int64_t> updated{0};
  spread(e.pool, e.streams * bands, [&](int64_t task) {
    const int64_t n = task / bands, first = task % bands * kBand, end = least(e.rows, first + kBand);
    int64_t taken = 0;
    for (int64_t y = first; y < end; ++y) {
      const int64_t row = (n * e.rows + y) * e.columns;
      for (int64_t p = row; e.strip && p < row + e.columns; ++p) e.mask[p] |= e.strip[p];
      for (int64_t x = 0, p = row; x < e.columns;) {
        const int64_t still = first_set(e.mask + p, e.columns - x);
        x += still, p += still;
        const int64_t run = run_of(e.mask + p, e.columns - x);
        take_run<F, V>(e, n, y, x, p, run);
        x += run, p += run, taken += run;
      }
    }
    updated += taken;
  });
  return updated;
}

inline int64_t enter(const Enter& e) {
  const int64_t pitch = e.value.pitch;
  if (e.dtype == Dtype::uint8) {
    return e.value.dtype == Dtype::bfloat16 ? enter_as<uint8_t, Bfloat16, uint8_t>(e, e.raw, e.channels)
                                            : enter_as<uint8_t, float, uint8_t>(e, e.raw, e.channels);
  }
  if (e.dtype == Dtype::bfloat16)
    return enter_as<Bfloat16, Bfloat16>(e, static_cast<const Bfloat16*>(e.value.data), pitch);
  return enter_as<float, float>(e, static_cast<const float*>(e.value.data), pitch);
}
