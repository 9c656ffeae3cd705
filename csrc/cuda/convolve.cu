// Gathered implicit GEMM: out[p][o] = sum over taps t and channels c of x[q(p, t)][c] * weight[o][t][c] for the listed
// pixels p. A block takes tiles of candidates and output channels; the depth, taps times channels, runs in steps of 128
// bytes through a ring of stages in shared memory. Reads the receptive fields and the weights once for each tile. Where
// there are few tiles, the blocks of a cluster share the depth of one, and add up their sums in shared memory: as many
// blocks in every frame, so that the same sums are added in the same order.
#include <cooperative_groups.h>

#include <algorithm>
#include <cmath>

#include "candidates.cuh"
#include "commit.cuh"
#include "gather.cuh"
#include "warpgroup.cuh"

namespace deltafx::cuda {
namespace {

// What a kernel is made of: tiles of M pixels and N channels, STAGES steps of them, and what multiplies them.
template <class T_, int M, int N, int STAGES, int RESIDENT, Reads READS, bool EXACT = false>
struct Traits {
  using T = T_;
  static constexpr bool kExact = EXACT;
  static constexpr int kM = M, kN = N, kStages = STAGES, kResident = RESIDENT;
  static constexpr Reads kReads = READS;
  static constexpr int kThreads = M * 2;  // a warpgroup for 64 rows
  static constexpr int kStageBytes = (kM + kN) * kRowBytes;
  static constexpr int kDepth = kRowBytes / sizeof(T);  // of a step
  static constexpr int kTileStride = kN + 8;            // of the results, which take the place of the stages
  static_assert(kThreads % kPieces == 0 && kM % (kThreads / kPieces) == 0 && kN % (kThreads / kPieces) == 0,
                "every thread loads as many pieces as any other");
  static_assert(kM * kTileStride * 4 <= kStages * kStageBytes, "the results fit where the stages are");
  static_assert(kStagedWords * 4 <= kStages * kStageBytes, "and so do the masks");
};

// What multiplies the steps of a tile: four warps for 64 rows.
template <class Traits>
using Warps = TensorCores<typename Traits::T, Traits::kN == 128 ? 64 : 32, 32, Traits::kN>;
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
template <class Traits>
using OnTensorCores = std::conditional_t<sizeof(typename Traits::T) == 2,
                                         Warpgroups<typename Traits::T, Traits::kM, Traits::kN>, Warps<Traits>>;
#else
template <class Traits>
using OnTensorCores = Warps<Traits>;
#endif
template <class Traits>
using MathOf = std::conditional_t<Traits::kExact, Exact<32, 32, Traits::kN>, OnTensorCores<Traits>>;

// Adds up what the blocks of a cluster have of rows [begin, end) of a tile, in the order of the blocks.
template <class Traits>
__device__ void add_parts(float* tile, int begin, int end, int parts) {
#if __CUDA_ARCH__ >= 900
  const cooperative_groups::cluster_group cluster = cooperative_groups::this_cluster();
  constexpr int kFours = Traits::kN / 4;
  for (int k = threadIdx.x; k < (end - begin) * kFours; k += Traits::kThreads) {
    float* const four = tile + (begin + k / kFours) * Traits::kTileStride + k % kFours * 4;
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    for (int part = 0; part < parts; ++part) {
      const float4 x = *reinterpret_cast<const float4*>(cluster.map_shared_rank(four, part));
      sum = make_float4(sum.x + x.x, sum.y + x.y, sum.z + x.z, sum.w + x.w);
    }
    *reinterpret_cast<float4*>(four) = sum;
  }
  __syncthreads();
#endif
}

__device__ inline void wait_for_blocks(int cluster) {
#if __CUDA_ARCH__ >= 900
  if (cluster > 1) return cooperative_groups::this_cluster().sync();
#endif
  __syncthreads();
}

// Brings the weights from memory to the cache that all multiprocessors share: every block a part.
__device__ inline void fetch_weights(const Conv& conv) {
  const int64_t bytes = int64_t{conv.groups} * ((conv.out_per_group + 63) / 64) * conv.steps * 64 * kRowBytes;
  const int64_t stride = int64_t{gridDim.x} * blockDim.x * kRowBytes;
  for (int64_t at = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * kRowBytes; at < bytes; at += stride)
    asm volatile("prefetch.global.L2 [%0];" ::"l"(static_cast<const char*>(conv.weight) + at));
}

struct alignas(16) Parameters {
  Conv conv;
  Job job;
  int parts;
};

// `parts` neighbouring blocks have a tile together: each computes a part of the depth, and finishes a part of the rows.
template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kResident)
    convolve_kernel(const __grid_constant__ Parameters given) {
  using T = typename Traits::T;
  extern __shared__ __align__(1024) unsigned char memory[];
  __shared__ Parameters parameters;
  __shared__ Found found;
  __shared__ Listed<Traits::kM> listed;
  __shared__ __align__(16) float bias[Traits::kN];
  fetch_weights(given.conv);  // nothing before wrote them
  bring_near(given, parameters);
  begin_kernel();
  __syncthreads();
  const Conv& conv = parameters.conv;
  const Job& job = parameters.job;
  const int parts = parameters.parts;
  const Taps<Traits::kM> taps(conv, reinterpret_cast<int32_t*>(memory + Traits::kStages * Traits::kStageBytes));
  const uint32_t stages = shared_address(memory), end = stages + Traits::kStages * Traits::kStageBytes;
  float* results = reinterpret_cast<float*>(memory);
  const int part = blockIdx.x % parts, first_step = conv.steps * part / parts;
  const int steps = conv.steps * (part + 1) / parts - first_step;
  const int widths = static_cast<int>(divide_up(conv.out_per_group, Traits::kN)), across = widths * conv.groups;
  const int count = find(job.candidates, found, reinterpret_cast<uint32_t*>(memory));
  const int tiles = static_cast<int>(divide_up(count, Traits::kM)) * across;
  int updated = 0;
  for (int tile = blockIdx.x / parts; tile < tiles; tile += gridDim.x / parts) {
    const int place = tile / across * Traits::kM, group = tile % across / widths, n = tile % widths * Traits::kN;
    const int rows = min(Traits::kM, count - place), begin = rows * part / parts, last = rows * (part + 1) / parts;
    const int channel = group * conv.out_per_group + n, width = min(Traits::kN, conv.out_per_group - n);
    const int pixel = listed.fill(job, found, place, rows);
    taps.fill(job.candidates.rule.grid.plane, pixel);
    __syncthreads();
    GatherOf<Traits> gather(conv, taps, group, first_step);
    Weights<Traits> weights(conv, group, n, first_step);
    const auto load = [&](uint32_t stage) {
      gather.load(stage);
      weights.load(stage + Traits::kM * kRowBytes);
    };
#pragma unroll 1
    for (int step = 0; step < Traits::kStages - 1; ++step) {
      if (step < steps) load(stages + step * Traits::kStageBytes);
      end_stage();
    }
    fetch_operands<T>(job.commit, listed, begin, last, channel, width);
    listed.look_up(job, pixel);
    for (int k = threadIdx.x; k < width && job.commit.bias != nullptr; k += Traits::kThreads)
      bias[k] = job.commit.bias[channel + k];
    uint32_t stage = stages, free = stages + (Traits::kStages - 1) * Traits::kStageBytes;
    MathOf<Traits> math;
    math.clear();
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
      wait_for_stages<Traits::kStages - 2>();
      math.publish();
      math.finish();
      __syncthreads();  // the stage is there for all, and the one before it is free
      const auto refill = [&] {
        if (step + Traits::kStages - 1 < steps) load(free);
        end_stage();
      };
      if (!math.kWaits) refill();
      math.step(stage, stage + Traits::kM * kRowBytes);
      if (math.kWaits) refill();
      free = stage;
      stage = stage + Traits::kStageBytes == end ? stages : stage + Traits::kStageBytes;
    }
    math.finish();
    wait_for_stages<0>();
    __syncthreads();
    math.store(results, Traits::kTileStride);
    wait_for_blocks(parts);
    if (parts > 1) add_parts<Traits>(results, begin, last, parts);
    updated += commit_narrow<T, Traits::kM == 128 ? 2 : 4>(job.commit, results, Traits::kTileStride, bias, listed,
                                                           begin, last, channel, width);
    wait_for_blocks(parts);  // what the others read is free again
  }
  end_commit(job.commit, count, updated);
}

