#include "cpu_calls.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <utility>

namespace deltafx {

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

const Kernels& kernels(const std::string& isa) {
  const Kernels* found = kernels_for(isa.c_str());
  TORCH_CHECK_VALUE(found != nullptr, "isa: this processor has no ", isa);
  return *found;
}

const uint8_t* refreshing(const uint8_t* flags, int64_t streams) {
  for (int64_t n = 0; n < streams; ++n)
    if (flags[n]) return flags;
  return nullptr;
}

const uint8_t* refreshing(const Tensor& refresh) {
  return refreshing(reinterpret_cast<const uint8_t*>(data<bool>(refresh, at::kBool, 1, "refresh")), refresh.numel());
}

void count_updated(int64_t* tally, int64_t updated) {
  tally[kUpdated] = updated;
  tally[kUpdatedSum] += updated;
}

static Window window_of(const Tensor& rows, const Tensor& columns, int64_t in_rows, int64_t in_columns) {
  TORCH_CHECK_VALUE(rows.dim() == 2 && columns.dim() == 2, "window: tables [outputs, taps] are needed");
  const int32_t* ys = data<int32_t>(rows, at::kInt, rows.numel(), "rows");
  const int32_t* xs = data<int32_t>(columns, at::kInt, columns.numel(), "columns");
  return {ys, xs, rows.size(1), columns.size(1), in_rows, in_columns, rows.size(0), columns.size(0),
          inner_of(ys, rows.size(0), rows.size(1)), inner_of(xs, columns.size(0), columns.size(1))};
}

// ---------------------------------------------------------------------------------------------------------------------

// Whether every output reads some input along an axis.
static bool reads(const int32_t* table, int64_t outputs, int64_t taps) {
  for (int64_t o = 0; o < outputs; ++o)
    if (std::all_of(table + o * taps, table + (o + 1) * taps, [](int32_t place) { return place < 0; })) return false;
  return true;
}

// Whether every output reads the input of its own number.
static bool is_pointwise(const Window& w) {
  const bool one_tap = w.kernel_rows == 1 && w.kernel_columns == 1;
  return one_tap && w.in_rows == w.out_rows && w.in_columns == w.out_columns && w.y.is_same(w.out_rows) &&
         w.x.is_same(w.out_columns);
}

CollectCall::CollectCall(at::TensorList masks, at::TensorList tallies, at::IntArrayRef relations, const Tensor& rows,
                         const Tensor& columns, int64_t in_rows, int64_t in_columns, int64_t streams, bool passes_on,
                         const Tensor& candidates, const Tensor& pixels, const Tensor& mask, const Tensor& tally)
    : passes_on_(passes_on) {
  const Window window = window_of(rows, columns, in_rows, in_columns);
  pixels_ = streams * window.out_rows * window.out_columns;
  TORCH_CHECK_VALUE(masks.size() == relations.size() && masks.size() == tallies.size(),
                    "collect: a relation and a tally are needed for each mask");
  const bool reads_everywhere = reads(window.rows, window.out_rows, window.kernel_rows) &&
                                reads(window.columns, window.out_columns, window.kernel_columns);
  all_streams_.assign(streams, 1);
  for (size_t i = 0; i < masks.size(); ++i) {
    auto relation = static_cast<Relation>(relations[i]);
    if (relation == Relation::window && is_pointwise(window)) relation = Relation::same;
    const int64_t size = relation == Relation::window ? streams * in_rows * in_columns
                         : relation == Relation::same ? pixels_
                                                      : streams;
    covering_.push_back(relation != Relation::window || reads_everywhere ? size : size + 1);
    tallies_.push_back(data<int64_t>(tallies[i], at::kLong, kTallySize, "tallies"));
    all_sources_.push_back({data<uint8_t>(masks[i], at::kByte, size, "masks"), relation});
  }
  mask_ = data<uint8_t>(mask, at::kByte, pixels_, "mask");
  tally_ = data<int64_t>(tally, at::kLong, kTallySize, "tally");
  job_ = {nullptr, 0, window, streams, nullptr, data<uint8_t>(candidates, at::kByte, pixels_, "candidates"),
          data<int32_t>(pixels, at::kInt, pixels_ + 1, "pixels")};
}

int64_t CollectCall::run(const uint8_t* refresh) {
  if (tally_[kUpdated] != 0 || tally_[kFrames] == 0) std::memset(mask_, 0, pixels_);
  sources_.clear();
  for (size_t i = 0; i < all_sources_.size(); ++i)
    if (tallies_[i][kUpdated] != 0) sources_.push_back(all_sources_[i]);
  job_.sources = sources_.data();
  job_.source_count = static_cast<int64_t>(sources_.size());
  job_.refresh = refresh;
  for (size_t i = 0; i < tallies_.size(); ++i)
    if (tallies_[i][kUpdated] == covering_[i]) job_.refresh = all_streams_.data();
  const int64_t found = sources_.empty() && job_.refresh == nullptr ? 0 : collect(job_);
  tally_[kComputed] = found;
  tally_[kComputedSum] += found;
  tally_[kFrames] += 1;
  count_updated(tally_, found && passes_on_ ? pass_on(found, refresh) : 0);
  return found;
}

int64_t CollectCall::pass_on(int64_t found, const uint8_t* refresh) {
  std::memcpy(mask_, job_.candidates, pixels_);
  if (!forced_) return found;
  const int64_t of_stream = pixels_ / job_.streams;
  int64_t passed = 0;
  for (int64_t n = 0; n < job_.streams; ++n) {
    uint8_t* mask = mask_ + n * of_stream;
    const uint8_t* forced = forced_ + n * of_stream;
    const uint8_t always = refresh && refresh[n] ? 1 : 0;
    for (int64_t p = 0; p < of_stream; ++p) mask[p] &= (forced[p] != 0) | always;
    passed += std::accumulate(mask, mask + of_stream, int64_t{0});
  }
  return passed;
}

void CollectCall::force(const std::optional<Tensor>& forced) {
  forced_ = data<uint8_t>(forced, at::kByte, pixels_, "forced");
}

// ---------------------------------------------------------------------------------------------------------------------

// The steps of a kernel. Operands of a pixel or a stream are refused where nothing says how many `pixels` there are.
static std::vector<Step> steps_of(at::TensorList operands, at::IntArrayRef steps, at::ArrayRef<double> numbers,
                                  int64_t channels, int64_t pixels = 0, int64_t streams = 0) {
  TORCH_CHECK_VALUE(steps.size() == numbers.size(), "steps: a code and a kind, and two numbers, for each step");
  std::vector<Step> result;
  size_t operand = 0;
  for (size_t i = 0; i < steps.size(); i += 2) {
    Step step{static_cast<Code>(steps[i]), static_cast<Operand>(steps[i + 1]), {}, static_cast<float>(numbers[i]),
              static_cast<float>(numbers[i + 1])};
    TORCH_CHECK_VALUE((step.code >= Code::add) == (step.kind != Operand::none), "steps: a code and its operand");
    if (step.kind != Operand::none && step.kind != Operand::number) {
      TORCH_CHECK_VALUE(operand < operands.size(), "operands: fewer than the steps name");
      TORCH_CHECK_VALUE(step.kind == Operand::per_channel || pixels > 0,
                        "steps: an operand of a map that is not stored");
      const Tensor& tensor = operands[operand++];
      step.operand = matrix(tensor, "operand");
      const int64_t rows = step.kind == Operand::per_channel ? 1 : step.kind == Operand::per_stream ? streams : pixels;
      const int64_t width = step.kind == Operand::pixel_gate ? 1 : channels;
      TORCH_CHECK_VALUE(tensor.size(0) == rows && tensor.size(1) == width, "operand: [", rows, ", ", width,
                        "] is needed; got ", tensor.sizes());
    }
    result.push_back(step);
  }
  return result;
}

Call::Call(const Ending& e, Kernel kernel) : kernel_(std::move(kernel)) {
  const int64_t streams = e.streams;
  pixels_ = e.out.size(0);
  TORCH_CHECK_VALUE(streams > 0 && pixels_ % streams == 0, "out: ", pixels_, " pixels for ", streams, " streams");
  steps_ = steps_of(e.operands, e.steps, e.numbers, e.out.size(1), pixels_, streams);
  job_ = {data<int32_t>(e.pixels, at::kInt, pixels_, "pixels"), 0, {}, {}};
  job_.commit = {steps_.data(), static_cast<int64_t>(steps_.size()), matrix(e.out, "out"),
                 data<uint8_t>(e.mask, at::kByte, pixels_, "mask"), nullptr, nullptr, pixels_ / streams,
                 static_cast<float>(e.threshold), e.max_norm ? Norm::max : Norm::rms};
  tally_ = data<int64_t>(e.tally, at::kLong, kTallySize, "tally");
  force(e.forced);
}

void Call::force(const std::optional<Tensor>& forced) {
  job_.commit.forced = data<uint8_t>(forced, at::kByte, pixels_, "forced");
}

void Call::run(int64_t count, const uint8_t* refresh) {
  TORCH_CHECK_VALUE(0 <= count && count <= pixels_, "count: ", count, " of ", pixels_, " pixels");
  job_.count = count;
  job_.commit.refresh = refresh;
  job_.pool = pool();
  count_updated(tally_, count ? kernel_(job_) : 0);
}

// The weights of a convolution, packed in one of two forms.
static void take_weights(Conv& conv, const Tensor& weight, const Kernels& k) {
  const int64_t depth = conv.window.kernel_rows * conv.window.kernel_columns * conv.in_per_group;
  const int64_t size = conv.groups * ((conv.out_per_group + k.panel - 1) / k.panel) * depth * k.panel;
  conv.in_pairs = weight.scalar_type() == at::kBFloat16;
  if (!conv.in_pairs) {
    conv.weight = data<float>(weight, at::kFloat, size, "weight");
    return;
  }
  TORCH_CHECK_VALUE(multiplies_pairs(k), "weight: bfloat16 is not multiplied in pairs here; float32 is needed");
  TORCH_CHECK_VALUE(conv.in_per_group % 2 == 0 && conv.x.dtype == Dtype::bfloat16,
                    "weight: pairs need an even number of channels in bfloat16; got ", conv.in_per_group);
  conv.weight = data<at::BFloat16>(weight, at::kBFloat16, size, "weight");
}

Call convolve_call(const Ending& ending, const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                   int64_t groups, const Tensor& rows, const Tensor& columns, int64_t in_rows, int64_t in_columns) {
  const Kernels& k = kernels(ending.isa);
  const Window window = window_of(rows, columns, in_rows, in_columns);
  const Matrix from = matrix(x, "x");
  const int64_t in = x.size(1) / groups;
  const auto pieces = std::make_shared<const std::vector<Piece>>(pieces_of(window, from.pitch, in));
  Conv conv{from, window, pieces->data(), static_cast<int64_t>(pieces->size()), nullptr, false,
            data<float>(bias, at::kFloat, ending.out.size(1), "bias"), groups, in, ending.out.size(1) / groups};
  take_weights(conv, weight, k);
  return Call(ending, [conv, pieces, &k](const Job& job) { return k.convolve(conv, job); });
}

Call depthwise_call(const Ending& ending, const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                    const Tensor& rows, const Tensor& columns, int64_t in_rows, int64_t in_columns) {
  const Kernels& k = kernels(ending.isa);
  const Window window = window_of(rows, columns, in_rows, in_columns);
  const Matrix from = matrix(x, "x");
  const int64_t channels = ending.out.size(1);
  TORCH_CHECK_VALUE(x.size(1) == channels, "depthwise: ", x.size(1), " channels in, ", channels, " out");
  const Depthwise depthwise{
      from, window, data<float>(weight, at::kFloat, window.kernel_rows * window.kernel_columns * channels, "weight"),
      data<float>(bias, at::kFloat, channels, "bias")};
  return Call(ending, [depthwise, &k](const Job& job) { return k.depthwise(depthwise, job); });
}

// ---------------------------------------------------------------------------------------------------------------------

namespace {

// What a separable call points to, which stays where it is.
struct SeparableParts {
  std::vector<Step> expand_steps, depthwise_steps;
  std::vector<Piece> expand_pieces, project_pieces;
  std::vector<int64_t> spans;
  std::vector<int32_t> counting;
  Conv expand;
  int64_t expanded_pixels = 0;

