// Tiles of whole pixels: kernels that compute a pixel channel by channel, and commit it with all of its channels.
#pragma once

#include <algorithm>

#include "commit.cuh"

namespace deltafx::cuda {

constexpr int kRowThreads = 256, kRowResident = 4;
constexpr int kTileBytes = 32 << 10;  // where a pixel is no larger

// How many pixels a tile has, and how they lie in shared memory.
struct RowTile {
  int rows, stride;  // floats from one pixel to the next
  size_t bytes;

  RowTile(int channels, int capacity) {
    stride = static_cast<int>(divide_up(channels, 8)) * 8;
    const int fit = kTileBytes / (stride * 4), spread = static_cast<int>(divide_up(capacity, 8 * multiprocessors()));
    rows = std::max(1, std::min({32, fit, spread}));
    bytes = std::max(static_cast<size_t>(rows) * stride * 4, kStagedWords * sizeof(uint32_t));
  }
};

// Fills tile after tile with fill(pixels, how many, tile), by all threads together, and commits it.
template <class T, class F>
__device__ void fill_tiles(const Job& job, const RowTile& shape, F fill) {
  constexpr int P = kPack<T>;
  extern __shared__ __align__(128) float tile[];
  __shared__ Listed<32> listed;
  __shared__ Found found;
  const int count = find(job.candidates, found, reinterpret_cast<uint32_t*>(tile));
  const int channels = job.commit.out.channels;
  int updated = 0;
  for (int place = blockIdx.x * shape.rows; place < count; place += gridDim.x * shape.rows) {
    const int rows = min(shape.rows, count - place);
    listed.look_up(job, listed.fill(job, found, place, rows));
    __syncthreads();
    fill(listed.pixel, rows, tile);
    __syncthreads();
    updated += channels <= 32 * P
                   ? commit_narrow<T, 1>(job.commit, tile, shape.stride, job.commit.bias, listed, 0, rows, 0, channels)
                   : commit_wide<T>(job.commit, tile, shape.stride, listed, 0, rows, 0, channels);
    __syncthreads();
  }
  end_commit(job.commit, count, updated);
}

// The same with fill(pixel, channel, count of channels, values), a pack at a time.
template <class T, class F>
__device__ void for_each_tile(const Job& job, const RowTile& shape, F fill) {
  constexpr int P = kPack<T>;
  const int channels = job.commit.out.channels, packs = (channels + P - 1) / P;
  fill_tiles<T>(job, shape, [&](const int32_t* pixels, int rows, float* tile) {
    for (int k = threadIdx.x; k < rows * packs; k += blockDim.x) {
      const int row = k / packs, c = k % packs * P;
      float x[P];
      fill(pixels[row], c, min(P, channels - c), x);
      write_tile(tile + row * shape.stride + c, x);
    }
  });
}

template <class... Parameters, class... Arguments>
cudaError_t launch_rows(void (*kernel)(Parameters...), const Job& job, const RowTile& shape, cudaStream_t stream,
                        const Arguments&... arguments) {
  const int64_t tiles = divide_up(job.capacity, shape.rows);
  const int64_t blocks = static_cast<int64_t>(multiprocessors()) * kRowResident;
  return launch(kernel, Blocks{std::min(tiles, blocks), kRowThreads, shape.bytes}, stream, arguments...);
}

}  // namespace deltafx::cuda
