// The mean, sum or maximum over all pixels of each stream. A row's partial result is computed again if a pixel of it
// was updated; the total is made of all partials, in order.
#include "rows.cuh"

namespace deltafx::cuda {
namespace {

__device__ inline float start_of(const Reduce& e) { return e.maximum ? -INFINITY : 0.0f; }
__device__ inline float join(float total, float x, bool larger_wins) {
  return larger_wins ? larger(total, x) : total + x;
}

// Joins `count` packs that are `pitch` apart. Where they are whole, eight reads are under way together.
template <class T, int P>
__device__ void join_packs(const T* from, int64_t pitch, int count, int n, bool packed, bool larger_wins,
                           float (&total)[P]) {
  static_assert(P % kPack<T> == 0, "whole pieces");
  if (packed && n >= P) {
#pragma unroll 8
    for (int k = 0; k < count; ++k) {
      Pack<T> raw[P / kPack<T>];
#pragma unroll
      for (int i = 0; i < P / kPack<T>; ++i)
        *reinterpret_cast<uint4*>(raw[i].of) = reinterpret_cast<const uint4*>(from + k * pitch)[i];
#pragma unroll
      for (int i = 0; i < P; ++i) total[i] = join(total[i], number(raw[i / kPack<T>].of[i % kPack<T>]), larger_wins);
    }
    return;
  }
#pragma unroll 1
  for (int k = 0; k < count; ++k) {
    float v[P];
    load_pack(from + k * pitch, n, packed, v);
    map_with(total, v, [&](float a, float b) { return join(a, b, larger_wins); });
  }
}

// One block for each image row.
template <class T>
__global__ void __launch_bounds__(kRowThreads) partial_kernel(const __grid_constant__ Reduce e) {
  constexpr int P = kPack<T>;
  begin_kernel();
  const int line = blockIdx.x, channels = e.x.channels;
  int touched = e.refresh[line / e.rows];
  for (int x = threadIdx.x; x < e.columns; x += blockDim.x) touched |= e.mask[line * e.columns + x];
  if (!__syncthreads_or(touched)) return;
  const T* first = static_cast<const T*>(e.x.data) + static_cast<int64_t>(line) * e.columns * e.x.pitch;
  for (int c = threadIdx.x * P; c < channels; c += blockDim.x * P) {
    const int n = min(P, channels - c);
    float total[P];
    map(total, [&](float) { return start_of(e); });
    join_packs(first + c, e.x.pitch, e.columns, n, e.x.packed, e.maximum, total);
    store_pack(e.partial + static_cast<int64_t>(line) * channels + c, n, false, total);
  }
}

template <class T>
__global__ void __launch_bounds__(kRowThreads, kRowResident)
    total_kernel(const __grid_constant__ Reduce e, const __grid_constant__ Job job, RowTile shape) {
  constexpr int P = kPack<T>;
  begin_kernel();
  for_each_tile<T>(job, shape, [&](int n, int c, int width, float (&total)[P]) {
    const float* partial = e.partial + static_cast<int64_t>(n) * e.rows * e.x.channels + c;
    map(total, [&](float) { return start_of(e); });
    join_packs(partial, e.x.channels, e.rows, width, e.x.channels % 4 == 0, e.maximum, total);
    if (!e.maximum) map(total, [&](float v) { return v * e.scale; });
  });
}

}  // namespace

cudaError_t reduce(const Reduce& e, const Job& job, cudaStream_t stream) {
  const RowTile shape(job.commit.out.channels, job.capacity);
  return with_type(e.x.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const cudaError_t error =
        launch(&partial_kernel<T>, Blocks{static_cast<int64_t>(e.streams) * e.rows, kRowThreads, 0}, stream, e);
    if (error != cudaSuccess) return error;
    return launch_rows(&total_kernel<T>, job, shape, stream, e, job, shape);
  });
}

}  // namespace deltafx::cuda
