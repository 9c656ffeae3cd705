// The device's clock, read between the kernels of a stream.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace deltafx::cuda {

// When the kernels launched before are done: *last becomes the time in ns, and *sum grows by it, modulo 2^64.
cudaError_t tick(int64_t* last, int64_t* sum, cudaStream_t);

}  // namespace deltafx::cuda
