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
#include "warpgroup.cuh"

namespace deltafx::cuda {
namespace {

// What is gathered at once: pieces of 16 bytes, or pixels of 8, such as frames have, or single channels.
enum class Reads { pieces, pixels, channels };

// What a kernel is made of: tiles of M pixels and N channels, STAGES steps of them, and what multiplies them.
template <class T_, int M, int N, int STAGES, int RESIDENT, Reads READS, bool EXACT = false>
struct Traits {
  using T = T_;
  static constexpr bool kExact = EXACT;
  static constexpr int kM = M, kN = N, kStages = STAGES, kResident = RESIDENT;
  static constexpr Reads kReads = READS;
  static constexpr int kThreads = M * 2;   // a warpgroup for 64 rows
  static constexpr int kStageBytes = (kM + kN) * kRowBytes;
  static constexpr int kDepth = kRowBytes / sizeof(T);  // of a step
  static constexpr int kTileStride = kN + 8;            // of the results, which take the place of the stages
  static_assert(kThreads % kPieces == 0 && kM % (kThreads / kPieces) == 0 && kN % (kThreads / kPieces) == 0,
                "every thread loads as many pieces as any other");
  static_assert(kM * kTileStride * 4 <= kStages * kStageBytes, "the results fit where the stages are");
  static_assert(kStagedWords * 4 <= kStages * kStageBytes, "and so do the masks");
};

// Past the first cache, of which little is left beside the stages.
__device__ inline void copy_piece(uint32_t to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0) : "memory");
}
__device__ inline void copy_half(uint32_t to, const void* from, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(to), "l"(from), "r"(valid ? 8 : 0) : "memory");
}
__device__ inline void end_stage() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N>
__device__ inline void wait_for_stages() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// Where the taps of a tile's pixels lie. Where the window has a simple form, a row has the input pixel behind tap (0,
// 0), and bits for the rows of taps that are there, and from bit 16 on for the columns; else two numbers which add up
// to the pixel, unless one is negative.
template <int M>
struct Taps {
  const Conv& conv;
  const bool straight;
  int32_t *base, *there;    // [M]
  int32_t *rows, *columns;  // [kernel_rows, M], [kernel_columns, M]

  __device__ Taps(const Conv& conv, int32_t* memory)
      : conv(conv),
        straight(conv.row_axis.stride != 0),
        base(memory),
        there(memory + M),
        rows(memory),
        columns(memory + M * conv.window.kernel_rows) {}

  static size_t bytes(const Conv& conv) {
    return sizeof(int32_t) * M * std::max(2, conv.window.kernel_rows + conv.window.kernel_columns);
  }

  // Thread r knows pixel r of the tile; there are none below 0.
  __device__ void fill(const Divisor& plane, int p) const {
    const int r = threadIdx.x, n = p / plane, place = p - n * plane.by;
    if (r >= M) return;
    const int y = place / conv.out_columns, x = place - y * conv.out_columns.by;
    const Window& w = conv.window;
    if (straight) {
      const auto bits = [](const Axis& axis, int first) {
        uint32_t inside = 0;
#pragma unroll 1
        for (int k = 0; k < axis.taps; ++k, first += axis.dilation) inside |= (first >= 0 && first < axis.in) << k;
        return inside;
      };
      const int top = y * conv.row_axis.stride + conv.row_axis.offset;
      const int left = x * conv.column_axis.stride + conv.column_axis.offset;
      base[r] = (n * w.in_rows + top) * w.in_columns + left;
      there[r] = p < 0 ? 0 : bits(conv.row_axis, top) | bits(conv.column_axis, left) << 16;
      return;
    }
    for (int i = 0; i < w.kernel_rows; ++i) {
      const int row = p < 0 ? -1 : w.rows[y * w.kernel_rows + i];
      rows[i * M + r] = row < 0 ? -1 : (n * w.in_rows + row) * w.in_columns;
    }
    for (int j = 0; j < w.kernel_columns; ++j) columns[j * M + r] = p < 0 ? -1 : w.columns[x * w.kernel_columns + j];
  }

  // The input pixel behind a tap, or -1.
  __device__ int pixel(int r, int i, int j) const {
    if (i >= conv.window.kernel_rows) return -1;
    if (straight) return there[r] >> i & there[r] >> (16 + j) & 1 ? base[r] + from_first(i, j) : -1;
    const int row = rows[i * M + r], column = columns[j * M + r];
    return row < 0 || column < 0 ? -1 : row + column;
  }

  // How far tap (i, j) is from (0, 0).
  __device__ int from_first(int i, int j) const {
    return i * conv.row_axis.dilation * conv.window.in_columns + j * conv.column_axis.dilation;
  }
};

