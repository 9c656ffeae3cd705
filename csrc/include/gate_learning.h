// What a gate that adapts learns of a stream, from the histogram of its changes; see InputGate.learn (deltafx/gate.py).
// All backends share it, so that they decide alike. Whoever includes it has a function of its own.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define DELTAFX_EVERYWHERE __host__ __device__
#else
#define DELTAFX_EVERYWHERE
#endif

namespace deltafx {

// Frames seen, and sizes in grey levels.
enum { kFramesSeen, kNoise, kDrift, kLimit, kLearned };
constexpr int kBins = 256;  // of the histogram, kSteps a grey level, the middle one around 0
constexpr double kSteps = 4, kSigma = 1.4826;
constexpr float kMemory = 32, kMost = 4, kFinite = 3.4e38f;

// Of a histogram, in bins: its median, from the middle one on, and the median distance from that.
struct Middle {
  int place, spread;
};

template <class Count>
DELTAFX_EVERYWHERE static inline Middle middle_of(const Count* counts) {
  int64_t all = 0, total = 0;
  for (int i = 0; i < kBins; ++i) all += counts[i];
  const int64_t half = (all + 1) / 2;
  int middle = 0, spread = 0;
  while (middle < kBins - 1 && total + counts[middle] < half) total += counts[middle++];
  for (total = counts[middle]; total < half;) {
    ++spread;
    if (middle - spread >= 0) total += counts[middle - spread];
    if (middle + spread < kBins) total += counts[middle + spread];
  }
  return {middle - kBins / 2, spread};
}

// Settles a stream's drift and threshold in this frame. In one that is computed in full nothing is learned. `least` is the
// gate's threshold, `noise` how many times the noise it is, and `drift` the largest drift, in grey levels.
DELTAFX_EVERYWHERE static inline void learn(bool in_full, Middle changes, float least, float noise, float drift, float* learned) {
  learned[kDrift] = 0.0f;
  learned[kLimit] = least;
  if (in_full) return;
  const int place = changes.place;
  if ((place < 0 ? -place : place) <= drift * kSteps) learned[kDrift] = static_cast<float>(place / kSteps);
  learned[kFramesSeen] += 1.0f;
  const float met = static_cast<float>(changes.spread * (kSigma / kSteps));
  learned[kNoise] += (met - learned[kNoise]) / (learned[kFramesSeen] < kMemory ? learned[kFramesSeen] : kMemory);
  const float limit = noise * learned[kNoise], highest = kMost * least;
  learned[kLimit] = limit < least ? least : limit > highest ? highest : limit;
}

}  // namespace deltafx
