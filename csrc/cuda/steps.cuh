// Pointwise steps on a pack of channels of one pixel: x = f(x) or x = f(x, y). Reads each operand once.
#pragma once

#include "pack.cuh"

namespace deltafx::cuda {

template <int P, class F>
__device__ inline void map(float (&x)[P], F f) {
#pragma unroll
  for (int i = 0; i < P; ++i) x[i] = f(x[i]);
}

template <int P, class F>
__device__ inline void map_with(float (&x)[P], const float (&y)[P], F f) {
#pragma unroll
  for (int i = 0; i < P; ++i) x[i] = f(x[i], y[i]);
}

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
// NaN where x is.
__device__ inline float clamp(float x, float low, float high) {
  x = x < low ? low : x;
  return x > high ? high : x;
}
// NaN where either is.
__device__ inline float larger(float x, float y) { return x > y || x != x ? x : y; }
__device__ inline float smaller(float x, float y) { return x < y || x != x ? x : y; }

// The operand of channels c and following, n of them, of pixel p, which belongs to `stream`. `even`: c is that of a pack.
template <class T, int P>
__device__ inline void load_operand(const Step& step, int p, int stream, int c, int n, bool even, float (&y)[P]) {
  if (step.kind == Operand::number) {
    const float value = step.code == Code::add || step.code == Code::rsub ? step.b : step.a;
    return map(y, [=](float) { return value; });
  }
  if (step.kind == Operand::per_channel)
    return load_pack(static_cast<const float*>(step.operand) + c, n, step.packed && even, y);
  const T* row = static_cast<const T*>(step.operand) + (step.kind == Operand::per_stream ? stream : p) * step.pitch;
  if (step.kind == Operand::pixel_gate) {
    const float value = number(*row);
    return map(y, [=](float) { return value; });
  }
  load_pack(row + c, n, step.packed && even, y);
}

template <class T, int P>
__device__ inline void apply_step(const Step& step, int p, int stream, int c, int n, bool even, float (&x)[P]) {
  const float a = step.a, b = step.b;
  float y[P] = {};
  if (step.kind != Operand::none) load_operand<T>(step, p, stream, c, n, even, y);
  switch (step.code) {
    case Code::relu: return map(x, [](float v) { return v < 0.0f ? 0.0f : v; });
    case Code::clamp: return map(x, [=](float v) { return clamp(v, a, b); });
    case Code::leaky_relu: return map(x, [=](float v) { return v > 0.0f ? v : a * v; });
    case Code::elu: return map(x, [=](float v) { return v > 0.0f ? v * b : a * expm1f(v); });
    case Code::gelu: return map(x, [](float v) { return 0.5f * v * (1.0f + erff(v * 0.70710678f)); });
    case Code::gelu_tanh:
      return map(x, [](float v) { return 0.5f * v * (1.0f + tanhf(0.79788456f * (v + 0.044715f * v * v * v))); });
    case Code::silu: return map(x, [](float v) { return v * sigmoid(v); });
    case Code::mish: return map(x, [](float v) { return v * tanhf(v > 20.0f ? v : log1pf(expf(v))); });
    case Code::sigmoid: return map(x, [](float v) { return sigmoid(v); });
    case Code::tanh: return map(x, [](float v) { return tanhf(v); });
    case Code::hardsigmoid: return map(x, [](float v) { return clamp(v + 3.0f, 0.0f, 6.0f) / 6.0f; });
    case Code::hardswish: return map(x, [](float v) { return v * clamp(v + 3.0f, 0.0f, 6.0f) / 6.0f; });
    case Code::softplus: return map(x, [=](float v) { return v * a > b ? v : log1pf(expf(v * a)) / a; });
    case Code::exp: return map(x, [](float v) { return expf(v); });
    case Code::sqrt: return map(x, [](float v) { return sqrtf(v); });
    case Code::abs: return map(x, [](float v) { return fabsf(v); });
    case Code::square: return map(x, [](float v) { return v * v; });
    case Code::reciprocal: return map(x, [](float v) { return 1.0f / v; });
    case Code::add: return map_with(x, y, [=](float v, float w) { return fmaf(a, w, v); });
    case Code::rsub: return map_with(x, y, [=](float v, float w) { return fmaf(-a, v, w); });
    case Code::mul: return map_with(x, y, [](float v, float w) { return v * w; });
    case Code::div: return map_with(x, y, [](float v, float w) { return v / w; });
    case Code::rdiv: return map_with(x, y, [](float v, float w) { return w / v; });
    case Code::maximum: return map_with(x, y, [](float v, float w) { return larger(v, w); });
    case Code::minimum: return map_with(x, y, [](float v, float w) { return smaller(v, w); });
    case Code::prelu: return map_with(x, y, [](float v, float w) { return v > 0.0f ? v : w * v; });
  }
}

}  // namespace deltafx::cuda
