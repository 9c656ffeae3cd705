// Depthwise convolution of the listed pixels: out[p][c] = bias[c] + sum over taps of weight[tap][c] * x[q(tap)][c].
#pragma once

template <class T>
int64_t depthwise_as(const Depthwise& d, const Job& job) {
  const int64_t channels = d.x.channels, columns = d.window.kernel_columns;
  return for_each_row<T>(d.x, d.window, job, [&](const Tap<T>* taps, int count, int32_t, float* row) {
    constexpr int kVecs = 4;  // of channels at once: enough sums in flight to hide the latency of one
    int64_t c = 0;
    for (; c + kVecs * Vec::width <= channels; c += kVecs * Vec::width) {
      Vec sum[kVecs];
      for (int v = 0; v < kVecs; ++v) sum[v] = d.bias ? Vec::load(d.bias + c + v * Vec::width) : Vec::all(0.0f);
      for (int t = 0; t < count; ++t) {
        const float* weight = d.weight + (taps[t].row * columns + taps[t].column) * channels + c;
        for (int v = 0; v < kVecs; ++v)
          sum[v] = fma(Vec::load(taps[t].x + c + v * Vec::width), Vec::load(weight + v * Vec::width), sum[v]);
      }
      for (int v = 0; v < kVecs; ++v) sum[v].store(row + c + v * Vec::width);
    }
    for (; c < channels; c += Vec::width) {
      const int n = static_cast<int>(least(Vec::width, channels - c));
      Vec sum = d.bias ? load_some(d.bias + c, n) : Vec::all(0.0f);
      for (int t = 0; t < count; ++t) {
        const float* weight = d.weight + (taps[t].row * columns + taps[t].column) * channels + c;
        sum = fma(load_some(taps[t].x + c, n), load_some(weight, n), sum);
      }
      sum.store(row + c);
    }
  });
}

inline int64_t depthwise(const Depthwise& d, const Job& job) {
  return d.x.dtype == Dtype::bfloat16 ? depthwise_as<Bfloat16>(d, job) : depthwise_as<float>(d, job);
}
