// Which pixels of a frame pass an input gate (deltafx/gate.py) that looks around.
//
// With window 1 a pixel's change is the largest of its channels, or their mean if the gate adapts; with a larger
// window, the mean over channels and window. A gate that adapts settles each stream's drift and threshold from the
// histogram of its changes, and then decides. Where neighbours count, pixels get a strength first: of the strong ones
// those pass that do not stand alone, and of the weak ones those near them.
#include <cfloat>

#include "dilate.cuh"
#include "learning.cuh"
#include "window.cuh"

namespace deltafx::cuda {
namespace {

__host__ __device__ inline bool asks_neighbours(const Enter& e) { return e.reach > 0 || e.neighbours > 0; }

// Whether a pixel passes or, where its neighbours count, its strength.
__device__ inline uint8_t judged(const Enter& e, float change, float threshold) {
  const uint8_t strong = exceeds(change, threshold);
  if (!asks_neighbours(e)) return strong;
  return exceeds(change, threshold * e.weak) + strong + exceeds(change, FLT_MAX);
}

__device__ inline void judge(const Enter& e, const Spot& at, uint8_t strength) {
  if (!asks_neighbours(e))
    keep(e, at, strength != 0 && at.is_inside(e), e.passed);
  else if (at.is_inside(e))
    e.strength[at.pixel(e)] = strength;
}

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
    if (!at.is_inside(e)) return;
    float mean;
    compare(e, at, [&](const auto& pixel) { mean = pixel.mean(); });
    *(e.window > 1 ? mean_at(e, at) : change_at(e, at)) = mean;
    if (e.window == 1) learning.add(mean);
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
  *reinterpret_cast<float4*>(mean_at(e, {n, y, x, 0})) = make_float4(mean(0), mean(1), mean(2), mean(3));
}

__global__ void __launch_bounds__(kFrameThreads) window_kernel(const __grid_constant__ Enter e, int blocks) {
  begin_kernel();
  __shared__ int32_t counts[kBins];
  const Learning learning(e, counts);
  const Patch at(e, blocks);
  float sums[kHigh][kAtOnce] = {};
  if (at.y < e.rows) add_windows(e, at, sums);
#pragma unroll
  for (int i = 0; i < kHigh; ++i) {
    if (at.y + i >= e.rows) break;
    float mean[kAtOnce];
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      mean[j] = sums[i][j] / static_cast<float>(counted(e, at.y + i, at.x + j));
      if (e.learned != nullptr && at.x + j < e.columns) learning.add(mean[j]);
    }
    *reinterpret_cast<float4*>(change_at(e, {at.n, at.y + i, at.x, 0})) =
        make_float4(mean[0], mean[1], mean[2], mean[3]);
  }
  if (e.learned != nullptr) learning.end(at.n, blocks);
}

__global__ void __launch_bounds__(kFrameThreads) decide_kernel(const __grid_constant__ Enter e, int blocks) {
  begin_kernel();
  float drift = 0.0f, limit = e.threshold;
  if (e.learned != nullptr) {
    const float* learned = e.learned + static_cast<int>(blockIdx.x) / blocks * kLearned;
    drift = learned[kDrift], limit = learned[kLimit] * e.level;
  }
  for_words(e, blocks, [&](const Spot& at, int) {
    const float change = at.is_inside(e) ? *change_at(e, at) - drift * e.level : 0.0f;
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
  if (e.window > 1) next(&window_kernel, patch_blocks(e));
  if (e.window > 1 || e.learned != nullptr) next(&decide_kernel, blocks);
  if (asks_neighbours(e)) next(&strong_kernel, blocks);
  if (e.reach > 0) next(&weak_kernel, blocks);
  return error;
}

}  // namespace deltafx::cuda