  // The window of a 1x1 convolution of a row of pixels.
  Window same() const {
    const int64_t columns = static_cast<int64_t>(counting.size());
    return {counting.data(), counting.data(), 1, 1, 1, columns, 1, columns, {0, 1, 0, 1, 1}, {0, columns, 0, 1, 1}};
  }

  Conv convolution(const Matrix& x, const Window& window, std::vector<Piece>& pieces, const Tensor& weight,
                 const std::optional<Tensor>& bias, int64_t out, const Kernels& k) {
    pieces = pieces_of(window, x.pitch, x.channels);
    Conv conv{x, window, pieces.data(), static_cast<int64_t>(pieces.size()), nullptr, false,
              data<float>(bias, at::kFloat, out, "bias"), 1, x.channels, out};
    take_weights(conv, weight, k);
    return conv;
  }
};

Between between_of(const std::vector<Step>& steps, Dtype dtype) {
  return {steps.data(), static_cast<int64_t>(steps.size()), dtype};
}

}  // namespace

Call separable_call(const Ending& ending, const Tensor& x, const std::optional<Windowed>& expand,
                    const std::optional<Tensor>& expanded, const Layer& depthwise, const Tensor& weight,
                    const std::optional<Tensor>& bias, const Tensor& rows, const Tensor& columns, int64_t in_rows,
                    int64_t in_columns) {
  const Kernels& k = kernels(ending.isa);
  const Window window = window_of(rows, columns, in_rows, in_columns);
  const Matrix from = matrix(x, "x");
  const auto& [taps, shifts, operands, steps, numbers] = depthwise;
  const int64_t channels = taps.size(1);
  TORCH_CHECK_VALUE(expand ? expanded.has_value() : from.channels == channels, "separable: ", from.channels,
                    " channels in, ", channels, " filtered");
  constexpr int64_t kTilePixels = 1024;  // more than a tile has
  const auto parts = std::make_shared<SeparableParts>();
  parts->counting.resize(kTilePixels);
  std::iota(parts->counting.begin(), parts->counting.end(), 0);
  Separable kernel{};
  int64_t* tally = nullptr;
  if (expand) {
    const auto& [layer, ys, xs, x_rows, x_columns] = *expand;
    const auto& [own, own_bias, own_operands, own_steps, own_numbers] = layer;
    const Window own_window = window_of(ys, xs, x_rows, x_columns);
    TORCH_CHECK_VALUE(own_window.out_rows == in_rows && own_window.out_columns == in_columns,
                      "separable: the expanded map is not the one that is filtered");
    parts->expand_steps = steps_of(own_operands, own_steps, own_numbers, channels);
    parts->expand = parts->convolution(from, own_window, parts->expand_pieces, own, own_bias, channels, k);
    parts->spans = spans_of(window);
    kernel.expand = &parts->expand, kernel.spans = parts->spans.data();
    kernel.expanded = between_of(parts->expand_steps, from.dtype);
    kernel.expanded_pixels = &parts->expanded_pixels;
    tally = data<int64_t>(expanded, at::kLong, kTallySize, "expanded");
  }
  parts->depthwise_steps = steps_of(operands, steps, numbers, channels);
  kernel.depthwise = {expand ? Matrix{nullptr, 0, channels, Dtype::float32} : from, window,
                      data<float>(taps, at::kFloat, window.kernel_rows * window.kernel_columns * channels, "taps"),
                      data<float>(shifts, at::kFloat, channels, "shifts")};
  kernel.filtered = between_of(parts->depthwise_steps, from.dtype);
  kernel.project = parts->convolution({nullptr, channels, channels, from.dtype}, parts->same(),
                                    parts->project_pieces, weight, bias, ending.out.size(1), k);
  return Call(ending, [kernel, parts, tally, &k](const Job& job) {
    const int64_t updated = k.separable(kernel, job);
    if (tally) {  // more than were in the list: what the windows of updated pixels read is computed anew
      tally[kComputedSum] += parts->expanded_pixels - tally[kComputed];
      tally[kComputed] = parts->expanded_pixels;
    }
    return updated;
  });
}

Call pool_call(const Ending& ending, const Tensor& x, bool maximum, const std::optional<Tensor>& row_share,
               const std::optional<Tensor>& column_share, const Tensor& rows, const Tensor& columns, int64_t in_rows,
               int64_t in_columns) {
  const Kernels& k = kernels(ending.isa);
  const Window window = window_of(rows, columns, in_rows, in_columns);
  const Matrix from = matrix(x, "x");
  const int64_t channels = ending.out.size(1);
  TORCH_CHECK_VALUE(maximum || (row_share && column_share), "pool: a mean needs the shares of its taps");
  TORCH_CHECK_VALUE(x.size(1) == channels, "pool: ", x.size(1), " channels in, ", channels, " out");
  const Pool2d pool2d{from, window, maximum, data<float>(row_share, at::kFloat, rows.numel(), "row_share"),
                      data<float>(column_share, at::kFloat, columns.numel(), "column_share")};
  return Call(ending, [pool2d, &k](const Job& job) { return k.pool(pool2d, job); });
}

Call copy_call(const Ending& ending, const Tensor& x) {
  const Kernels& k = kernels(ending.isa);
  TORCH_CHECK_VALUE(x.sizes() == ending.out.sizes(), "copy: ", x.sizes(), " into ", ending.out.sizes());
  const Matrix from = matrix(x, "x");
  return Call(ending, [from, &k](const Job& job) { return k.copy(from, job); });
}

Call reduce_call(const Ending& ending, const Tensor& x, const Tensor& x_mask, int64_t image_rows, bool maximum,
                 double scale, const Tensor& partial) {
  const Kernels& k = kernels(ending.isa);
  const int64_t streams = ending.streams;
  TORCH_CHECK_VALUE(ending.out.size(0) == streams && x.size(0) % (streams * image_rows) == 0 &&
                        x.size(1) == ending.out.size(1),
                    "reduce: ", x.sizes(), " into ", ending.out.sizes());
  const Reduce reduce{matrix(x, "x"), data<uint8_t>(x_mask, at::kByte, x.size(0), "x_mask"), nullptr,
                      data<float>(partial, at::kFloat, streams * image_rows * x.size(1), "partial"), streams,
                      image_rows, x.size(0) / (streams * image_rows), maximum, static_cast<float>(scale)};
  return Call(ending, [reduce, &k](const Job& job) {
    Reduce now = reduce;
    now.refresh = job.commit.refresh;
    return k.reduce(now, job);
  });
}

}  // namespace deltafx
