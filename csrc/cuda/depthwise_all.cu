// Convolutions with narrow groups at all pixels: neighbours share what they read, and rows of the result are added up
// where a mean comes next.
#include <algorithm>
#include <cmath>
#include <type_traits>

#include "depthwise.cuh"
#include "whole.cuh"

namespace deltafx::cuda {
namespace {

// How output pixels of a row share what they read: which window, if it is one of these, where its first tap lies, and
// how many groups of kTogether pixels a row has.
enum class Form : int32_t { other, three, three_by_two, five, five_by_two };
struct SideBySide {
  Form form;
  int32_t row, column;
  Divisor row_groups;
};

constexpr int kResident = 2;  // blocks of a multiprocessor

// Where rows are added up, a block has some packs of channels of one row, `lanes` threads for each.
struct Lines {
  float* sums;  // [rows of all streams, channels], or null
  Divisor chunks, width;
  int32_t lanes;
};

// As a function of its own: for windows that nobody hurries.
template <class T, int P>
__device__ __noinline__ Values<P> depthwise_pack_apart(const Depthwise& d, int p, int channels, int c, int n) {
  Values<P> sum;
  depthwise_pack<T>(d, p, channels, c, n, sum.of);
  return sum;
}

// The same of R pixels side by side, with a window of K x K neighbours and stride S: what they share is read once. The
// first tap of the first pixel is at (row, column) of the stream that begins at input pixel `first`.
template <int K, int S, class T, int R, int P>
__device__ void add_side_by_side(const Depthwise& d, int first, int row, int column, int channels, int c,
                                 float (&sum)[R][P]) {
  constexpr int kRead = (R - 1) * S + K;
  const Window& w = d.window;
  for (int i = 0; i < K; ++i) {
    if (row + i < 0 || row + i >= w.in_rows) continue;
    const T* from = static_cast<const T*>(d.x.data) + c +
                    (static_cast<int64_t>(first) + (row + i) * w.in_columns + column) * d.x.pitch;
    Pack<T> raw[kRead];
#pragma unroll
    for (int u = 0; u < kRead; ++u) {
      uint4 bits = make_uint4(0, 0, 0, 0);
      if (column + u >= 0 && column + u < w.in_columns) bits = *reinterpret_cast<const uint4*>(from + u * d.x.pitch);
      *reinterpret_cast<uint4*>(raw[u].of) = bits;
    }
#pragma unroll
    for (int j = 0; j < K; ++j) {
      float by[P];
      read_tile(d.weight + (i * K + j) * channels + c, by);
#pragma unroll
      for (int r = 0; r < R; ++r)
#pragma unroll
        for (int e = 0; e < P; ++e) sum[r][e] = fmaf(number(raw[r * S + j].of[e]), by[e], sum[r][e]);
    }
  }
}

// One pack of channels, from c on, of kTogether pixels side by side, from x on, as they are written.
template <class T>
__device__ inline void depthwise_together(const Depthwise& depthwise, const SideBySide& shape, const Dense& d, int line,
                                          int x, int c, float (&sum)[kTogether][kPack<T>]) {
  constexpr int P = kPack<T>, R = kTogether;
  const Window& window = depthwise.window;
  const Matrix& out = d.commit.out;
  const int n = min(P, out.channels - c), stream = line / window.out_rows;
  const int y = line - stream * window.out_rows, first = stream * window.in_rows * window.in_columns;
  int p[R];
#pragma unroll
  for (int r = 0; r < R; ++r) {
    p[r] = line * window.out_columns + min(x + r, window.out_columns - 1);  // beyond the last: it is not written
    map(sum[r], [](float) { return 0.0f; });
  }
  const auto add = [&](auto taps, auto stride) {
    constexpr int K = decltype(taps)::value, S = decltype(stride)::value;
    add_side_by_side<K, S, T>(depthwise, first, y * S + shape.row, x * S + shape.column, out.channels, c, sum);
  };
  const std::integral_constant<int, 1> one;
  const std::integral_constant<int, 2> two;
  const std::integral_constant<int, 3> three;
  const std::integral_constant<int, 5> five;
  switch (shape.form) {
    case Form::three:
      add(three, one);
      break;
    case Form::three_by_two:
      add(three, two);
      break;
    case Form::five:
      add(five, one);
      break;
    case Form::five_by_two:
      add(five, two);
      break;
    default:
#pragma unroll
      for (int r = 0; r < R; ++r) assign(sum[r], depthwise_pack_apart<T, P>(depthwise, p[r], out.channels, c, n));
  }
  finish_packs<T>(d, p, c, n, true, sum);
#pragma unroll
  for (int r = 0; r < R; ++r)
    if (x + r < window.out_columns) store_pack(static_cast<T*>(out.data) + p[r] * out.pitch + c, n, out.packed, sum[r]);
}

// Adds the first `count` of these, as they are written, to a pack in shared memory.
template <class T, int R, int P>
__device__ inline void add_to(float* total, const float (&x)[R][P], int count) {
  float sum[P];
  read_tile(total, sum);
#pragma unroll
  for (int r = 0; r < R; ++r)
    if (r < count) map_with(sum, x[r], [](float s, float v) { return s + number(rounded<T>(v)); });
  write_tile(total, sum);
}

// A thread has one pack of channels of kTogether pixels, or of several times as many of a row, which are added up.
template <class T>
__global__ void __launch_bounds__(kWholeThreads, kResident)
    depthwise_all_kernel(const __grid_constant__ Depthwise depthwise, const __grid_constant__ SideBySide shape,
                         const __grid_constant__ Lines lines, const __grid_constant__ Dense d) {
  constexpr int P = kPack<T>, R = kTogether;
  __shared__ __align__(16) float totals[kWholeThreads][P];
  begin_kernel();
  const int groups = shape.row_groups.by, columns = depthwise.window.out_columns;
  float* const total = totals[threadIdx.x];
  const bool adds = lines.sums != nullptr;
  int line, group, pack, step = groups;
  if (!adds) {
    const int own = blockIdx.x * kWholeThreads + threadIdx.x, place = own / d.packs;
    line = place / shape.row_groups, group = place - line * groups, pack = own - place * d.packs.by;
    if (line >= d.pixels / columns) return;
  } else {
    line = blockIdx.x / lines.chunks, group = threadIdx.x / lines.width, step = lines.lanes;
    pack = (blockIdx.x - line * lines.chunks.by) * lines.width.by + threadIdx.x - group * lines.width.by;
    if (group >= lines.lanes || pack >= d.packs.by) group = groups;  // a thread too many
    const float nothing[P] = {};
    write_tile(total, nothing);
  }
  for (int g = group; g < groups; g += step) {
    float x[R][P];
    depthwise_together<T>(depthwise, shape, d, line, g * R, pack * P, x);
    if (adds) add_to<T>(total, x, columns - g * R);
  }
  if (!adds) return;
  __syncthreads();
  if (threadIdx.x >= lines.width.by || pack >= d.packs.by) return;
  float sum[P];
  read_tile(total, sum);
  for (int lane = 1; lane < lines.lanes; ++lane) {
    float more[P];
    read_tile(total + lane * lines.width.by * P, more);
    map_with(sum, more, [](float s, float v) { return s + v; });
  }
  const int channels = d.commit.out.channels;
  store_pack(lines.sums + static_cast<int64_t>(line) * channels + pack * P, min(P, channels - pack * P),
             channels % 4 == 0, sum);
}

SideBySide side_by_side(const Depthwise& d, const Commit& commit, const Axis& rows, const Axis& columns, int pack) {
  SideBySide shape{Form::other, rows.offset, columns.offset,
                   divisor(static_cast<int32_t>(divide_up(d.window.out_columns, kTogether)))};
  const bool square = rows.taps == columns.taps && rows.stride == columns.stride;
  if (!is_plain(d, commit.out.channels, pack) || !square || rows.dilation != 1 || columns.dilation != 1) return shape;
  if (rows.taps == 3 && rows.stride == 1) shape.form = Form::three;
  if (rows.taps == 3 && rows.stride == 2) shape.form = Form::three_by_two;
  if (rows.taps == 5 && rows.stride == 1) shape.form = Form::five;
  if (rows.taps == 5 && rows.stride == 2) shape.form = Form::five_by_two;
  return shape;
}

// Where blocks of `slots` are there at once: such that the device is through with `count` rows soonest. Narrower packs
// than need be are read in more pieces, so they have to be worth it; below 64 bytes they never are.
Lines lines_of(float* sums, int packs, int groups, int64_t count, int slots) {
  constexpr double kWorth = 0.85;
  double least = INFINITY;
  Lines lines{sums, divisor(1), divisor(1), 1};
  for (int chunks = 1; chunks <= packs; ++chunks) {
    const int width = static_cast<int>(divide_up(packs, chunks));
    if (width > kWholeThreads || (width < 4 && least < INFINITY)) continue;
    const int lanes = std::min(kWholeThreads / width, groups);
    const double blocks = static_cast<double>(count) * chunks;
    const double rounds = divide_up(groups, lanes) * (blocks <= slots ? 1.0 : blocks / slots + 0.5);
    if (rounds >= kWorth * least) continue;
    least = rounds, lines = {sums, divisor(chunks), divisor(width), lanes};
  }
  return lines;
}

}  // namespace

cudaError_t depthwise_all(const Depthwise& depthwise, const Axis& rows, const Axis& columns, float* sums,
                          const Commit& commit, int pixels, int plane, cudaStream_t stream) {
  return with_type(depthwise.x.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const Dense d = dense_of<T>(commit, pixels, plane);
    const SideBySide shape = side_by_side(depthwise, commit, rows, columns, kPack<T>);
    const int64_t count = pixels / depthwise.window.out_columns;
    const Lines lines = lines_of(sums, d.packs.by, shape.row_groups.by, count, kResident * multiprocessors());
    const auto launching = [&](const Blocks& blocks) {
      return launch(&depthwise_all_kernel<T>, blocks, stream, depthwise, shape, lines, d);
    };
    if (sums != nullptr) return launching(Blocks{count * lines.chunks.by, kWholeThreads, 0});
    return launch_items(count * shape.row_groups.by * d.packs.by, launching);
  });
}

}  // namespace deltafx::cuda
