// Which pixels a node must compute, found by every block of its kernel: the mask rule is evaluated 32 pixels at a time,
// and the n-th candidate is found by counting bits. Nothing is written down, and no block waits for another. A frame of
// few updates is a chain of such kernels, so that what counts is how long one thread takes to come through here.
#pragma once

#include "kernels.h"
#include "launch.cuh"

namespace deltafx::cuda {

__device__ inline int operator/(int n, const Divisor& d) {
  return d.by == 1 ? n : static_cast<int>(__umulhi(static_cast<unsigned>(n), d.factor) >> d.shift);
}
__device__ inline int operator%(int n, const Divisor& d) { return n - n / d * d.by; }

// Pixels of a mask as bits, of which `count` are there; BYTES are read at once.
template <int BYTES, int PIXELS = 32>
__device__ inline uint32_t read_bits(const uint8_t* mask, int count) {
  using Piece = std::conditional_t<BYTES == 16, uint4, std::conditional_t<BYTES == 8, uint2, uint32_t>>;
  const auto nibble = [](uint32_t four) { return (four * 0x01020408u) >> 24 & 0xfu; };  // of bytes that are 0 or 1
  uint32_t bits = 0;
#pragma unroll
  for (int at = 0; at < PIXELS; at += BYTES) {
    if (at >= count) continue;
    if constexpr (BYTES == 1) {
      bits |= static_cast<uint32_t>(mask[at]) << at;
    } else {
      const Piece piece = *reinterpret_cast<const Piece*>(mask + at);
#pragma unroll
      for (int k = 0; k < BYTES / 4; ++k) bits |= nibble(reinterpret_cast<const uint32_t*>(&piece)[k]) << (at + 4 * k);
    }
  }
  return bits;
}

static __device__ __noinline__ uint32_t read_word(const Source& source, int pixel, int count) {
  const uint8_t* mask = source.mask + pixel;
  if (count <= 0) return 0;
  if (source.alignment == 16) return read_bits<16>(mask, count);
  if (source.alignment == 8) return read_bits<8>(mask, count);
  return source.alignment == 4 ? read_bits<4>(mask, count) : read_bits<1>(mask, count);
}

// Some rows of a grid, of one stream or of all. Row n * rows + y of all streams is row y of stream n.
struct Rows {
  int begin, end;
};

// The input rows that output rows of one stream read, or those of all streams.
__device__ inline Rows rows_read(const Grid& grid, const Axis& axis, Rows out) {
  const int first = out.begin / grid.rows, last = (out.end - 1) / grid.rows;
  if (first != last) return {first * axis.in, (last + 1) * axis.in};
  const int top = (out.begin - first * grid.rows.by) * axis.stride + axis.offset;
  const int bottom =
      (out.end - 1 - first * grid.rows.by) * axis.stride + axis.offset + (axis.taps - 1) * axis.dilation + 1;
  const int low = min(max(top, 0), axis.in);
  return {first * axis.in + low, first * axis.in + max(low, min(bottom, axis.in))};
}

// Every other bit of a word, beginning with bit 0, in its lower half.
__device__ inline uint32_t even_bits(uint32_t word) {
  word &= 0x55555555u;
  word = (word | word >> 1) & 0x33333333u;
  word = (word | word >> 2) & 0x0f0f0f0fu;
  word = (word | word >> 4) & 0x00ff00ffu;
  return (word | word >> 8) & 0xffffu;
}

// To higher bits, or to lower ones by a negative number of places.
__device__ inline uint32_t shifted(uint32_t word, int places) {
  return places <= -32 || places >= 32 ? 0u : places >= 0 ? word << places : word >> -places;
}

// 32 output pixels: whether anything is set in their windows. `staged` has the words of the rows `read`.
__device__ inline uint32_t dilated(const Axis& down, const Axis& across, int in_words, const uint32_t* staged,
                                   Rows read, int n, int y, int word) {
  const int top = y * down.stride + down.offset, left = word * 32 * across.stride + across.offset;
  const int right = left + 31 * across.stride + (across.taps - 1) * across.dilation;
  uint32_t bits = 0;
  for (int w = max(left, 0) / 32; w <= min(right / 32, in_words - 1); ++w) {
    uint32_t any = 0;
    for (int i = 0; i < down.taps; ++i) {
      const int row = top + i * down.dilation;
      if (row >= 0 && row < down.in) any |= staged[(n * down.in + row - read.begin) * in_words + w];
    }
    if (any == 0) continue;
    for (int j = 0; j < across.taps; ++j) {
      const int shift = 32 * w - left - j * across.dilation;  // of bit 0 of `any` against what bit 0 of `bits` reads
      if (across.stride == 1) {
        bits |= shifted(any, shift);
      } else if (across.stride == 2) {
        const int odd = shift & 1;
        bits |= shifted(even_bits(any >> odd), (shift + odd) / 2);
      } else {
        for (uint32_t rest = any; rest != 0; rest &= rest - 1) {
          const int at = __ffs(rest) - 1 + shift;
          if (at >= 0 && at % across.stride == 0 && at / across.stride < 32) bits |= 1u << at / across.stride;
        }
      }
    }
  }
  return bits;
}

// The words of the rows that a source's windows read. The threads of the block have some each.
__device__ inline void stage(const Source& source, int columns, const Divisor& in_words, Rows read, uint32_t* staged) {
  for (int k = threadIdx.x; k < (read.end - read.begin) * in_words.by; k += blockDim.x) {
    const int row = k / in_words, left = (k - row * in_words.by) * 32;
    staged[k] = read_word(source, (read.begin + row) * columns + left, min(32, columns - left));
  }
}

// The candidates of some rows as words. All threads of the block call it, and may read the words after a barrier.
// `staged` is memory for the inputs' words.
template <int N>
__device__ void evaluate(const Rule<N>& rule, Rows which, uint32_t* words, uint32_t* staged) {
  const Grid& grid = rule.grid;
  const Axis &down = rule.row_axis, &across = rule.column_axis;
  const Rows read = rows_read(grid, down, which);
  const int count = (which.end - which.begin) * grid.row_words.by;
  bool fresh = true;  // the words, that is
  const auto for_each_word = [&](auto f) {
#pragma unroll 1
    for (int k = threadIdx.x; k < count; k += blockDim.x) {
      const int row = which.begin + k / grid.row_words, n = row / grid.rows;
      f(k, n, row - n * grid.rows.by, k % grid.row_words);
    }
  };
  const auto add_others = [&] {  // what needs no windows
    fresh = false;
    for_each_word([&](int k, int n, int y, int word) {
      const int first = y * grid.columns + word * 32,
                pixels = min(32, min(grid.columns - word * 32, grid.plane.by - first));
      bool all = rule.refresh[n] != 0;
      uint32_t bits = 0;
      for (int s = 0; s < rule.source_count; ++s) {
        const Source& source = rule.sources[s];
        if (source.relation == Relation::same) bits |= read_word(source, n * grid.plane.by + first, pixels);
        if (source.relation == Relation::per_stream) all |= source.mask[n] != 0;
      }
      words[k] = !all ? bits : pixels >= 32 ? ~0u : pixels <= 0 ? 0u : (1u << pixels) - 1u;
    });
  };
  for (int s = 0; s < rule.source_count; ++s) {
    if (rule.sources[s].relation != Relation::window || down.stride == 0) continue;
    if (!fresh) __syncthreads();  // what is staged was read
    stage(rule.sources[s], across.in, rule.in_words, read, staged);
    if (fresh) add_others();  // while the reads are under way
    __syncthreads();
    for_each_word([&](int k, int n, int y, int word) {
      const int pixels = grid.columns - word * 32;
      const uint32_t bits = dilated(down, across, rule.in_words.by, staged, read, n, y, word);
      words[k] |= pixels >= 32 ? bits : bits & ((1u << pixels) - 1u);
    });
  }
  if (fresh) add_others();
}

// The rows of a unit, and where its pixels stand.
struct Unit {
  Rows rows;
  int first;

