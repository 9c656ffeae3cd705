// Calls of the CPU kernels: their tensors checked and taken apart, ready to run in frame after frame.
//
// Every feature map comes as a matrix [pixels, channels] over all streams, whose channels lie side by side. A call keeps
// pointers into its tensors, which the caller keeps alive.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <string>
#include <tuple>
#include <vector>

#include "../cpu/collect.h"
#include "../cpu/kernels.h"

namespace deltafx {

using at::Tensor;

// tally: [computed, updated] in the last frame, their sums since the last reset, frames since then.
enum { kComputed, kUpdated, kComputedSum, kUpdatedSum, kFrames, kTallySize };

cpu::Pool pool();
cpu::Dtype dtype_of(const Tensor& x, const char* name);
cpu::Matrix matrix(const Tensor& x, const char* name);
const cpu::Kernels& kernels(const std::string& isa);
void count_updated(int64_t* tally, int64_t updated);

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

// The flags of the streams in refresh, or null where there is none.
const uint8_t* refreshing(const uint8_t* flags, int64_t streams);
const uint8_t* refreshing(const Tensor& refresh);

// Finds the pixels that a node has to compute.
class CollectCall {
 public:
  CollectCall(at::TensorList masks, at::TensorList tallies, at::IntArrayRef relations, const Tensor& rows,
              const Tensor& columns, int64_t in_rows, int64_t in_columns, int64_t streams, bool passes_on,
              const Tensor& candidates, const Tensor& pixels, const Tensor& mask, const Tensor& tally);
  // Returns how many there are. `refresh` is as `refreshing` gives it.
  int64_t run(const uint8_t* refresh);
  // What is prescribed to be passed on, of what was found; a refresh passes on everything.
  void force(const std::optional<Tensor>& forced);

 private:
  int64_t pass_on(int64_t found, const uint8_t* refresh);

  std::vector<cpu::Source> all_sources_, sources_;
  std::vector<const int64_t*> tallies_;  // of the sources
  std::vector<int64_t> covering_;        // of the sources: how many updated pixels are sure to reach every output
  std::vector<uint8_t> all_streams_;     // flags, all set
  cpu::Collect job_;
  bool passes_on_;
  const uint8_t* forced_ = nullptr;
  int64_t pixels_;
  uint8_t* mask_;
  int64_t* tally_;
};

// What every kernel is given besides its own arguments: where, and how it ends.
struct Ending {
  const Tensor& pixels;
  int64_t streams;
  at::TensorList operands;
  at::IntArrayRef steps;         // code and kind of each step
  at::ArrayRef<double> numbers;  // a and b of each step
  const std::optional<Tensor>& forced;
  double threshold;
  bool max_norm;
  const std::string& isa;
  const Tensor& out;
  const Tensor& mask;
  const Tensor& tally;
};

// Computes listed pixels.
class Call {
 public:
  using Kernel = std::function<int64_t(const cpu::Job&)>;

  Call(const Ending& ending, Kernel kernel);
  Call(Call&&) = default;  // the steps stay where they are
  void run(int64_t count, const uint8_t* refresh);
  void force(const std::optional<Tensor>& forced);

 private:
  std::vector<cpu::Step> steps_;
  cpu::Job job_;
  int64_t pixels_;
  int64_t* tally_;
  Kernel kernel_;
};

Call convolve_call(const Ending& ending, const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                   int64_t groups, const Tensor& rows, const Tensor& columns, int64_t in_rows, int64_t in_columns);
Call depthwise_call(const Ending& ending, const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                    const Tensor& rows, const Tensor& columns, int64_t in_rows, int64_t in_columns);
// A layer whose map is not stored: weight, bias, and the operands, codes and numbers of its steps.
using Layer = std::tuple<Tensor, std::optional<Tensor>, std::vector<Tensor>, std::vector<int64_t>, std::vector<double>>;
using Windowed = std::tuple<Layer, Tensor, Tensor, int64_t, int64_t>;  // with the tables and the input of its window
// `expanded` is the tally of the expansion's node. The window is the depthwise convolution's, weight and bias are the
// projection's.
Call separable_call(const Ending& ending, const Tensor& x, const std::optional<Windowed>& expand,
                    const std::optional<Tensor>& expanded, const Layer& depthwise, const Tensor& weight,
                    const std::optional<Tensor>& bias, const Tensor& rows, const Tensor& columns, int64_t in_rows,
                    int64_t in_columns);
Call pool_call(const Ending& ending, const Tensor& x, bool maximum, const std::optional<Tensor>& row_share,
               const std::optional<Tensor>& column_share, const Tensor& rows, const Tensor& columns, int64_t in_rows,
               int64_t in_columns);
Call copy_call(const Ending& ending, const Tensor& x);
Call reduce_call(const Ending& ending, const Tensor& x, const Tensor& x_mask, int64_t image_rows, bool maximum,
                 double scale, const Tensor& partial);

}  // namespace deltafx
