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

// Of a word's own pixels, those near its set ones.
__device__ inline uint32_t within(uint32_t word, int reach) {
  const int inside = min(reach, kWord - 1);
  const auto up = [&](uint32_t bits) { return static_cast<uint32_t>(smeared(bits, inside)); };
  return up(word) | __brev(up(__brev(word)));
}

// Of the word behind this one, the pixels up to `reach` from one that is set in this; and of the word before it. For a
// word further away `reach` is less by what lies between.
__device__ inline uint32_t reached(uint32_t word, int reach) {
  return static_cast<uint32_t>(smeared(word, min(reach, 2 * kWord - 1)) >> kWord);
}
__device__ inline uint32_t reached_before(uint32_t word, int reach) { return __brev(reached(__brev(word), reach)); }

constexpr int kTogether = kFrameThreads / kWords;  // threads of a word, of which each sees to some rows

// What is set in the rows up to `reach` away of the words `away` before and behind this one.
struct Beside {
  uint32_t before = 0, behind = 0;

  __device__ Beside(const Enter& e, const Spot& at, int away, int reach, const uint32_t* words) {
    const int each = words_of(e), bottom = min(e.rows - 1, at.y + reach);
    for (int y = max(0, at.y - reach) + static_cast<int>(threadIdx.x) % kTogether; y <= bottom; y += kTogether) {
      const uint32_t* row = words + (at.n * e.rows + y) * each + at.word;
      if (at.word >= away) before |= row[-away];
      if (at.word + away < each) behind |= row[away];
    }
  }
  __device__ bool any() const { return (before | behind) != 0; }
  // What all threads of a word found.
  __device__ void add_up() {
    for (int other = 1; other < kTogether; other *= 2) {
      before |= __shfl_xor_sync(kWholeWarp, before, other);
      behind |= __shfl_xor_sync(kWholeWarp, behind, other);
    }
  }
};

// For each word of the block, the pixels at a distance of up to `reach` from a set one, along rows and columns. Whether
// there are any; most often there are none, which is seen soon.
__device__ inline bool dilate(const Enter& e, int blocks, int reach, const uint32_t* words, uint32_t (&near)[kWords]) {
  const int own = static_cast<int>(threadIdx.x) / kTogether;
  const Spot at = spot(e, blocks, first_word(blocks) + own);
  bool any = false;
  for (int away = 0; away * kWord < reach + kWord; ++away) any |= Beside(e, at, away, reach, words).any();
  if (!__syncthreads_or(any)) return false;
  uint32_t found = 0;
  for (int away = 0, left = reach + kWord; left > 0; ++away, left -= kWord) {
    Beside beside(e, at, away, reach, words);
    beside.add_up();
    found |=
        away == 0 ? within(beside.before, reach) : reached(beside.before, left) | reached_before(beside.behind, left);
  }
  if (threadIdx.x % kTogether == 0) near[own] = found;
  __syncthreads();
  return true;
}

}  // namespace deltafx::cuda
