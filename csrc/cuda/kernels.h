// What the CUDA kernels compute and what they are given. This file and everything under csrc/cuda knows nothing of PyTorch.
//
// The host launches the same grid whatever a frame brings. Every block knows, from the masks of the node's inputs, which
// pixels are to be computed (candidates.cuh), and takes tiles of them until they end. A tile's new values stand in shared
// memory as float32 and are committed from there: pointwise steps, comparison with what was propagated last, truncation,
// write, mask (commit.cuh).
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <vector>

#include "../include/codes.h"
#include "../include/gate_learning.h"

namespace deltafx::cuda {

enum class Dtype : int32_t { float32, float16, bfloat16, uint8 };

// A tensor as a matrix: one row for each pixel, its channels side by side.
struct Matrix {
  void* data;
  int64_t pitch;  // elements from one pixel to the next
  int32_t channels;
  Dtype dtype;
  bool packed;  // every row begins at a multiple of 16 bytes, so that 16 bytes are read and written at once
};

// Which input pixels an output pixel reads, axis by axis: rows[y * kernel_rows + i] is the input row behind tap i of
// output row y, or -1 where nothing is read (padding with zeros, taps that a stride skips).
struct Window {
  const int32_t* rows;     // [out_rows, kernel_rows]
  const int32_t* columns;  // [out_columns, kernel_columns]
  int32_t kernel_rows, kernel_columns;
  int32_t in_rows, in_columns, out_rows, out_columns;
};

// ---------------------------------------------------------------------------------------------------------------------
// Pointwise steps and the commit, which end every kernel

constexpr int kMaxSteps = 16;

struct Step {
  Code code;
  Operand kind;
  const void* operand;  // float32 for per_channel, else of the dtype of the result
  int64_t pitch;
  float a, b;
  bool packed;
};

enum class Decision : int32_t {
  equal,       // a pixel is propagated unless it is equal to what was propagated last
  norm,        // unless its change is within the threshold
  prescribed,  // where `forced` is set
  always,      // what is written is not the last word: no mask, no counts
};

struct Commit {
  const float* bias;  // [channels], from a multiple of 16 bytes on, added before the steps; or null
  Step steps[kMaxSteps];
  int32_t step_count;
  Decision decision;
  Norm norm;
  float threshold;
  Matrix out;              // what downstream saw last
  uint8_t* mask;           // [pixels], zero when the kernel starts; a multiple of 4 bytes
  const uint8_t* forced;   // [pixels], or null
  const uint8_t* refresh;  // [streams]: every pixel is written
  bool shared;     // several blocks have channels of a pixel: who sets its mask first counts it
  int64_t* tally;  // see Tally; kUpdated is zero when the kernel starts
};

// What a tally counts, in pixels: those of the last frame, their sums since the last reset, and frames since then.
enum Tally { kComputed, kUpdated, kComputedSum, kUpdatedSum, kFrames, kTallySize };

// ---------------------------------------------------------------------------------------------------------------------
// The mask rule: from the update masks of a node's inputs to the pixels that it must compute

enum class Relation : int32_t {
  window,      // an output pixel depends on the input pixels in its window
  same,        // pixel p depends on pixel p
  per_stream,  // all pixels of a stream depend on one
  whole,       // the one pixel of a stream depends on all of the stream
};

struct Source {
  const uint8_t* mask;
  Relation relation;
  int32_t pixels;     // of each stream
  int32_t alignment;  // bytes: 16, 8, 4 or 1, of the mask and of each of its rows
};

// An axis of a window that needs no table: tap j of output x reads input x * stride + offset + j * dilation, if there is one.
struct Axis {
  int32_t stride, offset, dilation, taps, in;  // stride 0: it is not of this kind
};

// Division by a number that the host knows, of numbers from 0 to 2^31: a multiplication and a shift.
struct Divisor {
  int32_t by;
  uint32_t factor;
  int32_t shift;
};
Divisor divisor(int32_t by);

// The output pixels of all streams as bits: every row begins with a new word of 32. Some rows of one stream are a unit.
struct Grid {
  int32_t streams;
  Divisor rows;
  int32_t columns;
  Divisor plane;  // pixels of a stream; the last row may be shorter
  Divisor row_words;
  int32_t unit_rows;
  Divisor stream_units;

