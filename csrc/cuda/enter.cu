// dense_to_delta: which pixels of a frame changed, and taking those over.
//
// Exact: a pixel passes if any channel is not equal to what was propagated last. Gated with window 1: if the largest
// change of its channels exceeds the threshold; with a larger window: if the change's mean over channels and window
// does. A gate that adapts first takes the mean change of every pixel, settles each stream's drift and threshold from
// their histogram, and then decides. Where neighbours count, pixels get a strength first: of the strong ones those pass
// that do not stand alone, and of the weak ones those near them. What passes is dilated. Reads the frame once, and the
// pixels that pass once more.
#include <cfloat>

#include "launch.cuh"
#include "pack.cuh"

namespace deltafx::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kCountedEach = 16;  // pixels that a thread of count_kernel looks at

struct Place {
  int n, y, x;
  __device__ Place(const Enter& e, int p) {
    const int plane = e.rows * e.columns;
    n = p / plane, y = p % plane / e.columns, x = p % e.columns;
  }
};

__device__ inline int pixels_of(const Enter& e) { return e.streams * e.rows * e.columns; }
__device__ inline bool exceeds(float change, float threshold) { return !(fabsf(change) <= threshold); }

__device__ inline bool is_raw(const Enter& e) { return e.dtype == Dtype::uint8; }
__host__ __device__ inline bool asks_neighbours(const Enter& e) { return e.reach > 0 || e.neighbours > 0; }

// Whether a pixel passes or, where its neighbours count, its strength.
__device__ inline uint8_t judge(const Enter& e, float change, float threshold) {
  const uint8_t strong = exceeds(change, threshold);
  if (!asks_neighbours(e)) return strong;
  return exceeds(change, threshold * e.weak) + strong + exceeds(change, FLT_MAX);
}

// Of a tensor of any type. Few numbers of a pixel are read, so that the type is asked for each.
__device__ inline float number_at(const void* data, Dtype dtype, int64_t at) {
  switch (dtype) {
    case Dtype::uint8:
      return number(static_cast<const uint8_t*>(data)[at]);
    case Dtype::float16:
      return number(static_cast<const __half*>(data)[at]);
    case Dtype::bfloat16:
      return number(static_cast<const __nv_bfloat16*>(data)[at]);
    default:
      return static_cast<const float*>(data)[at];
  }
}

// A number as it is, with every bit of a NaN.
__device__ inline void copy_number(const void* from, int64_t at, void* to, int64_t place, Dtype dtype) {
  if (dtype == Dtype::float32)
    static_cast<uint32_t*>(to)[place] = static_cast<const uint32_t*>(from)[at];
  else
    static_cast<uint16_t*>(to)[place] = static_cast<const uint16_t*>(from)[at];
}

__device__ inline void round_to(void* data, Dtype dtype, int64_t at, float x) {
  switch (dtype) {
    case Dtype::float16:
      static_cast<__half*>(data)[at] = rounded<__half>(x);
      break;
    case Dtype::bfloat16:
      static_cast<__nv_bfloat16*>(data)[at] = rounded<__nv_bfloat16>(x);
      break;
    default:
      static_cast<float*>(data)[at] = x;
  }
}

// A pixel of the frame, and what was propagated of it last: a uint8 frame is compared with the last raw frame.
struct Compared {
  const Enter& e;
  int64_t frame, raw, value;  // where its first channel is

  __device__ Compared(const Enter& e, int p) : e(e), raw(int64_t{p} * e.channels), value(p * e.value.pitch) {
    const Place at(e, p);
    frame = at.n * e.stride[0] + at.y * e.stride[2] + at.x * e.stride[3];
  }

  __device__ float now(int c) const { return number_at(e.frame, e.dtype, frame + c * e.stride[1]); }
  __device__ float old(int c) const {
    return is_raw(e) ? number(e.raw[raw + c]) : number_at(e.value.data, e.value.dtype, value + c);
  }

  __device__ bool passes() const {
    bool passed = false;
    for (int c = 0; c < e.channels; ++c)
      passed |= e.gated ? exceeds(now(c) - old(c), e.threshold) : !(now(c) == old(c));
    return passed;
  }
  __device__ uint8_t judged() const {  // by its largest change of a channel
    uint8_t found = 0;
    for (int c = 0; c < e.channels; ++c) found = max(found, judge(e, now(c) - old(c), e.threshold));
    return found;
  }
  __device__ float mean() const {
    float sum = 0.0f;
    for (int c = 0; c < e.channels; ++c) sum += now(c) - old(c);
    return sum / static_cast<float>(e.channels);
  }

  // It is propagated.
  __device__ void take() const {
    for (int c = 0; c < e.channels; ++c) {
      if (is_raw(e)) {
        const uint8_t level = static_cast<const uint8_t*>(e.frame)[frame + c * e.stride[1]];
        const int channel = e.swap ? e.channels - 1 - c : c;
        e.raw[raw + c] = level;
        round_to(e.value.data, e.value.dtype, value + channel, e.levels[channel * 256 + level]);
      } else {
        copy_number(e.frame, frame + c * e.stride[1], e.value.data, value + c, e.value.dtype);
      }
    }
  }
};

