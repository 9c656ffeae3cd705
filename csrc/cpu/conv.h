// Convolution of the listed pixels: out[p] = bias + sum over taps of weight[tap] * x[q(p, tap)], for any window.
//
// The rows that a few pixels read are gathered into a matrix [pixels, terms], some taps at a time, which meets one packed
// panel of weights after another. A 1x1 convolution reads neighbouring pixels where they lie. Each sum runs over taps and
// channels in one order, in runs of one length, so its bits depend on nothing but the pixel's own inputs.
#pragma once

constexpr int kPanel = kPanelVecs * Vec::width;
// Pixels of one task at most, for large weights and for others: so often a panel is used once it is in the cache.
constexpr int64_t kRows = divide_up(192, kTileRows) * kTileRows, kFewRows = kRows / 2;
static_assert(kFewRows % kTileRows == 0, "whole microkernels");
constexpr int64_t kBlocks = kRows / kTileRows;
constexpr int64_t kRun = 256;  // terms of one sum in a register: its rounding errors grow with its length
constexpr int64_t kDepth = 512;  // of one pass at most: a panel and the gathered rows stay in the second-level cache
constexpr int64_t kShared = 1 << 18;  // weights: with more, few pixels are shared by output channels, not by pixels

// A row of the gathered matrix: whole vectors, and never a power of two, which would crowd one set of the cache.
inline int64_t gathered_stride(int64_t depth) { return divide_up(depth, 16) * 16 + 16; }

template <class T>
void gather_run(const T* from, float* to, int64_t n) {
  int64_t i = 0;
  for (; i + Vec::width <= n; i += Vec::width) Vec::load(from + i).store(to + i);
  if (i < n) Vec::load(from + i, static_cast<int>(n - i)).store(to + i, static_cast<int>(n - i));
}

// The terms of a sum that one pass adds: some taps with all their channels or, of a deep input, some channels of one tap.
struct Pass {
  int64_t tap, taps, channel, channels;

  int64_t depth() const { return taps * channels; }
  int64_t start(int64_t in) const { return tap * in + channel; }
};

inline Pass first_pass(const Conv& conv) {
  const int64_t all = conv.window.kernel_rows * conv.window.kernel_columns, in = conv.in_per_group;
  return {0, least(all, most(1, kDepth / in)), 0, least(in, kDepth)};
}

// The pass after this one; that of no taps is the end.
inline Pass next_pass(const Conv& conv, Pass pass) {
  const int64_t all = conv.window.kernel_rows * conv.window.kernel_columns, in = conv.in_per_group;
  const Pass first = first_pass(conv);
  pass.channel += pass.channels;
  if (pass.channel < in) return {pass.tap, pass.taps, pass.channel, least(kDepth, in - pass.channel)};
  const int64_t tap = pass.tap + pass.taps;
  return {tap, least(first.taps, all - tap), 0, first.channels};
}

template <class T>
void gather_row(const Conv& conv, int64_t group, const Pass& pass, const Place& place, float* to) {
  const Window& w = conv.window;
  const int32_t* ys = w.rows + place.y * w.kernel_rows;
  const int32_t* xs = w.columns + place.x * w.kernel_columns;
  const T* x = static_cast<const T*>(conv.x.data) + group * conv.in_per_group + pass.channel;
  // Neighbouring pixels lie side by side and are read in one run.
  const bool joined = conv.x.pitch == pass.channels;
  const int64_t end = pass.tap + pass.taps;
  int64_t i = pass.tap / w.kernel_columns, j = pass.tap - i * w.kernel_columns;
  for (int64_t tap = pass.tap; tap < end;) {
    int64_t taps = 1;
    if (ys[i] < 0 || xs[j] < 0) {
      for (int64_t c = 0; c < pass.channels; ++c) to[c] = 0.0f;
    } else {
      while (joined && tap + taps < end && j + taps < w.kernel_columns && xs[j + taps] == xs[j] + taps) ++taps;
      gather_run(x + ((place.n * w.in_rows + ys[i]) * w.in_columns + xs[j]) * conv.x.pitch, to, taps * pass.channels);
    }
    to += taps * pass.channels;
    tap += taps;
    j += taps;
    if (j == w.kernel_columns) ++i, j = 0;
  }
}