template <class T>
using Large = Traits<T, 128, 128, 3, 2, Reads::pieces>;
template <class T>
using Tall = Traits<T, 128, 64, 4, 2, Reads::pieces>;
template <class T>
using Small = Traits<T, 64, 64, 4, 3, Reads::pieces>;
template <class T>
using Stem = Traits<T, 64, 64, 4, 3, Reads::pixels>;
template <class T>
using Single = Traits<T, 64, 64, 3, 3, Reads::channels>;
using ExactSmall = Traits<float, 64, 64, 3, 3, Reads::pieces, true>;
using ExactSingle = Traits<float, 64, 64, 3, 3, Reads::channels, true>;

template <class Traits>
size_t shared_bytes(const Conv& conv) {
  return Traits::kStages * Traits::kStageBytes + Taps<Traits::kM>::bytes(conv);
}

// What a tiling is expected to take, in microseconds, in a frame with few changes and in one with many: the share of
// the pixels that is computed. The constants are fitted to what the convolutions of resnet50 took with every tiling on
// an H200, one stream and eight of 1280x720 with 5 % updates, which is the larger share. They decide about speed alone.
constexpr double kFewPixels = 0.02, kManyPixels = 0.14;
struct Cost {
  int m, n, resident;
  // A step of one block, how much longer it takes for each other on its chip, what follows the steps.
  double step, sharing, ending;

