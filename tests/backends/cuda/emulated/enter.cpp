// Whether a frame is taken over as plain loops say: for random frames, gates, masks and streams that are refreshed,
// frame after frame. Arguments: seed, how many sequences.
#include "block.h"

#include <cfloat>
#include <cstdio>

#include "cuda/enter.cu"
#include "cuda/gate.cu"
#include "numbers.h"

using namespace deltafx;
using namespace deltafx::cuda;

namespace {

constexpr int kSequence = 3;  // frames
float half(float low, float high) { return any(static_cast<int>(2 * low), static_cast<int>(2 * high)) / 2.0f; }

struct Case {
  Enter e{};
  bool raw = one_in(2), channels_last = raw ? !one_in(3) : one_in(2);
  std::vector<uint8_t> raw_frame, last_raw, forced, strip, refresh, mask, strength;
  std::vector<float> frame, value, levels, learned, change, mean;
  std::vector<int32_t> counts;
  std::vector<uint32_t> passed, strong;
  std::vector<int64_t> tally;

  Case() {
    e.streams = any(1, 3), e.channels = one_in(4) ? any(1, 6) : 3;
    e.rows = one_in(3) ? any(1, 3) : any(4, 19), e.columns = one_in(3)   ? any(1, 9)
                                                             : one_in(2) ? 4 * any(5, 22)
                                                                         : any(20, 90);
    const int pixels = e.streams * e.rows * e.columns, plane = e.rows * e.columns;
    e.dtype = raw ? Dtype::uint8 : Dtype::float32;
    e.stride[0] = int64_t{plane} * e.channels;
    e.stride[1] = channels_last ? 1 : plane;
    e.stride[2] = channels_last ? e.columns * e.channels : e.columns, e.stride[3] = channels_last ? e.channels : 1;
    raw_frame.resize(pixels * e.channels), frame.resize(pixels * e.channels);
    last_raw.resize(pixels * e.channels), value.resize(pixels * e.channels);
    for (int i = 0; i < e.channels * 256; ++i) levels.push_back(static_cast<float>(any(-99, 99)));
    e.frame = raw ? static_cast<void*>(raw_frame.data()) : frame.data();
    e.value = {value.data(), e.channels, e.channels, Dtype::float32, false};
    e.raw = last_raw.data(), e.levels = levels.data(), e.swap = one_in(2);
    mask.resize(pixels), refresh.resize(e.streams), tally.resize(kTallySize);
    e.mask = mask.data(), e.refresh = refresh.data(), e.tally = tally.data();
    if (one_in(3)) strip.resize(pixels), e.strip = strip.data();
    if (one_in(8)) forced.resize(pixels), e.forced = forced.data();
    if (!one_in(5)) add_gate(pixels);
  }

  void add_gate(int pixels) {
    e.gated = true, e.level = 1, e.least = e.threshold = half(1, 6);
    e.window = 2 * any(0, one_in(4) ? 6 : 2) + 1, e.dilation = one_in(3) ? 0 : any(1, one_in(5) ? 70 : 5);
    e.weak = 1;
    e.mean_margin = (e.window / 2 + 3) / 4 * 4, e.mean_pitch = 32 * words_of(e) + 2 * e.mean_margin;
    if (one_in(3)) e.weak = 0.5f, e.reach = any(1, one_in(3) ? 32 : 4);
    if (one_in(3)) e.neighbours = any(1, 4);
    const size_t words = e.streams * e.rows * words_of(e);
    mean.resize(e.streams * e.rows * e.mean_pitch), change.resize(words * kWord), strength.resize(pixels),
        passed.resize(words), strong.resize(words);
    e.mean = mean.data(), e.change = change.data();
    e.strength = strength.data(), e.passed = passed.data(), e.strong = strong.data();
    if (one_in(2)) return;
    e.noise = half(0, 4), e.drift = half(0, 12);
    learned.resize(e.streams * kLearned), counts.resize(e.streams * kCounts);
    e.learned = learned.data(), e.counts = counts.data();
  }

