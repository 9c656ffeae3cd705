// Convolutions with narrow groups, depthwise ones above all, which no tensor core helps:
// out[p][o] = sum over taps t and the channels c of o's group of x[q(p, t)][c] * weight[t][c][o].
#include <type_traits>

#include "rows.cuh"
#include "taps.cuh"
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

// Whether output channel c reads input channel c alone, 16 bytes at once.
__host__ __device__ inline bool is_plain(const Depthwise& d, int channels, int pack) {
  return d.in_per_group == 1 && d.out_per_group == 1 && channels % pack == 0 && d.x.packed;
}

// A pack of channels of a pixel: c and n - 1 following ones.
template <class T, int P>
__device__ void depthwise_pack(const Depthwise& d, int p, int channels, int c, int n, float (&sum)[P]) {
  map(sum, [](float) { return 0.0f; });
  const int kernel_columns = d.window.kernel_columns;
  if (is_plain(d, channels, P)) {
    for_each_pack<T>(d.window, d.x, p, c, [&](int i, int j, const Pack<T>& raw, bool there) {
      float w[P];
      read_tile(d.weight + (i * kernel_columns + j) * channels + c, w);
#pragma unroll
      for (int e = 0; e < P; ++e) sum[e] = fmaf(there ? number(raw.of[e]) : 0.0f, w[e], sum[e]);
    });
    return;
  }
  for_each_tap(d.window, p, [&](int i, int j, int q) {
    const float* weight = d.weight + (i * kernel_columns + j) * d.in_per_group * channels + c;
    const T* from = static_cast<const T*>(d.x.data) + q * d.x.pitch;
    for (int k = 0; k < d.in_per_group; ++k, weight += channels) {
      float w[P];
      load_pack(weight, n, channels % P == 0, w);
#pragma unroll
      for (int e = 0; e < P; ++e)
        if (e < n) sum[e] = fmaf(number(from[(c + e) / d.out_per_group * d.in_per_group + k]), w[e], sum[e]);
    }
  });
}

// As a function of its own: for windows that nobody hurries.
template <class T, int P>
__device__ __noinline__ void depthwise_pack_apart(const Depthwise& d, int p, int channels, int c, int n, float* sum) {
  float own[P];
  depthwise_pack<T>(d, p, channels, c, n, own);
#pragma unroll
  for (int e = 0; e < P; ++e) sum[e] = own[e];
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

template <class T>
__global__ void __launch_bounds__(kRowThreads, kRowResident)
    depthwise_kernel(const __grid_constant__ Depthwise d, const __grid_constant__ Job job, RowTile shape) {
  begin_kernel();
  const int channels = job.commit.out.channels;
  for_each_tile<T>(job, shape,
                   [&](int p, int c, int n, float (&sum)[kPack<T>]) { depthwise_pack<T>(d, p, channels, c, n, sum); });
}

// A thread has one pack of channels of kTogether pixels side by side.
template <class T>
__global__ void __launch_bounds__(kWholeThreads)
    depthwise_all_kernel(const __grid_constant__ Depthwise depthwise, const __grid_constant__ SideBySide shape,
                         const __grid_constant__ Dense d) {
  constexpr int P = kPack<T>, R = kTogether;
  begin_kernel();
  const Window& window = depthwise.window;
  const Matrix& out = d.commit.out;
  const int own = blockIdx.x * kWholeThreads + threadIdx.x, group = own / d.packs, line = group / shape.row_groups;
  if (line >= d.pixels / window.out_columns) return;
  const int c = (own - group * d.packs.by) * P, n = min(P, out.channels - c);
  const int x = (group - line * shape.row_groups.by) * R, stream = line / window.out_rows;
  const int y = line - stream * window.out_rows, first = stream * window.in_rows * window.in_columns;
  int p[R];
  float sum[R][P];
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
      for (int r = 0; r < R; ++r) {
        float one[P];
        depthwise_pack_apart<T, P>(depthwise, p[r], out.channels, c, n, one);
        map_with(sum[r], one, [](float, float v) { return v; });
      }
  }
  finish_packs<T>(d, p, c, n, true, sum);
#pragma unroll
  for (int r = 0; r < R; ++r)
    if (x + r < window.out_columns) store_pack(static_cast<T*>(out.data) + p[r] * out.pitch + c, n, out.packed, sum[r]);
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

}  // namespace

cudaError_t depthwise(const Depthwise& d, const Job& job, cudaStream_t stream) {
  const RowTile shape(job.commit.out.channels, job.capacity);
  return with_type(d.x.dtype, [&](auto* type) {
    return launch_rows(&depthwise_kernel<std::remove_pointer_t<decltype(type)>>, job, shape, stream, d, job, shape);
  });
}

cudaError_t depthwise_all(const Depthwise& depthwise, const Axis& rows, const Axis& columns, const Commit& commit,
                          int pixels, int plane, cudaStream_t stream) {
  return with_type(depthwise.x.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const Dense d = dense_of<T>(commit, pixels, plane);
    const SideBySide shape = side_by_side(depthwise, commit, rows, columns, kPack<T>);
    const int64_t lines = pixels / depthwise.window.out_columns;
    return launch_items(lines * shape.row_groups.by * d.packs.by, [&](const Blocks& blocks) {
      return launch(&depthwise_all_kernel<T>, blocks, stream, depthwise, shape, d);
    });
  });
}

}  // namespace deltafx::cuda
