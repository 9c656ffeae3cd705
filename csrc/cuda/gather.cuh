// What a block of a convolution loads of a step of its depth: what lies behind the taps of its pixels, and the weights.
// Both are copied to a stage in shared memory while other stages are multiplied.
#pragma once

#include <algorithm>
#include <type_traits>

#include "candidates.cuh"
#include "multiply.cuh"
#include "pack.cuh"

namespace deltafx::cuda {

// What is gathered at once: pieces of 16 bytes, or pixels of 8, such as frames have, or single channels.
enum class Reads { pieces, pixels, channels };

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

// What `there` must have for tap (i, j), where the window has a simple form: beyond the last row there is none.
__device__ inline uint32_t bits_of_tap(int i, int j, int kernel_rows) {
  return i < kernel_rows ? 1u << i | 0x10000u << j : ~0u;
}

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
        const uint32_t tap = bits_of_tap(i, j, kernel_rows);
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
    const uint32_t tap = bits_of_tap(i, j, kernel_rows);
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

}  // namespace deltafx::cuda
