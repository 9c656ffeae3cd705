// What a gate that adapts learns of a stream from a frame: by the blocks that have its pixels, without one more kernel.
#pragma once

#include "frame.cuh"

namespace deltafx::cuda {

// How many of the first bins there are in each; then `sums` has that of all threads.
__device__ inline void add_up(int32_t* sums) {
  for (int step = 1; step < kBins; step *= 2) {
    const int t = threadIdx.x, before = t >= step ? sums[t - step] : 0;
    __syncthreads();
    sums[t] += before;
    __syncthreads();
  }
}

// `middle_of` of a histogram, by a thread for each bin.
__device__ inline Middle middle_by_block(const int32_t* sums) {
  const int t = threadIdx.x, half = (sums[kBins - 1] + 1) / 2;
  const int middle = __syncthreads_count(t < kBins - 1 && sums[t] < half);
  const int within = sums[min(kBins - 1, middle + t)] - (middle > t ? sums[middle - t - 1] : 0);
  return {middle - kBins / 2, __syncthreads_count(within < half)};
}

// Counts the changes of a block's pixels. The stream's last block settles its drift and threshold in this frame, and
// leaves the histogram empty; what is not finite is left out.
struct Learning {
  const Enter& e;
  int32_t* counts;  // of the block
  float scale;

  __device__ Learning(const Enter& e, int32_t (&counts)[kBins]) : e(e), counts(counts) {
    static_assert(kBins == kFrameThreads, "a thread for each bin");
    scale = static_cast<float>(kSteps / e.level);
    counts[threadIdx.x] = 0;
    __syncthreads();
  }

  __device__ void add(float change) const {
    if (!(fabsf(change) <= kFinite)) return;
    const float bin = fminf(fmaxf(floorf(change * scale + 0.5f), -kBins / 2), kBins / 2 - 1);
    atomicAdd(&counts[kBins / 2 + static_cast<int>(bin)], 1);  // lanes with one bin are added up by the device
  }

  __device__ void end(int n, int blocks) const {
    __shared__ int32_t arrived;
    __syncthreads();
    int32_t* all = e.counts + n * kCounts;
    if (counts[threadIdx.x] != 0) atomicAdd(&all[threadIdx.x], counts[threadIdx.x]);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) arrived = atomicAdd(&all[kBins], 1);
    __syncthreads();
    if (arrived != blocks - 1) return;
    __threadfence();
    counts[threadIdx.x] = atomicExch(&all[threadIdx.x], 0);
    if (threadIdx.x == 0) all[kBins] = 0;
    __syncthreads();
    add_up(counts);
    const Middle middle = middle_by_block(counts);
    if (threadIdx.x == 0) learn(e.refresh[n], middle, e.least, e.noise, e.drift, e.learned + n * kLearned);
  }
};

}  // namespace deltafx::cuda