// Gathers pieces of the listed pixels' receptive fields. The depth runs over the taps, and in each over the channels;
// or, where a step is within one tap, over steps of channels, and in each over the taps: what neighbouring taps have in
// common is then still near. Where a thread stands in the depth is the same for all of its rows: tap (i, j) and channel
// c of the first element of its piece.
template <class Traits>
struct Gather {
  using T = typename Traits::T;
  static constexpr int kStep = Traits::kThreads / kPieces, kRows = Traits::kM / kStep;
  static_assert(kStep % 8 == 0, "a thread's pieces stand at the same place of their rows");
  const Taps<Traits::kM>& taps;
  const T* x;  // the group's first channel of pixel 0
  // Pieces from there to that of the pixels behind tap (0, 0) or, without a simple form, behind the tap.
  int from[kRows];
  // Which rows of taps there are, and from bit 16 on which columns; or, in bit 0, whether the tap is.
  uint32_t there[kRows];
  int i, j, c;
  int offset;  // in elements, of tap (i, j) from (0, 0)
  // What every step asks is kept in registers.
  const uint32_t place;  // of the first piece, in a stage
  const int kernel_rows, kernel_columns, channels, down_step, across_step;
  const int64_t pitch;
  const bool by_channels, straight;

  __device__ Gather(const Conv& conv, const Taps<Traits::kM>& taps, int group, int step)
      : taps(taps),
        x(static_cast<const T*>(conv.x.data) + group * conv.in_per_group),
        place(piece_offset(threadIdx.x / kPieces, threadIdx.x % kPieces)),
        kernel_rows(conv.window.kernel_rows),
        kernel_columns(conv.window.kernel_columns),
        channels(conv.in_per_group),
        down_step(static_cast<int>(conv.row_axis.dilation * conv.window.in_columns * conv.x.pitch)),
        across_step(static_cast<int>(conv.column_axis.dilation * conv.x.pitch)),
        pitch(conv.x.pitch),
        by_channels(conv.by_channels),
        straight(taps.straight) {
    const int lanes = threadIdx.x % kPieces * kPack<T>;
    int tap = 0;
    if (by_channels) {
      tap = step % (kernel_rows * kernel_columns), c = step / (kernel_rows * kernel_columns) * Traits::kDepth + lanes;
    } else {
      tap = (step * Traits::kDepth + lanes) / channels, c = (step * Traits::kDepth + lanes) % channels;
    }
    i = tap / kernel_columns, j = tap % kernel_columns, offset = i * down_step + j * across_step;
    if (Traits::kReads == Reads::channels) return;
    if (!straight) find();
#pragma unroll
    for (int r = 0; r < kRows && straight; ++r) {
      const int row = threadIdx.x / kPieces + r * kStep;
      from[r] = static_cast<int>(taps.base[row] * pitch / kPack<T>);
      there[r] = taps.there[row];
    }
  }

  __device__ void next_tap() {
    offset += across_step;
    if (++j < kernel_columns) return;
    j = 0, ++i;
    offset = i * down_step;
  }

  // To the same piece of the next step. Returns whether it is of another tap.
  __device__ bool advance() {
    if (by_channels) {
      next_tap();
      if (i == kernel_rows) i = 0, offset = 0, c += Traits::kDepth;
      return true;
    }
    c += Traits::kDepth;
    if (c < channels) return false;
    for (; c >= channels; c -= channels) next_tap();  // mostly once, and a division takes longer
    return true;
  }

  __device__ void find() {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int pixel = taps.pixel(threadIdx.x / kPieces + r * kStep, i, j);
      from[r] = static_cast<int>(max(pixel, 0) * pitch / kPack<T>);
      there[r] = pixel >= 0;
    }
  }

  // Fills the thread's pieces of a stage, and goes on to those of the next step.
  __device__ void load(uint32_t stage) {
    const uint32_t to = stage + place;
    if constexpr (Traits::kReads == Reads::pieces) {
      if (straight) {
        const uint32_t tap = i < kernel_rows ? 1u << i | 0x10000u << j : ~0u;  // beyond the last there is none
        const T* const here = x + (offset + c);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const bool exists = (there[r] & tap) == tap;
          copy_piece(to + r * kStep * kRowBytes, here + int64_t{from[r]} * kPack<T>, exists);
        }
        advance();
      } else {
#pragma unroll
        for (int r = 0; r < kRows; ++r)
          copy_piece(to + r * kStep * kRowBytes, x + int64_t{from[r]} * kPack<T> + c, there[r] != 0);
        if (advance()) find();
      }
    } else {
      for (int r = 0; r < kRows; ++r) {
        const uint4 bits = gather_piece(threadIdx.x / kPieces + r * kStep);
        asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(to + r * kStep * kRowBytes), "r"(bits.x),
                     "r"(bits.y), "r"(bits.z), "r"(bits.w)
                     : "memory");
      }
      advance();
    }
  }

  // One channel after the other.
  __device__ uint4 gather_piece(int row) const {
    alignas(16) T values[kPack<T>];
    int tap_row = i, tap_column = j, channel = c, at = taps.pixel(row, i, j);
#pragma unroll
    for (int e = 0; e < kPack<T>; ++e) {
      values[e] = at >= 0 ? x[at * pitch + channel] : rounded<T>(0.0f);
      if (++channel < channels) continue;
      channel = 0;
      if (++tap_column == kernel_columns) {
        tap_column = 0;
        ++tap_row;
      }
      at = taps.pixel(row, tap_row, tap_column);
    }
    return *reinterpret_cast<const uint4*>(values);
  }
};

