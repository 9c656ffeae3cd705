// Gathered implicit GEMM: out[p][o] = sum over taps t and channels c of x[q(p, t)][c] * weight[o][t][c] for the listed
// pixels p. A block takes tiles of listed pixels and output channels; the depth, taps times channels, runs in steps of 128
// bytes through a ring of stages in shared memory. Reads the receptive fields and the weights once for each tile.
#include "commit.cuh"
#include "launch.cuh"
#include "multiply.cuh"

namespace deltafx::cuda {
namespace {

// What a kernel is made of. Math is what one warp computes with; the tile is M x N of those.
template <class Math_, int M_, int N_, int STAGES, int RESIDENT, bool PACKED>
struct Traits {
  using Math = Math_;
  using T = typename Math::Type;
  static constexpr int kM = M_, kN = N_, kStages = STAGES, kResident = RESIDENT;
  static constexpr bool kPacked = PACKED;  // pieces of 16 bytes are gathered; else single channels
  static constexpr int kThreads = kM / Math::kRows * (kN / Math::kColumns) * 32;
  static constexpr int kStageBytes = (kM + kN) * kRowBytes;
  static constexpr int kDepth = kRowBytes / sizeof(T);  // of a step
  static constexpr int kTileStride = kN + 8;            // of the results, which take the place of the stages
  static_assert(kThreads % kPieces == 0 && kM % (kThreads / kPieces) == 0 && kN % (kThreads / kPieces) == 0,
                "every thread loads as many pieces as any other");
  static_assert(kM * kTileStride * 4 <= kStages * kStageBytes, "the results fit where the stages are");

  static size_t shared_bytes(const Window& w) {
    return kStages * kStageBytes + sizeof(int32_t) * kM * (1 + w.kernel_rows + w.kernel_columns);
  }
};

__device__ inline void copy_piece(uint32_t to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0) : "memory");
}
__device__ inline void end_stage() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N>
__device__ inline void wait_for_stages() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// Where the taps of a tile's pixels lie: the input pixel behind tap (i, j) of row r is rows[i][r] + columns[j][r], unless
// one of them is negative.
template <int M>
struct Taps {
  int32_t* pixels;   // [M], -1 beyond the list
  int32_t* rows;     // [kernel_rows][M], the number of the row's first pixel
  int32_t* columns;  // [kernel_columns][M]

  __device__ Taps(int32_t* memory, const Window& w)
      : pixels(memory), rows(memory + M), columns(memory + M * (1 + w.kernel_rows)) {}

  __device__ void fill(const Window& w, const int32_t* list, int count) {
    for (int r = threadIdx.x; r < M; r += blockDim.x) pixels[r] = r < count ? list[r] : -1;
    __syncthreads();
    const int plane = w.out_rows * w.out_columns;
    for (int k = threadIdx.x; k < M * (w.kernel_rows + w.kernel_columns); k += blockDim.x) {
      const int r = k % M, tap = k / M, p = pixels[r];
      int found = -1;
      if (p >= 0) {
        const int n = p / plane, y = p % plane / w.out_columns, x = p % plane % w.out_columns;
        if (tap >= w.kernel_rows) {
          found = w.columns[x * w.kernel_columns + tap - w.kernel_rows];
        } else {
          const int row = w.rows[y * w.kernel_rows + tap];
          found = row < 0 ? -1 : (n * w.in_rows + row) * w.in_columns;
        }
      }
      rows[k] = found;
    }
    __syncthreads();
  }
};

// Gathers pieces of the listed pixels' receptive fields. Where a thread stands in the depth is the same for all of its
// rows: tap (i, j) and channel c of the first element of its piece.
template <class Traits>
struct Gather {
  using T = typename Traits::T;
  static constexpr int kStep = Traits::kThreads / kPieces, kRows = Traits::kM / kStep;
  static_assert(kStep % 8 == 0, "a thread's pieces stand at the same place of their rows");
  const Conv& conv;
  const Taps<Traits::kM>& taps;
  const T* x;            // the group's first channel of pixel 0
  const T* from[kRows];  // that of the pixels behind the tap
  unsigned valid;        // whether there are such pixels, bit by bit
  int i, j, c;

  __device__ Gather(const Conv& conv, const Taps<Traits::kM>& taps, int group)
      : conv(conv), taps(taps), x(static_cast<const T*>(conv.x.data) + group * conv.in_per_group), i(0), j(0), c(0) {
    advance(threadIdx.x % kPieces * kPack<T>);
    if (Traits::kPacked) find();
  }

  // Returns whether it is another tap.
  __device__ bool advance(int channels) {
    c += channels;
    if (c < conv.in_per_group) return false;
    do {  // mostly once, and a division takes longer
      c -= conv.in_per_group;
      if (++j < conv.window.kernel_columns) continue;
      j = 0;
      ++i;
    } while (c >= conv.in_per_group);
    return true;
  }

