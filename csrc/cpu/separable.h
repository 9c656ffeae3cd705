// A depthwise convolution and the 1x1 convolution that alone reads it, with the convolution before it where it alone
// reads that: out[p] = project(depthwise(expand(x)))[p]. The maps in between, which are the largest of a network, are
// nowhere stored: of the expanded one a thread keeps as many image rows as a few output rows read, in the second-level
// cache, and of the other one a tile. Each value is the one that the kernels give that store them, bit for bit.
#pragma once

constexpr int64_t kRingFloats = 96 * 1024;  // of the expanded rows of a thread, where the window does not ask for more

// The numbers of the pixels of a tile, which stand in a list wherever pixels do.
struct Counting {
  int32_t numbers[kRows];

  constexpr Counting() : numbers() {
    for (int i = 0; i < kRows; ++i) numbers[i] = i;
  }
};
static constexpr Counting kCounting;

// Ends pixels that are not committed: the steps that are left, and the dtype in which they would be kept.
inline void end_rows(const Between& between, float* rows, int64_t stride, int64_t channels, int count) {
  for (int64_t i = 0; i < between.step_count; ++i)
    apply_step(between.steps[i], rows, stride, channels, kCounting.numbers, count, 1);
  if (between.dtype != Dtype::bfloat16) return;
  for (int r = 0; r < count; ++r) round_row(rows + r * stride, channels);
}

// Makes a row bfloat16 where it stands.
inline void narrow_row(float* row, int64_t channels) {
  write_row(row, reinterpret_cast<Bfloat16*>(row), channels);
}

// The expanded map of one thread: rows of it, each at the place of its number among all streams' rows modulo `kept`.
template <class T>
class Expansion {
 public:
  static constexpr bool kFar = false;
  int64_t pitch;  // floats from pixel to pixel

  Expansion(const Conv& conv, const Between& between, const Window& reader, const int64_t* spans)
      : pitch(divide_up(conv.out_per_group, Vec::width) * Vec::width), conv_(conv), end_(between),
        bounds_(take_bounds(end_.steps, end_.step_count)), reader_(reader), columns_(reader.in_columns),
        line_(columns_ * pitch) {
    while (bands_ < kMostBands && spans[bands_] * line_ <= kRingFloats) ++bands_;
    kept_ = spans[bands_ - 1];
    const int64_t bytes = kept_ * (static_cast<int64_t>(sizeof(int64_t)) + columns_);
    rows_ = scratch(6, kept_ * line_);
    numbers_ = reinterpret_cast<int64_t*>(scratch(7, bytes / 4 + 1));
    states_ = reinterpret_cast<uint8_t*>(numbers_ + kept_);
    for (int64_t i = 0; i < kept_; ++i) numbers_[i] = -1;
    tile_rows_ = most(kTileRows, near_rows(conv.out_per_group) / kTileRows * kTileRows);
    rest_tile_ = scratch(8, tile_rows_ * pitch);
  }

  // Output rows whose windows it holds at once.
  int64_t bands() const { return bands_; }
  const float* line(int64_t n, int64_t y) const { return rows_ + place(n * reader_.in_rows + y) * line_; }

  // Computes what the listed pixels' windows read and is not there yet. Returns how many pixels that were.
  int64_t provide(const int32_t* pixels, int64_t count) {
    lowest_ = INT64_MAX, highest_ = -1;
    Place at;
    for (int64_t p = 0; p < count;) {
      at = at.at(pixels[p], reader_);
      const int run = run_length(reader_, at, pixels + p, static_cast<int>(count - p));
      if (run == 0) want_taps(at);
      else want_run(at, run);
      p += most(1, run);
      if (run > 0) at = {pixels[p - 1], at.n, at.y, at.x + run - 1};
    }
    int64_t found = 0;
    for (int64_t row = lowest_; row <= highest_; ++row)
      if (numbers_[place(row)] == row) found += compute_row(row);
    flush();
    return found;
  }

 private:
  enum : uint8_t { kAbsent = 0, kWanted = 1, kThere = 3 };  // wanting what is there changes nothing

