// A product for few pixels: out[p] = steps(weight x[p]). Squeeze-excite gates and classifiers have one pixel in each
// stream, for which a library takes as long as for a hundred, and another kernel for what follows.
#include "whole.cuh"

namespace deltafx::cuda {
namespace {

constexpr int kPixels = 4;    // of a block, for which weights are read once
constexpr int kChannels = 8;  // of a block: each is a warp's

template <class T>
__global__ void __launch_bounds__(32 * kChannels)
    product_all_kernel(const __grid_constant__ Product product, const __grid_constant__ Dense d) {
  constexpr int P = kPack<T>;
  __shared__ __align__(16) float sums[kPixels][kChannels];
  begin_kernel();
  const Matrix &x = product.x, &out = d.commit.out;
  const int across = (out.channels + kChannels - 1) / kChannels;
  const int first = blockIdx.x % across * kChannels, pixel = blockIdx.x / across * kPixels;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  // Beyond the last channel and the last pixel: these are read, and not written.
  const int64_t channel = min(first + warp, out.channels - 1);
  const T* weight = static_cast<const T*>(product.weight) + channel * x.channels;
  float sum[kPixels] = {};
#pragma unroll 2
  for (int c = lane * P; c < x.channels; c += 32 * P) {
    float w[P];
    load_pack(weight + c, x.channels - c, product.packed, w);
#pragma unroll
    for (int r = 0; r < kPixels; ++r) {
      float v[P];
      load_pack(static_cast<const T*>(x.data) + min(pixel + r, d.pixels - 1) * x.pitch + c, x.channels - c, x.packed,
                v);
#pragma unroll
      for (int i = 0; i < P; ++i) sum[r] = fmaf(v[i], w[i], sum[r]);
    }
  }
#pragma unroll
  for (int r = 0; r < kPixels; ++r) {
#pragma unroll
    for (int o = 16; o > 0; o /= 2) sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], o);
    if (lane == 0) sums[r][warp] = sum[r];
  }
  __syncthreads();
  constexpr int kPacks = kChannels / P;
  const int p[1] = {pixel + static_cast<int>(threadIdx.x) / kPacks};
  const int c = threadIdx.x % kPacks * P, n = min(P, out.channels - first - c);
  if (threadIdx.x >= kPixels * kPacks || p[0] >= d.pixels || n <= 0) return;
  float total[1][P];
  read_tile(sums[p[0] - pixel] + c, total[0]);
  finish_packs<T>(d, p, first + c, n, true, total);
  store_pack(static_cast<T*>(out.data) + p[0] * out.pitch + first + c, n, out.packed, total[0]);
}

int64_t product_blocks(int channels, int pixels) { return divide_up(channels, kChannels) * divide_up(pixels, kPixels); }

}  // namespace

cudaError_t product_all(const Product& product, const Commit& commit, int pixels, int plane, cudaStream_t stream) {
  return with_type(product.x.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const Blocks blocks{product_blocks(commit.out.channels, pixels), 32 * kChannels, 0};
    return launch(&product_all_kernel<T>, blocks, stream, product, dense_of<T>(commit, pixels, plane));
  });
}

}  // namespace deltafx::cuda