  __host__ __device__ int words() const { return streams * rows.by * row_words.by; }
  __host__ __device__ int units() const { return streams * stream_units.by; }
};
constexpr int kMostUnits = 768;
Grid grid_of(int streams, int plane, int columns);
// Shared memory that it takes to collect a unit: its words, and those of the rows that its windows read.
int64_t unit_bytes(const Grid&, bool windowed, const Axis& row_axis, const Axis& column_axis);

template <int N>
struct Rule {
  Source sources[N];
  int32_t source_count;
  Grid grid;
  Axis row_axis, column_axis;  // of the sources with a window
  Divisor in_words;            // of a row of these
  const uint8_t* refresh;      // [streams]: all pixels
};

constexpr int kMaxSources = 64;

// Writes down the pixels of a rule, for kernels that cannot find them by themselves.
struct Collect {
  Rule<kMaxSources> rule;
  Window window;       // of the sources that have one
  int32_t* pixels;     // [streams * plane]: those of a unit, ascending, from where its first pixel has its place
  int32_t* found;      // [grid.units()]: how many
  uint8_t* mask;       // becomes the pixels, or null
  int64_t* tally;      // with a mask: is added to
};
cudaError_t collect(const Collect&, cudaStream_t);

// What a kernel knows of the pixels that it is to compute: the rule, or what `collect` wrote down.
constexpr int kOwnSources = 8;
constexpr int kOwnWords = 512, kOwnWindows = 256;  // of the output; where it has a window
constexpr int kStagedWords = 2048;                 // of an input with a window
struct Candidates {
  Rule<kOwnSources> rule;
  const int32_t* pixels;  // or null
  const int32_t* found;
};
// Whether every block of a kernel finds the pixels by itself sooner than it would be told.
bool finds_by_itself(const Grid&, bool windowed, const Axis& row_axis, const Axis& column_axis);

// Sets memory to 0, piece by piece: what is counted and marked in one frame.
struct Piece {
  uint8_t* begin;
  int64_t bytes;
};
cudaError_t clear(const Piece* pieces, int64_t count, cudaStream_t);  // the pieces stand on the device

struct Job {
  Candidates candidates;
  int32_t capacity;  // how many pixels there can be
  Commit commit;
};

// ---------------------------------------------------------------------------------------------------------------------
// The kernels. Each returns the error of its launch.

// What a block of a convolution computes at once: pixels and channels. It is a matter of speed alone, but for `parts`, how many
// blocks have one together: as many sums are added up, in order.
enum class Tile : int32_t { chosen, large, tall, small };
struct Tiling {
  Tile tile;  // chosen: the one that is expected to take the least time
  int32_t parts;
};

struct Conv {
  Matrix x;
  Window window;
  Axis row_axis, column_axis;  // the same, where it has this form
  Divisor out_columns;
  // Of the dtype of x: [groups, out_per_group / 64, depth / step, 64, step], filled up with zeros. A step of the depth is 128
  // bytes, in which piece q of row r, of 16 bytes, is at place q ^ (r & 7).
  const void* weight;
  int32_t groups, in_per_group, out_per_group;
  int32_t steps;     // of the depth
  bool by_channels;  // the depth is [in_per_group / step, taps, step]; else [taps, in_per_group], then zeros
  bool exact;        // float32 without tensor cores
  Tiling tiling;     // one of `tilings`, or chosen
};
std::vector<Tiling> tilings(const Conv&);  // that it can have
// How many channels of a pixel one block computes: with a threshold above 0, a block must have them all.
int convolve_width(const Conv&, int capacity);
cudaError_t convolve(const Conv&, const Job&, cudaStream_t);

struct Depthwise {
  Matrix x;
  Window window;
  const float* weight;  // [taps, in_per_group, out channels]
  int32_t in_per_group, out_per_group;
};
cudaError_t depthwise(const Depthwise&, const Job&, cudaStream_t);

enum class Pooling : int32_t { maximum, mean, none };
struct Pool {
  Matrix x;
  Window window;
  Pooling kind;               // none: pixel p alone
  const float* row_share;     // mean: [out_rows, kernel_rows], the weight of each tap
  const float* column_share;  // mean: [out_columns, kernel_columns]
};
cudaError_t pool(const Pool&, const Job&, cudaStream_t);

cudaError_t copy(const Matrix&, const Job&, cudaStream_t);  // row p of the matrix is the new value of pixel p

// A mean or maximum over all pixels of each stream. The partial result of every image row is kept, and only rows with a
// set pixel are computed again; then all partials are added in order, so nothing of the past remains.
struct Reduce {
  Matrix x;
  const uint8_t* mask;     // [streams * rows * columns], of the input; or null, where every row is computed
  const uint8_t* refresh;  // [streams]
  float* partial;          // [streams * rows, channels]
  int32_t* arrived;        // [streams], 0 before and after; or null, where another kernel makes the total
  int32_t streams, rows, columns;
  bool maximum;
  float scale;  // of the sum
};
cudaError_t reduce(const Reduce&, const Job&, cudaStream_t);

// The comparison of a frame with what was propagated last.
constexpr int kCounts = kBins + 1;  // of a stream: a histogram, and how many blocks added to it

struct Enter {
  const void* frame;
  Dtype dtype;        // uint8: a raw frame, whose last propagated state is `raw`
  int64_t stride[4];  // elements, of stream, channel, row, column
  int32_t streams, channels, rows, columns;
  Matrix value;             // [streams * rows * columns, channels]
  uint8_t* raw;             // [streams * rows * columns, channels] in the frame's channel order, or null
  const float* levels;      // [channels, 256]: the value of each raw level of each channel of `value`
  bool swap;                // value channel c is raw channel channels - 1 - c
  bool gated;               // else a pixel passes unless it is equal
  float threshold;          // of the gate, in units of the frame
  int32_t window, dilation;
  float weak;               // a share of the threshold: a change above it counts
  int32_t reach;            // up to so many pixels from a strong one
  int32_t neighbours;       // a strong one needs so many around it that are weak at least
  float* learned;           // [streams, kLearned] of a gate that adapts, or null
  float* change;            // [streams, rows, whole words of pixels]: of a gate that adapts or has a window, and
  int32_t* counts;          // [streams, kCounts], 0: scratch of one that adapts
  float level, least;       // its units: one grey level of the frame; and its threshold, in grey levels
  float noise, drift;       // how many times the noise the threshold is, and the largest drift
  float* mean;              // [streams, rows, mean_pitch], 0: scratch of a gate with a window
  int32_t mean_pitch;       // a multiple of 4: whole words of pixels, and before and behind them
  int32_t mean_margin;      // so many numbers that stay 0, so that no window reads beyond a row
  uint32_t* passed;         // a bit for each pixel, in whole words for each row; of a gate that looks around
  uint8_t* strength;        // [pixels], and
  uint32_t* strong;         // as `passed`: scratch of one that asks neighbours
  uint8_t* mask;            // [streams * rows * columns]
  const uint8_t* forced;    // or null
  const uint8_t* strip;     // [pixels] that pass in any case, or null
  const uint8_t* refresh;   // [streams]
  int64_t* tally;
};
cudaError_t enter(const Enter&, cudaStream_t);

}  // namespace deltafx::cuda