// The change of each pixel: its mean over the channels for a gate with a window, else what the gate makes of it.
__global__ void __launch_bounds__(kThreads) change_kernel(const __grid_constant__ Enter e) {
  begin_kernel();
  const int p = blockIdx.x * kThreads + threadIdx.x;
  if (p >= pixels_of(e)) return;
  const Compared pixel(e, p);
  if (e.window > 1)
    e.mean[p] = pixel.mean();
  else if (e.learned != nullptr)
    e.change[p] = pixel.mean();
  else
    e.passed[p] = pixel.judged();
}

// The mean over the window, of which only what lies in the frame counts. Summed anew for every pixel: a running sum
// would keep a NaN that has left the window, and rounding.
__global__ void __launch_bounds__(kThreads) window_kernel(const __grid_constant__ Enter e) {
  begin_kernel();
  const int p = blockIdx.x * kThreads + threadIdx.x;
  if (p >= pixels_of(e)) return;
  const Place at(e, p);
  const int reach = e.window / 2;
  const int top = max(0, at.y - reach), bottom = min(e.rows, at.y + reach + 1);
  const int left = max(0, at.x - reach), right = min(e.columns, at.x + reach + 1);
  float total = 0.0f;
  for (int y = top; y < bottom; ++y)
    for (int x = left; x < right; ++x) total += e.mean[(at.n * e.rows + y) * e.columns + x];
  const float mean = total / static_cast<float>((bottom - top) * (right - left));
  if (e.learned != nullptr)
    e.change[p] = mean;
  else
    e.passed[p] = judge(e, mean, e.threshold);
}

// The histogram of a stream's changes, by `each` blocks; what is not finite is left out.
__global__ void __launch_bounds__(kThreads) count_kernel(const __grid_constant__ Enter e, int each) {
  begin_kernel();
  __shared__ int32_t counts[kBins];
  static_assert(kBins == kThreads, "a thread for each bin");
  counts[threadIdx.x] = 0;
  __syncthreads();
  const int plane = e.rows * e.columns, n = blockIdx.x / each;
  const float* change = e.change + static_cast<int64_t>(n) * plane;
  const float scale = static_cast<float>(kSteps / e.level);
  for (int p = blockIdx.x % each * kThreads + threadIdx.x; p < plane; p += each * kThreads) {
    if (!(fabsf(change[p]) <= kFinite)) continue;
    const float bin = floorf(change[p] * scale + 0.5f);
    atomicAdd(&counts[kBins / 2 + static_cast<int>(fminf(fmaxf(bin, -kBins / 2), kBins / 2 - 1))], 1);
  }
  __syncthreads();
  if (counts[threadIdx.x]) atomicAdd(&e.counts[n * kBins + threadIdx.x], counts[threadIdx.x]);
}

// Settles a stream's drift and threshold in this frame, and leaves its histogram empty; see learn. The walk over
// the bins is one thread's, in shared memory: a few hundred additions.
__global__ void __launch_bounds__(kThreads) learn_kernel(const __grid_constant__ Enter e) {
  begin_kernel();
  __shared__ int32_t counts[kBins];
  int32_t* own = e.counts + blockIdx.x * kBins;
  counts[threadIdx.x] = own[threadIdx.x];
  own[threadIdx.x] = 0;
  __syncthreads();
  if (threadIdx.x != 0) return;
  learn(e.refresh[blockIdx.x] ? nullptr : counts, e.least, e.noise, e.drift, e.learned + blockIdx.x * kLearned);
}

__global__ void __launch_bounds__(kThreads) decide_kernel(const __grid_constant__ Enter e) {
  begin_kernel();
  const int p = blockIdx.x * kThreads + threadIdx.x;
  if (p >= pixels_of(e)) return;
  const float* learned = e.learned + Place(e, p).n * kLearned;
  e.passed[p] = judge(e, e.change[p] - learned[kDrift] * e.level, learned[kLimit] * e.level);
}

// Of the strong pixels, those that do not stand alone: the second half of `passed`.
__global__ void __launch_bounds__(kThreads) strong_kernel(const __grid_constant__ Enter e) {
  begin_kernel();
  const int p = blockIdx.x * kThreads + threadIdx.x;
  if (p >= pixels_of(e)) return;
  bool strong = e.passed[p] >= kStrong;
  if (e.passed[p] == kStrong && e.neighbours > 0) {
    const Place at(e, p);
    const uint8_t* stream = e.passed + at.n * e.rows * e.columns;
    int around = -1;  // it counts itself
    for (int y = max(0, at.y - 1); y < min(e.rows, at.y + 2); ++y)
      for (int x = max(0, at.x - 1); x < min(e.columns, at.x + 2); ++x) around += stream[y * e.columns + x] != kStill;
    strong = around >= e.neighbours;
  }
  e.passed[pixels_of(e) + p] = strong;
}

