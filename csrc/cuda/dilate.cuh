// Words of pixels that are near others: a square around each, of any size.
#pragma once

#include "frame.cuh"

namespace deltafx::cuda {

// The bits up to `reach` places above a set one.
__device__ inline uint64_t smeared(uint64_t bits, int reach) {
  for (int done = 0; done < reach;) {
    const int step = min(done + 1, reach - done);
    bits |= bits << step;
    done += step;
  }
  return bits;
}

// What of the next word is near the bits of this one, whose end is `reach` pixels from where it ends.
__device__ inline uint32_t reached(uint32_t word, int reach) {
  return static_cast<uint32_t>(smeared(word, min(reach, 2 * kWarp - 1)) >> kWarp);
}

// Of a word's row and those up to `reach` away, the pixels that are set in the column of words at `word`; by some threads,
// each of which sees to some rows.
constexpr int kTogether = kFrameThreads / kWords;

__device__ inline uint32_t column_of(const Enter& e, const Spot& at, int word, int reach, const uint32_t* words) {
  const int each = words_of(e), bottom = min(e.rows - 1, at.y + reach);
  uint32_t any = 0;
  if (word >= 0 && word < each)
    for (int y = max(0, at.y - reach) + static_cast<int>(threadIdx.x) % kTogether; y <= bottom; y += kTogether)
      any |= words[(at.n * e.rows + y) * each + word];
  for (int other = 1; other < kTogether; other *= 2) any |= __shfl_xor_sync(kWholeWarp, any, other);
  return any;
}

// For each word of the block, the pixels at a distance of up to `reach` from a set one, along rows and columns.
__device__ inline void dilate(const Enter& e, int blocks, int reach, const uint32_t* words, uint32_t (&near)[kWords]) {
  const int own = static_cast<int>(threadIdx.x) / kTogether;
  const Spot at = spot(e, blocks, first_word(blocks) + own);
  const uint32_t middle = column_of(e, at, at.word, reach, words);
  const int inside = min(reach, kWarp - 1);
  uint32_t found = static_cast<uint32_t>(smeared(middle, inside)) | __brev(static_cast<uint32_t>(smeared(__brev(middle), inside)));
  for (int away = 1, left = reach; left > 0; ++away, left -= kWarp) {
    found |= reached(column_of(e, at, at.word - away, reach, words), left);
    found |= __brev(reached(__brev(column_of(e, at, at.word + away, reach, words)), left));
  }
  if (threadIdx.x % kTogether == 0) near[own] = found;
  __syncthreads();
}

}  // namespace deltafx::cuda