  int64_t place(int n, int y, int x, int c) const {
    return n * e.stride[0] + c * e.stride[1] + y * e.stride[2] + x * e.stride[3];
  }
  float change_of(int n, int p, int c) const {
    const int64_t at = place(n, p / e.columns, p % e.columns, c), last = (n * e.rows * e.columns + p) * e.channels + c;
    return raw ? static_cast<float>(raw_frame[at]) - last_raw[last] : frame[at] - value[last];
  }
  float mean_of(int n, int p) const {
    float sum = 0;
    for (int c = 0; c < e.channels; ++c) sum += change_of(n, p, c);
    return sum / static_cast<float>(e.channels);
  }

  // Small changes everywhere, large ones in places, and some that are not finite.
  void draw() {
    const int drifts = any(-3, 3), noise = any(0, 4);
    for (size_t i = 0; i < frame.size(); ++i) {
      const bool moves = one_in(40);
      raw_frame[i] = static_cast<uint8_t>(std::clamp(raw_frame[i] + drifts + any(-noise, noise) + moves * 40, 0, 255));
      frame[i] = std::isfinite(frame[i]) ? frame[i] + half(drifts - noise, drifts + noise) + moves * 40 : 0.0f;
      if (one_in(200)) frame[i] = one_in(2) ? NAN : INFINITY;
    }
    for (uint8_t& set : forced) set = one_in(5);
    for (uint8_t& set : strip) set = one_in(9);
    for (uint8_t& set : refresh) set = one_in(4);
  }
};

uint8_t strength_of(const Enter& e, float change, float limit) {
  const auto beyond = [&](float least) { return !(std::fabs(change) <= least); };
  return beyond(limit) ? beyond(FLT_MAX) ? kBoundless : kStrong : beyond(limit * e.weak) ? kWeak : kStill;
}

template <class F>
std::vector<uint8_t> around(const Enter& e, int reach, F set) {
  std::vector<uint8_t> result(e.rows * e.columns);
  for (int y = 0; y < e.rows; ++y)
    for (int x = 0; x < e.columns; ++x)
      for (int i = std::max(0, y - reach); i <= std::min(e.rows - 1, y + reach); ++i)
        for (int j = std::max(0, x - reach); j <= std::min(e.columns - 1, x + reach); ++j)
          result[y * e.columns + x] |= set(i * e.columns + j);
  return result;
}

// What the gate lets through of a stream; `learned` is what it knows of it.
std::vector<uint8_t> gate(const Case& given, int n, float* learned) {
  const Enter& e = given.e;
  const int plane = e.rows * e.columns;
  std::vector<float> change(plane);
  std::vector<uint8_t> strength(plane), strong(plane);
  float limit = e.threshold, drift = 0;
  if (e.window > 1 || learned != nullptr) {
    for (int p = 0; p < plane; ++p) {
      float total = 0;
      int count = 0;
      for (int i = -(e.window / 2); i <= e.window / 2; ++i)
        for (int j = -(e.window / 2); j <= e.window / 2; ++j) {
          const int y = p / e.columns + i, x = p % e.columns + j;
          if (y >= 0 && y < e.rows && x >= 0 && x < e.columns) total += given.mean_of(n, y * e.columns + x), ++count;
        }
      change[p] = total / static_cast<float>(count);
    }
  }
  if (learned != nullptr) {
    std::vector<int> counts(kBins);
    for (const float x : change)
      if (std::isfinite(x))
        ++counts[kBins / 2 + std::clamp(static_cast<int>(std::floor(x * kSteps + 0.5f)), -kBins / 2, kBins / 2 - 1)];
    learn(e.refresh[n], middle_of(counts.data()), e.least, e.noise, e.drift, learned);
    limit = learned[kLimit] * e.level, drift = learned[kDrift] * e.level;
  }
  for (int p = 0; p < plane; ++p) {
    if (e.window == 1 && learned == nullptr)
      for (int c = 0; c < e.channels; ++c)
        strength[p] = std::max(strength[p], strength_of(e, given.change_of(n, p, c), limit));
    else
      strength[p] = strength_of(e, change[p] - drift, limit);
  }
  for (int p = 0; p < plane; ++p) {
    strong[p] = strength[p] >= kStrong;
    if (strength[p] != kStrong || e.neighbours == 0) continue;
    int count = -1;
    for (int y = std::max(0, p / e.columns - 1); y <= std::min(e.rows - 1, p / e.columns + 1); ++y)
      for (int x = std::max(0, p % e.columns - 1); x <= std::min(e.columns - 1, p % e.columns + 1); ++x)
        count += strength[y * e.columns + x] != kStill;
    strong[p] = count >= e.neighbours;
  }
  if (e.reach > 0) {
    const std::vector<uint8_t> near_strong = around(e, e.reach, [&](int p) { return strong[p]; });
    for (int p = 0; p < plane; ++p) strong[p] = near_strong[p] && strength[p] != kStill;
  }
  return around(e, e.dilation, [&](int p) { return strong[p]; });
}

bool same(float a, float b) { return a == b || (std::isnan(a) && std::isnan(b)); }

// What has to be in the case after a frame.
struct Expected {
  std::vector<uint8_t> mask, last_raw;
  std::vector<float> value, learned;
  std::vector<int64_t> tally;