  __device__ Unit(const Grid& grid, int unit) {
    const int n = unit / grid.stream_units, y = (unit - n * grid.stream_units.by) * grid.unit_rows;
    rows = {n * grid.rows.by + y, n * grid.rows.by + min(y + grid.unit_rows, grid.rows.by)};
    first = n * grid.plane.by + y * grid.columns;
  }
};

// Adds up what the threads of a block have: what those before this one have, and all of them.
struct Sums {
  int before, total;

  // All threads of the block call it; `memory` is for 32 numbers.
  __device__ Sums(int own, int* memory) : total(0) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int sum = own;
    for (int o = 1; o < 32; o *= 2) {
      const int other = __shfl_up_sync(0xffffffffu, sum, o);
      if (lane >= o) sum += other;
    }
    if (lane == 31) memory[warp] = sum;
    __syncthreads();
    before = sum - own;
    for (int w = 0; w < blockDim.x / 32; ++w) {
      if (w < warp) before += memory[w];
      total += memory[w];
    }
  }
};

constexpr int kMostThreads = 256;  // of a block that finds its pixels

// What a block knows of the candidates. It has them as words, of which each thread owns some; or their units were
// collected.
struct Found {
  uint32_t memory[kOwnWords + kMostThreads];
  int sums[32];

  __device__ uint32_t* words() { return memory; }
  // How many there are before those of each thread, or of each unit.
  __device__ int* starts(const Candidates& job) {
    return reinterpret_cast<int*>(memory) + (job.pixels == nullptr ? kOwnWords : 0);
  }
};
static_assert(kMostUnits <= kOwnWords + kMostThreads, "one or the other");