// The same of pixels of 8 bytes: a piece has those behind two taps, each copied by itself.
template <class Traits>
struct GatherPixels {
  using T = typename Traits::T;
  static constexpr int kStep = Traits::kThreads / kPieces, kRows = Traits::kM / kStep;
  static constexpr int kChannels = 8 / sizeof(T), kTaps = Traits::kDepth / kChannels;  // of a pixel, and of a step
  const Taps<Traits::kM>& taps;
  const T* x;
  int base[kRows];  // of a window with a simple form, as its taps have it
  uint32_t there[kRows];
  int i, j;
  const uint32_t place;  // of the first piece, in a stage
  const int kernel_rows, kernel_columns;
  const int64_t pitch;

  __device__ GatherPixels(const Conv& conv, const Taps<Traits::kM>& taps, int, int step)
      : taps(taps),
        x(static_cast<const T*>(conv.x.data)),
        place(piece_offset(threadIdx.x / kPieces, threadIdx.x % kPieces)),
        kernel_rows(conv.window.kernel_rows),
        kernel_columns(conv.window.kernel_columns),
        pitch(conv.x.pitch) {
    const int tap = step * kTaps + threadIdx.x % kPieces * 2;
    i = tap / kernel_columns, j = tap % kernel_columns;
#pragma unroll
    for (int r = 0; r < kRows && taps.straight; ++r) {
      const int row = threadIdx.x / kPieces + r * kStep;
      base[r] = taps.base[row], there[r] = taps.there[row];
    }
  }

  __device__ void advance(int by) {
    for (j += by; j >= kernel_columns; j -= kernel_columns) ++i;
  }

  // Copies the pixels behind tap (i, j) to half of the thread's pieces.
  __device__ void load_half(uint32_t to) const {
    const uint32_t tap = i < kernel_rows ? 1u << i | 0x10000u << j : ~0u;  // beyond the last there is none
    const int away = taps.straight ? taps.from_first(i, j) : 0;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      int pixel = base[r] + away;
      bool exists = (there[r] & tap) == tap;
      if (!taps.straight) pixel = taps.pixel(threadIdx.x / kPieces + r * kStep, i, j), exists = pixel >= 0;
      copy_half(to + r * kStep * kRowBytes, x + (exists ? pixel : 0) * pitch, exists);
    }
  }

  // Fills the thread's pieces of a stage, and goes on to those of the next step.
  __device__ void load(uint32_t stage) {
    load_half(stage + place);
    advance(1);
    load_half(stage + place + 8);
    advance(kTaps - 1);
  }
};

template <class Traits>
using GatherOf = std::conditional_t<Traits::kReads == Reads::pixels, GatherPixels<Traits>, Gather<Traits>>;

// Reads the weights of channels [n, n + kN) of a group, step by step, which lie in memory as they stand in a stage.
template <class Traits>
struct Weights {
  static constexpr int kTile = 64 * kRowBytes;  // bytes
  const char* from;
  const uint32_t place;  // of the first piece, in a stage
  int64_t next;          // bytes to the next 64 channels

  __device__ Weights(const Conv& conv, int group, int n, int step)
      : from(static_cast<const char*>(conv.weight)), place(threadIdx.x * 16), next(0) {
    const int blocks = (conv.out_per_group + 63) / 64;
    if (n / 64 + 1 < blocks) next = static_cast<int64_t>(conv.steps) * kTile;  // else what comes of it is dropped
    from += (static_cast<int64_t>(group * blocks + n / 64) * conv.steps + step) * kTile + place;
  }

  __device__ void load(uint32_t stage) {
#pragma unroll
    for (int tile = 0; tile < Traits::kN / 64; ++tile)
#pragma unroll
      for (int at = 0; at < kTile; at += Traits::kThreads * 16)
        copy_piece(stage + place + (tile * kTile + at), from + tile * next + at, true);
    from += kTile;
  }
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
