// Pointwise steps on a tile, in place: x = f(x) or x = f(x, y). Reads each operand once.
#pragma once

// f(x) for every vector of the tile; what lies beyond the channels is computed too and means nothing.
template <class F>
void map(float* tile, int64_t stride, int64_t channels, int rows, F f) {
  for (int r = 0; r < rows; ++r)
    for (int64_t c = 0; c < channels; c += Vec::width) f(Vec::load(tile + r * stride + c)).store(tile + r * stride + c);
}

// Where the operand of a pixel lies.
inline int64_t operand_row(Operand kind, int64_t pixel, int64_t pixels_per_stream) {
  if (kind == Operand::per_channel) return 0;
  return kind == Operand::per_stream ? pixel / pixels_per_stream : pixel;
}

template <class T, class F>
void map_with_rows(const Step& step, float* tile, int64_t stride, int64_t channels, const int32_t* pixels, int rows,
                   int64_t pixels_per_stream, F f) {
  for (int r = 0; r < rows; ++r) {
    float* row = tile + r * stride;
    const T* y = static_cast<const T*>(step.operand.data) +
                 operand_row(step.kind, pixels[r], pixels_per_stream) * step.operand.pitch;
    if (step.kind == Operand::pixel_gate) {
      float gate[Vec::width];
      Vec::load(y, 1).store(gate);
      const Vec all = Vec::all(gate[0]);
      for (int64_t c = 0; c < channels; c += Vec::width) f(Vec::load(row + c), all).store(row + c);
      continue;
    }
    int64_t c = 0;
    for (; c + Vec::width <= channels; c += Vec::width) f(Vec::load(row + c), Vec::load(y + c)).store(row + c);
    if (c < channels) f(Vec::load(row + c), Vec::load(y + c, static_cast<int>(channels - c))).store(row + c);
  }
}

// f(x, y) for every vector of the tile and its operand.
template <class F>
void map_with(const Step& step, float* tile, int64_t stride, int64_t channels, const int32_t* pixels, int rows,
              int64_t pixels_per_stream, F f) {
  if (step.kind == Operand::number) {
    const bool sum = step.code == Code::add || step.code == Code::rsub;
    const Vec y = Vec::all(sum ? step.b : step.a);
    return map(tile, stride, channels, rows, [&](Vec x) { return f(x, y); });
  }
  if (step.operand.dtype == Dtype::bfloat16)
    return map_with_rows<Bfloat16>(step, tile, stride, channels, pixels, rows, pixels_per_stream, f);
  map_with_rows<float>(step, tile, stride, channels, pixels, rows, pixels_per_stream, f);
}

inline void apply_step(const Step& step, float* tile, int64_t stride, int64_t channels, const int32_t* pixels, int rows,
                       int64_t pixels_per_stream) {
  const auto one = [&](auto f) { map(tile, stride, channels, rows, f); };
  const auto two = [&](auto f) { map_with(step, tile, stride, channels, pixels, rows, pixels_per_stream, f); };
  const Vec a = Vec::all(step.a), b = Vec::all(step.b), zero = Vec::all(0.0f);
  const Vec three = Vec::all(3.0f), six = Vec::all(6.0f);
  switch (step.code) {
    case Code::relu: return one([](Vec x) { return relu(x); });
    case Code::clamp: return one([=](Vec x) { return clamp(x, a, b); });
    case Code::leaky_relu: return one([=](Vec x) { return where_greater(x, zero, x, a * x); });
    case Code::elu: return one([&](Vec x) { return elu(x, step.a, step.b); });
    case Code::gelu: return one([](Vec x) { return gelu(x); });
    case Code::gelu_tanh: return one([](Vec x) { return gelu_tanh(x); });
    case Code::silu: return one([](Vec x) { return x * sigmoid(x); });
    case Code::mish: return one([](Vec x) { return mish(x); });
    case Code::sigmoid: return one([](Vec x) { return sigmoid(x); });
    case Code::tanh: return one([](Vec x) { return tanh(x); });
    case Code::hardsigmoid: return one([=](Vec x) { return clamp(x + three, zero, six) / six; });
    case Code::hardswish: return one([=](Vec x) { return x * clamp(x + three, zero, six) / six; });
    case Code::softplus: return one([&](Vec x) { return softplus(x, step.a, step.b); });
    case Code::exp: return one([](Vec x) { return exp(x); });
    case Code::sqrt: return one([](Vec x) { return sqrt(x); });
    case Code::abs: return one([](Vec x) { return abs(x); });
    case Code::square: return one([](Vec x) { return x * x; });
    case Code::reciprocal: return one([](Vec x) { return Vec::all(1.0f) / x; });
    case Code::add: return two([=](Vec x, Vec y) { return fma(a, y, x); });
    case Code::rsub: return two([=](Vec x, Vec y) { return fma(zero - a, x, y); });
    case Code::mul: return two([](Vec x, Vec y) { return x * y; });
    case Code::div: return two([](Vec x, Vec y) { return x / y; });
    case Code::rdiv: return two([](Vec x, Vec y) { return y / x; });
    case Code::maximum: return two([](Vec x, Vec y) { return maximum(x, y); });
    case Code::minimum: return two([](Vec x, Vec y) { return minimum(x, y); });
    case Code::prelu: return two([=](Vec x, Vec y) { return where_greater(x, zero, x, y * x); });
  }
}
