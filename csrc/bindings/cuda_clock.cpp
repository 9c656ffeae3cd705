// The device's clock as a PyTorch operator.
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "../cuda/clock.h"

namespace deltafx {
namespace {

void tick_op(at::Tensor ticks, int64_t place, int64_t count) {
  TORCH_CHECK_VALUE(ticks.device().is_cuda() && ticks.scalar_type() == at::kLong && ticks.dim() == 2 &&
                        ticks.size(0) == 2 && ticks.is_contiguous(),
                    "ticks: a contiguous Long CUDA tensor [2, places] is needed; got ", ticks.scalar_type(), " ",
                    ticks.sizes(), " on ", ticks.device());
  TORCH_CHECK_VALUE(place >= 0 && count > 0 && place + count <= ticks.size(1), "place: ", count, " from ", place,
                    " on of ", ticks.size(1));
  const c10::cuda::CUDAGuard guard(ticks.device());
  int64_t* const last = ticks.data_ptr<int64_t>() + place;
  const cudaError_t error =
      cuda::tick(last, last + ticks.size(1), static_cast<int>(count), c10::cuda::getCurrentCUDAStream().stream());
  TORCH_CHECK(error == cudaSuccess, "deltafx: ", cudaGetErrorString(error));
}

TORCH_LIBRARY_FRAGMENT(deltafx_cuda, m) { m.def("tick(Tensor(a!) ticks, int place, int count) -> ()"); }

TORCH_LIBRARY_IMPL(deltafx_cuda, CUDA, m) { m.impl("tick", &tick_op); }

}  // namespace
}  // namespace deltafx
