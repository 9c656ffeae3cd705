// Convolution of the listed pixels: out[p] = bias + sum over taps of weight[tap] * x[q(p, tap)], for any window.
//
// The rows that a few pixels read are gathered into a matrix [pixels, taps * channels], which meets one packed panel of
// weights after another. Each sum runs over taps and channels in one order, in runs of one length, so its bits depend on
// nothing but the pixel's own inputs.
#pragma once

constexpr int kPanel = kPanelVecs * Vec::width;
constexpr int64_t kRows = divide_up(96, kTileRows) * kTileRows;  // pixels of one task at most: so often a panel is used once it is in the cache
constexpr int64_t kRun = 256;  // terms of one sum in a register: its rounding errors grow with its length
constexpr int64_t kDepth = 1024;  // of one pass: a panel and the gathered rows stay in the second-level cache

// A row of the gathered matrix: whole vectors, and never a power of two, which would crowd one set of the cache.
inline int64_t gathered_stride(int64_t depth) { return divide_up(depth, 16) * 16 + 16; }

template <class T>
void gather_run(const T* from, float* to, int64_t n) {
  int64_t i = 0;
  for (; i + Vec::width <= n; i += Vec::width) Vec::load(from + i).store(to + i);
  if (i < n) Vec::load(from + i, static_cast<int>(n - i)).store(to + i, static_cast<int>(n - i));
}

template <class T>
void gather(const Conv& conv, int64_t group, const int32_t* pixels, int rows, float* out, int64_t stride) {
  const Window& w = conv.window;
  const int64_t depth = conv.in_per_group, plane = w.out_rows * w.out_columns;
  const bool joined = conv.x.pitch == depth;  // neighbouring pixels lie side by side and are read in one run
  for (int r = 0; r < rows; ++r) {
    const int64_t n = pixels[r] / plane, place = pixels[r] % plane;
    const int32_t* ys = w.rows + place / w.out_columns * w.kernel_rows;
    const int32_t* xs = w.columns + place % w.out_columns * w.kernel_columns;
    float* to = out + r * stride;
    for (int64_t i = 0; i < w.kernel_rows; ++i) {
      for (int64_t j = 0; j < w.kernel_columns;) {
        int64_t taps = 1;
        if (ys[i] < 0 || xs[j] < 0) {
          for (int64_t c = 0; c < depth; ++c) to[c] = 0.0f;
        } else {
          while (joined && j + taps < w.kernel_columns && xs[j + taps] == xs[j] + taps) ++taps;
          const int64_t q = (n * w.in_rows + ys[i]) * w.in_columns + xs[j];
          gather_run(static_cast<const T*>(conv.x.data) + q * conv.x.pitch + group * depth, to, taps * depth);
        }
        to += taps * depth;
        j += taps;
      }
    }
  }
}

// R rows times one panel, added to the bias or, where that is null, to what stands in `out`. Sums of kRun terms stay in
// registers.
template <int R>
void multiply(const float* a, int64_t a_stride, const float* panel, int64_t depth, const float* bias, float* out,
              int64_t out_stride) {
  for (int64_t start = 0; start < depth; start += kRun) {
    Vec sum[R][kPanelVecs];
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < kPanelVecs; ++v) sum[r][v] = Vec::all(0.0f);
    for (int64_t k = start; k < least(start + kRun, depth); ++k, panel += kPanel) {
      Vec weight[kPanelVecs];
      for (int v = 0; v < kPanelVecs; ++v) weight[v] = Vec::load(panel + v * Vec::width);
      for (int r = 0; r < R; ++r) {
        const Vec x = Vec::all(a[r * a_stride + k]);
        for (int v = 0; v < kPanelVecs; ++v) sum[r][v] = fma(x, weight[v], sum[r][v]);
      }
    }
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < kPanelVecs; ++v) {
        float* to = out + r * out_stride + v * Vec::width;
        (sum[r][v] + Vec::load(start == 0 && bias ? bias + v * Vec::width : to)).store(to);
      }
  }
}

