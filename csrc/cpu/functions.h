// Functions that the processor has no instruction for.
#pragma once

// e^x to about 1 ulp: x = n ln 2 + r with |r| <= ln 2 / 2, and a polynomial for e^r. Where e^x would be subnormal it is 0.
inline Vec exp(Vec x) {
  const Vec bounded = min(Vec::all(88.8f), max(Vec::all(-87.4f), x));  // NaN where x is
  const Vec n = round(bounded * Vec::all(1.44269504f));
  Vec r = fma(n, Vec::all(-0.693359375f), bounded);
  r = fma(n, Vec::all(2.12194440e-4f), r);
  Vec p = fma(r, Vec::all(1.9875691500e-4f), Vec::all(1.3981999507e-3f));
  p = fma(p, r, Vec::all(8.3334519073e-3f));
  p = fma(p, r, Vec::all(4.1665795894e-2f));
  p = fma(p, r, Vec::all(1.6666665459e-1f));
  p = fma(p, r, Vec::all(5.0000001201e-1f));
  p = fma(p * r, r, r + Vec::all(1.0f));
  // In two factors: 2^n alone may be too large for a float where the product is not.
  const Vec half = round(n * Vec::all(0.5f));
  p = scale2(scale2(p, half), n - half);
  p = where_greater(Vec::all(-87.3f), x, Vec::all(0.0f), p);
  return where_greater(x, Vec::all(88.72283f), Vec::all(INFINITY), p);
}

// A function of the C library, lane by lane.
template <class F>
Vec lane_by_lane(Vec x, F f) {
  float lanes[Vec::width];
  x.store(lanes);
  for (int i = 0; i < Vec::width; ++i) lanes[i] = f(lanes[i]);
  return Vec::load(lanes);
}

inline Vec sigmoid(Vec x) { return Vec::all(1.0f) / (Vec::all(1.0f) + exp(Vec::all(0.0f) - x)); }
inline Vec tanh(Vec x) {
  return lane_by_lane(x, [](float v) { return tanhf(v); });
}
inline Vec relu(Vec x) { return max(Vec::all(0.0f), x); }
// Gives NaN where x is: the second operand wins.
inline Vec clamp(Vec x, Vec low, Vec high) { return min(high, max(low, x)); }
inline Vec gelu(Vec x) {
  return lane_by_lane(x, [](float v) { return 0.5f * v * (1.0f + erff(v * 0.70710678f)); });
}
inline Vec gelu_tanh(Vec x) {
  return lane_by_lane(x, [](float v) { return 0.5f * v * (1.0f + tanhf(0.79788456f * (v + 0.044715f * v * v * v))); });
}
inline Vec mish(Vec x) {
  return lane_by_lane(x, [](float v) { return v * tanhf(v > 20.0f ? v : log1pf(expf(v))); });
}
inline Vec elu(Vec x, float a, float b) {
  return lane_by_lane(x, [=](float v) { return v > 0.0f ? v * b : a * expm1f(v); });
}
inline Vec softplus(Vec x, float beta, float threshold) {
  return lane_by_lane(x, [=](float v) { return v * beta > threshold ? v : log1pf(expf(v * beta)) / beta; });
}
// The larger and the smaller; NaN where either is. max and min give their second operand where one is NaN.
inline Vec maximum(Vec x, Vec y) { return where_nan(x, x, max(x, y)); }
inline Vec minimum(Vec x, Vec y) { return where_nan(x, x, min(x, y)); }
