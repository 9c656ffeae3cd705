// Which pixels of a frame pass an input gate (deltafx/gate.py) that looks around.
//
// With window 1 a pixel's change is the largest of its channels, or their mean if the gate adapts; with a larger window,
// the mean over channels and window. A gate that adapts settles each stream's drift and threshold from the histogram of
// its changes, and then decides. Where neighbours count, pixels get a strength first: of the strong ones those pass that
// do not stand alone, and of the weak ones those near them.
#include <cfloat>

#include "dilate.cuh"

namespace deltafx::cuda {
namespace {

constexpr int kAtOnce = 4;       // pixels side by side whose bytes are whole words
constexpr int kHigh = 4;         // pixels below each other that read what their windows share

__host__ __device__ inline bool asks_neighbours(const Enter& e) { return e.reach > 0 || e.neighbours > 0; }

// Whether a pixel passes or, where its neighbours count, its strength.
__device__ inline uint8_t judged(const Enter& e, float change, float threshold) {
  const uint8_t strong = exceeds(change, threshold);
  if (!asks_neighbours(e)) return strong;
  return exceeds(change, threshold * e.weak) + strong + exceeds(change, FLT_MAX);
}

__device__ inline float* means_at(const Enter& e, const Spot& at) {
  return e.mean + (at.n * e.rows + at.y) * e.mean_pitch + e.mean_margin + at.x;
}

__device__ inline void judge(const Enter& e, const Spot& at, uint8_t strength) {
  if (!asks_neighbours(e))
    keep(e, at, strength != 0 && at.is_inside(e), e.passed);
  else if (at.is_inside(e))
    e.strength[at.pixel(e)] = strength;
}

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