// Those, and the weak ones near them: strengths become whether a pixel passes. Few pixels are weak, so that each looks
// around by itself.
__global__ void __launch_bounds__(kThreads) weak_kernel(const __grid_constant__ Enter e) {
  begin_kernel();
  const int p = blockIdx.x * kThreads + threadIdx.x;
  if (p >= pixels_of(e)) return;
  const uint8_t* strong = e.passed + pixels_of(e);
  bool passed = strong[p] != 0;
  if (!passed && e.reach > 0 && e.passed[p] != kStill) {
    const Place at(e, p);
    strong += at.n * e.rows * e.columns;
    for (int y = max(0, at.y - e.reach); y < min(e.rows, at.y + e.reach + 1); ++y)
      for (int x = max(0, at.x - e.reach); x < min(e.columns, at.x + e.reach + 1); ++x)
        passed |= strong[y * e.columns + x] != 0;
  }
  e.passed[p] = passed;
}

// Dilation along the rows; that across them is left to take_kernel.
__global__ void __launch_bounds__(kThreads) dilate_kernel(const __grid_constant__ Enter e) {
  begin_kernel();
  const int p = blockIdx.x * kThreads + threadIdx.x;
  if (p >= pixels_of(e)) return;
  const Place at(e, p);
  const uint8_t* row = e.passed + p - at.x;
  uint8_t set = 0;
  for (int x = max(0, at.x - e.dilation); x < min(e.columns, at.x + e.dilation + 1); ++x) set |= row[x];
  e.passed[pixels_of(e) + p] = set;
}

__device__ inline bool passed_near(const Enter& e, int p) {
  if (e.dilation == 0) return e.passed[p] != 0;
  const Place at(e, p);
  const uint8_t* column = e.passed + pixels_of(e) + at.n * e.rows * e.columns + at.x;
  uint8_t set = 0;
  for (int y = max(0, at.y - e.dilation); y < min(e.rows, at.y + e.dilation + 1); ++y) set |= column[y * e.columns];
  return set != 0;
}

// Decides, and takes over the pixels that pass: the raw one, if there is one, and its value.
__global__ void __launch_bounds__(kThreads) take_kernel(const __grid_constant__ Enter e, bool compares) {
  begin_kernel();
  const int p = blockIdx.x * kThreads + threadIdx.x;
  bool update = false;
  if (p < pixels_of(e)) {
    const Compared pixel(e, p);
    if (e.refresh[p / (e.rows * e.columns)])
      update = true;
    else if (e.forced != nullptr)
      update = e.forced[p] != 0;
    else
      update = (compares ? pixel.passes() : passed_near(e, p)) || (e.strip != nullptr && e.strip[p] != 0);
    e.mask[p] = update;
    if (update) pixel.take();
  }
  const int updated = __syncthreads_count(update);
  if (threadIdx.x != 0 || updated == 0) return;
  auto* tally = reinterpret_cast<unsigned long long*>(e.tally);
  atomicAdd(tally + kUpdated, static_cast<unsigned long long>(updated));
  atomicAdd(tally + kUpdatedSum, static_cast<unsigned long long>(updated));
}

__global__ void begin_tally_kernel(int64_t* tally, int pixels) {
  begin_kernel();
  tally[kComputed] = pixels;
  tally[kComputedSum] += pixels;
  tally[kFrames] += 1;
  tally[kUpdated] = 0;
}

}  // namespace

cudaError_t enter(const Enter& e, cudaStream_t stream) {
  const int pixels = e.streams * e.rows * e.columns;
  const int64_t blocks = divide_up(pixels, kThreads);
  cudaError_t error = launch(&begin_tally_kernel, Blocks{1, 1, 0}, stream, e.tally, pixels);
  const auto next = [&](auto kernel, const auto&... more) {
    if (error == cudaSuccess) error = launch(kernel, Blocks{blocks, kThreads, 0}, stream, e, more...);
  };
  const bool compares = !e.gated || (e.window == 1 && e.dilation == 0 && e.learned == nullptr && !asks_neighbours(e));
  if (!compares && e.forced == nullptr) {
    next(&change_kernel);
    if (e.window > 1) next(&window_kernel);
    if (e.learned != nullptr) {
      const int each = static_cast<int>(divide_up(e.rows * e.columns, kThreads * kCountedEach));
      if (error == cudaSuccess)
        error = launch(&count_kernel, Blocks{int64_t{e.streams} * each, kThreads, 0}, stream, e, each);
      if (error == cudaSuccess) error = launch(&learn_kernel, Blocks{e.streams, kThreads, 0}, stream, e);
      next(&decide_kernel);
    }
    if (asks_neighbours(e)) {
      next(&strong_kernel);
      next(&weak_kernel);
    }
    if (e.dilation > 0) next(&dilate_kernel);
  }
  next(&take_kernel, compares);
  return error;
}

}  // namespace deltafx::cuda
