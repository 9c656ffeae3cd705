// Depthwise convolution of the listed pixels: out[p][c] = bias[c] + sum over taps of weight[tap][c] * x[q(tap)][c].
//
// Neighbours in an image row whose whole window lies inside are computed together, a few at a time; other pixels one by
// one. Both add the taps in the same order.
#pragma once

template <class T>
void depthwise_pixel(const Depthwise& d, const Bounds& bounds, const Tap<T>* taps, int count, float* row) {
  const int64_t columns = d.window.kernel_columns, channels = d.x.channels;
  for_each_block(channels, [&](int64_t c, int n) {
    Vec sum = d.bias ? load_some(d.bias + c, n) : Vec::all(0.0f);
    for (int t = 0; t < count; ++t) {
      const float* weight = d.weight + (taps[t].row * columns + taps[t].column) * channels + c;
      sum = fma(load_some(taps[t].x + c, n), load_some(weight, n), sum);
    }
    bounds(sum).store(row + c);
  });
}

// Where the taps of a run's pixels lie: elements between taps of a row, and pixels.
struct Steps {
  int64_t tap, pixel;
  int64_t old;  // bytes between the old values of pixels
};

constexpr int64_t kAhead = 1024;  // channels between what is read and what is fetched

// P pixels of a run; `lines` has the first tap in each of K rows. With S > 0 pixels are S taps apart, and what several
// read is loaded once. What comes next in a map that is far is fetched, and the old values at `old` unless it is null.
template <class T, int K, int S, int P, bool kFar>
void depthwise_few(const Depthwise& d, const Bounds& bounds, const T* const* lines, const Steps& steps, const char* old,
                   float* tile, int64_t stride) {
  // Copies, which stay in registers whatever is stored.
  const int64_t channels = d.x.channels, tap = steps.tap, pixel = steps.pixel;
  const int64_t old_pixel = steps.old, ahead = divide_up(kAhead, channels) * pixel + (K - 1) * tap;
  const float* const weights = d.weight;
  const float* const biases = d.bias;
  const Bounds within = bounds;
  const T* starts[K];
  for (int i = 0; i < K; ++i) starts[i] = lines[i];
  const auto compute = [=](int64_t c, auto load) {
    Vec weight[K * K], sum[P];
    for (int t = 0; t < K * K; ++t) weight[t] = load(weights + t * channels + c);
    const Vec bias = biases ? load(biases + c) : Vec::all(0.0f);
    for (int p = 0; p < P; ++p) sum[p] = bias;
#pragma GCC unroll 5
    for (int i = 0; i < K; ++i) {
      const T* const line = starts[i] + c;
      const T* from = line;
#pragma GCC unroll 16
      for (int q = 0; q < (S > 0 ? (P - 1) * S + K : P * K); ++q) {
        const Vec one = load(S > 0 ? from : line + q / K * pixel + q % K * tap);
        from += tap;
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) {
          const int j = q - p * (S > 0 ? S : K);
          if (0 <= j && j < K) sum[p] = fma(one, weight[i * K + j], sum[p]);
        }
      }
    }
    // The window's last rows have what others before did not read.
    for (int i = 0; kFar && i < (S == 2 ? 2 : 1); ++i)
      for (int p = 0; p < P * (S > 0 ? S : 1); ++p) __builtin_prefetch(starts[K - 1 - i] + c + ahead + p * tap, 0, 2);
    for (int p = 0; old && p < P; ++p) __builtin_prefetch(old + p * old_pixel + c * sizeof(T), 1, 3);
    for (int p = 0; p < P; ++p) within(sum[p]).store(tile + p * stride + c);
  };
  int64_t c = 0;
  for (; c + Vec::width <= channels; c += Vec::width) compute(c, [](const auto* p) { return Vec::load(p); });
  const int rest = static_cast<int>(channels - c);
  if (rest > 0) compute(c, [rest](const auto* p) { return Vec::load(p, rest); });
}

