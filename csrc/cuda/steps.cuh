// Pointwise steps on packs of channels: x = f(x) or x = f(x, y). Reads each operand once.
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

// Off by two units in the last place of a float, in a fifth of the instructions, where the result is rounded to T of 16
// bits; else the division alone.
template <class T>
__device__ inline float sigmoid(float x) {
#ifdef __CUDA_ARCH__
  if constexpr (sizeof(T) == 2) {
    float power, result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x * -1.4426950408889634f));
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(1.0f + power));
    return result;
  }
#endif
  return __fdividef(1.0f, 1.0f + expf(-x));
}
// NaN where x is.
__device__ inline float clamp(float x, float low, float high) {
  x = x < low ? low : x;
  return x > high ? high : x;
}
// NaN where either is.
__device__ inline float larger(float x, float y) { return x > y || x != x ? x : y; }
__device__ inline float smaller(float x, float y) { return x < y || x != x ? x : y; }

// A pack of numbers as functions that are not inlined take and return it: in registers. They would know an array's
// address, and then other arrays, which the compiler keeps in the same place, would be written to memory too.
template <int P>
struct Values {
  float of[P];
};

template <int P>
__device__ inline void assign(float (&x)[P], const Values<P>& v) {
  map_with(x, v.of, [](float, float s) { return s; });
}

template <int P>
__device__ inline Values<P> values(const float (&x)[P]) {
  Values<P> v;
  map_with(v.of, x, [](float, float s) { return s; });
  return v;
}

// What a code that ends few nodes does to a pack.
template <int P>
__device__ __noinline__ Values<P> apply_function(Code code, float a, float b, Values<P> pack) {
  float(&x)[P] = pack.of;
  switch (code) {
    case Code::elu: map(x, [=](float v) { return v > 0.0f ? v * b : a * expm1f(v); }); break;
    case Code::gelu: map(x, [](float v) { return 0.5f * v * (1.0f + erff(v * 0.70710678f)); }); break;
    case Code::gelu_tanh:
      map(x, [](float v) { return 0.5f * v * (1.0f + tanhf(0.79788456f * (v + 0.044715f * v * v * v))); }); break;
    case Code::mish: map(x, [](float v) { return v * tanhf(v > 20.0f ? v : log1pf(expf(v))); }); break;
    case Code::tanh: map(x, [](float v) { return tanhf(v); }); break;
    case Code::hardsigmoid: map(x, [](float v) { return clamp(v + 3.0f, 0.0f, 6.0f) / 6.0f; }); break;
    case Code::hardswish: map(x, [](float v) { return v * clamp(v + 3.0f, 0.0f, 6.0f) / 6.0f; }); break;
    case Code::softplus: map(x, [=](float v) { return v * a > b ? v : log1pf(expf(v * a)) / a; }); break;
    case Code::exp: map(x, [](float v) { return expf(v); }); break;
    case Code::sqrt: map(x, [](float v) { return sqrtf(v); }); break;
    case Code::abs: map(x, [](float v) { return fabsf(v); }); break;
    case Code::square: map(x, [](float v) { return v * v; }); break;
    case Code::reciprocal: map(x, [](float v) { return 1.0f / v; }); break;
    default: break;  // apply_alone knows it
  }
  return pack;
}

// The same of a code with an operand.
template <int P>
__device__ __noinline__ Values<P> apply_function_of_two(Code code, float a, Values<P> pack, Values<P> operand) {
  float(&x)[P] = pack.of;
  const float(&y)[P] = operand.of;
  switch (code) {
    case Code::rsub: map_with(x, y, [=](float v, float w) { return fmaf(-a, v, w); }); break;
    case Code::div: map_with(x, y, [](float v, float w) { return v / w; }); break;
    case Code::rdiv: map_with(x, y, [](float v, float w) { return w / v; }); break;
    case Code::maximum: map_with(x, y, [](float v, float w) { return larger(v, w); }); break;
    case Code::minimum: map_with(x, y, [](float v, float w) { return smaller(v, w); }); break;
    case Code::prelu: map_with(x, y, [](float v, float w) { return v > 0.0f ? v : w * v; }); break;
    default: break;  // apply_step knows it
  }
  return pack;
}

// A step without an operand, on packs of R pixels. Those that end most nodes are applied in place.
template <class T, int R, int P>
__device__ inline void apply_alone(const Step& step, float (&x)[R][P]) {
  const float a = step.a, b = step.b;
  const auto apply = [&](auto f) {
#pragma unroll
    for (int r = 0; r < R; ++r) map(x[r], f);
  };
  switch (step.code) {
    case Code::relu: apply([](float s) { return s < 0.0f ? 0.0f : s; }); break;
    case Code::clamp: apply([=](float s) { return clamp(s, a, b); }); break;
    case Code::silu: apply([](float s) { return s * sigmoid<T>(s); }); break;
    case Code::sigmoid: apply([](float s) { return sigmoid<T>(s); }); break;
    case Code::leaky_relu: apply([=](float s) { return s > 0.0f ? s : a * s; }); break;
    default:
#pragma unroll
      for (int r = 0; r < R; ++r) assign(x[r], apply_function(step.code, a, b, values(x[r])));
  }
}

// Applies a step to a pack of channels, c and n - 1 following ones, of R pixels, which belong to `streams`. `even`: c
// is the first of a pack.
template <class T, int R, int P>
__device__ inline void apply_step(const Step& step, const int (&p)[R], const int (&streams)[R], int c, int n, bool even,
                                  float (&x)[R][P]) {
  const Operand kind = step.kind;
  if (kind == Operand::none) return apply_alone<T>(step, x);
  const float a = step.a, b = step.b;
  const bool packed = step.packed && even;
  const Code code = step.code;
  const bool by_row = kind == Operand::per_pixel || kind == Operand::per_stream || kind == Operand::pixel_gate;
  const auto combine = [&](float (&own)[P], const float (&y)[P]) {
    if (code == Code::add) {
      map_with(own, y, [=](float s, float w) { return fmaf(a, w, s); });
    } else if (code == Code::mul) {
      map_with(own, y, [](float s, float w) { return s * w; });
    } else {
      assign(own, apply_function_of_two(code, a, values(own), values(y)));
    }
  };
  if (by_row) {
    const bool gate = kind == Operand::pixel_gate;
    Pack<T> raw[R];
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const int row = kind == Operand::per_stream ? streams[r] : p[r];
      const T* from = static_cast<const T*>(step.operand) + row * step.pitch;
      raw[r] = load_raw(gate ? from : from + c, gate ? 1 : n, packed && !gate);
    }
#pragma unroll
    for (int r = 0; r < R; ++r) {
      float y[P];
#pragma unroll
      for (int i = 0; i < P; ++i) y[i] = number(raw[r].of[i]);
      if (gate) map(y, [first = y[0]](float) { return first; });
      combine(x[r], y);
    }
    return;
  }
  float same[P] = {};
  if (kind == Operand::number) map(same, [&](float) { return code == Code::add || code == Code::rsub ? b : a; });
  if (kind == Operand::per_channel) load_pack(static_cast<const float*>(step.operand) + c, n, packed, same);
#pragma unroll
  for (int r = 0; r < R; ++r) combine(x[r], same);
}

}  // namespace deltafx::cuda
