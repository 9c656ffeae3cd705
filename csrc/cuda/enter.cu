// dense_to_delta: which pixels of a frame changed, and taking those over.
//
// Exact: a pixel passes if any channel is not equal to what was propagated last. A gate with window 1: if the largest
// change of its channels exceeds the threshold; others look around (gate.cu), and what passes them is dilated. Reads the
// frame once, and the pixels that pass once more.
#include "dilate.cuh"

namespace deltafx::cuda {
namespace {

bool decides_pixel_by_pixel(const Enter& e) {
  return !e.gated || (e.window == 1 && e.dilation == 0 && e.learned == nullptr && e.reach == 0 && e.neighbours == 0);
}

// Decides, and takes over the pixels that pass: the raw one, if there is one, and its value.
__global__ void __launch_bounds__(kFrameThreads)
    take_kernel(const __grid_constant__ Enter e, int blocks, bool compares) {
  begin_kernel();
  __shared__ uint32_t near[kWords];
  __shared__ int updated;
  if (threadIdx.x == 0) updated = 0;
  const bool refreshes = e.refresh[static_cast<int>(blockIdx.x) / blocks];
  const bool is_forced = !refreshes && e.forced != nullptr, looks = !refreshes && !is_forced;
  const bool passed = looks && !compares && dilate(e, blocks, e.dilation, e.passed, near);
  if (looks && !compares && !passed && e.strip == nullptr)
    return for_words(e, blocks, [&](const Spot& at, int) {
      if (at.is_inside(e)) e.mask[at.pixel(e)] = 0;
    });
  __syncthreads();
  for_words(e, blocks, [&](const Spot& at, int k) {
    bool update = false;
    if (at.is_inside(e)) {
      const int p = at.pixel(e);
      update = refreshes || (is_forced && e.forced[p] != 0) || (looks && e.strip != nullptr && e.strip[p] != 0) ||
               (passed && near[k] >> at.lane() & 1);
      if (update || (looks && compares))
        compare(e, at, [&](const auto& pixel) {
          update = update || (e.gated ? pixel.exceeds(e.threshold) : pixel.differs());
          if (update) pixel.take();
        });
      e.mask[p] = update;
    }
    const int count = __popc(__ballot_sync(kWholeWarp, update));
    if (at.lane() == 0 && count > 0) atomicAdd(&updated, count);
  });
  __syncthreads();
  if (threadIdx.x != 0 || updated == 0) return;
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
  const cudaError_t error =
      compares || e.forced != nullptr
          ? launch(&begin_tally_kernel, Blocks{1, 1, 0}, stream, e.tally, e.streams * e.rows * e.columns)
          : pass(e, stream);
  if (error != cudaSuccess) return error;
  const int blocks = blocks_of(e);
  return launch(&take_kernel, Blocks{int64_t{e.streams} * blocks, kFrameThreads, 0}, stream, e, blocks, compares);
}

}  // namespace deltafx::cuda
