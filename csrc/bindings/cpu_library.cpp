// The CPU kernels as PyTorch operators: checks tensors, takes them apart, declares what is written to.
//
// Every feature map comes as a matrix [pixels, channels] over all streams, whose channels lie side by side.
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <string>
#include <vector>

#include "../cpu/collect.h"
#include "../cpu/kernels.h"

namespace deltafx {
namespace {

using at::Tensor;
using namespace deltafx::cpu;  // NOLINT: this file only translates between the two

Pool pool() {
  return {at::get_num_threads(), [](int64_t tasks, void (*body)(void*, int64_t), void* context) {
            at::parallel_for(0, tasks, 1, [&](int64_t first, int64_t end) {
              for (int64_t task = first; task < end; ++task) body(context, task);
            });
          }};
}

Dtype dtype_of(const Tensor& x, const char* name) {
  if (x.scalar_type() == at::kFloat) return Dtype::float32;
  if (x.scalar_type() == at::kBFloat16) return Dtype::bfloat16;
  if (x.scalar_type() == at::kByte) return Dtype::uint8;
  TORCH_CHECK_TYPE(false, name, ": float32 or bfloat16 is supported; got ", x.scalar_type());
}

Matrix matrix(const Tensor& x, const char* name) {
  TORCH_CHECK_VALUE(x.device().is_cpu(), name, ": a CPU tensor is needed; got one on ", x.device());
  TORCH_CHECK_VALUE(x.dim() == 2, name, ": a matrix [pixels, channels] is needed; got ", x.sizes());
  TORCH_CHECK_VALUE(x.size(1) == 1 || x.stride(1) == 1, name, ": channels must lie side by side; strides ", x.strides());
  const Dtype dtype = dtype_of(x, name);
  TORCH_CHECK_TYPE(dtype != Dtype::uint8, name, ": float32 or bfloat16 is supported; got ", x.scalar_type());
  return {x.data_ptr(), x.stride(0), x.size(1), dtype};
}

template <class T>
T* data(const Tensor& x, at::ScalarType type, int64_t size, const char* name) {
  TORCH_CHECK_VALUE(x.device().is_cpu() && x.scalar_type() == type && x.is_contiguous() && x.numel() >= size, name,
                    ": a contiguous ", type, " CPU tensor of ", size, " elements is needed; got ", x.scalar_type(), " ",
                    x.sizes(), " on ", x.device());
  return static_cast<T*>(x.data_ptr());
}

template <class T>
T* data(const std::optional<Tensor>& x, at::ScalarType type, int64_t size, const char* name) {
  return x ? data<T>(*x, type, size, name) : nullptr;
}

const Kernels& kernels(c10::string_view isa) {
  const Kernels* found = kernels_for(std::string(isa).c_str());
  TORCH_CHECK_VALUE(found != nullptr, "isa: this processor has no ", isa);
  return *found;
}

// The flags of the streams in refresh, or null where there is none.
const uint8_t* refreshing(const Tensor& refresh) {
  const bool* flags = data<bool>(refresh, at::kBool, 1, "refresh");
  for (int64_t n = 0; n < refresh.numel(); ++n)
    if (flags[n]) return reinterpret_cast<const uint8_t*>(flags);
  return nullptr;
}

Window window_of(const Tensor& rows, const Tensor& columns, int64_t in_rows, int64_t in_columns) {
  TORCH_CHECK_VALUE(rows.dim() == 2 && columns.dim() == 2, "window: tables [outputs, taps] are needed");
  return {data<int32_t>(rows, at::kInt, rows.numel(), "rows"),
          data<int32_t>(columns, at::kInt, columns.numel(), "columns"),
          rows.size(1), columns.size(1), in_rows, in_columns, rows.size(0), columns.size(0)};
}

// tally: [computed, updated] in the last frame, their sums since the last reset, frames since then.
enum { kComputed, kUpdated, kComputedSum, kUpdatedSum, kFrames, kTallySize };

void count_updated(const Tensor& tally, int64_t updated) {
  int64_t* t = data<int64_t>(tally, at::kLong, kTallySize, "tally");
  t[kUpdated] = updated;
  t[kUpdatedSum] += updated;
}

// ---------------------------------------------------------------------------------------------------------------------

void collect_op(at::TensorList masks, at::TensorList tallies, at::IntArrayRef relations, const Tensor& rows,
                const Tensor& columns, int64_t in_rows, int64_t in_columns, const Tensor& refresh, bool passes_on,
                Tensor candidates, Tensor pixels, Tensor count, Tensor mask, Tensor tally) {
  const int64_t streams = refresh.numel();
  const Window window = window_of(rows, columns, in_rows, in_columns);
  const int64_t plane = window.out_rows * window.out_columns, all = streams * plane;
  TORCH_CHECK_VALUE(masks.size() == relations.size() && masks.size() == tallies.size(),
                    "collect: a relation and a tally are needed for each mask");
  uint8_t* own = data<uint8_t>(mask, at::kByte, all, "mask");
  int64_t* t = data<int64_t>(tally, at::kLong, kTallySize, "tally");
  int64_t* found = data<int64_t>(count, at::kLong, 1, "count");
  if (t[kUpdated] != 0 || t[kFrames] == 0) std::memset(own, 0, all);

  std::vector<Source> sources;
  for (size_t i = 0; i < masks.size(); ++i) {
    if (data<int64_t>(tallies[i], at::kLong, kTallySize, "tallies")[kUpdated] == 0) continue;
    const auto relation = static_cast<Relation>(relations[i]);
    const int64_t size = relation == Relation::window ? streams * in_rows * in_columns
                         : relation == Relation::same ? all
                                                      : streams;
    sources.push_back({data<uint8_t>(masks[i], at::kByte, size, "masks"), relation});
  }
  Collect job{sources.data(), static_cast<int64_t>(sources.size()), window, streams, refreshing(refresh),
              data<uint8_t>(candidates, at::kByte, all, "candidates"),
              data<int32_t>(pixels, at::kInt, all + 1, "pixels")};
  *found = sources.empty() && job.refresh == nullptr ? 0 : collect(job);
  if (*found && passes_on) std::memcpy(own, candidates.data_ptr(), all);
  t[kComputed] = *found;
  t[kComputedSum] += *found;
  t[kFrames] += 1;
  count_updated(tally, passes_on ? *found : 0);
}

// What every kernel that ends with a commit is given.
struct Ending {
  at::TensorList operands;
  at::IntArrayRef steps;     // code and kind of each step
  at::ArrayRef<double> numbers;  // a and b of each step
  const std::optional<Tensor>& forced;
  const Tensor& refresh;
  double threshold;
  bool max_norm;
  const Tensor& out;
  const Tensor& mask;
};

// Calls run(job) for the listed pixels and counts what was updated.
template <class F>
void with_job(const Tensor& pixels, int64_t count, const Ending& e, const Tensor& tally, F run) {
  const int64_t all = e.out.size(0), streams = e.refresh.numel();
  TORCH_CHECK_VALUE(e.steps.size() == e.numbers.size(), "steps: a code and a kind, and two numbers, for each step");
  TORCH_CHECK_VALUE(0 <= count && count <= all, "count: ", count, " of ", all, " pixels");
  TORCH_CHECK_VALUE(streams > 0 && all % streams == 0, "out: ", all, " pixels for ", streams, " streams");
  std::vector<Step> steps;
  size_t operand = 0;
  for (size_t i = 0; i < e.steps.size(); i += 2) {
    Step step{static_cast<Code>(e.steps[i]), static_cast<Operand>(e.steps[i + 1]), {},
              static_cast<float>(e.numbers[i]), static_cast<float>(e.numbers[i + 1])};
    TORCH_CHECK_VALUE((step.code >= Code::add) == (step.kind != Operand::none), "steps: a code and its operand");
    if (step.kind != Operand::none && step.kind != Operand::number) {
      TORCH_CHECK_VALUE(operand < e.operands.size(), "operands: fewer than the steps name");
      const Tensor& tensor = e.operands[operand++];
      step.operand = matrix(tensor, "operand");
      const int64_t rows = step.kind == Operand::per_channel ? 1 : step.kind == Operand::per_stream ? streams : all;
      const int64_t channels = step.kind == Operand::pixel_gate ? 1 : e.out.size(1);
      TORCH_CHECK_VALUE(tensor.size(0) == rows && tensor.size(1) == channels, "operand: [", rows, ", ", channels,
                        "] is needed; got ", tensor.sizes());
    }
    steps.push_back(step);
  }
  Job job{data<int32_t>(pixels, at::kInt, count, "pixels"), count, {}, pool()};
  job.commit = {steps.data(), static_cast<int64_t>(steps.size()), matrix(e.out, "out"),
                data<uint8_t>(e.mask, at::kByte, all, "mask"), data<uint8_t>(e.forced, at::kByte, all, "forced"),
                refreshing(e.refresh), all / streams, static_cast<float>(e.threshold),
                e.max_norm ? Norm::max : Norm::rms};
  count_updated(tally, count ? run(job) : 0);
}

void convolve_op(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, int64_t groups,
                 const Tensor& rows, const Tensor& columns, int64_t in_rows, int64_t in_columns, const Tensor& pixels,
                 int64_t count, at::TensorList operands, at::IntArrayRef steps, at::ArrayRef<double> numbers,
                 const std::optional<Tensor>& forced, const Tensor& refresh, double threshold, bool max_norm,
                 c10::string_view isa, Tensor out, Tensor mask, Tensor tally) {
  const Kernels& k = kernels(isa);
  const Window window = window_of(rows, columns, in_rows, in_columns);
  const int64_t in = x.size(1) / groups, of_group = out.size(1) / groups;
  const int64_t panels = (of_group + k.panel - 1) / k.panel, taps = window.kernel_rows * window.kernel_columns;
  const Conv conv{matrix(x, "x"), window,
                  data<float>(weight, at::kFloat, groups * panels * taps * in * k.panel, "weight"),
                  data<float>(bias, at::kFloat, out.size(1), "bias"), groups, in, of_group};
  const Ending ending{operands, steps, numbers, forced, refresh, threshold, max_norm, out, mask};
  with_job(pixels, count, ending, tally, [&](const Job& job) { return k.convolve(conv, job); });
}

void depthwise_op(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, const Tensor& rows,
                  const Tensor& columns, int64_t in_rows, int64_t in_columns, const Tensor& pixels, int64_t count,
                  at::TensorList operands, at::IntArrayRef steps, at::ArrayRef<double> numbers,
                  const std::optional<Tensor>& forced, const Tensor& refresh, double threshold, bool max_norm,
                  c10::string_view isa, Tensor out, Tensor mask, Tensor tally) {
  const Window window = window_of(rows, columns, in_rows, in_columns);
  TORCH_CHECK_VALUE(x.size(1) == out.size(1), "depthwise: ", x.size(1), " channels in, ", out.size(1), " out");
  const Depthwise depthwise{
      matrix(x, "x"), window,
      data<float>(weight, at::kFloat, window.kernel_rows * window.kernel_columns * x.size(1), "weight"),
      data<float>(bias, at::kFloat, out.size(1), "bias")};
  const Ending ending{operands, steps, numbers, forced, refresh, threshold, max_norm, out, mask};
  with_job(pixels, count, ending, tally, [&](const Job& job) { return kernels(isa).depthwise(depthwise, job); });
}

void pool_op(const Tensor& x, bool maximum, const std::optional<Tensor>& row_share,
             const std::optional<Tensor>& column_share, const Tensor& rows, const Tensor& columns, int64_t in_rows,
             int64_t in_columns, const Tensor& pixels, int64_t count, at::TensorList operands, at::IntArrayRef steps,
             at::ArrayRef<double> numbers, const std::optional<Tensor>& forced, const Tensor& refresh,
             double threshold, bool max_norm, c10::string_view isa, Tensor out, Tensor mask, Tensor tally) {
  const Window window = window_of(rows, columns, in_rows, in_columns);
  TORCH_CHECK_VALUE(maximum || (row_share && column_share), "pool: a mean needs the shares of its taps");
  TORCH_CHECK_VALUE(x.size(1) == out.size(1), "pool: ", x.size(1), " channels in, ", out.size(1), " out");
  const Pool2d pool2d{matrix(x, "x"), window, maximum, data<float>(row_share, at::kFloat, rows.numel(), "row_share"),
                      data<float>(column_share, at::kFloat, columns.numel(), "column_share")};
  const Ending ending{operands, steps, numbers, forced, refresh, threshold, max_norm, out, mask};
  with_job(pixels, count, ending, tally, [&](const Job& job) { return kernels(isa).pool(pool2d, job); });
}

void copy_op(const Tensor& x, const Tensor& pixels, int64_t count, at::TensorList operands, at::IntArrayRef steps,
             at::ArrayRef<double> numbers, const std::optional<Tensor>& forced, const Tensor& refresh,
             double threshold, bool max_norm, c10::string_view isa, Tensor out, Tensor mask, Tensor tally) {
  TORCH_CHECK_VALUE(x.sizes() == out.sizes(), "copy: ", x.sizes(), " into ", out.sizes());
  const Matrix from = matrix(x, "x");
  const Ending ending{operands, steps, numbers, forced, refresh, threshold, max_norm, out, mask};
  with_job(pixels, count, ending, tally, [&](const Job& job) { return kernels(isa).copy(from, job); });
}

void reduce_op(const Tensor& x, const Tensor& x_mask, int64_t image_rows, bool maximum, double scale, Tensor partial,
               const Tensor& pixels, int64_t count, at::TensorList operands, at::IntArrayRef steps,
               at::ArrayRef<double> numbers, const std::optional<Tensor>& forced, const Tensor& refresh,
               double threshold, bool max_norm, c10::string_view isa, Tensor out, Tensor mask, Tensor tally) {
  const int64_t streams = out.size(0);
  TORCH_CHECK_VALUE(x.size(0) % (streams * image_rows) == 0 && x.size(1) == out.size(1), "reduce: ", x.sizes(),
                    " into ", out.sizes());
  const Reduce reduce{matrix(x, "x"), data<uint8_t>(x_mask, at::kByte, x.size(0), "x_mask"), refreshing(refresh),
                      data<float>(partial, at::kFloat, streams * image_rows * x.size(1), "partial"), streams,
                      image_rows, x.size(0) / (streams * image_rows), maximum, static_cast<float>(scale)};
  const Ending ending{operands, steps, numbers, forced, refresh, threshold, max_norm, out, mask};
  with_job(pixels, count, ending, tally, [&](const Job& job) { return kernels(isa).reduce(reduce, job); });
}

void dense_to_delta_op(const Tensor& frame, bool gated, double threshold, int64_t window, int64_t dilation,
                       double noise, double drift, double level, std::optional<Tensor> learned,
                       std::optional<Tensor> change, const std::optional<Tensor>& levels, bool swap, const std::optional<Tensor>& forced,
                       const std::optional<Tensor>& strip, const Tensor& refresh, c10::string_view isa,
                       std::optional<Tensor> raw, Tensor value,
                       Tensor mask, Tensor tally) {
  TORCH_CHECK_VALUE(frame.dim() == 4 && frame.device().is_cpu(), "frame: [N, C, H, W] on the CPU is needed");
  Enter e{frame.data_ptr(), dtype_of(frame, "frame")};
  for (int i = 0; i < 4; ++i) e.stride[i] = frame.stride(i);
  e.streams = frame.size(0), e.channels = frame.size(1), e.rows = frame.size(2), e.columns = frame.size(3);
  const int64_t all = e.streams * e.rows * e.columns;
  e.value = matrix(value, "value");
  TORCH_CHECK_VALUE(value.size(0) == all && value.size(1) == e.channels && refresh.numel() == e.streams,
                    "dense_to_delta: ", frame.sizes(), " into ", value.sizes());
  TORCH_CHECK_TYPE(e.dtype == Dtype::uint8 ? raw && levels : e.dtype == e.value.dtype,
                   "frame: uint8 with raw and levels, or the dtype of the value, is needed");
  e.raw = data<uint8_t>(raw, at::kByte, all * e.channels, "raw");
  e.levels = data<float>(levels, at::kFloat, 256 * e.channels, "levels");
  e.swap = swap, e.gated = gated, e.threshold = static_cast<float>(threshold);
  e.window = window, e.dilation = dilation;
  e.learned = data<float>(learned, at::kFloat, e.streams * kLearned, "learned");
  e.change = data<float>(change, at::kFloat, all, "change");
  TORCH_CHECK_VALUE(!e.learned || (e.change && level > 0), "learned: change and level are needed too");
  std::vector<int32_t> counts(e.learned ? e.streams * ((e.rows + kBand - 1) / kBand) * kBins : 0);
  e.counts = counts.data();
  e.level = static_cast<float>(level), e.least = static_cast<float>(threshold / level);
  e.noise = static_cast<float>(noise), e.drift = static_cast<float>(drift);
  e.mask = data<uint8_t>(mask, at::kByte, all, "mask");
  e.forced = data<uint8_t>(forced, at::kByte, all, "forced");
  e.strip = data<uint8_t>(strip, at::kByte, all, "strip");
  e.refresh = refreshing(refresh);
  e.pool = pool();
  const int64_t updated = kernels(isa).enter(e);
  int64_t* t = data<int64_t>(tally, at::kLong, kTallySize, "tally");
  t[kComputed] = all;
  t[kComputedSum] += all;
  t[kFrames] += 1;
  count_updated(tally, updated);
}

const char* const kEnding =
    "Tensor pixels, int count, Tensor[] operands, int[] steps, float[] numbers, Tensor? forced, Tensor refresh, "
    "float threshold, bool max_norm, str isa, Tensor(a!) out, Tensor(b!) mask, Tensor(c!) tally) -> ()";
const char* const kWindow = "Tensor rows, Tensor columns, int in_rows, int in_columns, ";

TORCH_LIBRARY(deltafx, m) {
  const std::string ending = kEnding, window = kWindow;
  m.def(("collect(Tensor[] masks, Tensor[] tallies, int[] relations, " + window +
         "Tensor refresh, bool passes_on, Tensor(a!) candidates, Tensor(b!) pixels, Tensor(c!) count, "
         "Tensor(d!) mask, Tensor(e!) tally) -> ()").c_str());
  m.def(("convolve(Tensor x, Tensor weight, Tensor? bias, int groups, " + window + ending).c_str());
  m.def(("depthwise(Tensor x, Tensor weight, Tensor? bias, " + window + ending).c_str());
  m.def(("pool(Tensor x, bool maximum, Tensor? row_share, Tensor? column_share, " + window + ending).c_str());
  m.def(("copy(Tensor x, " + ending).c_str());
  m.def(("reduce(Tensor x, Tensor x_mask, int image_rows, bool maximum, float scale, Tensor(d!) partial, " + ending).c_str());
  m.def("dense_to_delta(Tensor frame, bool gated, float threshold, int window, int dilation, float noise, "
        "float drift, float level, Tensor(e!)? learned, Tensor(f!)? change, Tensor? levels, bool swap, Tensor? forced, "
        "Tensor? strip, Tensor refresh, str isa, Tensor(a!)? raw, Tensor(b!) value, Tensor(c!) mask, Tensor(d!) tally) -> ()");
}

TORCH_LIBRARY_IMPL(deltafx, CPU, m) {
  m.impl("collect", &collect_op);
  m.impl("convolve", &convolve_op);
  m.impl("depthwise", &depthwise_op);
  m.impl("pool", &pool_op);
  m.impl("copy", &copy_op);
  m.impl("reduce", &reduce_op);
  m.impl("dense_to_delta", &dense_to_delta_op);
}

}  // namespace
}  // namespace deltafx