template <class T, int K, int S, bool kFar>
void depthwise_run(const Depthwise& d, const Bounds& bounds, const T** lines, const Steps& steps, const char* old,
                   int count, float* tile, int64_t stride) {
  constexpr int together = 4;
  const auto next = [&](int pixels) {
    for (int i = 0; i < K; ++i) lines[i] += pixels * steps.pixel;
    if (old) old += pixels * steps.old;
    tile += pixels * stride;
  };
  int p = 0;
  for (; p + together <= count; p += together, next(together))
    depthwise_few<T, K, S, together, kFar>(d, bounds, lines, steps, old, tile, stride);
  for (; p + 2 <= count; p += 2, next(2)) depthwise_few<T, K, S, 2, kFar>(d, bounds, lines, steps, old, tile, stride);
  for (; p < count; ++p, next(1)) depthwise_few<T, K, S, 1, kFar>(d, bounds, lines, steps, old, tile, stride);
}

// A run of pixels inside, from `place` on.
template <class T, int K, class Lines>
void depthwise_run(const Depthwise& d, const Bounds& bounds, const Lines& map, const Place& place, const char* old,
                   int64_t old_pixel, int count, float* tile, int64_t stride) {
  const Window& w = d.window;
  const Steps steps{w.x.step * map.pitch, w.x.stride * map.pitch, old_pixel};
  const T* lines[K];
  for (int i = 0; i < K; ++i)
    lines[i] = map.line(place.n, w.y.first(place.y) + i * w.y.step) + w.x.first(place.x) * map.pitch;
  constexpr bool kFar = Lines::kFar;
  const int64_t apart = w.x.stride == w.x.step ? 1 : w.x.stride == 2 * w.x.step ? 2 : 0;
  if (apart == 1) depthwise_run<T, K, 1, kFar>(d, bounds, lines, steps, old, count, tile, stride);
  else if (apart == 2) depthwise_run<T, K, 2, kFar>(d, bounds, lines, steps, old, count, tile, stride);
  else depthwise_run<T, K, 0, kFar>(d, bounds, lines, steps, old, count, tile, stride);
}

// How many of the listed pixels follow each other in the inner part of one image row.
inline int run_length(const Window& w, const Place& place, const int32_t* pixels, int rows) {
  if (!w.y.has(place.y) || !w.x.has(place.x)) return 0;
  const int limit = static_cast<int>(least(rows, w.x.end - place.x));
  int n = 1;
  while (n < limit && pixels[n] == pixels[0] + n) ++n;
  return n;
}

// The new values of some pixels. `old` has what is compared with them, or nothing.
template <class T, class Lines>
void depthwise_rows(const Depthwise& d, const Bounds& bounds, const Lines& map, const Matrix& old,
                    const int32_t* pixels, int rows, float* tile, int64_t stride) {
  const Window& w = d.window;
  const int64_t side = w.kernel_rows == w.kernel_columns ? w.kernel_rows : 0;
  const int64_t old_pixel = old.pitch * static_cast<int64_t>(sizeof(T));
  Tap<T>* taps = tap_list<T>(w);
  Place place;
  for (int r = 0; r < rows;) {
    place = place.at(pixels[r], w);
    const int run = side == 3 || side == 5 ? run_length(w, place, pixels + r, rows - r) : 0;
    float* to = tile + r * stride;
    if (run == 0) {
      depthwise_pixel(d, bounds, taps, list_taps(map, w, place, taps), to);
      ++r;
      continue;
    }
    const char* before = old.data ? static_cast<const char*>(old.data) + pixels[r] * old_pixel : nullptr;
    if (side == 3) depthwise_run<T, 3>(d, bounds, map, place, before, old_pixel, run, to, stride);
    else depthwise_run<T, 5>(d, bounds, map, place, before, old_pixel, run, to, stride);
    r += run;
    place = {pixels[r - 1], place.n, place.y, place.x + run - 1};
  }
}

template <class T>
int64_t depthwise_as(const Depthwise& d, Job job) {
  const Bounds bounds = take_bounds(job.commit.steps, job.commit.step_count);
  const int64_t cost = d.x.channels * d.window.kernel_rows * d.window.kernel_columns;
  const auto map = Stored<T>::of(d.x, d.window);
  const auto fill = [&](const int32_t* pixels, int rows, float* tile, int64_t stride, bool) {
    depthwise_rows<T>(d, bounds, map, job.commit.out, pixels, rows, tile, stride);
  };
  return for_each_tile(job, 4, near_rows(d.x.channels), cost, fill);
}

inline int64_t depthwise(const Depthwise& d, const Job& job) {
  return d.x.dtype == Dtype::bfloat16 ? depthwise_as<Bfloat16>(d, job) : depthwise_as<float>(d, job);
}
