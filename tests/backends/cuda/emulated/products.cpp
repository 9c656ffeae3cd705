// Products for few pixels, and what all pixels of a stream are reduced to, beside plain loops: of random sizes and
// types. Arguments: seed, how many of each.
#include "block.h"

#include <cstdio>

#include "cuda/grid.cu"
#include "cuda/product.cu"
#include "cuda/reduce.cuh"
#include "numbers.h"

using namespace deltafx;
using namespace deltafx::cuda;

namespace {

// A result, what stands there before, and the step that makes it: SiLU.
template <class T>
struct Result {
  int rows, channels;
  Numbers<T> out;
  std::vector<double> want;
  std::vector<Pack<float>> bias;
  Commit commit{};

  Result(int rows, int channels, Dtype dtype)
      : rows(rows), channels(channels), out(rows, channels, any(0, 1)), bias(channels / 4 + 1) {
    for (int k = 0; k < rows * out.pitch; ++k) want.push_back(number(out.at(0)[k]));
    for (Pack<float>& pack : bias)
      for (float& x : pack.of) x = std::normal_distribution<float>()(generator);
    commit.out = out.matrix(channels, dtype);
    commit.bias = bias.data()->of;
    commit.steps[commit.step_count++] = {Code::silu, Operand::none, nullptr, 0, 0.0f, 0.0f, false};
  }

  void expect(int row, int c, double sum) {
    sum += bias.data()->of[c];
    want[row * out.pitch + c] = sum / (1 + std::exp(-sum));
  }

  bool is_as_expected(const char* what) {
    for (int row = 0; row < rows; ++row)
      for (int c = 0; c < out.pitch; ++c) {
        const double x = number(out.at(row)[c]), y = want[row * out.pitch + c];
        if (near<T>(x, y)) continue;
        std::printf("%s: %g instead of %g in row %d of %d, channel %d of %d\n", what, x, y, row, rows, c, channels);
        return false;
      }
    return true;
  }
};

template <class T>
bool multiplies(Dtype dtype) {
  const int streams = any(1, 6), in = any(1, 300), channels = any(1, 30);
  Numbers<T> x(streams, in, any(0, 1)), weight(channels, in, false);
  Result<T> result(streams, channels, dtype);
  for (int p = 0; p < streams; ++p)
    for (int o = 0; o < channels; ++o) {
      double sum = 0;
      for (int c = 0; c < in; ++c) sum += double{number(x.at(p)[c])} * number(weight.at(o)[c]);
      result.expect(p, o, sum);
    }
  const Product product{x.matrix(in, dtype), weight.at(0), in % kPack<T> == 0};
  const Dense dense = dense_of<T>(result.commit, streams, 1);
  emulated::run(product_blocks(channels, streams), 32 * kChannels, [&] { product_all_kernel<T>(product, dense); });
  return result.is_as_expected("product");
}

template <class T>
bool reduces(Dtype dtype) {
  const int streams = any(1, 3), rows = any(1, 4), columns = any(1, 9), channels = any(1, 70);
  const bool maximum = any(0, 1);
  Numbers<T> x(streams * rows * columns, channels, any(0, 1));
  Result<T> result(streams, channels, dtype);
  for (int n = 0; n < streams; ++n)
    for (int c = 0; c < channels; ++c) {
      double total = maximum ? -INFINITY : 0;
      for (int p = n * rows * columns; p < (n + 1) * rows * columns; ++p) {
        const double v = number(x.at(p)[c]);
        total = maximum ? std::max(total, v) : total + v / (rows * columns);
      }
      result.expect(n, c, total);
    }
  std::vector<Pack<float>> partial(streams * rows * channels / 4 + 1);
  std::vector<int32_t> arrived(streams);
  const Reduce reduce{
      x.matrix(channels, dtype), nullptr, nullptr, partial.data()->of, arrived.data(), streams, rows, columns, maximum,
      1.0f / (rows * columns)};
  const Dense dense = dense_of<T>(result.commit, streams, 1);
  for (int time = 0; time < 2; ++time)  // the second one begins with what the first left
    emulated::run(streams * rows, kJoinThreads, [&] { partial_kernel<T>(reduce, dense); });
  if (!result.is_as_expected("reduction")) return false;
  for (int n = 0; n < streams; ++n) std::fill_n(result.out.at(n), channels, rounded<T>(0.0f));
  Reduce again = reduce;  // of the partial results that are there
  again.x.data = nullptr, again.arrived = nullptr;
  emulated::run(streams, kJoinThreads, [&] { partial_kernel<T>(again, dense); });
  return result.is_as_expected("total");
}

}  // namespace

int main(int, char** arguments) {
  return tried(arguments, [] {
    return multiplies<float>(Dtype::float32) && multiplies<__half>(Dtype::float16) && reduces<float>(Dtype::float32) &&
           reduces<__half>(Dtype::float16);
  });
}
