// What the CPU kernels compute and what they are given. This file and everything under csrc/cpu knows nothing of PyTorch.
//
// Every kernel works on a list of pixels: it computes their new values, a few rows at a time, into a tile of float32 in
// the cache, and commits the tile: pointwise steps, comparison with what was propagated last, truncation, write, mask.
// The kernels are compiled once for each instruction set (avx512.cpp, avx2.cpp, portable.cpp); `Kernels` is the table.
#pragma once

#include <atomic>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "../include/codes.h"
#include "../include/gate_learning.h"

namespace deltafx::cpu {

struct Bfloat16 {
  uint16_t bits;
};

enum class Dtype : int32_t { float32, bfloat16, uint8 };

// A tensor as a matrix: one row for each pixel, its channels side by side.
struct Matrix {
  void* data;
  int64_t pitch;  // elements from one pixel to the next
  int64_t channels;
  Dtype dtype;
};

// The part of an axis in which every tap exists and lies at equal distances: tap i of output o is first(o) + i * step.
struct Inner {
  int64_t begin = 0, end = 0;
  int64_t offset = 0, stride = 0, step = 0;

  bool has(int64_t o) const { return begin <= o && o < end; }
  int64_t first(int64_t o) const { return o * stride + offset; }
  // Whether each of `size` outputs reads the input of its own number.
  bool is_same(int64_t size) const { return begin == 0 && end == size && offset == 0 && (stride == 1 || size == 1); }
};

// `table` is [outputs, taps].
Inner inner_of(const int32_t* table, int64_t outputs, int64_t taps);

// Which input pixels an output pixel reads, axis by axis: rows[y * kernel_rows + i] is the input row behind tap i of
// output row y, or -1 where nothing is read (padding with zeros, taps that a stride skips).
struct Window {
  const int32_t* rows;     // [out_rows, kernel_rows]
  const int32_t* columns;  // [out_columns, kernel_columns]
  int64_t kernel_rows, kernel_columns;
  int64_t in_rows, in_columns, out_rows, out_columns;
  Inner y, x;
};

// ---------------------------------------------------------------------------------------------------------------------
// Pointwise steps and the commit, which end every kernel

struct Step {
  Code code;
  Operand kind;
  Matrix operand;
  float a, b;
};

struct Commit {
  const Step* steps;
  int64_t step_count;
  Matrix out;                 // what downstream saw last
  uint8_t* mask;              // [pixels], zero when the kernel starts
  const uint8_t* forced;      // [pixels]: the decision, where it is prescribed; or null
  const uint8_t* refresh;     // [streams]: every pixel is written; null where no stream is in refresh
  int64_t pixels_per_stream;
  float threshold;            // 0: a pixel is propagated unless it is equal
  Norm norm;
};

// ---------------------------------------------------------------------------------------------------------------------
// Where a kernel runs, and on what

// The thread pool: runs body(context, task, count) with every task in [0, count), on `threads` threads.
struct Pool {
  int threads;
  void (*run)(int64_t tasks, void (*body)(void* context, int64_t task), void* context);
};

// A buffer of the calling thread, kept between calls. Slots are apart from each other: 0 has the tile, 1 what a kernel
// gathers, 2 and 3 what masks are made of, 4 pointers, 5 to 8 maps that are not stored.
constexpr int kScratchSlots = 9;
float* scratch(int slot, int64_t floats);

struct Job {
  const int32_t* pixels;  // [count] output pixels, ascending, over all streams
  int64_t count;
  Commit commit;
  Pool pool;
};

// Each returns how many pixels were updated.

// Some terms of a convolution's sum that lie side by side in the input: the channels of a tap, a part of them, or those of
// neighbouring taps.
struct Piece {
  int32_t row, column, taps;  // of the window: the first tap, and how many
  int32_t channel, channels;  // of each
  bool ends;                  // a run: terms that are added up in registers
  int64_t offset;             // elements, from the first tap of a pixel inside to this piece

