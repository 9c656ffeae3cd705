// What the CUDA kernels compute and what they are given. This file and everything under csrc/cuda knows nothing of PyTorch.
//
// Every kernel works on a list of pixels whose length stands on the device: the host launches the same grid whatever the
// length, and blocks take tiles of the list until it ends. A tile's new values stand in shared memory as float32 and are
// committed from there: pointwise steps, comparison with what was propagated last, truncation, write, mask (commit.cuh).
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "../include/codes.h"

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
  Step steps[kMaxSteps];
  int32_t step_count;
  Decision decision;
  Norm norm;
  float threshold;
  Matrix out;              // what downstream saw last
  uint8_t* mask;           // [pixels], zero when the kernel starts
  const uint8_t* forced;   // [pixels], or null
  const uint8_t* refresh;  // [streams]: every pixel is written
  int32_t pixels_per_stream;
  int32_t* claims;  // [list], zero when the kernel starts: who first sets a pixel's mask counts it, where several blocks do
  int64_t* tally;   // see Tally
};

// What a tally counts, in pixels: those of the last frame, their sums since the last reset, and frames since then.
enum Tally { kComputed, kUpdated, kComputedSum, kUpdatedSum, kFrames, kTallySize };

struct Job {
  const int32_t* pixels;  // output pixels, ascending, over all streams
  const int32_t* count;   // how many; on the device
  int32_t capacity;       // how many there can be
  Commit commit;
};

// ---------------------------------------------------------------------------------------------------------------------
// The kernels. Each returns the error of its launch.

enum class Relation : int32_t {
  window,      // an output pixel depends on the input pixels in its window
  same,        // pixel p depends on pixel p
  per_stream,  // all pixels of a stream depend on one
  whole,       // the one pixel of a stream depends on all of the stream
};

constexpr int kMaxSources = 64;
constexpr int kChunk = 1024;          // pixels of one block of `collect`
constexpr int kSmallMap = 256 << 10;  // pixels up to which there are four times as many blocks

struct Source {
  const uint8_t* mask;
  const int64_t* tally;
  Relation relation;
  int32_t pixels;  // of each stream
};

// The mask rule: from the update masks of a node's inputs to the ascending list of the pixels that it must compute.
struct Collect {
  Source sources[kMaxSources];
  int32_t source_count;
  int32_t streams;
  Window window;           // of the sources that have one; out_rows and out_columns in any case
  const uint8_t* refresh;  // [streams]: all pixels
  bool passes_on;          // the candidates are the update mask
  int32_t* pixels;
  int32_t* claims;
  int32_t* count;
  uint8_t* mask;    // of the node: cleared, or set to the candidates
  int64_t* tally;   // of the node
  uint64_t* scan;   // [2 + scan_blocks(pixels)], zero at first: see collect.cu
};
// The most blocks for a map of as many pixels.
constexpr int64_t scan_blocks(int64_t pixels) { return pixels / (pixels <= kSmallMap ? kChunk / 4 : kChunk) + 1; }
cudaError_t collect(const Collect&, cudaStream_t);

struct Conv {
  Matrix x;
  Window window;
  const void* weight;  // [groups * out_per_group, depth], of the dtype of x; a row is [taps, in_per_group], then zeros
  int32_t groups, in_per_group, out_per_group;
  int32_t depth;  // a multiple of 128 bytes
  bool exact;     // float32 without tensor cores
};
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

struct Pool {
  Matrix x;
  Window window;
  bool maximum;               // else the mean
  const float* row_share;     // mean: [out_rows, kernel_rows], the weight of each tap
  const float* column_share;  // mean: [out_columns, kernel_columns]
};
cudaError_t pool(const Pool&, const Job&, cudaStream_t);

cudaError_t copy(const Matrix&, const Job&, cudaStream_t);  // row p of the matrix is the new value of pixel p

// A mean or maximum over all pixels of each stream. The partial result of every image row is kept, and only rows with a
// set pixel are computed again; then all partials are added in order, so nothing of the past remains.
struct Reduce {
  Matrix x;
  const uint8_t* mask;     // [streams * rows * columns], of the input
  const uint8_t* refresh;  // [streams]
  float* partial;          // [streams * rows, channels]
  int32_t streams, rows, columns;
  bool maximum;
  float scale;  // of the sum
};
cudaError_t reduce(const Reduce&, const Job&, cudaStream_t);

// The comparison of a frame with what was propagated last.
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
  float* mean;              // [pixels], scratch of a gate with a window
  uint8_t* passed;          // [2, pixels], scratch of a gate with a window or dilation
  uint8_t* mask;            // [streams * rows * columns]
  const uint8_t* forced;    // or null
  const uint8_t* refresh;   // [streams]
  int64_t* tally;
};
cudaError_t enter(const Enter&, cudaStream_t);

}  // namespace deltafx::cuda
