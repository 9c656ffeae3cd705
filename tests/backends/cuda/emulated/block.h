// Blocks of a CUDA kernel, one after the other, as threads of the host: what kernels need of the language, so that they
// can be run where there is no device. Include it before theirs.
#pragma once

#include <algorithm>
#include <atomic>
#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

#include <cuda_runtime.h>

#undef __noinline__
#undef __device__
#undef __host__
#undef __global__
#undef __shared__
#undef __grid_constant__
#undef __launch_bounds__
#define __noinline__
#define __device__
#define __host__
#define __global__
#define __shared__ static
#define __grid_constant__
#define __launch_bounds__(...)

using std::max;
using std::min;

namespace emulated {

constexpr int kWarp = 32, kMostThreads = 1024;
struct Index {
  int x;
};
struct Block {
  explicit Block(int threads) : all(threads) {
    for (int warp = 0; warp < threads / kWarp; ++warp) warps.push_back(std::make_unique<std::barrier<>>(kWarp));
  }
  std::barrier<> all;
  std::vector<std::unique_ptr<std::barrier<>>> warps;
  std::atomic<int> any{0};
  double exchanged[kMostThreads];  // what fits
};
inline Block* block = nullptr;

}  // namespace emulated

inline thread_local emulated::Index threadIdx{0};
inline emulated::Index blockIdx{0}, blockDim{0}, gridDim{0};

inline void __syncthreads() { emulated::block->all.arrive_and_wait(); }

inline int __syncthreads_or(int value) {
  std::atomic<int>& any = emulated::block->any;
  __syncthreads();  // it was read the last time
  any = 0;
  __syncthreads();
  if (value) any = 1;
  __syncthreads();
  return any;
}

inline int __syncthreads_count(bool holds) {
  std::atomic<int>& count = emulated::block->any;
  __syncthreads();  // it was read the last time
  count = 0;
  __syncthreads();
  count += holds;
  __syncthreads();
  return count;
}

// What thread `from` of the warp gives.
template <class T>
inline T exchange(T value, int from) {
  std::barrier<>& warp = *emulated::block->warps[threadIdx.x / emulated::kWarp];
  emulated::block->exchanged[threadIdx.x] = value;
  warp.arrive_and_wait();
  const T got = static_cast<T>(emulated::block->exchanged[threadIdx.x / emulated::kWarp * emulated::kWarp + from]);
  warp.arrive_and_wait();
  return got;
}

template <class T>
inline T __shfl_up_sync(unsigned, T value, int places) {
  const int lane = threadIdx.x % emulated::kWarp;
  return exchange(value, lane >= places ? lane - places : lane);
}

template <class T>
inline T __shfl_xor_sync(unsigned, T value, int places) {
  return exchange(value, threadIdx.x % emulated::kWarp ^ places);
}

template <class T>
inline T __shfl_sync(unsigned, T value, int from) {
  return exchange(value, from);
}

inline unsigned __reduce_or_sync(unsigned, unsigned value) {
  for (int places = 1; places < emulated::kWarp; places *= 2) value |= __shfl_xor_sync(~0u, value, places);
  return value;
}

inline unsigned __ballot_sync(unsigned mask, bool holds) {
  return __reduce_or_sync(mask, unsigned{holds} << threadIdx.x % emulated::kWarp);
}

inline void __threadfence() { std::atomic_thread_fence(std::memory_order_seq_cst); }
inline int atomicAdd(int* to, int more) { return __atomic_fetch_add(to, more, __ATOMIC_SEQ_CST); }
inline unsigned long long atomicAdd(unsigned long long* to, unsigned long long more) {
  return __atomic_fetch_add(to, more, __ATOMIC_SEQ_CST);
}
inline int atomicExch(int* to, int value) { return __atomic_exchange_n(to, value, __ATOMIC_SEQ_CST); }
inline float __fdividef(float a, float b) { return a / b; }
inline int __popc(unsigned word) { return __builtin_popcount(word); }
inline unsigned __dp4a(unsigned a, unsigned b, unsigned sum) {
  for (int shift = 0; shift < 32; shift += 8) sum += (a >> shift & 255) * (b >> shift & 255);
  return sum;
}
inline unsigned __vcmpne4(unsigned a, unsigned b) {
  unsigned differing = 0;
  for (int shift = 0; shift < 32; shift += 8) differing |= ((a ^ b) >> shift & 255 ? 255u : 0u) << shift;
  return differing;
}
inline unsigned __brev(unsigned word) {
  unsigned reversed = 0;
  for (int bit = 0; bit < 32; ++bit) reversed |= (word >> bit & 1) << (31 - bit);
  return reversed;
}
inline int __ffs(unsigned word) { return word == 0 ? 0 : __builtin_ctz(word) + 1; }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<uint64_t>(a) * b >> 32; }

namespace emulated {

// Runs `what` as every thread of a block of so many, and waits for them.
inline void run(int threads, const std::function<void()>& what) {
  Block own(threads);
  block = &own, blockDim.x = threads;
  std::vector<std::thread> all;
  for (int t = 0; t < threads; ++t)
    all.emplace_back([&, t] {
      threadIdx.x = t;
      what();
    });
  for (std::thread& thread : all) thread.join();
}

inline void run(int blocks, int threads, const std::function<void()>& kernel) {
  gridDim.x = blocks;
  for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) run(threads, kernel);
}

template <class... Parameters, class... Arguments>
cudaError_t launch(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...), const Arguments&... arguments) {
  run(static_cast<int>(config->gridDim.x), static_cast<int>(config->blockDim.x), [&] { kernel(arguments...); });
  return cudaSuccess;
}

inline cudaError_t no_error() { return cudaSuccess; }  // but that there is no device

}  // namespace emulated

#define cudaLaunchKernelEx emulated::launch
#define cudaGetLastError emulated::no_error
