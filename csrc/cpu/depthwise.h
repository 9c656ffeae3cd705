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

// Where the taps of a run's pixels lie: elements between taps of a column, taps of a row, and pixels.
struct Steps {
  int64_t row, tap, pixel;
  int64_t old;  // bytes between the old values of pixels
};

constexpr int64_t kAhead = 1024;  // channels between what is read and what is fetched

// P pixels of a run, of which `x` is the first tap. With S > 0 pixels are S taps apart, and what several read is loaded once.
template <class T, int K, int S, int P>
void depthwise_few(const Depthwise& d, const Bounds& bounds, const T* x, const Steps& steps, const char* old, float* tile,
                   int64_t stride) {
  // Copies, which stay in registers whatever is stored.
  const int64_t channels = d.x.channels, row = steps.row, tap = steps.tap, pixel = steps.pixel;
  const int64_t old_pixel = steps.old, ahead = divide_up(kAhead, channels) * pixel + (K - 1) * (row + tap);
  const float* const weights = d.weight;
  const float* const biases = d.bias;
  const Bounds within = bounds;
  const auto compute = [=](int64_t c, auto load) {
    Vec weight[K * K], sum[P];
    for (int t = 0; t < K * K; ++t) weight[t] = load(weights + t * channels + c);
    const Vec bias = biases ? load(biases + c) : Vec::all(0.0f);
    for (int p = 0; p < P; ++p) sum[p] = bias;
    const T* line = x + c;
#pragma GCC unroll 5
    for (int i = 0; i < K; ++i, line += row) {
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
    for (int i = 0; i < (S == 2 ? 2 : 1); ++i)
      for (int p = 0; p < P * (S > 0 ? S : 1); ++p) __builtin_prefetch(x + c + ahead + p * tap - i * row, 0, 2);
    for (int p = 0; p < P; ++p) __builtin_prefetch(old + p * old_pixel + c * sizeof(T), 1, 3);
    for (int p = 0; p < P; ++p) within(sum[p]).store(tile + p * stride + c);
  };
  int64_t c = 0;
  for (; c + Vec::width <= channels; c += Vec::width) compute(c, [](const auto* p) { return Vec::load(p); });
  const int rest = static_cast<int>(channels - c);
  if (rest > 0) compute(c, [rest](const auto* p) { return Vec::load(p, rest); });
}

template <class T, int K, int S>
void depthwise_run(const Depthwise& d, const Bounds& bounds, const T* x, const Steps& steps, const char* old, int count, float* tile,
                   int64_t stride) {
  constexpr int together = 4;
  int p = 0;
  for (; p + together <= count; p += together)
    depthwise_few<T, K, S, together>(d, bounds, x + p * steps.pixel, steps, old + p * steps.old, tile + p * stride, stride);
  for (; p < count; ++p)
    depthwise_few<T, K, S, 1>(d, bounds, x + p * steps.pixel, steps, old + p * steps.old, tile + p * stride, stride);
}

template <class T, int K>
void depthwise_run(const Depthwise& d, const Bounds& bounds, const T* x, const Steps& steps, const char* old, int count, float* tile,
                   int64_t stride) {
  if (steps.pixel == steps.tap) return depthwise_run<T, K, 1>(d, bounds, x, steps, old, count, tile, stride);
  if (steps.pixel == 2 * steps.tap) return depthwise_run<T, K, 2>(d, bounds, x, steps, old, count, tile, stride);
  depthwise_run<T, K, 0>(d, bounds, x, steps, old, count, tile, stride);
}

// How many of the listed pixels follow each other in the inner part of one image row.
inline int run_length(const Window& w, const Place& place, const int32_t* pixels, int rows) {
  if (!w.y.has(place.y) || !w.x.has(place.x)) return 0;
  const int limit = static_cast<int>(least(rows, w.x.end - place.x));
  int n = 1;
  while (n < limit && pixels[n] == pixels[0] + n) ++n;
  return n;
}

template <class T>
int64_t depthwise_as(const Depthwise& d, Job job) {
  const Bounds bounds = take_bounds(job.commit);
  const Window& w = d.window;
  const int64_t cost = d.x.channels * w.kernel_rows * w.kernel_columns;
  const int64_t side = w.kernel_rows == w.kernel_columns ? w.kernel_rows : 0;
  const Matrix& out = job.commit.out;
  const Steps steps{w.y.step * w.in_columns * d.x.pitch, w.x.step * d.x.pitch, w.x.stride * d.x.pitch,
                    out.pitch * static_cast<int64_t>(sizeof(T))};
  return for_each_tile(job, 4, near_rows(d.x.channels), cost, [&](const int32_t* pixels, int rows, float* tile, int64_t stride, bool) {
    Tap<T>* taps = tap_list<T>(w);
    Place place;
    for (int r = 0; r < rows;) {
      place = place.at(pixels[r], w);
      const int run = side == 3 || side == 5 ? run_length(w, place, pixels + r, rows - r) : 0;
      float* to = tile + r * stride;
      if (run == 0) {
        depthwise_pixel(d, bounds, taps, list_taps(d.x, w, place, taps), to);
        ++r;
        continue;
      }
      const int64_t first = (place.n * w.in_rows + w.y.first(place.y)) * w.in_columns + w.x.first(place.x);
      const T* x = static_cast<const T*>(d.x.data) + first * d.x.pitch;
      const char* old = static_cast<const char*>(out.data) + pixels[r] * steps.old;
      if (side == 3) depthwise_run<T, 3>(d, bounds, x, steps, old, run, to, stride);
      else depthwise_run<T, 5>(d, bounds, x, steps, old, run, to, stride);
      r += run;
      place = {pixels[r - 1], place.n, place.y, place.x + run - 1};
    }
  });
}

inline int64_t depthwise(const Depthwise& d, const Job& job) {
  return d.x.dtype == Dtype::bfloat16 ? depthwise_as<Bfloat16>(d, job) : depthwise_as<float>(d, job);
}
