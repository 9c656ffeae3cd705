// dense_to_delta: which pixels of a frame changed, and taking those over.
//
// Exact: a pixel passes if any channel is not equal to what was propagated last. A gate with window 1: if the largest
// change of its channels exceeds the threshold; others look around (gate.cu), and what passes them is dilated and read
// once more.
#include "candidates.cuh"
#include "dilate.cuh"

namespace deltafx::cuda {
namespace {

bool decides_pixel_by_pixel(const Enter& e) {
  return !e.gated || (e.window == 1 && e.dilation == 0 && e.learned == nullptr && e.reach == 0 && e.neighbours == 0);
}

// Neighbouring pixels whose masks a thread reads and writes at once, as far as they go.
constexpr int kBytes = kWord / kTogether;
static_assert(kBytes == sizeof(uint2), "a thread has a whole piece of its word");

__device__ inline bool is_whole(const uint8_t* mask, int count) {
  return count == kBytes && reinterpret_cast<uintptr_t>(mask) % kBytes == 0;
}

__device__ inline uint32_t load_bits(const uint8_t* mask, int count) {
  return is_whole(mask, count) ? read_bits<kBytes, kBytes>(mask, kBytes) : read_bits<1, kBytes>(mask, count);
}

__device__ inline void store_bits(uint8_t* mask, int count, uint32_t bits) {
  const auto four = [](uint32_t x) { return (x & 15) * 0x00204081u & 0x01010101u; };
  if (is_whole(mask, count))
    *reinterpret_cast<uint2*>(mask) = make_uint2(four(bits), four(bits >> 4));
  else
    for (int k = 0; k < count; ++k) mask[k] = bits >> k & 1;
}

// Of a stream that is neither refreshed nor forced, the words of pixels that pass. Whether there may be any. Those that
// are compared are taken over while they are at hand.
__device__ inline bool look(const Enter& e, int blocks, bool compares, uint32_t (&words)[kWords]) {
  if (!compares) return dilate(e, blocks, e.dilation, e.passed, words);
  for_words(e, blocks, [&](const Spot& at, int k) {
    bool passes = false;
    if (at.is_inside(e))
      compare(e, at, [&](const auto& pixel) {
        passes = e.gated ? pixel.exceeds(e.threshold) : pixel.differs();
        if (passes) pixel.take();
      });
    const uint32_t word = __ballot_sync(kWholeWarp, passes);
    if (at.lane() == 0) words[k] = word;
  });
  __syncthreads();
  return true;
}

// Decides, and takes over the pixels that pass: the raw one, if there is one, and its value.
__global__ void __launch_bounds__(kFrameThreads)
    take_kernel(const __grid_constant__ Enter e, int blocks, bool compares) {
  begin_kernel();
  __shared__ uint32_t words[kWords];
  __shared__ int updated;
  if (threadIdx.x == 0) updated = 0;
  const bool refreshes = e.refresh[static_cast<int>(blockIdx.x) / blocks];
  const bool passed = !refreshes && e.forced == nullptr && look(e, blocks, compares, words);
  Spot at = spot(e, blocks, first_word(blocks) + static_cast<int>(threadIdx.x) / kTogether);
  const int part = static_cast<int>(threadIdx.x) % kTogether * kBytes;
  at.x = at.word * kWord + part;
  const int p = at.pixel(e), count = at.y < e.rows ? max(0, min(kBytes, e.columns - at.x)) : 0;
  uint32_t bits = passed ? words[threadIdx.x / kTogether] >> part : 0;
  const uint32_t taken = compares ? bits : 0;
  if (refreshes)
    bits = kWholeWarp;
  else if (e.forced != nullptr)
    bits = load_bits(e.forced + p, count);
  else if (e.strip != nullptr)
    bits |= load_bits(e.strip + p, count);
  bits &= (1u << count) - 1;
  store_bits(e.mask + p, count, bits);
  __syncthreads();  // all have read their words
  reinterpret_cast<uint8_t*>(words)[threadIdx.x] = static_cast<uint8_t>(bits & ~taken);
  if (bits != 0) atomicAdd(&updated, __popc(bits));
  __syncthreads();
  if (updated == 0) return;
  for_words(e, blocks, [&](const Spot& at, int k) {
    if (words[k] >> at.lane() & 1) compare(e, at, [](const auto& pixel) { pixel.take(); });
  });
  if (threadIdx.x != 0) return;
  auto* tally = reinterpret_cast<unsigned long long*>(e.tally);
  atomicAdd(tally + kUpdated, static_cast<unsigned long long>(updated));
  atomicAdd(tally + kUpdatedSum, static_cast<unsigned long long>(updated));
}

__global__ void begin_tally_kernel(int64_t* tally, int pixels) {
  begin_kernel();
  begin_tally(tally, pixels);
}

}  // namespace

cudaError_t enter(const Enter& e, cudaStream_t stream) {
  const bool compares = decides_pixel_by_pixel(e);
  const cudaError_t error = compares || e.forced != nullptr ? launch(&begin_tally_kernel, Blocks{1, 1, 0}, stream,
                                                                     e.tally, e.streams * e.rows * e.columns)
                                                            : pass(e, stream);
  if (error != cudaSuccess) return error;
  const int blocks = blocks_of(e);
  return launch(&take_kernel, Blocks{int64_t{e.streams} * blocks, kFrameThreads, 0}, stream, e, blocks, compares);
}

}  // namespace deltafx::cuda
