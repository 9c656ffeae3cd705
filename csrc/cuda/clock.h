// The device's clock, read between the kernels of a stream.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace deltafx::cuda {

// When the kernels launched before are done: last[0] to last[count - 1] become the time in ns, and sum[0] to
// sum[count - 1] grow by it, modulo 2^64.
cudaError_t tick(int64_t* last, int64_t* sum, int count, cudaStream_t);

}  // namespace deltafx::cuda
