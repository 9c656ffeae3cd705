// The CUDA kernels as PyTorch operators: checks tensors, takes them apart, declares what is written to.
//
// Every feature map comes as a matrix [pixels, channels] over all streams, whose channels lie side by side. Launches go
// to the current stream of the device on which the result lies; nothing waits for the device.
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "../cuda/choose.h"
#include "../cuda/dense.h"
#include "../cuda/kernels.h"

namespace deltafx {
namespace {

using at::Tensor;
using namespace deltafx::cuda;  // NOLINT: this file only translates between the two

Dtype dtype_of(const Tensor& x, const char* name) {
  if (x.scalar_type() == at::kFloat) return Dtype::float32;
  if (x.scalar_type() == at::kHalf) return Dtype::float16;
  if (x.scalar_type() == at::kBFloat16) return Dtype::bfloat16;
  if (x.scalar_type() == at::kByte) return Dtype::uint8;
  TORCH_CHECK_TYPE(false, name, ": float32, float16 or bfloat16 is supported; got ", x.scalar_type());
}

// Whether 16 bytes can be read there at once.
bool is_aligned(const void* at) { return reinterpret_cast<uintptr_t>(at) % 16 == 0; }

bool is_packed(const Tensor& x) { return is_aligned(x.data_ptr()) && x.stride(0) * x.element_size() % 16 == 0; }

Matrix matrix(const Tensor& x, const char* name) {
  TORCH_CHECK_VALUE(x.device().is_cuda(), name, ": a CUDA tensor is needed; got one on ", x.device());
  TORCH_CHECK_VALUE(x.dim() == 2, name, ": a matrix [pixels, channels] is needed; got ", x.sizes());
  TORCH_CHECK_VALUE(x.size(1) == 1 || x.stride(1) == 1, name, ": channels must lie side by side; strides ",
                    x.strides());
  TORCH_CHECK_VALUE(x.size(0) < INT32_MAX && x.size(1) < INT32_MAX, name, ": too large, ", x.sizes());
  const Dtype dtype = dtype_of(x, name);
  TORCH_CHECK_TYPE(dtype != Dtype::uint8, name, ": float32, float16 or bfloat16 is supported; got ", x.scalar_type());
  return {x.data_ptr(), x.stride(0), static_cast<int32_t>(x.size(1)), dtype, is_packed(x)};
}

template <class T>
T* data(const Tensor& x, at::ScalarType type, int64_t size, const char* name) {
  TORCH_CHECK_VALUE(x.device().is_cuda() && x.scalar_type() == type && x.is_contiguous() && x.numel() >= size, name,
                    ": a contiguous ", type, " CUDA tensor of ", size, " elements is needed; got ", x.scalar_type(),
                    " ", x.sizes(), " on ", x.device());
  return static_cast<T*>(x.data_ptr());
}

template <class T>
T* data(const std::optional<Tensor>& x, at::ScalarType type, int64_t size, const char* name) {
  return x ? data<T>(*x, type, size, name) : nullptr;
}

const uint8_t* refreshing(const Tensor& refresh) {
  return reinterpret_cast<const uint8_t*>(data<bool>(refresh, at::kBool, 1, "refresh"));
}

Window window_of(const Tensor& rows, const Tensor& columns, int64_t in_rows, int64_t in_columns) {
  TORCH_CHECK_VALUE(rows.dim() == 2 && columns.dim() == 2, "window: tables [outputs, taps] are needed");
  const auto size = [](int64_t n) { return static_cast<int32_t>(n); };
  return {data<int32_t>(rows, at::kInt, rows.numel(), "rows"),
          data<int32_t>(columns, at::kInt, columns.numel(), "columns"),
          size(rows.size(1)),
          size(columns.size(1)),
          size(in_rows),
          size(in_columns),
          size(rows.size(0)),
          size(columns.size(0))};
}

// Runs f(stream) on the device of the tensor, and raises what its launches say.
template <class F>
void on_device_of(const Tensor& x, F f) {
  const c10::cuda::CUDAGuard guard(x.device());
  const cudaError_t error = f(c10::cuda::getCurrentCUDAStream().stream());
  TORCH_CHECK(error == cudaSuccess, "deltafx: ", cudaGetErrorString(error));
}

// ---------------------------------------------------------------------------------------------------------------------

// The pixels of each stream and of each row of the grid, then for both axes of the window stride, offset, dilation,
// taps and input size, as Axis has them.
using RuleSizes = std::array<int32_t, 12>;

RuleSizes rule_sizes(at::IntArrayRef numbers) {
  RuleSizes sizes;
  TORCH_CHECK_VALUE(numbers.size() == sizes.size(), "rule: ", sizes.size(), " numbers are needed; got ",
                    numbers.size());
  std::copy(numbers.begin(), numbers.end(), sizes.begin());
  return sizes;
}

Axis axis_of(at::IntArrayRef numbers) {
  TORCH_CHECK_VALUE(numbers.size() == 5, "axis: 5 numbers are needed; got ", numbers.size());
  const auto number = [&](int i) { return static_cast<int32_t>(numbers[i]); };
  return {number(0), number(1), number(2), number(3), number(4)};
}

template <int N>
Rule<N> rule_of(at::TensorList masks, at::IntArrayRef relations, at::IntArrayRef numbers, const Tensor& refresh) {
  TORCH_CHECK_VALUE(masks.size() == relations.size(), "rule: a relation is needed for each mask");
  TORCH_CHECK_VALUE(masks.size() <= N, "rule: at most ", N, " masks; got ", masks.size());
  const RuleSizes s = rule_sizes(numbers);
  Rule<N> rule{};
  rule.grid = grid_of(static_cast<int>(refresh.numel()), s[0], s[1]);
  TORCH_CHECK_VALUE(rule.grid.units() <= kMostUnits, "rule: at most ", kMostUnits, " units of pixels");
  rule.row_axis = axis_of(numbers.slice(2, 5)), rule.column_axis = axis_of(numbers.slice(7, 5));
  rule.in_words = divisor(std::max(1, (rule.column_axis.in + 31) / 32));
  rule.refresh = refreshing(refresh);
  rule.source_count = static_cast<int32_t>(masks.size());
  for (size_t i = 0; i < masks.size(); ++i) {
    const auto relation = static_cast<Relation>(relations[i]);
    TORCH_CHECK_VALUE(relation != Relation::whole || s[0] == 1, "rule: a whole stream gives one pixel");
    const int64_t each = relation == Relation::same         ? s[0]
                         : relation == Relation::per_stream ? 1
                                                            : int64_t{rule.row_axis.in} * rule.column_axis.in;
    const auto* mask = data<uint8_t>(masks[i], at::kByte, refresh.numel() * each, "masks");
    const int64_t row = relation == Relation::same ? rule.grid.columns : rule.column_axis.in;
    int32_t alignment = 16;
    while (alignment > 1 && (reinterpret_cast<uintptr_t>(mask) % alignment || each % alignment || row % alignment))
      alignment /= alignment == 4 ? 4 : 2;
    rule.sources[i] = {mask, relation, static_cast<int32_t>(each), alignment};
  }
  return rule;
}

void collect_op(at::TensorList masks, at::IntArrayRef relations, at::IntArrayRef rule, const Tensor& rows,
                const Tensor& columns, int64_t in_rows, int64_t in_columns, const Tensor& refresh, Tensor pixels,
                Tensor found, std::optional<Tensor> mask, std::optional<Tensor> tally) {
  Collect job{};
  job.rule = rule_of<kMaxSources>(masks, relations, rule, refresh);
  job.window = window_of(rows, columns, in_rows, in_columns);
  const Grid& grid = job.rule.grid;
  job.pixels = data<int32_t>(pixels, at::kInt, int64_t{grid.streams} * grid.plane.by, "pixels");
  job.found = data<int32_t>(found, at::kInt, grid.units(), "found");
  TORCH_CHECK_VALUE(mask.has_value() == tally.has_value(), "mask: it comes with a tally");
  job.mask = data<uint8_t>(mask, at::kByte, int64_t{grid.streams} * grid.plane.by, "mask");
  job.tally = data<int64_t>(tally, at::kLong, kTallySize, "tally");
  on_device_of(pixels, [&](cudaStream_t stream) { return collect(job, stream); });
}

void clear_op(const Tensor& pieces) {
  static_assert(sizeof(Piece) == 2 * sizeof(int64_t));
  const auto* piece = reinterpret_cast<const Piece*>(data<int64_t>(pieces, at::kLong, pieces.numel(), "pieces"));
  on_device_of(pieces, [&](cudaStream_t stream) { return clear(piece, pieces.numel() / 2, stream); });
}

// What every kernel that ends with a commit is given.
struct Ending {
  at::TensorList masks;
  at::IntArrayRef relations;
  at::IntArrayRef rule;
  const std::optional<Tensor>& pixels;
  const std::optional<Tensor>& found;
  at::TensorList operands;
  at::IntArrayRef steps;         // code and kind of each step
  at::ArrayRef<double> numbers;  // a and b of each step
  const std::optional<Tensor>& forced;
  const Tensor& refresh;
  double threshold;
  bool max_norm;
  const Tensor& out;
  const std::optional<Tensor>& mask;
  const std::optional<Tensor>& tally;
};

void add_steps(const Ending& e, int64_t all, int64_t streams, Commit& commit) {
  TORCH_CHECK_VALUE(e.steps.size() == e.numbers.size() && e.steps.size() % 2 == 0,
                    "steps: a code and a kind, and two numbers, for each step");
  TORCH_CHECK_VALUE(e.steps.size() <= 2 * kMaxSteps, "steps: at most ", kMaxSteps, "; got ", e.steps.size() / 2);
  size_t operand = 0;
  for (size_t i = 0; i < e.steps.size(); i += 2) {
    Step step{static_cast<Code>(e.steps[i]),    static_cast<Operand>(e.steps[i + 1]), nullptr, 0,
              static_cast<float>(e.numbers[i]), static_cast<float>(e.numbers[i + 1]), false};
    TORCH_CHECK_VALUE((step.code >= Code::add) == (step.kind != Operand::none), "steps: a code and its operand");
    if (step.kind != Operand::none && step.kind != Operand::number) {
      TORCH_CHECK_VALUE(operand < e.operands.size(), "operands: fewer than the steps name");
      const Tensor& tensor = e.operands[operand++];
      const Matrix m = matrix(tensor, "operand");
      TORCH_CHECK_TYPE(m.dtype == (step.kind == Operand::per_channel ? Dtype::float32 : commit.out.dtype),
                       "operand: float32 for each channel, else the dtype of the result; got ", tensor.scalar_type());
      const int64_t rows = step.kind == Operand::per_channel ? 1 : step.kind == Operand::per_stream ? streams : all;
      const int64_t channels = step.kind == Operand::pixel_gate ? 1 : e.out.size(1);
      TORCH_CHECK_VALUE(tensor.size(0) == rows && tensor.size(1) == channels, "operand: [", rows, ", ", channels,
                        "] is needed; got ", tensor.sizes());
      step.operand = m.data, step.pitch = m.pitch, step.packed = m.packed;
    }
    const bool adds = i == 0 && step.kind == Operand::per_channel && step.code == Code::add && step.a == 1.0f;
    if (adds && is_aligned(step.operand))
      commit.bias = static_cast<const float*>(step.operand);
    else
      commit.steps[commit.step_count++] = step;
  }
}

Job job_of(const Ending& e) {
  const int64_t all = e.out.size(0), streams = e.refresh.numel();
  TORCH_CHECK_VALUE(streams > 0 && all % streams == 0, "out: ", all, " pixels for ", streams, " streams");
  TORCH_CHECK_VALUE(e.mask.has_value() == e.tally.has_value(), "mask: it comes with a tally");
  Job job{};
  job.capacity = static_cast<int32_t>(all);
  Candidates& candidates = job.candidates;
  TORCH_CHECK_VALUE(e.pixels.has_value() == e.found.has_value(), "pixels: they come with what was found");
  // Who is told the pixels needs no more than the grid.
  candidates.rule = e.pixels ? rule_of<kOwnSources>({}, {}, e.rule, e.refresh)
                             : rule_of<kOwnSources>(e.masks, e.relations, e.rule, e.refresh);
  const Grid& grid = candidates.rule.grid;
  TORCH_CHECK_VALUE(int64_t{grid.streams} * grid.plane.by == all, "out: ", all, " pixels; the rule is for ",
                    grid.plane.by, " in each stream");
  const bool windowed =
      std::find(e.relations.begin(), e.relations.end(), static_cast<int64_t>(Relation::window)) != e.relations.end();
  TORCH_CHECK_VALUE(e.pixels || finds_by_itself(grid, windowed, candidates.rule.row_axis, candidates.rule.column_axis),
                    "pixels: these must be collected first");
  candidates.pixels = data<int32_t>(e.pixels, at::kInt, all, "pixels");
  candidates.found = data<int32_t>(e.found, at::kInt, grid.units(), "found");
  Commit& commit = job.commit;
  commit.out = matrix(e.out, "out");
  add_steps(e, all, streams, commit);
  commit.decision = !e.mask            ? Decision::always
                    : e.forced         ? Decision::prescribed
                    : e.threshold == 0 ? Decision::equal
                                       : Decision::norm;
  commit.norm = e.max_norm ? Norm::max : Norm::rms;
  commit.threshold = static_cast<float>(e.threshold);
  commit.mask = data<uint8_t>(e.mask, at::kByte, all, "mask");
  commit.forced = data<uint8_t>(e.forced, at::kByte, all, "forced");
  commit.refresh = refreshing(e.refresh);
  commit.tally = data<int64_t>(e.tally, at::kLong, kTallySize, "tally");
  return job;
}

// What describes a convolution, but for its result.
struct ConvArguments {
  const Tensor& x;
  const Tensor& weight;
  int64_t groups;
  const Tensor& rows;
  const Tensor& columns;
  int64_t in_rows, in_columns;
  bool exact;
};

Conv conv_of(const ConvArguments& a, int64_t out_channels, const Axis& row_axis, const Axis& column_axis) {
  const int64_t in = a.x.size(1) / a.groups, of_group = out_channels / a.groups, step = 128 / a.x.element_size();
  const int64_t depth = (a.rows.size(1) * a.columns.size(1) * in + step - 1) / step;
  Conv conv{};
  conv.x = matrix(a.x, "x");
  conv.window = window_of(a.rows, a.columns, a.in_rows, a.in_columns);
  conv.row_axis = row_axis, conv.column_axis = column_axis;
  conv.out_columns = divisor(conv.window.out_columns);
  conv.weight =
      data<void>(a.weight, a.x.scalar_type(), a.groups * ((of_group + 63) / 64) * depth * 64 * step, "weight");
  conv.groups = static_cast<int32_t>(a.groups), conv.in_per_group = static_cast<int32_t>(in);
  conv.out_per_group = static_cast<int32_t>(of_group), conv.steps = static_cast<int32_t>(depth);
  conv.by_channels = in % step == 0, conv.exact = a.exact;
  TORCH_CHECK_TYPE(!a.exact || conv.x.dtype == Dtype::float32, "convolve: exact is a way to multiply float32");
  return conv;
}

std::vector<int64_t> tilings_op(const Tensor& x, const Tensor& weight, int64_t groups, const Tensor& rows,
                                const Tensor& columns, int64_t in_rows, int64_t in_columns, bool exact,
                                int64_t out_channels) {
  const c10::cuda::CUDAGuard guard(x.device());
  std::vector<int64_t> numbers;
  for (const auto& [tile, parts] :
       tilings(conv_of({x, weight, groups, rows, columns, in_rows, in_columns, exact}, out_channels, {}, {})))
    numbers.insert(numbers.end(), {static_cast<int64_t>(tile), parts});
  return numbers;
}

void convolve_op(const Tensor& x, const Tensor& weight, int64_t groups, const Tensor& rows, const Tensor& columns,
                 int64_t in_rows, int64_t in_columns, bool exact, at::IntArrayRef tiling, std::optional<Tensor> whole,
                 at::TensorList masks, at::IntArrayRef relations, at::IntArrayRef rule,
                 const std::optional<Tensor>& pixels, const std::optional<Tensor>& found, at::TensorList operands,
                 at::IntArrayRef steps, at::ArrayRef<double> numbers, const std::optional<Tensor>& forced,
                 const Tensor& refresh, double threshold, bool max_norm, Tensor out, std::optional<Tensor> mask,
                 std::optional<Tensor> tally) {
  const c10::cuda::CUDAGuard guard(out.device());
  Job job = job_of({masks, relations, rule, pixels, found, operands, steps, numbers, forced, refresh, threshold,
                    max_norm, out, mask, tally});
  Conv conv = conv_of({x, weight, groups, rows, columns, in_rows, in_columns, exact}, out.size(1),
                      job.candidates.rule.row_axis, job.candidates.rule.column_axis);
  TORCH_CHECK_TYPE(conv.x.dtype == job.commit.out.dtype, "convolve: ", x.scalar_type(), " into ", out.scalar_type());
  if (!tiling.empty()) {
    const std::vector<Tiling> all = tilings(conv);
    conv.tiling = {static_cast<Tile>(tiling[0]), static_cast<int32_t>(tiling.size() == 2 ? tiling[1] : 0)};
    TORCH_CHECK_VALUE(
        std::any_of(all.begin(), all.end(),
                    [&](const Tiling& t) { return t.tile == conv.tiling.tile && t.parts == conv.tiling.parts; }),
        "tiling: none of those that this convolution can have; got ", tiling);
  }
  const bool split = groups > 1 || convolve_width(conv, job.capacity) < out.size(1);
  job.commit.shared = split;
  if (!split || job.commit.decision != Decision::norm)
    return on_device_of(out, [&](cudaStream_t stream) { return convolve(conv, job, stream); });

  // A norm is over all channels of a pixel, of which a block has some: the new values are judged once they are all
  // there.
  TORCH_CHECK_VALUE(whole && whole->sizes() == out.sizes() && whole->dtype() == out.dtype(),
                    "whole: scratch of the form of the result is needed, for a threshold above 0");
  Job first = job;
  first.commit.decision = Decision::always;
  first.commit.mask = nullptr;
  first.commit.out = matrix(*whole, "whole");
  job.commit.shared = false;
  job.commit.bias = nullptr;
  job.commit.step_count = 0;
  on_device_of(out, [&](cudaStream_t stream) {
    const cudaError_t error = convolve(conv, first, stream);
    return error == cudaSuccess ? copy(first.commit.out, job, stream) : error;
  });
}

Depthwise depthwise_of(const Tensor& x, const Tensor& weight, const Window& window, const Tensor& out) {
  TORCH_CHECK_VALUE(weight.dim() == 3 && weight.size(2) == out.size(1) && weight.size(1) > 0 &&
                        x.size(1) % weight.size(1) == 0 && out.size(1) % (x.size(1) / weight.size(1)) == 0,
                    "depthwise: ", x.size(1), " channels in, ", out.size(1), " out, weights ", weight.sizes());
  const int64_t in = weight.size(1), groups = x.size(1) / in,
                taps = int64_t{window.kernel_rows} * window.kernel_columns;
  return {matrix(x, "x"), window, data<float>(weight, at::kFloat, taps * in * out.size(1), "weight"),
          static_cast<int32_t>(in), static_cast<int32_t>(out.size(1) / groups)};
}

void depthwise_op(const Tensor& x, const Tensor& weight, const Tensor& rows, const Tensor& columns, int64_t in_rows,
                  int64_t in_columns, at::TensorList masks, at::IntArrayRef relations, at::IntArrayRef rule,
                  const std::optional<Tensor>& pixels, const std::optional<Tensor>& found, at::TensorList operands,
                  at::IntArrayRef steps, at::ArrayRef<double> numbers, const std::optional<Tensor>& forced,
                  const Tensor& refresh, double threshold, bool max_norm, Tensor out, std::optional<Tensor> mask,
                  std::optional<Tensor> tally) {
  const Job job = job_of({masks, relations, rule, pixels, found, operands, steps, numbers, forced, refresh, threshold,
                          max_norm, out, mask, tally});
  const Depthwise depthwise = depthwise_of(x, weight, window_of(rows, columns, in_rows, in_columns), out);
  on_device_of(out, [&](cudaStream_t stream) { return cuda::depthwise(depthwise, job, stream); });
}

Pool pool_of(const Tensor& x, bool maximum, const std::optional<Tensor>& row_share,
             const std::optional<Tensor>& column_share, const Window& window, const Tensor& out) {
  TORCH_CHECK_VALUE(maximum || (row_share && column_share), "pool: a mean needs the shares of its taps");
  TORCH_CHECK_VALUE(x.size(1) == out.size(1), "pool: ", x.size(1), " channels in, ", out.size(1), " out");
  return {matrix(x, "x"), window, maximum ? Pooling::maximum : Pooling::mean,
          data<float>(row_share, at::kFloat, int64_t{window.out_rows} * window.kernel_rows, "row_share"),
          data<float>(column_share, at::kFloat, int64_t{window.out_columns} * window.kernel_columns, "column_share")};
}

void pool_op(const Tensor& x, bool maximum, const std::optional<Tensor>& row_share,
             const std::optional<Tensor>& column_share, const Tensor& rows, const Tensor& columns, int64_t in_rows,
             int64_t in_columns, at::TensorList masks, at::IntArrayRef relations, at::IntArrayRef rule,
             const std::optional<Tensor>& pixels, const std::optional<Tensor>& found, at::TensorList operands,
             at::IntArrayRef steps, at::ArrayRef<double> numbers, const std::optional<Tensor>& forced,
             const Tensor& refresh, double threshold, bool max_norm, Tensor out, std::optional<Tensor> mask,
             std::optional<Tensor> tally) {
  const Job job = job_of({masks, relations, rule, pixels, found, operands, steps, numbers, forced, refresh, threshold,
                          max_norm, out, mask, tally});
  const Pool pool = pool_of(x, maximum, row_share, column_share, window_of(rows, columns, in_rows, in_columns), out);
  on_device_of(out, [&](cudaStream_t stream) { return cuda::pool(pool, job, stream); });
}

void copy_op(const Tensor& x, at::TensorList masks, at::IntArrayRef relations, at::IntArrayRef rule,
             const std::optional<Tensor>& pixels, const std::optional<Tensor>& found, at::TensorList operands,
             at::IntArrayRef steps, at::ArrayRef<double> numbers, const std::optional<Tensor>& forced,
             const Tensor& refresh, double threshold, bool max_norm, Tensor out, std::optional<Tensor> mask,
             std::optional<Tensor> tally) {
  TORCH_CHECK_VALUE(x.sizes() == out.sizes() && x.dtype() == out.dtype(), "copy: ", x.sizes(), " into ", out.sizes());
  const Job job = job_of({masks, relations, rule, pixels, found, operands, steps, numbers, forced, refresh, threshold,
                          max_norm, out, mask, tally});
  on_device_of(out, [&](cudaStream_t stream) { return copy(matrix(x, "x"), job, stream); });
}

Reduce reduce_of(const Tensor& x, int64_t image_rows, bool maximum, double scale, const Tensor& partial,
                 const Tensor& out) {
  const int64_t streams = out.size(0);
  TORCH_CHECK_VALUE(x.size(0) % (streams * image_rows) == 0 && x.size(1) == out.size(1), "reduce: ", x.sizes(),
                    " into ", out.sizes());
  return {matrix(x, "x"),
          nullptr,
          nullptr,
          data<float>(partial, at::kFloat, streams * image_rows * x.size(1), "partial"),
          nullptr,
          static_cast<int32_t>(streams),
          static_cast<int32_t>(image_rows),
          static_cast<int32_t>(x.size(0) / (streams * image_rows)),
          maximum,
          static_cast<float>(scale)};
}

void reduce_op(const Tensor& x, const Tensor& x_mask, int64_t image_rows, bool maximum, double scale, Tensor partial,
               at::TensorList masks, at::IntArrayRef relations, at::IntArrayRef rule,
               const std::optional<Tensor>& pixels, const std::optional<Tensor>& found, at::TensorList operands,
               at::IntArrayRef steps, at::ArrayRef<double> numbers, const std::optional<Tensor>& forced,
               const Tensor& refresh, double threshold, bool max_norm, Tensor out, std::optional<Tensor> mask,
               std::optional<Tensor> tally) {
  TORCH_CHECK_VALUE(refresh.numel() == out.size(0), "reduce: ", refresh.numel(), " streams into ", out.sizes());
  const Job job = job_of({masks, relations, rule, pixels, found, operands, steps, numbers, forced, refresh, threshold,
                          max_norm, out, mask, tally});
  Reduce reduce = reduce_of(x, image_rows, maximum, scale, partial, out);
  reduce.mask = data<uint8_t>(x_mask, at::kByte, x.size(0), "x_mask");
  reduce.refresh = refreshing(refresh);
  on_device_of(out, [&](cudaStream_t stream) { return cuda::reduce(reduce, job, stream); });
}

// The Commit of a kernel that computes every pixel.
Commit whole_commit(at::TensorList operands, at::IntArrayRef steps, at::ArrayRef<double> numbers, int64_t streams,
                    const Tensor& out) {
  const std::optional<Tensor> none;
  TORCH_CHECK_VALUE(streams > 0 && out.size(0) % streams == 0, "out: ", out.size(0), " pixels for ", streams,
                    " streams");
  Commit commit{};
  commit.out = matrix(out, "out");
  add_steps({{}, {}, {}, none, none, operands, steps, numbers, none, out, 0.0, false, out, none, none}, out.size(0),
            streams, commit);
  return commit;
}

void finish_op(const Tensor& x, at::TensorList operands, at::IntArrayRef steps, at::ArrayRef<double> numbers,
               int64_t streams, Tensor out) {
  TORCH_CHECK_VALUE(x.sizes() == out.sizes() && x.dtype() == out.dtype(), "finish: ", x.sizes(), " into ", out.sizes());
  const Commit commit = whole_commit(operands, steps, numbers, streams, out);
  const int pixels = static_cast<int>(out.size(0)), plane = static_cast<int>(out.size(0) / streams);
  on_device_of(out, [&](cudaStream_t stream) { return finish(matrix(x, "x"), commit, pixels, plane, stream); });
}

// How many pixels the result has, of all streams and of each; of each, as many as the window gives.
struct Pixels {
  int all, plane;
};

Pixels pixels_of(const Tensor& out, int64_t streams, const Window& window) {
  const Pixels pixels{static_cast<int>(out.size(0)), static_cast<int>(out.size(0) / streams)};
  TORCH_CHECK_VALUE(pixels.plane == int64_t{window.out_rows} * window.out_columns, "out: ", pixels.plane,
                    " pixels of a stream; the window has ", window.out_rows, " x ", window.out_columns);
  return pixels;
}

void depthwise_all_op(const Tensor& x, const Tensor& weight, const Tensor& rows, const Tensor& columns, int64_t in_rows,
                      int64_t in_columns, at::IntArrayRef row_axis, at::IntArrayRef column_axis,
                      std::optional<Tensor> sums, at::TensorList operands, at::IntArrayRef steps,
                      at::ArrayRef<double> numbers, int64_t streams, Tensor out) {
  const Commit commit = whole_commit(operands, steps, numbers, streams, out);
  const Depthwise depthwise = depthwise_of(x, weight, window_of(rows, columns, in_rows, in_columns), out);
  const Pixels pixels = pixels_of(out, streams, depthwise.window);
  float* rows_sums = data<float>(sums, at::kFloat, pixels.all / depthwise.window.out_columns * out.size(1), "sums");
  on_device_of(out, [&](cudaStream_t stream) {
    return depthwise_all(depthwise, axis_of(row_axis), axis_of(column_axis), rows_sums, commit, pixels.all,
                         pixels.plane, stream);
  });
}

void pool_all_op(const Tensor& x, bool maximum, const std::optional<Tensor>& row_share,
                 const std::optional<Tensor>& column_share, const Tensor& rows, const Tensor& columns, int64_t in_rows,
                 int64_t in_columns, at::TensorList operands, at::IntArrayRef steps, at::ArrayRef<double> numbers,
                 int64_t streams, Tensor out) {
  const Commit commit = whole_commit(operands, steps, numbers, streams, out);
  const Pool pool = pool_of(x, maximum, row_share, column_share, window_of(rows, columns, in_rows, in_columns), out);
  const Pixels pixels = pixels_of(out, streams, pool.window);
  on_device_of(out, [&](cudaStream_t stream) { return pool_all(pool, commit, pixels.all, pixels.plane, stream); });
}

void reduce_all_op(const Tensor& x, int64_t image_rows, bool maximum, double scale, Tensor partial,
                   std::optional<Tensor> arrived, at::TensorList operands, at::IntArrayRef steps,
                   at::ArrayRef<double> numbers, int64_t streams, Tensor out) {
  const Commit commit = whole_commit(operands, steps, numbers, streams, out);
  Reduce reduce = reduce_of(x, image_rows, maximum, scale, partial, out);
  reduce.arrived = data<int32_t>(arrived, at::kInt, out.size(0), "arrived");
  if (!arrived) reduce.x.data = nullptr;  // the partial results are there
  on_device_of(out, [&](cudaStream_t stream) { return reduce_all(reduce, commit, stream); });
}

void product_all_op(const Tensor& x, const Tensor& weight, at::TensorList operands, at::IntArrayRef steps,
                    at::ArrayRef<double> numbers, int64_t streams, Tensor out) {
  const Commit commit = whole_commit(operands, steps, numbers, streams, out);
  TORCH_CHECK_VALUE(x.size(0) == out.size(0) && x.dtype() == out.dtype(), "product_all: ", x.sizes(), " into ",
                    out.sizes());
  const int64_t size = out.size(1) * x.size(1);
  const void* weights = data<void>(weight, x.scalar_type(), size, "weight");
  const Product product{matrix(x, "x"), weights, is_aligned(weights) && x.size(1) * x.element_size() % 16 == 0};
  const int pixels = static_cast<int>(out.size(0)), plane = static_cast<int>(out.size(0) / streams);
  on_device_of(out, [&](cudaStream_t stream) { return product_all(product, commit, pixels, plane, stream); });
}

// `stretches` and `counted` are tables of addresses and sizes, [n, 2], on the device.
void mark_op(const Tensor& stretches, int64_t value, const Tensor& counted) {
  static_assert(sizeof(Stretch) == 2 * sizeof(int64_t) && sizeof(Counted) == 2 * sizeof(int64_t));
  const auto* marked =
      reinterpret_cast<const Stretch*>(data<int64_t>(stretches, at::kLong, stretches.numel(), "stretches"));
  const auto* tallies = reinterpret_cast<const Counted*>(data<int64_t>(counted, at::kLong, counted.numel(), "counted"));
  on_device_of(stretches, [&](cudaStream_t stream) {
    return mark(marked, stretches.numel() / 2, static_cast<uint8_t>(value), tallies, counted.numel() / 2, stream);
  });
}

void dense_to_delta_op(const Tensor& frame, bool gated, double threshold, int64_t window, int64_t dilation, double weak,
                       int64_t reach, int64_t neighbours, double noise, double drift, double level,
                       std::optional<Tensor> learned, std::optional<Tensor> change, const std::optional<Tensor>& levels,
                       bool swap, const std::optional<Tensor>& forced, const std::optional<Tensor>& strip,
                       const Tensor& refresh, std::optional<Tensor> raw, std::optional<Tensor> mean,
                       std::optional<Tensor> passed, std::optional<Tensor> strength, std::optional<Tensor> strong,
                       std::optional<Tensor> counts, Tensor value, Tensor mask, Tensor tally) {
  TORCH_CHECK_VALUE(frame.dim() == 4 && frame.device() == value.device(), "frame: [N, C, H, W] on ", value.device(),
                    " is needed");
  Enter e{};
  e.frame = frame.data_ptr(), e.dtype = dtype_of(frame, "frame");
  for (int i = 0; i < 4; ++i) e.stride[i] = frame.stride(i);
  e.streams = static_cast<int32_t>(frame.size(0)), e.channels = static_cast<int32_t>(frame.size(1));
  e.rows = static_cast<int32_t>(frame.size(2)), e.columns = static_cast<int32_t>(frame.size(3));
  const int64_t all = frame.size(0) * frame.size(2) * frame.size(3);
  e.value = matrix(value, "value");
  TORCH_CHECK_VALUE(value.size(0) == all && value.size(1) == e.channels && refresh.numel() == e.streams,
                    "dense_to_delta: ", frame.sizes(), " into ", value.sizes());
  TORCH_CHECK_TYPE(e.dtype == Dtype::uint8 ? raw && levels : e.dtype == e.value.dtype,
                   "frame: uint8 with raw and levels, or the dtype of the value, is needed");
  e.raw = data<uint8_t>(raw, at::kByte, all * e.channels, "raw");
  e.levels = data<float>(levels, at::kFloat, 256 * e.channels, "levels");
  e.swap = swap, e.gated = gated, e.threshold = static_cast<float>(threshold);
  e.window = static_cast<int32_t>(window), e.dilation = static_cast<int32_t>(dilation);
  e.weak = static_cast<float>(weak), e.reach = static_cast<int32_t>(reach),
  e.neighbours = static_cast<int32_t>(neighbours);
  const bool asks_neighbours = reach > 0 || neighbours > 0;
  TORCH_CHECK_VALUE(
      !gated || ((window == 1 || (mean && change)) && ((window == 1 && dilation == 0 && !asks_neighbours) || passed) &&
                 (!asks_neighbours || (strength && strong))),
      "dense_to_delta: a gate that does not decide pixel by pixel needs scratch");
  e.learned = data<float>(learned, at::kFloat, e.streams * kLearned, "learned");
  const int64_t rows = frame.size(0) * frame.size(2), columns = (frame.size(3) + 31) / 32 * 32;
  e.change = data<float>(change, at::kFloat, rows * columns, "change");
  e.counts = data<int32_t>(counts, at::kInt, e.streams * kCounts, "counts");
  TORCH_CHECK_VALUE(!e.learned || (e.change && e.counts && passed && level > 0),
                    "learned: change, counts, passed and level are needed too");
  e.level = static_cast<float>(level), e.least = static_cast<float>(threshold / level);
  e.noise = static_cast<float>(noise), e.drift = static_cast<float>(drift);
  if (mean) {
    e.mean_pitch = static_cast<int32_t>(mean->size(-1));
    e.mean_margin = static_cast<int32_t>((mean->size(-1) - columns) / 2);
    TORCH_CHECK_VALUE(e.mean_margin >= window / 2 && e.mean_margin % 4 == 0, "mean: margins for the window are needed");
    e.mean = data<float>(mean, at::kFloat, rows * mean->size(-1), "mean");
  }
  const int64_t words = rows * columns / 32;
  e.passed = reinterpret_cast<uint32_t*>(data<int32_t>(passed, at::kInt, words, "passed"));
  e.strength = data<uint8_t>(strength, at::kByte, all, "strength");
  e.strong = reinterpret_cast<uint32_t*>(data<int32_t>(strong, at::kInt, words, "strong"));
  e.mask = data<uint8_t>(mask, at::kByte, all, "mask");
  e.forced = data<uint8_t>(forced, at::kByte, all, "forced");
  e.strip = data<uint8_t>(strip, at::kByte, all, "strip");
  e.refresh = refreshing(refresh);
  e.tally = data<int64_t>(tally, at::kLong, kTallySize, "tally");
  on_device_of(value, [&](cudaStream_t stream) { return enter(e, stream); });
}

const char* const kEnding =
    "Tensor[] masks, int[] relations, int[] rule, Tensor? pixels, Tensor? found, Tensor[] operands, int[] steps, "
    "float[] numbers, Tensor? forced, "
    "Tensor refresh, float threshold, bool max_norm, Tensor(a!) out, Tensor(b!)? mask, Tensor(c!)? tally) -> ()";
const char* const kWindow = "Tensor rows, Tensor columns, int in_rows, int in_columns, ";

TORCH_LIBRARY(deltafx_cuda, m) {
  const std::string ending = kEnding, window = kWindow;
  m.def(("collect(Tensor[] masks, int[] relations, int[] rule, " + window +
         "Tensor refresh, Tensor(a!) pixels, Tensor(b!) found, Tensor(c!)? mask, Tensor(d!)? tally) -> ()")
            .c_str());
  m.def("clear(Tensor(a!) pieces) -> ()");
  m.def("mark(Tensor(a!) stretches, int value, Tensor(b!) counted) -> ()");
  const std::string whole = "Tensor[] operands, int[] steps, float[] numbers, int streams, Tensor(a!) out) -> ()";
  m.def(("finish(Tensor x, " + whole).c_str());
  m.def(("depthwise_all(Tensor x, Tensor weight, " + window + "int[] row_axis, int[] column_axis, Tensor(b!)? sums, " +
         whole)
            .c_str());
  m.def(("pool_all(Tensor x, bool maximum, Tensor? row_share, Tensor? column_share, " + window + whole).c_str());
  m.def(("reduce_all(Tensor x, int image_rows, bool maximum, float scale, Tensor(b!) partial, Tensor(c!)? arrived, " +
         whole)
            .c_str());
  m.def(("product_all(Tensor x, Tensor weight, " + whole).c_str());
  m.def(("convolve(Tensor x, Tensor weight, int groups, " + window + "bool exact, int[] tiling, Tensor(e!)? whole, " +
         ending)
            .c_str());
  m.def(("tilings(Tensor x, Tensor weight, int groups, " + window + "bool exact, int out_channels) -> int[]").c_str());
  m.def(("depthwise(Tensor x, Tensor weight, " + window + ending).c_str());
  m.def(("pool(Tensor x, bool maximum, Tensor? row_share, Tensor? column_share, " + window + ending).c_str());
  m.def(("copy(Tensor x, " + ending).c_str());
  m.def(("reduce(Tensor x, Tensor x_mask, int image_rows, bool maximum, float scale, Tensor(e!) partial, " + ending)
            .c_str());
  m.def(
      "dense_to_delta(Tensor frame, bool gated, float threshold, int window, int dilation, float weak, int reach, "
      "int neighbours, float noise, float drift, float level, Tensor(g!)? learned, Tensor(h!)? change, Tensor? levels, "
      "bool swap, Tensor? forced, "
      "Tensor? strip, Tensor refresh, Tensor(a!)? raw, Tensor(b!)? mean, Tensor(c!)? passed, "
      "Tensor(j!)? strength, Tensor(k!)? strong, Tensor(i!)? counts, "
      "Tensor(d!) value, Tensor(e!) mask, Tensor(f!) tally) -> ()");
}

TORCH_LIBRARY_IMPL(deltafx_cuda, CUDA, m) {
  m.impl("collect", &collect_op);
  m.impl("clear", &clear_op);
  m.impl("mark", &mark_op);
  m.impl("finish", &finish_op);
  m.impl("depthwise_all", &depthwise_all_op);
  m.impl("pool_all", &pool_all_op);
  m.impl("reduce_all", &reduce_all_op);
  m.impl("product_all", &product_all_op);
  m.impl("convolve", &convolve_op);
  m.impl("tilings", &tilings_op);
  m.impl("depthwise", &depthwise_op);
  m.impl("pool", &pool_op);
  m.impl("copy", &copy_op);
  m.impl("reduce", &reduce_op);
  m.impl("dense_to_delta", &dense_to_delta_op);
}

}  // namespace
}  // namespace deltafx