  __device__ void add(const Spot& at, float change) const {
    if (!at.is_inside(e) || !(fabsf(change) <= kFinite)) return;
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

// The change of each pixel: its mean over the channels for a gate with a window, else what the gate makes of it.
__global__ void __launch_bounds__(kFrameThreads) change_kernel(const __grid_constant__ Enter e, int blocks) {
  begin_kernel();
  if (blockIdx.x == 0 && threadIdx.x == 0) begin_tally(e.tally, e.streams * e.rows * e.columns);
  if (e.window == 1 && e.learned == nullptr)
    return for_words(e, blocks, [&](const Spot& at, int) {
      uint8_t strength = 0;
      if (at.is_inside(e))
        compare(e, at, [&](const auto& pixel) {
          for_channels(e.channels, [&](int c) { strength = max(strength, judged(e, pixel.change(c), e.threshold)); });
        });
      judge(e, at, strength);
    });
  __shared__ int32_t counts[kBins];
  const Learning learning(e, counts);
  for_words(e, blocks, [&](const Spot& at, int) {
    float mean = 0.0f;
    float* to = e.window > 1 ? means_at(e, at) : e.change + at.pixel(e);
    if (at.is_inside(e)) compare(e, at, [&](const auto& pixel) { *to = mean = pixel.mean(); });
    if (e.window == 1) learning.add(at, mean);
  });
  if (e.window == 1) learning.end(static_cast<int>(blockIdx.x) / blocks, blocks);
}

// What packed_change_kernel takes: three bytes a pixel, side by side, four pixels at once.
bool is_packed(const Enter& e) {
  const auto is_whole = [](auto bytes) { return bytes % sizeof(uint32_t) == 0; };
  return e.window > 1 && e.dtype == Dtype::uint8 && e.channels == 3 && e.stride[1] == 1 && e.stride[3] == 3 &&
         e.columns % kAtOnce == 0 && is_whole(e.stride[0]) && is_whole(e.stride[2]) &&
         is_whole(reinterpret_cast<uintptr_t>(e.frame)) && is_whole(reinterpret_cast<uintptr_t>(e.raw));
}

// The sums of four pixels' bytes.
struct Sums {
  int of[4];
  __device__ explicit Sums(const uint32_t* from) {
    const uint32_t a = from[0], b = from[1], c = from[2];
    of[0] = __dp4a(a, 0x00010101u, 0u);
    of[1] = __dp4a(a, 0x01000000u, __dp4a(b, 0x00000101u, 0u));
    of[2] = __dp4a(b, 0x01010000u, __dp4a(c, 0x00000001u, 0u));
    of[3] = __dp4a(c, 0x01010100u, 0u);
  }
};

// The mean change of each pixel of a frame as cameras give it.
__global__ void __launch_bounds__(kFrameThreads) packed_change_kernel(const __grid_constant__ Enter e, int blocks) {
  begin_kernel();
  if (blockIdx.x == 0 && threadIdx.x == 0) begin_tally(e.tally, e.streams * e.rows * e.columns);
  const int each = e.columns / kAtOnce, n = static_cast<int>(blockIdx.x) / blocks;
  const int number = static_cast<int>(blockIdx.x) % blocks * kFrameThreads + static_cast<int>(threadIdx.x);
  const int y = number / each, x = (number - y * each) * kAtOnce;
  if (y >= e.rows) return;
  const auto* frame = static_cast<const uint8_t*>(e.frame) + n * e.stride[0] + y * e.stride[2] + 3 * x;
  const Sums now(reinterpret_cast<const uint32_t*>(frame));
  const Sums old(reinterpret_cast<const uint32_t*>(e.raw + 3 * int64_t{(n * e.rows + y) * e.columns + x}));
  const auto mean = [&](int k) { return static_cast<float>(now.of[k] - old.of[k]) / 3.0f; };
  *reinterpret_cast<float4*>(means_at(e, {n, y, x, 0})) = make_float4(mean(0), mean(1), mean(2), mean(3));
}

// The mean over the window, of which only what lies in the frame counts. Summed anew for every pixel: a running sum
// would keep a NaN that has left the window, and rounding. kReach: of the window, 0 for any.
template <int kReach>
__device__ inline void add_windows(const Enter& e, const Spot& at, float (&means)[kHigh]) {
  const int reach = kReach > 0 ? kReach : e.window / 2;
#pragma unroll
  for (int above = -reach; above < kHigh + reach; ++above) {
    if (at.y + above < 0 || at.y + above >= e.rows) continue;
    const float* row = means_at(e, {at.n, at.y + above, at.x, at.word});
#pragma unroll
    for (int aside = -reach; aside <= reach; ++aside) {
      const float change = row[aside];
#pragma unroll
      for (int k = 0; k < kHigh; ++k)
        if (abs(above - k) <= reach) means[k] += change;
    }
  }
  const int columns = min(e.columns, at.x + reach + 1) - max(0, at.x - reach);
#pragma unroll
  for (int k = 0; k < kHigh; ++k) {
    const int rows = min(e.rows, at.y + k + reach + 1) - max(0, at.y + k - reach);
    means[k] /= static_cast<float>(rows * columns);
  }
}

int window_blocks(const Enter& e) {
  return static_cast<int>(divide_up(divide_up(e.rows, kHigh) * words_of(e), kFrameWarps));
}

__global__ void __launch_bounds__(kFrameThreads) window_kernel(const __grid_constant__ Enter e, int blocks) {
  begin_kernel();
  __shared__ int32_t counts[kBins];
  const Learning learning(e, counts);
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  Spot at = spot(e, blocks, static_cast<int>(blockIdx.x) % blocks * kFrameWarps + warp, kHigh);
  float means[kHigh] = {};
  switch (e.window) {
    case 3:
      add_windows<1>(e, at, means);
      break;
    case 5:
      add_windows<2>(e, at, means);
      break;
    case 7:
      add_windows<3>(e, at, means);
      break;
    default:
      add_windows<0>(e, at, means);
  }
#pragma unroll
  for (int k = 0; k < kHigh; ++k, ++at.y) {
    if (e.learned == nullptr) {
      judge(e, at, judged(e, means[k], e.threshold));
    } else {
      if (at.is_inside(e)) e.change[at.pixel(e)] = means[k];
      learning.add(at, means[k]);
    }
  }
  if (e.learned != nullptr) learning.end(at.n, blocks);
}

__global__ void __launch_bounds__(kFrameThreads) decide_kernel(const __grid_constant__ Enter e, int blocks) {
  begin_kernel();
  const float* learned = e.learned + static_cast<int>(blockIdx.x) / blocks * kLearned;
  const float drift = learned[kDrift], limit = learned[kLimit] * e.level;
  for_words(e, blocks, [&](const Spot& at, int) {
    const float change = at.is_inside(e) ? e.change[at.pixel(e)] - drift * e.level : 0.0f;
    judge(e, at, judged(e, change, limit));
  });
}

// Of the strong pixels, those that do not stand alone.
__device__ inline bool stands_out(const Enter& e, const Spot& at) {
  if (!at.is_inside(e)) return false;
  const uint8_t strength = e.strength[at.pixel(e)];
  if (strength != kStrong || e.neighbours == 0) return strength >= kStrong;
  int around = -1;  // it counts itself
  for (int y = max(0, at.y - 1); y < min(e.rows, at.y + 2); ++y)
    for (int x = max(0, at.x - 1); x < min(e.columns, at.x + 2); ++x)
      around += e.strength[(at.n * e.rows + y) * e.columns + x] != kStill;
  return around >= e.neighbours;
}

__global__ void __launch_bounds__(kFrameThreads) strong_kernel(const __grid_constant__ Enter e, int blocks) {
  begin_kernel();
  uint32_t* words = e.reach > 0 ? e.strong : e.passed;
  for_words(e, blocks, [&](const Spot& at, int) { keep(e, at, stands_out(e, at), words); });
}

// The weak pixels near strong ones.
__global__ void __launch_bounds__(kFrameThreads) weak_kernel(const __grid_constant__ Enter e, int blocks) {
  begin_kernel();
  __shared__ uint32_t near[kWords];
  const bool any = dilate(e, blocks, e.reach, e.strong, near);
  for_words(e, blocks, [&](const Spot& at, int k) {
    const bool is_near = any && near[k] >> at.lane() & 1;
    keep(e, at, is_near && at.is_inside(e) && e.strength[at.pixel(e)] != kStill, e.passed);
  });
}

}  // namespace

cudaError_t pass(const Enter& e, cudaStream_t stream) {
  cudaError_t error = cudaSuccess;
  const auto next = [&](auto kernel, int64_t count) {
    const int blocks = static_cast<int>(count);
    if (error == cudaSuccess)
      error = launch(kernel, Blocks{int64_t{e.streams} * blocks, kFrameThreads, 0}, stream, e, blocks);
  };
  const int blocks = blocks_of(e);
  if (is_packed(e))
    next(&packed_change_kernel, divide_up(e.rows * e.columns, kAtOnce * kFrameThreads));
  else
    next(&change_kernel, blocks);
  if (e.window > 1) next(&window_kernel, window_blocks(e));
  if (e.learned != nullptr) next(&decide_kernel, blocks);
  if (asks_neighbours(e)) next(&strong_kernel, blocks);
  if (e.reach > 0) next(&weak_kernel, blocks);
  return error;
}

}  // namespace deltafx::cuda