  int64_t place(int64_t row) const { return row % kept_; }

  // The states of a row's pixels.
  uint8_t* states(int64_t row) {
    const int64_t at = place(row);
    uint8_t* states = states_ + at * columns_;
    if (numbers_[at] != row) {
      numbers_[at] = row;
      std::memset(states, kAbsent, columns_);
    }
    lowest_ = least(lowest_, row), highest_ = most(highest_, row);
    return states;
  }

  void want_run(const Place& at, int run) {
    const Inner &x = reader_.x, &y = reader_.y;
    const int64_t first = x.first(at.x), end = x.first(at.x + run - 1) + (reader_.kernel_columns - 1) * x.step + 1;
    for (int64_t i = 0; i < reader_.kernel_rows; ++i) {
      uint8_t* row = states(at.n * reader_.in_rows + y.first(at.y) + i * y.step);
      for (int64_t column = first; column < end; ++column) row[column] |= kWanted;
    }
  }

  void want_taps(const Place& at) {
    const int32_t* ys = reader_.rows + at.y * reader_.kernel_rows;
    const int32_t* xs = reader_.columns + at.x * reader_.kernel_columns;
    for (int64_t i = 0; i < reader_.kernel_rows; ++i) {
      if (ys[i] < 0) continue;
      uint8_t* row = states(at.n * reader_.in_rows + ys[i]);
      for (int64_t j = 0; j < reader_.kernel_columns; ++j)
        if (xs[j] >= 0) row[xs[j]] |= kWanted;
    }
  }

  // Long runs are computed where they are kept, what is left of them together with others.
  int64_t compute_row(int64_t row) {
    uint8_t* states = states_ + place(row) * columns_;
    float* values = rows_ + place(row) * line_;
    int64_t found = 0;
    for (int64_t column = 0; column < columns_;) {
      if (states[column] != kWanted) {
        ++column;
        continue;
      }
      int64_t end = column;
      for (; end < columns_ && states[end] == kWanted; ++end) states[end] = kThere;
      found += end - column;
      while (end - column >= kTileRows) {
        const int n = static_cast<int>(least(tile_rows_, (end - column) / kTileRows * kTileRows));
        for (int r = 0; r < n; ++r) listed_[r] = static_cast<int32_t>(row * columns_ + column + r);
        compute(listed_, n, values + column * pitch);
        column += n;
      }
      for (; column < end; ++column) {
        rest_[rest_count_] = static_cast<int32_t>(row * columns_ + column);
        targets_[rest_count_] = values + column * pitch;
        if (++rest_count_ == tile_rows_) flush();
      }
    }
    return found;
  }

  void compute(const int32_t* pixels, int n, float* values) {
    const int64_t panels = divide_up(conv_.out_per_group, kPanel);
    convolve_rows<T>(conv_, bounds_, pixels, 0, panels, {n, values, pitch, {}, {}});
    end_rows(end_, values, pitch, conv_.out_per_group, n);
  }

  void flush() {
    if (rest_count_ == 0) return;
    compute(rest_, rest_count_, rest_tile_);
    for (int r = 0; r < rest_count_; ++r) write_row(rest_tile_ + r * pitch, targets_[r], pitch);
    rest_count_ = 0;
  }

  const Conv& conv_;
  Between end_;
  Bounds bounds_;
  const Window& reader_;
  int64_t columns_, line_, bands_ = 1, kept_, tile_rows_, lowest_ = 0, highest_ = 0;
  float *rows_, *rest_tile_;
  int64_t* numbers_;  // of the rows that are kept
  uint8_t* states_;   // of their pixels
  int32_t listed_[kRows], rest_[kRows];
  float* targets_[kRows];
  int rest_count_ = 0;
};

// How many of the listed pixels lie in the `rows` output rows of one stream that begin with the first pixel's.
inline int64_t band_length(const Window& w, const int32_t* pixels, int64_t count, int64_t rows) {
  const Place first = Place().at(pixels[0], w);
  const int64_t end = (first.n * w.out_rows + least(first.y + rows, w.out_rows)) * w.out_columns;
  int64_t n = 1;
  while (n < count && pixels[n] < end) ++n;
  return n;
}

