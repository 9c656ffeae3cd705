// The choice among the forms of a part of a frame, by one block; and the marks that forms leave without computing.
#include "choose.h"

#include "kernels.h"
#include "launch.cuh"

namespace deltafx::cuda {
namespace {

constexpr int kThreads = 256;

#if CUDART_VERSION >= 12080

__global__ void __launch_bounds__(kThreads)
    choose_kernel(const __grid_constant__ Choose c, cudaGraphConditionalHandle handle) {
  begin_kernel();
  __shared__ unsigned long long updated;
  if (threadIdx.x == 0) updated = 0;
  int any = 0;
  __syncthreads();
  for (int k = threadIdx.x; k < c.count; k += kThreads) {
    const int64_t pixels = c.tallies[k][kUpdated];
    any |= pixels != 0;
    if (k < c.inputs) atomicAdd(&updated, static_cast<unsigned long long>(pixels));
  }
  for (int n = threadIdx.x; n < c.streams; n += kThreads) any |= c.refresh[n];
  any = __syncthreads_or(any);
  const Choice choice = !any ? Choice::rest : static_cast<int64_t>(updated) >= c.many ? Choice::dense : Choice::sparse;
  if (choice == Choice::rest)
    for (int k = threadIdx.x; k < c.kept_count; k += kThreads) c.kept[k][kFrames] += 1;
  if (threadIdx.x != 0) return;
  // What the last frame cleared is still clear.
  const bool still = choice == Choice::rest && *c.last == static_cast<int32_t>(Choice::rest);
  *c.last = static_cast<int32_t>(choice);
  cudaGraphSetConditional(handle, static_cast<unsigned>(still ? Choice::none : choice));
}

#endif

__global__ void __launch_bounds__(kThreads)
    mark_kernel(const Stretch* stretches, int64_t count, uint8_t value, const Counted* counted, int64_t counts) {
  begin_kernel();
  if (blockIdx.x == count) {
    for (int64_t k = threadIdx.x; k < counts; k += kThreads) {
      int64_t *tally = counted[k].tally, pixels = counted[k].pixels;
      tally[kComputed] = tally[kUpdated] = pixels;
      tally[kComputedSum] += pixels, tally[kUpdatedSum] += pixels;
      tally[kFrames] += 1;
    }
    return;
  }
  const Stretch stretch = stretches[blockIdx.x];
  const uint32_t four = value * 0x01010101u;
  const int64_t packs = reinterpret_cast<uintptr_t>(stretch.begin) % 16 == 0 ? stretch.bytes / 16 : 0;
  for (int64_t k = threadIdx.x; k < packs; k += kThreads)
    reinterpret_cast<uint4*>(stretch.begin)[k] = make_uint4(four, four, four, four);
  for (int64_t k = packs * 16 + threadIdx.x; k < stretch.bytes; k += kThreads) stretch.begin[k] = value;
}

}  // namespace

cudaError_t mark(const Stretch* stretches, int64_t count, uint8_t value, const Counted* counted, int64_t counts,
                 cudaStream_t stream) {
  return launch(&mark_kernel, Blocks{count + (counts > 0), kThreads, 0}, stream, stretches, count, value, counted,
                counts);
}

bool has_choices() {
  int driver = 0;
  return CUDART_VERSION >= 12080 && cudaDriverGetVersion(&driver) == cudaSuccess && driver >= 12080;
}

#if CUDART_VERSION >= 12080

namespace {

cudaError_t add_node(cudaGraph_t graph, cudaGraphNode_t& after, cudaGraphNodeParams& params) {
  const cudaGraphNode_t before = after;
#if CUDART_VERSION >= 13000
  return cudaGraphAddNode(&after, graph, before ? &before : nullptr, nullptr, before ? 1 : 0, &params);
#else
  return cudaGraphAddNode(&after, graph, before ? &before : nullptr, before ? 1 : 0, &params);
#endif
}

}  // namespace

cudaError_t add_choice(cudaGraph_t graph, const Choose& choose, const cudaGraph_t (&forms)[3], cudaGraphNode_t& after) {
  cudaGraphConditionalHandle handle;
  cudaError_t error = cudaGraphConditionalHandleCreate(&handle, graph, 0, 0);
  if (error != cudaSuccess) return error;
  Choose given = choose;
  void* arguments[] = {&given, &handle};
  cudaGraphNodeParams kernel{};
  kernel.type = cudaGraphNodeTypeKernel;
  kernel.kernel.func = reinterpret_cast<void*>(&choose_kernel);
  kernel.kernel.gridDim = dim3(1), kernel.kernel.blockDim = dim3(kThreads);
  kernel.kernel.kernelParams = arguments;
  error = add_node(graph, after, kernel);
  if (error != cudaSuccess) return error;
  cudaGraphNodeParams choice{};
  choice.type = cudaGraphNodeTypeConditional;
  choice.conditional.handle = handle;
  choice.conditional.type = cudaGraphCondTypeSwitch;
  choice.conditional.size = 3;
  error = add_node(graph, after, choice);
  for (int k = 0; k < 3 && error == cudaSuccess; ++k) {
    cudaGraphNode_t child;
    error = cudaGraphAddChildGraphNode(&child, choice.conditional.phGraph_out[k], nullptr, 0, forms[k]);
  }
  return error;
}

#else

cudaError_t add_choice(cudaGraph_t, const Choose&, const cudaGraph_t (&)[3], cudaGraphNode_t&) {
  return cudaErrorNotSupported;
}

#endif

}  // namespace deltafx::cuda
