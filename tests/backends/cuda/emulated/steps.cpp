// What a dense frame does after a library's product, beside plain loops: every code, with every kind of operand.
// Arguments: seed, how many of each.
#include "block.h"

#include <cstdio>

#include "cuda/dense.cu"
#include "cuda/grid.cu"
#include "numbers.h"

using namespace deltafx;
using namespace deltafx::cuda;

namespace {

double sigmoid_of(double x) { return 1 / (1 + std::exp(-x)); }

double expected(Code code, double x, double y, double a, double b) {
  switch (code) {
    case Code::relu:
      return x < 0 ? 0 : x;
    case Code::clamp:
      return x < a ? a : x > b ? b : x;
    case Code::leaky_relu:
      return x > 0 ? x : a * x;
    case Code::elu:
      return x > 0 ? x * b : a * std::expm1(x);
    case Code::gelu:
      return x / 2 * (1 + std::erf(x / std::sqrt(2.0)));
    case Code::gelu_tanh:
      return x / 2 * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Code::silu:
      return x * sigmoid_of(x);
    case Code::mish:
      return x * std::tanh(std::log1p(std::exp(x)));
    case Code::sigmoid:
      return sigmoid_of(x);
    case Code::tanh:
      return std::tanh(x);
    case Code::hardsigmoid:
      return std::min(std::max(x + 3, 0.0), 6.0) / 6;
    case Code::hardswish:
      return x * std::min(std::max(x + 3, 0.0), 6.0) / 6;
    case Code::softplus:
      return x * a > b ? x : std::log1p(std::exp(x * a)) / a;
    case Code::exp:
      return std::exp(x);
    case Code::sqrt:
      return std::sqrt(x);
    case Code::abs:
      return std::abs(x);
    case Code::square:
      return x * x;
    case Code::reciprocal:
      return 1 / x;
    case Code::add:
      return x + a * y;
    case Code::rsub:
      return y - a * x;
    case Code::mul:
      return x * y;
    case Code::div:
      return x / y;
    case Code::rdiv:
      return y / x;
    case Code::maximum:
      return std::max(x, y);
    case Code::minimum:
      return std::min(x, y);
    case Code::prelu:
      return x > 0 ? x : y * x;
  }
  return NAN;
}

template <class T>
bool applies(Dtype dtype, Code code, Operand kind) {
  const int streams = any(1, 3), plane = any(1, 30), pixels = streams * plane, channels = any(1, 40);
  Numbers<T> x(pixels, channels, any(0, 1)), out(pixels, channels, any(0, 1));
  Numbers<T> operand(pixels, kind == Operand::pixel_gate ? 1 : channels, any(0, 1));
  Numbers<float> row(1, channels, any(0, 1));
  const float a = any(1, 9) / 4.0f, b = any(10, 19) / 4.0f;
  Step step{code, kind, nullptr, 0, a, b, false};
  if (kind == Operand::per_channel) step.operand = row.at(0), step.packed = true;
  if (kind > Operand::per_channel)
    step.operand = operand.at(0), step.pitch = operand.pitch, step.packed = operand.matrix(channels, dtype).packed;
  Commit commit{};
  commit.out = out.matrix(channels, dtype);
  commit.steps[commit.step_count++] = step;
  const Dense dense = dense_of<T>(commit, pixels, plane);
  const Matrix from = x.matrix(channels, dtype);
  const int items = divide_up(pixels, kTogether) * dense.packs.by;
  emulated::run(divide_up(items, kWholeThreads), kWholeThreads, [&] { finish_kernel<T>(from, dense); });
  for (int p = 0; p < pixels; ++p)
    for (int c = 0; c < channels; ++c) {
      double y = code == Code::add || code == Code::rsub ? b : a;
      if (kind == Operand::per_channel) y = row.at(0)[c];
      if (kind == Operand::per_pixel) y = number(operand.at(p)[c]);
      if (kind == Operand::per_stream) y = number(operand.at(p / plane)[c]);
      if (kind == Operand::pixel_gate) y = number(operand.at(p)[0]);
      const double got = number(out.at(p)[c]), want = expected(code, number(x.at(p)[c]), y, a, b);
      if (near<T>(got, want)) continue;
      std::printf("code %d, operand %d: %g instead of %g, of %g and %g\n", static_cast<int>(code),
                  static_cast<int>(kind), got, want, static_cast<double>(number(x.at(p)[c])), y);
      return false;
    }
  return true;
}

}  // namespace

int main(int, char** arguments) {
  return tried(arguments, [] {
    for (Code code = Code::relu; code <= Code::prelu; code = static_cast<Code>(static_cast<int>(code) + 1)) {
      const bool alone = code < Code::add;
      const auto kind = static_cast<Operand>(alone ? 0 : any(1, static_cast<int>(Operand::pixel_gate)));
      if (!applies<float>(Dtype::float32, code, kind) || !applies<__half>(Dtype::float16, code, kind)) return false;
    }
    return true;
  });
}