  double of(const Conv& conv, int capacity, int parts) const {
    return with(kFewPixels, conv, capacity, parts) + with(kManyPixels, conv, capacity, parts);
  }

  double with(double share, const Conv& conv, int capacity, int parts) const {
    const double chips = multiprocessors();
    const double tiles = std::ceil(capacity * share / m) * divide_up(conv.out_per_group, n) * conv.groups;
    const double rounds = tiles * parts / (chips * resident);
    const double others = std::min<double>(resident, std::ceil(tiles * parts / chips)) - 1.0;
    const double one = conv.steps * step * (1.0 + sharing * others) / parts + 11.0 + ending / std::pow(parts, 1.7) +
                       (parts > 4 ? 6.0 : parts > 1 ? 2.5 : 0.0);
    return one * (rounds < 3.0 ? std::ceil(rounds) : rounds + 0.5);
  }
};

Reads reads(const Conv& conv) {
  const int size = conv.x.dtype == Dtype::float32 ? 4 : 2;
  if (conv.x.packed && conv.in_per_group * size % 16 == 0) return Reads::pieces;
  const bool even = reinterpret_cast<uintptr_t>(conv.x.data) % 8 == 0 && conv.x.pitch * size % 8 == 0;
  return size == 2 && even && conv.groups == 1 && conv.in_per_group == 4 ? Reads::pixels : Reads::channels;
}

template <class Traits>
bool fits(const Conv& conv) {
  return shared_bytes<Traits>(conv) + 8192 <= device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
}

template <class Traits>
Cost cost_as(double step, double sharing, double ending) {
  return {Traits::kM, Traits::kN, Traits::kResident, step, sharing, ending};
}

Cost cost_of(Tile tile) {
  if (tile == Tile::large) return cost_as<Large<__half>>(0.38, 1.36, 5.6);
  if (tile == Tile::tall) return cost_as<Tall<__half>>(0.3, 0.62, 3.6);
  return cost_as<Small<__half>>(0.33, 0.75, 1.3);
}

Tiling tiling_of(const Conv& conv, int capacity) {
  if (conv.tiling.tile != Tile::chosen) return conv.tiling;
  const auto time = [&](const Tiling& t) { return cost_of(t.tile).of(conv, capacity, t.parts); };
  const std::vector<Tiling> all = tilings(conv);
  return *std::min_element(all.begin(), all.end(), [&](const Tiling& a, const Tiling& b) { return time(a) < time(b); });
}

template <class Traits>
cudaError_t launch_convolve(const Conv& conv, const Job& job, int parts, cudaStream_t stream) {
  const int64_t tiles = divide_up(job.capacity, Traits::kM) * divide_up(conv.out_per_group, Traits::kN) * conv.groups;
  const int64_t teams = static_cast<int64_t>(multiprocessors()) * Traits::kResident / parts;
  const Blocks blocks{std::min(tiles, teams) * parts, Traits::kThreads, shared_bytes<Traits>(conv), parts};
  return launch(&convolve_kernel<Traits>, blocks, stream, Parameters{conv, job, parts});
}

}  // namespace

std::vector<Tiling> tilings(const Conv& conv) {
  std::vector<Tile> tiles{Tile::small};
  if (reads(conv) == Reads::pieces && !conv.exact) {
    if (fits<Tall<__half>>(conv)) tiles.push_back(Tile::tall);
    if (conv.out_per_group > 64 && fits<Large<__half>>(conv)) tiles.push_back(Tile::large);
  }
  const int most = is_hopper() ? std::min(8, std::max(1, conv.steps / 2)) : 1;
  std::vector<Tiling> all;
  for (const Tile tile : tiles)
    for (int parts = 1; parts <= most; parts *= 2)
      all.push_back({tile, parts});
  return all;
}

int convolve_width(const Conv& conv, int capacity) {
  return tiling_of(conv, capacity).tile == Tile::large ? Large<__half>::kN : Small<__half>::kN;
}

cudaError_t convolve(const Conv& conv, const Job& job, cudaStream_t stream) {
  const auto [tile, parts] = tiling_of(conv, job.capacity);
  const Reads kind = reads(conv);
  if (conv.exact)
    return kind == Reads::pieces ? launch_convolve<ExactSmall>(conv, job, parts, stream)
                                 : launch_convolve<ExactSingle>(conv, job, parts, stream);
  return with_type(conv.x.dtype, [&, tile = tile, parts = parts](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    if (tile == Tile::large) return launch_convolve<Large<T>>(conv, job, parts, stream);
    if (tile == Tile::tall) return launch_convolve<Tall<T>>(conv, job, parts, stream);
    if constexpr (sizeof(T) == 2)
      if (kind == Reads::pixels) return launch_convolve<Stem<T>>(conv, job, parts, stream);
    return kind == Reads::pieces ? launch_convolve<Small<T>>(conv, job, parts, stream)
                                 : launch_convolve<Single<T>>(conv, job, parts, stream);
  });
}

}  // namespace deltafx::cuda