  __device__ void find() {
    valid = 0;
    const bool inside = i < conv.window.kernel_rows;
    const int32_t* rows = taps.rows + (inside ? i : 0) * Traits::kM + threadIdx.x / kPieces;
    const int32_t* columns = taps.columns + j * Traits::kM + threadIdx.x / kPieces;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int row = rows[r * kStep], column = columns[r * kStep];
      const bool read = inside && row >= 0 && column >= 0;
      from[r] = x + static_cast<int64_t>(read ? row + column : 0) * conv.x.pitch;
      valid |= static_cast<unsigned>(read) << r;
    }
  }

  // Fills the thread's pieces of a stage, and goes on to those of the next step.
  __device__ void load(uint32_t stage) {
    const int first = threadIdx.x / kPieces;
    const uint32_t to = stage + piece_offset(first, threadIdx.x % kPieces);
    if constexpr (Traits::kPacked) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) copy_piece(to + r * kStep * kRowBytes, from[r] + c, valid >> r & 1u);
      if (advance(Traits::kDepth)) find();
    } else {
      for (int r = 0; r < kRows; ++r) {
        const uint4 bits = gather_piece(first + r * kStep);
        asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(to + r * kStep * kRowBytes), "r"(bits.x), "r"(bits.y),
                     "r"(bits.z), "r"(bits.w)
                     : "memory");
      }
      advance(Traits::kDepth);
    }
  }

  // One channel after the other.
  __device__ uint4 gather_piece(int row) const {
    alignas(16) T values[kPack<T>];
    int tap_row = i, tap_column = j, channel = c, at = pixel(row, i, j);
#pragma unroll
    for (int e = 0; e < kPack<T>; ++e) {
      values[e] = at >= 0 ? x[at * conv.x.pitch + channel] : rounded<T>(0.0f);
      if (++channel < conv.in_per_group) continue;
      channel = 0;
      if (++tap_column == conv.window.kernel_columns) {
        tap_column = 0;
        ++tap_row;
      }
      at = pixel(row, tap_row, tap_column);
    }
    return *reinterpret_cast<const uint4*>(values);
  }

  __device__ int pixel(int row, int tap_row, int tap_column) const {
    if (tap_row >= conv.window.kernel_rows) return -1;
    const int first = taps.rows[tap_row * Traits::kM + row], column = taps.columns[tap_column * Traits::kM + row];
    return first < 0 || column < 0 ? -1 : first + column;
  }
};

// Reads the weights of channels [n, n + kN) of a group, step by step.
template <class Traits>
struct Weights {
  using T = typename Traits::T;
  static constexpr int kStep = Traits::kThreads / kPieces, kRows = Traits::kN / kStep;
  const T* from[kRows];
  unsigned valid;

  __device__ Weights(const Conv& conv, int group, int n) : valid(0) {
    const int first = threadIdx.x / kPieces;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const bool inside = n + first + r * kStep < conv.out_per_group;
      const int64_t row = inside ? group * conv.out_per_group + n + first + r * kStep : 0;
      from[r] = static_cast<const T*>(conv.weight) + row * conv.depth + threadIdx.x % kPieces * kPack<T>;
      valid |= static_cast<unsigned>(inside) << r;
    }
  }

  __device__ void load(uint32_t stage) {
    const uint32_t to = stage + piece_offset(threadIdx.x / kPieces, threadIdx.x % kPieces);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      copy_piece(to + r * kStep * kRowBytes, from[r], valid >> r & 1u);
      from[r] += Traits::kDepth;
    }
  }
};