  int64_t terms() const { return static_cast<int64_t>(taps) * channels; }
};
constexpr int64_t kRun = 256;  // terms of a run: the rounding errors of a sum grow with its length

// The pieces of a sum in order. `pitch` is that of the input.
std::vector<Piece> pieces_of(const Window& window, int64_t pitch, int64_t in_per_group);

struct Conv {
  Matrix x;
  Window window;
  const Piece* pieces;
  int64_t piece_count;
  // Packed, zero beyond out_per_group: float32 [groups][panels][taps * in_per_group][panel], or, with `in_pairs`,
  // bfloat16 [groups][panels][taps * in_per_group / 2][panel][2] of an even number of channels, for an x in bfloat16.
  const void* weight;
  bool in_pairs;
  const float* bias;    // [groups * out_per_group], or null
  int64_t groups, in_per_group, out_per_group;
};

struct Depthwise {
  Matrix x;
  Window window;
  const float* weight;  // [taps][channels]
  const float* bias;    // [channels], or null
};

// How pixels end that are computed and not stored: with steps that read nothing of a pixel, in a dtype.
struct Between {
  const Step* steps;
  int64_t step_count;
  Dtype dtype;
};

constexpr int64_t kMostBands = 16;  // output rows whose windows are held at once

// How many input rows lie between the first and the last that the windows of 1, 2, ... output rows read, at most.
std::vector<int64_t> spans_of(const Window& window);

struct Separable {
  const Conv* expand;        // null: the depthwise convolution reads what is stored
  const int64_t* spans;      // of the depthwise convolution's window
  Between expanded;          // what it gives, which the depthwise convolution reads instead of its x
  int64_t* expanded_pixels;  // is set to how many pixels it computed
  Depthwise depthwise;
  Between filtered;  // what that gives
  Conv project;      // 1x1; reads that instead of its x
};

struct Pool2d {
  Matrix x;
  Window window;
  bool maximum;               // else the mean
  const float* row_share;     // mean: [out_rows, kernel_rows], the weight of each tap
  const float* column_share;  // mean: [out_columns, kernel_columns]
};

// A mean or maximum over all pixels of each stream. The partial result of every image row is kept, and only rows with a
// set pixel are computed again; then all partials are added in order, so nothing of the past remains.
struct Reduce {
  Matrix x;
  const uint8_t* mask;     // [streams * rows * columns], of the input
  const uint8_t* refresh;  // [streams], or null
  float* partial;          // [streams * rows, channels]
  int64_t streams, rows, columns;
  bool maximum;
  float scale;  // of the sum
};

// The comparison of a frame with what was propagated last.
constexpr int64_t kBand = 16;  // image rows of a task of `enter`

struct Enter {
  const void* frame;
  Dtype dtype;                 // uint8: a raw frame, whose last propagated state is `raw`
  int64_t stride[4];           // elements, of stream, channel, row, column
  int64_t streams, channels, rows, columns;
  Matrix value;                // [streams * rows * columns, channels]
  uint8_t* raw;                // [streams * rows * columns, channels] in the frame's channel order, or null
  const float* levels;         // [channels, 256]: the value of each raw level of each channel of `value`
  bool swap;                   // value channel c is raw channel channels - 1 - c
  bool gated;                  // else a pixel passes unless it is equal
  float threshold;             // of the gate, in units of the frame
  int64_t window, dilation;
  float weak;                  // a share of the threshold: a change above it counts
  int64_t reach;               // up to so many pixels from a strong one
  int64_t neighbours;          // a strong one needs so many around it that are weak at least
  float* learned;              // [streams, kLearned] of a gate that adapts, or null
  float* change;               // [streams * rows * columns], and
  int32_t* counts;             // [streams * bands, kBins]: its scratch
  float level, least;          // its units: one grey level of the frame; and its threshold, in grey levels
  float noise, drift;          // how many times the noise the threshold is, and the largest drift
  uint8_t* mask;               // [streams * rows * columns]
  const uint8_t* forced;       // or null
  const uint8_t* strip;        // [pixels] that pass in any case, or null
  const uint8_t* refresh;      // [streams], or null
  Pool pool;
};

struct Kernels {
  const char* name;
  int64_t panel;  // channels in a packed panel of Conv::weight
  bool pairs;     // takes weights that are packed in pairs, if the processor does
  int64_t (*convolve)(const Conv&, const Job&);
  int64_t (*depthwise)(const Depthwise&, const Job&);
  int64_t (*separable)(const Separable&, const Job&);
  int64_t (*pool)(const Pool2d&, const Job&);
  int64_t (*copy)(const Matrix&, const Job&);  // row p of the matrix is the new value of pixel p
  int64_t (*reduce)(const Reduce&, const Job&);
  int64_t (*enter)(const Enter&);
};

// The kernels for "avx512", "avx2" or "portable"; null where this processor, or this build, has none.
const Kernels* kernels_for(const char* isa);

// Whether they multiply weights that are packed in pairs, on this processor.
bool multiplies_pairs(const Kernels& kernels);

}  // namespace deltafx::cpu
