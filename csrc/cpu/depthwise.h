// Depthwise convolution of the listed pixels: out[p][c] = bias[c] + sum over taps of weight[tap][c] * x[q(tap)][c].
//
// Neighbours in an image row whose whole window lies inside are computed in one run, with the weights of a few channels
// in registers; other pixels one by one. Both add the taps in the same order.
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

// `x` is the first tap of the first pixel; rows of taps, taps and pixels lie at equal distances.
template <class T, int K>
void depthwise_run(const Depthwise& d, const Bounds& bounds, const T* x, int64_t row, int64_t tap, int64_t pixel,
                   int count, float* tile, int64_t stride) {
  const int64_t channels = d.x.channels;
  for_each_block(channels, [&](int64_t c, int n) {
    Vec weight[K * K];
    for (int t = 0; t < K * K; ++t) weight[t] = load_some(d.weight + t * channels + c, n);
    const Vec bias = d.bias ? load_some(d.bias + c, n) : Vec::all(0.0f);
    const auto compute = [&](auto load) {
      const T* from = x + c;
      float* to = tile + c;
      for (int p = 0; p < count; ++p, from += pixel, to += stride) {
        Vec sum = bias;
        for (int i = 0; i < K; ++i)
          for (int j = 0; j < K; ++j) sum = fma(load(from + i * row + j * tap), weight[i * K + j], sum);
        bounds(sum).store(to);
      }
    };
    if (n == Vec::width) compute([](const T* p) { return Vec::load(p); });
    else compute([n](const T* p) { return Vec::load(p, n); });
  });
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
  const int64_t row = w.y.step * w.in_columns * d.x.pitch, tap = w.x.step * d.x.pitch, pixel = w.x.stride * d.x.pitch;
  return for_each_tile(job, 64, cost, [&](const int32_t* pixels, int rows, float* tile, int64_t stride) {
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
      if (side == 3) depthwise_run<T, 3>(d, bounds, x, row, tap, pixel, run, to, stride);
      else depthwise_run<T, 5>(d, bounds, x, row, tap, pixel, run, to, stride);
      r += run;
      place = {pixels[r - 1], place.n, place.y, place.x + run - 1};
    }
  });
}

inline int64_t depthwise(const Depthwise& d, const Job& job) {
  return d.x.dtype == Dtype::bfloat16 ? depthwise_as<Bfloat16>(d, job) : depthwise_as<float>(d, job);
}
