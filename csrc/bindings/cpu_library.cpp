// The CPU kernels as PyTorch operators: what is called once, for one node of one frame.
#include <torch/library.h>

#include <string>

#include "cpu_calls.h"

namespace deltafx {
namespace {

using namespace deltafx::cpu;  // NOLINT: this file only translates between the two

void collect_op(at::TensorList masks, at::TensorList tallies, at::IntArrayRef relations, const Tensor& rows,
                const Tensor& columns, int64_t in_rows, int64_t in_columns, const Tensor& refresh, bool passes_on,
                Tensor candidates, Tensor pixels, Tensor count, Tensor mask, Tensor tally) {
  CollectCall call(masks, tallies, relations, rows, columns, in_rows, in_columns, refresh.numel(), passes_on, candidates,
                   pixels, mask, tally);
  *data<int64_t>(count, at::kLong, 1, "count") = call.run(refreshing(refresh));
}

void convolve_op(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, int64_t groups,
                 const Tensor& rows, const Tensor& columns, int64_t in_rows, int64_t in_columns, const Tensor& pixels,
                 int64_t count, at::TensorList operands, at::IntArrayRef steps, at::ArrayRef<double> numbers,
                 const std::optional<Tensor>& forced, const Tensor& refresh, double threshold, bool max_norm,
                 c10::string_view isa, Tensor out, Tensor mask, Tensor tally) {
  const std::string set(isa);
  const Ending ending{pixels, refresh.numel(), operands, steps, numbers, forced, threshold, max_norm, set, out, mask,
                      tally};
  convolve_call(ending, x, weight, bias, groups, rows, columns, in_rows, in_columns).run(count, refreshing(refresh));
}

void depthwise_op(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, const Tensor& rows,
                  const Tensor& columns, int64_t in_rows, int64_t in_columns, const Tensor& pixels, int64_t count,
                  at::TensorList operands, at::IntArrayRef steps, at::ArrayRef<double> numbers,
                  const std::optional<Tensor>& forced, const Tensor& refresh, double threshold, bool max_norm,
                  c10::string_view isa, Tensor out, Tensor mask, Tensor tally) {
  const std::string set(isa);
  const Ending ending{pixels, refresh.numel(), operands, steps, numbers, forced, threshold, max_norm, set, out, mask,
                      tally};
  depthwise_call(ending, x, weight, bias, rows, columns, in_rows, in_columns).run(count, refreshing(refresh));
}

void pool_op(const Tensor& x, bool maximum, const std::optional<Tensor>& row_share,
             const std::optional<Tensor>& column_share, const Tensor& rows, const Tensor& columns, int64_t in_rows,
             int64_t in_columns, const Tensor& pixels, int64_t count, at::TensorList operands, at::IntArrayRef steps,
             at::ArrayRef<double> numbers, const std::optional<Tensor>& forced, const Tensor& refresh, double threshold,
             bool max_norm, c10::string_view isa, Tensor out, Tensor mask, Tensor tally) {
  const std::string set(isa);
  const Ending ending{pixels, refresh.numel(), operands, steps, numbers, forced, threshold, max_norm, set, out, mask,
                      tally};
  pool_call(ending, x, maximum, row_share, column_share, rows, columns, in_rows,
            in_columns).run(count, refreshing(refresh));
}

void copy_op(const Tensor& x, const Tensor& pixels, int64_t count, at::TensorList operands, at::IntArrayRef steps,
             at::ArrayRef<double> numbers, const std::optional<Tensor>& forced, const Tensor& refresh, double threshold,
             bool max_norm, c10::string_view isa, Tensor out, Tensor mask, Tensor tally) {
  const std::string set(isa);
  const Ending ending{pixels, refresh.numel(), operands, steps, numbers, forced, threshold, max_norm, set, out, mask,
                      tally};
  copy_call(ending, x).run(count, refreshing(refresh));
}

void reduce_op(const Tensor& x, const Tensor& x_mask, int64_t image_rows, bool maximum, double scale, Tensor partial,
               const Tensor& pixels, int64_t count, at::TensorList operands, at::IntArrayRef steps,
               at::ArrayRef<double> numbers, const std::optional<Tensor>& forced, const Tensor& refresh,
               double threshold, bool max_norm, c10::string_view isa, Tensor out, Tensor mask, Tensor tally) {
  const std::string set(isa);
  const Ending ending{pixels, refresh.numel(), operands, steps, numbers, forced, threshold, max_norm, set, out, mask,
                      tally};
  reduce_call(ending, x, x_mask, image_rows, maximum, scale, partial).run(count, refreshing(refresh));
}

void dense_to_delta_op(const Tensor& frame, bool gated, double threshold, int64_t window, int64_t dilation, double weak,
                       int64_t reach, int64_t neighbours, double noise, double drift, double level,
                       std::optional<Tensor> learned, std::optional<Tensor> change,
                       const std::optional<Tensor>& levels, bool swap, const std::optional<Tensor>& forced,
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
  e.weak = static_cast<float>(weak), e.reach = reach, e.neighbours = neighbours;
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
  const int64_t updated = kernels(std::string(isa)).enter(e);
  int64_t* t = data<int64_t>(tally, at::kLong, kTallySize, "tally");
  t[kComputed] = all;
  t[kComputedSum] += all;
  t[kFrames] += 1;
  count_updated(t, updated);
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
  m.def("dense_to_delta(Tensor frame, bool gated, float threshold, int window, int dilation, float weak, int reach, "
        "int neighbours, float noise, float drift, float level, Tensor(e!)? learned, Tensor(f!)? change, "
        "Tensor? levels, bool swap, Tensor? forced, Tensor? strip, Tensor refresh, str isa, "
        "Tensor(a!)? raw, Tensor(b!) value, Tensor(c!) mask, Tensor(d!) tally) -> ()");
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