template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kResident)
    convolve_kernel(const __grid_constant__ Conv conv, const __grid_constant__ Job job) {
  using Math = typename Traits::Math;
  extern __shared__ __align__(128) unsigned char memory[];
  begin_kernel();
  const Taps<Traits::kM> taps(reinterpret_cast<int32_t*>(memory + Traits::kStages * Traits::kStageBytes), conv.window);
  const uint32_t stages = shared_address(memory);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int m = warp / (Traits::kN / Math::kColumns) * Math::kRows;
  const int n = warp % (Traits::kN / Math::kColumns) * Math::kColumns;
  const int widths = static_cast<int>(divide_up(conv.out_per_group, Traits::kN)), parts = widths * conv.groups;
  const int count = *job.count, tiles = static_cast<int>(divide_up(count, Traits::kM)) * parts;
  const int steps = conv.depth / Traits::kDepth;
  int updated = 0;
  for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const int place = tile / parts * Traits::kM, group = tile % parts / widths, first = tile % widths * Traits::kN;
    const int rows = min(Traits::kM, count - place);
    auto fill = taps;
    fill.fill(conv.window, job.pixels + place, rows);
    Gather<Traits> gather(conv, taps, group);
    Weights<Traits> weights(conv, group, first);
    const auto load = [&](uint32_t stage) {
      gather.load(stage);
      weights.load(stage + Traits::kM * kRowBytes);
    };
    for (int step = 0; step < Traits::kStages - 1; ++step) {
      if (step < steps) load(stages + step * Traits::kStageBytes);
      end_stage();
    }
    uint32_t stage = stages, free = stages + (Traits::kStages - 1) * Traits::kStageBytes;
    const uint32_t end = stages + Traits::kStages * Traits::kStageBytes;
    Math math;
    math.clear();
    for (int step = 0; step < steps; ++step) {
      wait_for_stages<Traits::kStages - 2>();
      __syncthreads();  // the stage is there for all, and the one before it is free
      if (step + Traits::kStages - 1 < steps) load(free);
      end_stage();
      math.step(stage, stage + Traits::kM * kRowBytes, m, n, lane);
      free = stage;
      stage = stage + Traits::kStageBytes == end ? stages : stage + Traits::kStageBytes;
    }
    wait_for_stages<0>();
    __syncthreads();
    float* results = reinterpret_cast<float*>(memory);
    math.store(results, Traits::kTileStride, m, n, lane);
    __syncthreads();
    updated += commit_rows<typename Traits::T>(job.commit, results, Traits::kTileStride, taps.pixels, rows, place,
                                               group * conv.out_per_group + first,
                                               min(Traits::kN, conv.out_per_group - first));
    __syncthreads();
  }
  if (job.commit.decision != Decision::always) count_updated(job.commit, updated);
}

template <class Traits>
cudaError_t launch_convolve(const Conv& conv, const Job& job, cudaStream_t stream) {
  const int64_t parts = divide_up(conv.out_per_group, Traits::kN) * conv.groups;
  const int64_t tiles = divide_up(job.capacity, Traits::kM) * parts;
  const int64_t blocks = static_cast<int64_t>(multiprocessors()) * Traits::kResident;
  return launch(&convolve_kernel<Traits>, tiles < blocks ? tiles : blocks, Traits::kThreads,
                Traits::shared_bytes(conv.window), stream, conv, job);
}

template <class T>
using Large = Traits<TensorCores<T, 64, 32>, 128, 128, 3, 2, true>;
template <class T>
using Tall = Traits<TensorCores<T, 32, 32>, 128, 64, 4, 2, true>;
template <class T>
using Small = Traits<TensorCores<T, 32, 32>, 64, 64, 4, 3, true>;
template <class T>
using Single = Traits<TensorCores<T, 32, 32>, 64, 64, 3, 3, false>;
using ExactSmall = Traits<Exact<32, 32>, 64, 64, 3, 3, true>;
using ExactSingle = Traits<Exact<32, 32>, 64, 64, 3, 3, false>;

enum class Tile { large, tall, small, single };

// The largest tile that still keeps every multiprocessor busy where about a seventh of the pixels is computed.
Tile tile_of(const Conv& conv, int capacity) {
  const int64_t size = conv.x.dtype == Dtype::float32 ? 4 : 2;
  if (!conv.x.packed || conv.in_per_group * size % 16 != 0) return Tile::single;
  if (conv.exact) return Tile::small;
  const int64_t most = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin), chips = multiprocessors();
  const int64_t down = capacity / 7 / 128 * conv.groups;
  const auto fits = [&](auto* traits) {
    return static_cast<int64_t>(std::remove_pointer_t<decltype(traits)>::shared_bytes(conv.window)) <= most;
  };
  if (conv.out_per_group > 64 && down * divide_up(conv.out_per_group, 128) >= 2 * chips &&
      fits(static_cast<Large<__half>*>(nullptr)))
    return Tile::large;
  if (down * divide_up(conv.out_per_group, 64) >= chips && fits(static_cast<Tall<__half>*>(nullptr))) return Tile::tall;
  return Tile::small;
}

}  // namespace

int convolve_width(const Conv& conv, int capacity) {
  return tile_of(conv, capacity) == Tile::large ? Large<__half>::kN : Small<__half>::kN;
}

cudaError_t convolve(const Conv& conv, const Job& job, cudaStream_t stream) {
  const Tile tile = tile_of(conv, job.capacity);
  if (conv.exact)
    return tile == Tile::single ? launch_convolve<ExactSingle>(conv, job, stream)
                                : launch_convolve<ExactSmall>(conv, job, stream);
  return with_type(conv.x.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    if (tile == Tile::large) return launch_convolve<Large<T>>(conv, job, stream);
    if (tile == Tile::tall) return launch_convolve<Tall<T>>(conv, job, stream);
    if (tile == Tile::small) return launch_convolve<Small<T>>(conv, job, stream);
    return launch_convolve<Single<T>>(conv, job, stream);
  });
}

}  // namespace deltafx::cuda