// The pixels of a share, whose depthwise values come from `map`, some of which `provide` makes at a time.
template <class T, class Lines, class F>
int64_t separable_share(const Separable& s, const Job& job, int64_t first, int64_t end, int64_t rows, const Lines& map,
                        F provide) {
  const int64_t channels = s.depthwise.x.channels, stride = tile_stride(job.commit.out.channels);
  const int64_t mid_stride = tile_stride(channels), panels = divide_up(s.project.out_per_group, kPanel);
  Between between = s.filtered;
  const Bounds within = take_bounds(between.steps, between.step_count);
  Commit commit = job.commit;
  const Bounds bounds = take_bounds(commit.steps, commit.step_count);
  float *mid = scratch(5, rows * mid_stride), *tile = scratch(0, rows * stride);
  Conv project = s.project;
  project.x = project.in_pairs ? Matrix{mid, 2 * mid_stride, channels, Dtype::bfloat16}
                               : Matrix{mid, mid_stride, channels, Dtype::float32};
  int64_t updated = 0, provided = first;
  for (int64_t p = first; p < end; p += rows) {
    const int n = static_cast<int>(least(rows, end - p));
    for (int64_t from = p, to; from < p + n; from = to) {
      if (from == provided) provided += provide(job.pixels + from, end - from);
      to = least(provided, p + n);
      depthwise_rows<T>(s.depthwise, within, map, Matrix{}, job.pixels + from, static_cast<int>(to - from),
                        mid + (from - p) * mid_stride, mid_stride);
    }
    end_rows(between, mid, mid_stride, channels, n);
    const Tile all{n, tile, stride, {}, compared(commit, job.pixels + p, n, calls_of(project, n))};
    if (project.in_pairs) {
      for (int r = 0; r < n; ++r) narrow_row(mid + r * mid_stride, channels);
      convolve_rows<Bfloat16>(project, bounds, kCounting.numbers, 0, panels, all);
    } else {
      convolve_rows<float>(project, bounds, kCounting.numbers, 0, panels, all);
    }
    updated += commit_rows(commit, tile, stride, job.pixels + p, n);
  }
  return updated;
}

template <class T>
int64_t separable_as(const Separable& s, const Job& job) {
  const int64_t channels = s.depthwise.x.channels, out = job.commit.out.channels, weights = channels * out;
  const int64_t taps = s.depthwise.window.kernel_rows * s.depthwise.window.kernel_columns;
  const int64_t expansion = s.expand ? channels * s.expand->in_per_group : 0;
  const Shares shares = Shares::of(job, kTileRows, weights + channels * taps + expansion);
  const int64_t near = most(kTileRows, near_rows(channels) / kTileRows * kTileRows);
  const int64_t rows = shares.rows(kTileRows, weights <= kNear ? near : kFewRows, tile_stride(channels));
  std::atomic<int64_t> expanded{0};
  const int64_t updated = shares.run(job, [&](int64_t first, int64_t end) {
    if (!s.expand) {
      const auto map = Stored<T>::of(s.depthwise.x, s.depthwise.window);
      return separable_share<T>(s, job, first, end, rows, map, [](const int32_t*, int64_t count) { return count; });
    }
    Expansion<T> map(*s.expand, s.expanded, s.depthwise.window, s.spans);
    return separable_share<float>(s, job, first, end, rows, map, [&](const int32_t* pixels, int64_t count) {
      const int64_t band = band_length(s.depthwise.window, pixels, count, map.bands());
      expanded += map.provide(pixels, band);
      return band;
    });
  });
  if (s.expand) *s.expanded_pixels = expanded;
  return updated;
}

inline int64_t separable(const Separable& s, const Job& job) {
  const Dtype dtype = s.expand ? s.expand->x.dtype : s.depthwise.x.dtype;
  return dtype == Dtype::bfloat16 ? separable_as<Bfloat16>(s, job) : separable_as<float>(s, job);
}
