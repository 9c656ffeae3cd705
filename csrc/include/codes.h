// The words in which a node tells its kernel how to end. All backends share them, so that a step has one meaning.
#pragma once

#include <cstdint>

namespace deltafx {

enum class Code : int32_t {
  // x = f(x); `a` and `b` are numbers
  relu, clamp, leaky_relu, elu, gelu, gelu_tanh, silu, mish, sigmoid, tanh, hardsigmoid, hardswish, softplus, exp, sqrt,
  abs, square, reciprocal,
  // x = f(x, y); y is the operand. add: x + a * y; rsub: y - a * x; rdiv: y / x
  add, rsub, mul, div, rdiv, maximum, minimum, prelu,
};

enum class Operand : int32_t {
  none,
  number,       // `a` of mul, div, rdiv, maximum, minimum; `b` of add and rsub
  per_channel,  // row 0 of the matrix, for all pixels
  per_pixel,    // row p for pixel p
  per_stream,   // row n for all pixels of stream n
  pixel_gate,   // row p has one channel, for all channels of pixel p
};

// How strongly a pixel of a frame changed, for a gate that looks at its neighbours too: in units of its thresholds, from
// none to not finite. What is not finite always passes.
enum Strength : uint8_t { kStill, kWeak, kStrong, kBoundless };

enum class Norm : int32_t { rms, max };

}  // namespace deltafx