  explicit Expected(const Case& given)
      : mask(given.mask), last_raw(given.last_raw), value(given.value), learned(given.learned), tally(given.tally) {
    const Enter& e = given.e;
    const int plane = e.rows * e.columns;
    int updated = 0;
    for (int n = 0; n < e.streams; ++n) {
      std::vector<uint8_t> passed(plane);
      if (e.forced == nullptr && e.gated)
        passed = gate(given, n, learned.empty() ? nullptr : learned.data() + n * kLearned);
      for (int p = 0; p < plane; ++p) {
        bool update = passed[p];
        for (int c = 0; c < e.channels && !e.gated; ++c) update |= !(given.change_of(n, p, c) == 0);
        if (e.forced != nullptr)
          update = e.forced[n * plane + p];
        else if (e.strip != nullptr)
          update |= e.strip[n * plane + p] != 0;
        update |= e.refresh[n] != 0;
        mask[n * plane + p] = update, updated += update;
        for (int c = 0; c < e.channels && update; ++c) take(given, n, p, c);
      }
    }
    tally[kComputed] = e.streams * plane, tally[kComputedSum] += e.streams * plane, tally[kFrames] += 1;
    tally[kUpdated] = updated, tally[kUpdatedSum] += updated;
  }

  void take(const Case& given, int n, int p, int c) {
    const Enter& e = given.e;
    const int64_t at = given.place(n, p / e.columns, p % e.columns, c),
                  pixel = (n * e.rows * e.columns + p) * e.channels;
    if (!given.raw) return void(value[pixel + c] = given.frame[at]);
    const int channel = e.swap ? e.channels - 1 - c : c;
    last_raw[pixel + c] = given.raw_frame[at];
    value[pixel + channel] = e.levels[channel * 256 + given.raw_frame[at]];
  }

  bool is(const Case& got) const {
    if (mask != got.mask) return std::puts("mask"), false;
    if (given_raw(got) && last_raw != got.last_raw) return std::puts("raw"), false;
    for (size_t i = 0; i < value.size(); ++i)
      if (!same(value[i], got.value[i])) return std::puts("value"), false;
    for (size_t i = 0; i < learned.size(); ++i)
      if (learned[i] != got.learned[i]) return std::puts("learned"), false;
    for (const int32_t count : got.counts)
      if (count != 0) return std::puts("counts are left"), false;
    return tally == got.tally || (std::puts("tally"), false);
  }
  static bool given_raw(const Case& got) { return got.raw; }
};

bool right() {
  Case given;
  for (int number = 0; number < kSequence; ++number) {
    given.draw();
    const Expected expected(given);
    if (enter(given.e, nullptr) != cudaSuccess) return std::puts("launch"), false;
    if (!expected.is(given)) {
      const Enter& e = given.e;
      std::printf("%d: %d %d %dx%d raw %d gated %d window %d dilation %d reach %d neighbours %d learns %d\n", number,
                  e.streams, e.channels, e.rows, e.columns, given.raw, e.gated, e.window, e.dilation, e.reach,
                  e.neighbours, e.learned != nullptr);
      return false;
    }
  }
  return true;
}

}  // namespace

int main(int, char** arguments) { return tried(arguments, right); }
