// The mean change over a window around each pixel, of which only what lies in the frame counts.
#pragma once

#include "frame.cuh"

namespace deltafx::cuda {

constexpr int kAtOnce = 4, kHigh = 2;  // pixels of a thread, side by side and below each other

// Of a pixel, and the window's mean there. Rows of both begin at a multiple of 16 bytes.
__device__ inline float* mean_at(const Enter& e, const Spot& at) {
  return e.mean + int64_t{at.n * e.rows + at.y} * e.mean_pitch + e.mean_margin + at.x;
}
__device__ inline float* change_at(const Enter& e, const Spot& at) {
  return e.change + int64_t{at.n * e.rows + at.y} * words_of(e) * kWord + at.x;
}

// The pixels of a thread, from the upper left one on.
struct Patch {
  int n, y, x;
  __device__ Patch(const Enter& e, int blocks) {
    const int each = static_cast<int>(divide_up(e.columns, kAtOnce));
    const int number = static_cast<int>(blockIdx.x) % blocks * kFrameThreads + static_cast<int>(threadIdx.x);
    n = static_cast<int>(blockIdx.x) / blocks, y = number / each * kHigh, x = number % each * kAtOnce;
  }
};

inline int64_t patch_blocks(const Enter& e) {
  return divide_up(divide_up(e.rows, kHigh) * divide_up(e.columns, kAtOnce), kFrameThreads);
}

// How many pixels of the window around this one lie in the frame.
__device__ inline int counted(const Enter& e, int y, int x) {
  const int reach = e.window / 2;
  return (min(e.rows, y + reach + 1) - max(0, y - reach)) * (min(e.columns, x + reach + 1) - max(0, x - reach));
}

// Adds up every pixel's window, row by row: a running sum would keep a NaN that has left the window, and rounding. What
// is beside a row is 0. kReach: of the window, 0 for any.
template <int kReach>
__device__ inline void add_windows_of(const Enter& e, const Patch& at, float (&sums)[kHigh][kAtOnce]) {
  const int reach = kReach > 0 ? kReach : e.window / 2;
  const int margin = kReach > 0 ? (kReach + kAtOnce - 1) / kAtOnce * kAtOnce : e.mean_margin;
#pragma unroll
  for (int below = -reach; below < kHigh + reach; ++below) {
    if (at.y + below < 0 || at.y + below >= e.rows) continue;
    const float* row = mean_at(e, {at.n, at.y + below, at.x, 0});
#pragma unroll
    for (int first = -margin; first < margin + kAtOnce; first += kAtOnce) {
      const float4 four = *reinterpret_cast<const float4*>(row + first);
      const float changes[kAtOnce] = {four.x, four.y, four.z, four.w};
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k)
#pragma unroll
        for (int i = 0; i < kHigh; ++i)
#pragma unroll
          for (int j = 0; j < kAtOnce; ++j)
            if (abs(below - i) <= reach && abs(first + k - j) <= reach) sums[i][j] += changes[k];
    }
  }
}

__device__ inline void add_windows(const Enter& e, const Patch& at, float (&sums)[kHigh][kAtOnce]) {
  switch (e.window) {
    case 3:
      return add_windows_of<1>(e, at, sums);
    case 5:
      return add_windows_of<2>(e, at, sums);
    case 7:
      return add_windows_of<3>(e, at, sums);
    default:
      return add_windows_of<0>(e, at, sums);
  }
}

}  // namespace deltafx::cuda
