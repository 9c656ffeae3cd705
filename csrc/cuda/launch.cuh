// Launching a kernel so that its start overlaps with the end of the one before it.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace deltafx::cuda {

__host__ __device__ constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline int device_attribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&value, attribute, device);
  return value;
}

inline int multiprocessors() { return device_attribute(cudaDevAttrMultiProcessorCount); }

static __global__ void probe_kernel() {}

// Hopper or newer, and kernels made for it: there are clusters, and kernels whose start overlaps. Kernels made for
// older devices run there too, without either.
inline bool is_hopper() {
  if (device_attribute(cudaDevAttrComputeCapabilityMajor) < 9) return false;
  cudaFuncAttributes made{};
  return cudaFuncGetAttributes(&made, &probe_kernel) == cudaSuccess && made.ptxVersion >= 90;
}

// The first thing that every kernel does. From here on the next kernel may be set up; nothing before here may touch
// memory, because the kernel before may still be running.
__device__ inline void begin_kernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Copies what a kernel was given to shared memory, where a first read takes a tenth of the time: each cache line of
// parameters comes from far away, and one after the other. It may come before begin_kernel; a barrier must follow.
template <class T>
__device__ inline void bring_near(const T& given, T& near) {
  static_assert(sizeof(T) % 16 == 0, "whole pieces");
  for (int k = threadIdx.x / 32; k < sizeof(T) / 16; k += blockDim.x / 32) {
    const uint4 piece = reinterpret_cast<const uint4*>(&given)[k];  // one for all lanes, as parameters are read
    if (threadIdx.x % 32 == 0) reinterpret_cast<uint4*>(&near)[k] = piece;
  }
}

// How many blocks a kernel has, of how many threads, and the bytes of shared memory that they ask for. Neighbouring
// blocks are a cluster, which reads each other's shared memory.
struct Blocks {
  int64_t count;
  int threads;
  size_t shared;
  int cluster = 1;
};

template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), const Blocks& blocks, cudaStream_t stream,
                   const Arguments&... arguments) {
  if (blocks.count == 0) return cudaSuccess;
  cudaError_t error = cudaSuccess;
  if (blocks.shared > 48 << 10)
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(blocks.shared));
  cudaLaunchAttribute attributes[2]{};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks.count));
  config.blockDim = dim3(blocks.threads);
  config.dynamicSmemBytes = blocks.shared;
  config.stream = stream;
  config.attrs = attributes;
  if (is_hopper()) {
    attributes[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[config.numAttrs++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (blocks.cluster > 1) {
    attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
    attributes[config.numAttrs++].val.clusterDim = {static_cast<unsigned>(blocks.cluster), 1, 1};
  }
  if (error == cudaSuccess) error = cudaLaunchKernelEx(&config, kernel, arguments...);
  const cudaError_t last = cudaGetLastError();  // forgets it, so that it is not taken for one of the next launch
  return error != cudaSuccess ? error : last;
}

}  // namespace deltafx::cuda
