// How a kernel that computes every pixel ends and is launched: a thread has packs of channels, to which it applies the
// steps.
#pragma once

#include "candidates.cuh"
#include "dense.h"
#include "steps.cuh"

namespace deltafx::cuda {

constexpr int kWholeThreads = 256;
constexpr int kTogether = 4;  // packs of a thread, whose reads are under way together

template <class T, int R, int P>
__device__ inline void finish_packs(const Dense& d, const int (&p)[R], int c, int n, bool even, float (&x)[R][P]) {
  const Commit& commit = d.commit;
  int streams[R];
#pragma unroll
  for (int r = 0; r < R; ++r) streams[r] = p[r] / d.plane;
  if (commit.bias != nullptr) {
    float y[P];
    load_pack(commit.bias + c, n, true, y);
#pragma unroll
    for (int r = 0; r < R; ++r) map_with(x[r], y, [](float s, float b) { return s + b; });
  }
  for (int s = 0; s < commit.step_count; ++s) apply_step<T>(commit.steps[s], p, streams, c, n, even, x);
}

template <class T>
Dense dense_of(const Commit& commit, int pixels, int plane) {
  return {commit, pixels, divisor(plane), divisor(static_cast<int32_t>(divide_up(commit.out.channels, kPack<T>)))};
}

// Blocks of one thread for each item, or an error where the items are too many to be told apart.
template <class F>
cudaError_t launch_items(int64_t items, F launching) {
  return items < INT32_MAX - kWholeThreads ? launching(Blocks{divide_up(items, kWholeThreads), kWholeThreads, 0})
                                           : cudaErrorInvalidValue;
}

}  // namespace deltafx::cuda