__device__ inline int words_of_thread(const Grid& grid) { return (grid.words() + blockDim.x - 1) / blockDim.x; }

// Finds the candidates; returns how many there are. `staged`: kStagedWords of memory that is free until it returns.
__device__ inline int find(const Candidates& job, Found& found, uint32_t* staged) {
  const Grid& grid = job.rule.grid;
  int* starts = found.starts(job);
  if (job.pixels == nullptr) {
    evaluate(job.rule, Rows{0, grid.streams * grid.rows.by}, found.words(), staged);
    __syncthreads();
    const int each = words_of_thread(grid), first = threadIdx.x * each, last = min(first + each, grid.words());
    int own = 0;
    for (int k = first; k < last; ++k) own += __popc(found.words()[k]);
    const Sums sums(own, found.sums);
    starts[threadIdx.x] = sums.before;
    __syncthreads();
    return sums.total;
  }
  const int units = grid.units(), each = (units + blockDim.x - 1) / blockDim.x;
  for (int unit = threadIdx.x; unit < units; unit += blockDim.x) starts[unit] = job.found[unit];
  __syncthreads();
  const int first = threadIdx.x * each, last = min(first + each, units);
  int own = 0;
  for (int unit = first; unit < last; ++unit) own += starts[unit];
  const Sums sums(own, found.sums);
  int before = sums.before;
  for (int unit = first; unit < last; ++unit) {
    const int more = starts[unit];
    starts[unit] = before;
    before += more;
  }
  __syncthreads();
  return sums.total;
}

// The place of set bit number `rank`.
__device__ inline int select_bit(uint32_t word, int rank) {
  int place = 0;
#pragma unroll
  for (int half = 16; half > 0; half /= 2) {
    const int low = __popc(word & ((1u << half) - 1u));
    if (rank < low) continue;
    rank -= low;
    word >>= half;
    place += half;
  }
  return place;
}

// Candidate number `rank`.
__device__ inline int candidate(const Candidates& job, Found& found, int rank) {
  const Grid& grid = job.rule.grid;
  const int* starts = found.starts(job);
  int low = 0, high = job.pixels == nullptr ? blockDim.x : grid.units();
  while (high - low > 1) {  // starts[low] <= rank < starts[high]
    const int middle = (low + high) / 2;
    if (starts[middle] <= rank)
      low = middle;
    else
      high = middle;
  }
  rank -= starts[low];
  if (job.pixels != nullptr) return job.pixels[Unit(grid, low).first + rank];
  int k = low * words_of_thread(grid);
  uint32_t word = found.words()[k];
  for (int count = __popc(word); rank >= count; count = __popc(word)) {
    rank -= count;
    word = found.words()[++k];
  }
  const int row = k / grid.row_words, n = row / grid.rows;
  return n * grid.plane.by + (row - n * grid.rows.by) * grid.columns + k % grid.row_words * 32 + select_bit(word, rank);
}

}  // namespace deltafx::cuda
