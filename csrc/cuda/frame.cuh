// A frame as it comes in, beside what was propagated of it last. A warp has 32 neighbouring pixels of a row, of which a
// bit each makes a word.
#pragma once

#include "launch.cuh"
#include "pack.cuh"

namespace deltafx::cuda {

constexpr int kWord = 32, kFrameThreads = 256, kFrameWarps = kFrameThreads / kWord;
constexpr int kWordsEach = 8, kWords = kFrameWarps * kWordsEach;  // of a warp, side by side, and of a block
constexpr unsigned kWholeWarp = ~0u;

__host__ __device__ inline int words_of(const Enter& e) { return static_cast<int>(divide_up(e.columns, kWord)); }

// Blocks that a stream takes. No block has pixels of two streams.
inline int blocks_of(const Enter& e) { return static_cast<int>(divide_up(int64_t{e.rows} * words_of(e), kWords)); }

// The pixel of a thread: stream, row and column, and the column of its word.
struct Spot {
  int n, y, x, word;

  __device__ int lane() const { return x % kWord; }
  __device__ bool is_inside(const Enter& e) const { return y < e.rows && x < e.columns; }
  __device__ int pixel(const Enter& e) const { return (n * e.rows + y) * e.columns + x; }
  __device__ int word_at(const Enter& e) const { return (n * e.rows + y) * words_of(e) + word; }
};

// That of a warp's word number `number` in its stream.
__device__ inline Spot spot(const Enter& e, int blocks, int number) {
  const int words = words_of(e), y = number / words, word = number - y * words;
  const int x = word * kWord + static_cast<int>(threadIdx.x) % kWord;
  return {static_cast<int>(blockIdx.x) / blocks, y, x, word};
}

__device__ inline int first_word(int blocks) { return static_cast<int>(blockIdx.x) % blocks * kWords; }

// Calls `what` for each word of a warp, with the place of its word in the block. All lanes do.
template <class F>
__device__ inline void for_words(const Enter& e, int blocks, F what) {
  const int first = static_cast<int>(threadIdx.x) / kWord * kWordsEach;
  Spot at = spot(e, blocks, first_word(blocks) + first);
  for (int k = first; k < first + kWordsEach && at.y < e.rows; ++k) {
    what(at, k);
    ++at.word, at.x += kWord;
    if (at.word == words_of(e)) at.word = 0, at.x %= kWord, ++at.y;
  }
}

// A word of the pixels of a warp for which this holds.
__device__ inline void keep(const Enter& e, const Spot& at, bool holds, uint32_t* words) {
  const uint32_t word = __ballot_sync(kWholeWarp, holds);
  if (at.lane() == 0 && at.y < e.rows) words[at.word_at(e)] = word;
}

__device__ inline bool exceeds(float change, float threshold) { return !(fabsf(change) <= threshold); }

// Few channels are read side by side.
template <class F>
__device__ inline void for_channels(int channels, F each) {
  constexpr int kFew = 4;
#pragma unroll
  for (int c = 0; c < kFew; ++c)
    if (c < channels) each(c);
#pragma unroll 1
  for (int c = kFew; c < channels; ++c) each(c);
}

// A pixel of a frame of numbers F, and what was propagated of it last: a uint8 frame is compared with the last raw one.
template <class F>
struct Compared {
  static constexpr bool kRaw = sizeof(F) == 1;
  const Enter& e;
  const F* now;
  F* old;
  int p;

  __device__ Compared(const Enter& e, const Spot& at) : e(e), p(at.pixel(e)) {
    now = static_cast<const F*>(e.frame) + at.n * e.stride[0] + at.y * e.stride[2] + at.x * e.stride[3];
    if constexpr (kRaw)
      old = e.raw + int64_t{p} * e.channels;
    else
      old = static_cast<F*>(e.value.data) + p * e.value.pitch;
  }

  __device__ float change(int c) const { return number(now[c * e.stride[1]]) - number(old[c]); }
  __device__ bool differs() const {
    bool found = false;
    for_channels(e.channels, [&](int c) { found |= !(number(now[c * e.stride[1]]) == number(old[c])); });
    return found;
  }
  __device__ bool exceeds(float threshold) const {
    bool found = false;
    for_channels(e.channels, [&](int c) { found |= deltafx::cuda::exceeds(change(c), threshold); });
    return found;
  }
  // Of its channels' changes, the mean.
  __device__ float mean() const {
    float sum = 0.0f;
    for_channels(e.channels, [&](int c) { sum += change(c); });
    return sum / static_cast<float>(e.channels);
  }

  // It is propagated.
  __device__ void take() const {
    for_channels(e.channels, [&](int c) {
      old[c] = now[c * e.stride[1]];  // as it is, with every bit of a NaN
      if constexpr (kRaw) show(c, old[c]);
    });
  }

 private:
  __device__ void show(int c, uint8_t level) const {
    const int channel = e.swap ? e.channels - 1 - c : c;
    const int64_t place = p * e.value.pitch + channel;
    const float value = e.levels[channel * 256 + level];
    if (e.value.dtype == Dtype::float16)
      static_cast<__half*>(e.value.data)[place] = rounded<__half>(value);
    else if (e.value.dtype == Dtype::bfloat16)
      static_cast<__nv_bfloat16*>(e.value.data)[place] = rounded<__nv_bfloat16>(value);
    else
      static_cast<float*>(e.value.data)[place] = value;
  }
};

// Calls `what` with the pixel, as what the frame's numbers are.
template <class F>
__device__ inline void compare(const Enter& e, const Spot& at, F what) {
  switch (e.dtype) {
    case Dtype::uint8:
      return what(Compared<uint8_t>(e, at));
    case Dtype::float16:
      return what(Compared<__half>(e, at));
    case Dtype::bfloat16:
      return what(Compared<__nv_bfloat16>(e, at));
    default:
      return what(Compared<float>(e, at));
  }
}

// What a frame leaves of counts, before any of its pixels is counted.
__device__ inline void begin_tally(int64_t* tally, int pixels) {
  tally[kComputed] = pixels;
  tally[kComputedSum] += pixels;
  tally[kFrames] += 1;
  tally[kUpdated] = 0;
}

// Which pixels pass a gate that does not decide pixel by pixel, before they are dilated: words in e.passed. The frame's
// tally is begun, too.
cudaError_t pass(const Enter&, cudaStream_t);

}  // namespace deltafx::cuda