// The last rows, fewer than a whole tile: the same sums in the same order.
template <int R>
void multiply_rest(int rows, const float* a, int64_t a_stride, const float* panel, int64_t depth, const float* bias,
                   float* out, int64_t out_stride) {
  if constexpr (R > 0) {
    if (rows == R) return multiply<R>(a, a_stride, panel, depth, bias, out, out_stride);
    multiply_rest<R - 1>(rows, a, a_stride, panel, depth, bias, out, out_stride);
  }
}

// One panel of output channels for all rows, from `start` of the depth on. A panel's last channels may not exist: they
// are written beyond those of the group, where the next group, or nobody, writes later.
inline void multiply_panel(const Conv& conv, int64_t group, int64_t panel, int64_t start, const float* a,
                           int64_t a_stride, int rows, float* tile, int64_t stride) {
  const int64_t depth = conv.in_per_group * conv.window.kernel_rows * conv.window.kernel_columns;
  const int64_t panels = divide_up(conv.out_per_group, kPanel), first = panel * kPanel;
  const int64_t channel = group * conv.out_per_group + first;
  float bias[kPanel];
  for (int i = 0; i < kPanel; ++i)
    bias[i] = conv.bias && first + i < conv.out_per_group ? conv.bias[channel + i] : 0.0f;
  const float* from = start == 0 ? bias : nullptr;
  const float* weight = conv.weight + ((group * panels + panel) * depth + start) * kPanel;
  const int64_t part = least(kDepth, depth - start);
  float* out = tile + channel;
  a += start;
  int r = 0;
  for (; r + kTileRows <= rows; r += kTileRows)
    multiply<kTileRows>(a + r * a_stride, a_stride, weight, part, from, out + r * stride, stride);
  if (r < rows)
    multiply_rest<kTileRows - 1>(rows - r, a + r * a_stride, a_stride, weight, part, from, out + r * stride, stride);
}

template <class T>
int64_t convolve_as(const Conv& conv, const Job& job) {
  const int64_t depth = conv.in_per_group * conv.window.kernel_rows * conv.window.kernel_columns;
  const int64_t panels = divide_up(conv.out_per_group, kPanel), a_stride = gathered_stride(depth);

  // So few pixels that they do not occupy the threads: these share the output channels instead.
  if (job.count <= kTileRows && conv.groups == 1 && panels > 1) {
    const int rows = static_cast<int>(job.count);
    const int64_t stride = tile_stride(job.commit.out.channels);
    float* a = scratch(1, rows * a_stride);
    float* tile = scratch(0, rows * stride);
    gather<T>(conv, 0, job.pixels, rows, a, a_stride);
    const int64_t parts = depth * conv.out_per_group < (1 << 16) ? 1 : job.pool.threads;
    const int64_t share = divide_up(panels, parts);
    spread(job.pool, divide_up(panels, share), [&](int64_t part) {
      for (int64_t p = part * share; p < least(panels, (part + 1) * share); ++p)
        for (int64_t start = 0; start < depth; start += kDepth)
          multiply_panel(conv, 0, p, start, a, a_stride, rows, tile, stride);
    });
    return commit_rows(job.commit, tile, stride, job.pixels, rows);
  }

  return for_each_tile(job, kRows, [&](const int32_t* pixels, int rows, float* tile, int64_t stride) {
    float* a = scratch(1, rows * a_stride);
    for (int64_t group = 0; group < conv.groups; ++group) {
      gather<T>(conv, group, pixels, rows, a, a_stride);
      for (int64_t start = 0; start < depth; start += kDepth)
        for (int64_t panel = 0; panel < panels; ++panel)
          multiply_panel(conv, group, panel, start, a, a_stride, rows, tile, stride);
    }
  });
}

inline int64_t convolve(const Conv& conv, const Job& job) {
  return conv.x.dtype == Dtype::bfloat16 ? convolve_as<Bfloat16>(conv, job) : convolve_as<float>(conv, job);
}