// The left operand of a few microkernels: rows at equal distances.
struct Block {
  const float* a;
  int64_t stride;
};

// A part of the next panel, to be fetched meanwhile: `step` numbers with each term of the sum.
struct Soon {
  const float* weight;
  int64_t step;
};
constexpr int kParts = 4;  // in which a panel is fetched, one with each block

// R rows times V vectors of one panel, added to the bias or, where that is null, to what stands in `out`, and bounded.
// Sums of kRun terms stay in registers.
template <int R, int V>
void multiply(Block block, const float* panel, int64_t depth, Soon soon, const float* bias, const Bounds& bounds,
              float* out, int64_t out_stride) {
  for (int64_t start = 0; start < depth; start += kRun) {
    Vec sum[R][V];
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) sum[r][v] = Vec::all(0.0f);
    for (int64_t k = start; k < least(start + kRun, depth); ++k, panel += kPanel) {
      __builtin_prefetch(soon.weight, 0, 2);
      soon.weight += soon.step;
      Vec weight[V];
      for (int v = 0; v < V; ++v) weight[v] = Vec::load(panel + v * Vec::width);
      for (int r = 0; r < R; ++r) {
        const Vec x = Vec::all(block.a[r * block.stride + k]);
        for (int v = 0; v < V; ++v) sum[r][v] = fma(x, weight[v], sum[r][v]);
      }
    }
    const bool first = start == 0 && bias != nullptr, last = start + kRun >= depth;
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) {
        float* to = out + r * out_stride + v * Vec::width;
        const Vec x = sum[r][v] + (first ? Vec::load(bias + v * Vec::width) : Vec::load(to));
        (last ? bounds(x) : x).store(to);
      }
  }
}

// The last rows, fewer than a whole tile: the same sums in the same order.
template <int R, int V>
void multiply_rest(int rows, Block block, const float* panel, int64_t depth, Soon soon, const float* bias,
                   const Bounds& bounds, float* out, int64_t out_stride) {
  if constexpr (R > 0) {
    if (rows == R) return multiply<R, V>(block, panel, depth, soon, bias, bounds, out, out_stride);
    multiply_rest<R - 1, V>(rows, block, panel, depth, soon, bias, bounds, out, out_stride);
  }
}

template <int V>
void multiply_blocks(const Block* blocks, int rows, const float* weight, const float* next, int64_t depth,
                     const float* bias, float* out, int64_t stride, const Bounds& bounds) {
  for (int b = 0, r = 0; r < rows; ++b, r += kTileRows) {
    const int n = static_cast<int>(least(kTileRows, rows - r));
    const Soon soon = b < kParts ? Soon{next + b * depth * (kPanel / kParts), kPanel / kParts} : Soon{weight, 0};
    float* to = out + r * stride;
    if (n == kTileRows) multiply<kTileRows, V>(blocks[b], weight, depth, soon, bias, bounds, to, stride);
    else multiply_rest<kTileRows - 1, V>(n, blocks[b], weight, depth, soon, bias, bounds, to, stride);
  }
}

// One panel of output channels for all rows. A panel's last channels may not exist: they are written beyond those of the
// group, where the next group, or nobody, writes later. A last panel that is at most half full is multiplied by halves.
inline void multiply_panel(const Conv& conv, int64_t group, int64_t panel, const Pass& pass, const Block* blocks, int rows,
                           const Bounds& bounds, float* tile, int64_t stride) {
  const int64_t depth = conv.in_per_group * conv.window.kernel_rows * conv.window.kernel_columns;
  const int64_t panels = divide_up(conv.out_per_group, kPanel), first = panel * kPanel;
  const int64_t channel = group * conv.out_per_group + first, start = pass.start(conv.in_per_group);
  float bias[kPanel];
  for (int i = 0; i < kPanel; ++i)
    bias[i] = conv.bias && first + i < conv.out_per_group ? conv.bias[channel + i] : 0.0f;
  const float* from = start == 0 ? bias : nullptr;
  const float* weight = conv.weight + ((group * panels + panel) * depth + start) * kPanel;
  const float* next = weight + (panel + 1 < panels ? depth * kPanel : 0);
  if (conv.out_per_group - first <= Vec::width)
    multiply_blocks<1>(blocks, rows, weight, next, pass.depth(), from, tile + channel, stride, bounds);
  else
    multiply_blocks<kPanelVecs>(blocks, rows, weight, next, pass.depth(), from, tile + channel, stride, bounds);
}

