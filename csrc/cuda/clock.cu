// Reads the device's clock between two kernels. An event recorded there would keep the start of the second from
// overlapping with the end of the first; one thread that is a kernel like the others does not.
#include "clock.h"

#include "launch.cuh"

namespace deltafx::cuda {
namespace {

// Nothing is read from memory, which would take longer than all else: differences of sums give the mean of a span.
__global__ void tick_kernel(unsigned long long* last, unsigned long long* sum, int count) {
  begin_kernel();
  unsigned long long now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now)::"memory");
  now = __shfl_sync(~0u, now, 0);  // the same for all
  for (int k = threadIdx.x; k < count; k += blockDim.x) {
    last[k] = now;
    atomicAdd(sum + k, now);
  }
}

}  // namespace

cudaError_t tick(int64_t* last, int64_t* sum, int count, cudaStream_t stream) {
  return launch(tick_kernel, {1, 32, 0}, stream, reinterpret_cast<unsigned long long*>(last),
                reinterpret_cast<unsigned long long*>(sum), count);
}

}  // namespace deltafx::cuda