// Computes panels [first, end) of a few pixels into their tile.
template <class T>
void convolve_rows(const Conv& conv, const Bounds& bounds, const int32_t* pixels, int rows, int64_t first, int64_t end,
                   float* tile, int64_t stride) {
  const Window& w = conv.window;
  // The pixels of a 1x1 convolution that moves nothing can be read where they lie.
  const bool direct = sizeof(T) == sizeof(float) && w.kernel_rows * w.kernel_columns == 1 && w.y.is_same(w.in_rows) &&
                      w.x.is_same(w.in_columns);
  Place places[kRows];
  Place place;
  for (int r = 0; r < rows; ++r) places[r] = place = place.at(pixels[r], w);
  Block blocks[kBlocks];
  for (int64_t group = 0; group < conv.groups; ++group) {
    for (Pass pass = first_pass(conv), next; pass.taps > 0; pass = next) {
      next = next_pass(conv, pass);
      const int64_t a_stride = gathered_stride(pass.depth());
      float* a = scratch(1, kRows * gathered_stride(kDepth));
      for (int b = 0, r = 0; r < rows; ++b, r += kTileRows) {
        const int n = static_cast<int>(least(kTileRows, rows - r));
        if (direct && pixels[r + n - 1] - pixels[r] == n - 1) {
          const float* x = static_cast<const float*>(conv.x.data) + group * conv.in_per_group + pass.channel;
          blocks[b] = {x + pixels[r] * conv.x.pitch, conv.x.pitch};
          continue;
        }
        blocks[b] = {a + r * a_stride, a_stride};
        for (int i = r; i < r + n; ++i) gather_row<T>(conv, group, pass, places[i], a + i * a_stride);
      }
      for (int64_t panel = first; panel < end; ++panel)
        multiply_panel(conv, group, panel, pass, blocks, rows, next.taps > 0 ? Bounds() : bounds, tile, stride);
    }
  }
}

template <class T>
int64_t convolve_as(const Conv& conv, Job job) {
  const Bounds bounds = take_bounds(job.commit);
  const int64_t depth = conv.in_per_group * conv.window.kernel_rows * conv.window.kernel_columns;
  const int64_t panels = divide_up(conv.out_per_group, kPanel), weights = depth * conv.out_per_group;
  const int64_t threads = job.pool.threads;

  // Few pixels and many weights: the threads share the output channels, so that each reads but its part of the weights.
  const int64_t many = job.count <= kTileRows ? kShared / 4 : kShared;
  if (threads > 1 && job.count <= kRows && conv.groups == 1 && panels > threads && weights >= many) {
    const int rows = static_cast<int>(job.count);
    const int64_t stride = tile_stride(job.commit.out.channels), share = divide_up(panels, threads);
    float* tile = scratch(0, rows * stride);
    spread(job.pool, divide_up(panels, share), [&](int64_t part) {
      convolve_rows<T>(conv, bounds, job.pixels, rows, part * share, least(panels, (part + 1) * share), tile, stride);
    });
    return commit_shared(job, tile, stride, rows);
  }

  const int64_t together = weights > 2 * kShared ? kRows : kFewRows;
  return for_each_tile(job, together, weights * conv.groups,
                       [&](const int32_t* pixels, int rows, float* tile, int64_t stride) {
                         convolve_rows<T>(conv, bounds, pixels, rows, 0, panels, tile, stride);
                       });
}

inline int64_t convolve(const Conv& conv, const Job& job) {
  return conv.x.dtype == Dtype::bfloat16 ? convolve_as<Bfloat16>(conv, job) : convolve_as<float>(conv, job);
}
