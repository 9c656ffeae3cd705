// The end of every kernel: pointwise steps, then for each pixel of a tile: compare with what was propagated last,
// withhold or write, set the mask. Reads the tile, the operands of the steps and the old values once; writes what
// changed.
#pragma once

#include "candidates.cuh"
#include "steps.cuh"

namespace deltafx::cuda {

constexpr unsigned kWarp = 0xffffffffu;

// How a pixel's change is judged, by the lanes that share it.
struct Change {
  float sum = 0.0f, largest = 0.0f;
  bool differs = false;

  __device__ void see(float x, float old) {
    const float change = x - old;
    differs |= !(x == old);
    sum = fmaf(change, change, sum);
    largest = fmaxf(largest, fabsf(change));
  }

  // In an order that depends on nothing but the number of lanes.
  __device__ void unite(int lanes) {
    for (int o = lanes / 2; o > 0; o /= 2) {
      sum += __shfl_xor_sync(kWarp, sum, o);
      largest = fmaxf(largest, __shfl_xor_sync(kWarp, largest, o));
      differs |= __shfl_xor_sync(kWarp, static_cast<int>(differs), o) != 0;
    }
  }

  // The sum of squares also tells whether something is not a number, which the maximum does not.
  __device__ bool exceeds(const Commit& commit) const {
    const float size = commit.norm == Norm::rms ? sqrtf(sum / static_cast<float>(commit.out.channels))
                       : sum == sum             ? largest
                                                : sum;
    return !(size <= commit.threshold);
  }
};

// Marks a pixel as updated; says whether this is to be counted. Where blocks share a pixel, the first one counts it.
__device__ inline bool mark(const Commit& commit, int p) {
  if (!commit.shared) {
    commit.mask[p] = 1;
    return true;
  }
  const unsigned bit = 1u << p % 4 * 8;
  return (atomicOr(reinterpret_cast<unsigned*>(commit.mask + p / 4 * 4), bit) & bit) == 0;
}

// The pixels of a tile: candidates [place, place + count).
template <int M>
struct Listed {
  int32_t pixel[M];   // -1 beyond the last
  int32_t stream[M];  // the pixel's
  bool passes[M];     // it is written, whatever has changed

  // Thread r fills in pixel r, and returns it. They are there for all after a barrier.
  __device__ int fill(const Job& job, Found& found, int place, int count) {
    const int r = threadIdx.x;
    if (r >= M) return -1;
    return pixel[r] = r < count ? candidate(job.candidates, found, place + r) : -1;
  }

  // The same thread looks up what the pixel's fate depends on. It is there for all after another barrier.
  __device__ void look_up(const Job& job, int p) {
    if (p < 0) return;
    const Commit& commit = job.commit;
    const int n = p / job.candidates.rule.grid.plane;
    bool pass = commit.decision == Decision::always || commit.refresh[n] != 0;
    if (commit.decision == Decision::prescribed) pass |= commit.forced[p] != 0;
    stream[threadIdx.x] = n, passes[threadIdx.x] = pass;
  }
};

__device__ inline bool asks(const Commit& commit) {
  return commit.decision == Decision::equal || commit.decision == Decision::norm;
}

__device__ inline bool passes_by_change(const Commit& commit, const Change& change) {
  return asks(commit) && (commit.decision == Decision::equal ? change.differs : change.exceeds(commit));
}

// How a row is shared by the lanes of a warp, and how many rows the block's threads work on together.
struct Lanes {
  int count, lane, row, together;

  __device__ Lanes(int packs) : count(1) {
    while (count < 32 && count < packs) count *= 2;
    lane = threadIdx.x % count, row = threadIdx.x / count, together = blockDim.x / count;
  }
};

// Finishes rows [begin, end) of a tile: channels [first, first + width) of the listed pixels, whose new values stand in
// tile[row * stride + channel - first]. All threads of the block call it, between barriers; returns how many pixels
// this thread has counted as updated. A lane has one pack of R rows at a time, so that their reads are under way
// together. `bias` is that of the first channel and the following ones, if there is one.
template <class T, int R, int M>
__device__ int commit_narrow(const Commit& commit, const float* tile, int stride, const float* bias,
                             const Listed<M>& listed, int begin, int end, int first, int width) {
  constexpr int P = kPack<T>;
  const Lanes lanes((width + P - 1) / P);
  const bool even = first % P == 0, packed = commit.out.packed && even;  // a group's first channel may lie anywhere
  const int c = lanes.lane * P, n = min(P, width - c);                   // n <= 0: a lane without channels
  T* const out = static_cast<T*>(commit.out.data) + first + c;
  int updated = 0;
  for (int from = begin + lanes.row; from - lanes.row < end; from += lanes.together * R) {
    int p[R], streams[R];
    bool active[R];
    float x[R][P];
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const int row = from + r * lanes.together;
      active[r] = row < end;
      p[r] = active[r] ? listed.pixel[row] : 0;
      streams[r] = active[r] ? listed.stream[row] : 0;
    }
    Pack<T> old[R];
    if (asks(commit)) {
#pragma unroll
      for (int r = 0; r < R; ++r) old[r] = load_raw(out + p[r] * commit.out.pitch, n, packed);
    }
#pragma unroll
    for (int r = 0; r < R; ++r)
      if (active[r] && n > 0) read_tile(tile + (from + r * lanes.together) * stride + c, x[r]);
    if (commit.bias != nullptr && n > 0) {
      float y[P];
      load_pack(bias + c, n, true, y);
#pragma unroll
      for (int r = 0; r < R; ++r) map_with(x[r], y, [](float s, float b) { return s + b; });
    }
    if (n > 0)
      for (int s = 0; s < commit.step_count; ++s) apply_step<T>(commit.steps[s], p, streams, first + c, n, even, x);
    Change change[R];
    if (asks(commit)) {
#pragma unroll
      for (int r = 0; r < R; ++r) {
#pragma unroll
        for (int i = 0; i < P; ++i)
          if (i < n) change[r].see(number(rounded<T>(x[r][i])), number(old[r].of[i]));
        change[r].unite(lanes.count);
      }
    }
#pragma unroll
    for (int r = 0; r < R; ++r) {
      if (!active[r] || !(listed.passes[from + r * lanes.together] || passes_by_change(commit, change[r]))) continue;
      if (n > 0) store_pack(out + p[r] * commit.out.pitch, n, packed, x[r]);
      if (lanes.lane == 0 && commit.mask != nullptr) updated += mark(commit, p[r]);
    }
  }
  return updated;
}

// The same for rows that are wider than what the lanes of a warp have at once. The tile takes what the steps make of
// it.
template <class T, int M>
__device__ int commit_wide(const Commit& commit, float* tile, int stride, const Listed<M>& listed, int begin, int end,
                           int first, int width) {
  constexpr int P = kPack<T>;
  const bool even = first % P == 0, packed = commit.out.packed && even;
  const int lane = threadIdx.x % 32;
  int updated = 0;
  for (int row = begin + threadIdx.x / 32; row < end; row += blockDim.x / 32) {
    const int p[1] = {listed.pixel[row]}, streams[1] = {listed.stream[row]};
    float* values = tile + row * stride;
    T* out = static_cast<T*>(commit.out.data) + p[0] * commit.out.pitch + first;
    Change change;
    for (int c = lane * P; c < width; c += 32 * P) {
      const int n = min(P, width - c);
      float x[1][P];
      read_tile(values + c, x[0]);
      if (commit.bias != nullptr) {
        float y[P];
        load_pack(commit.bias + first + c, n, false, y);
        map_with(x[0], y, [](float s, float b) { return s + b; });
      }
      for (int s = 0; s < commit.step_count; ++s) apply_step<T>(commit.steps[s], p, streams, first + c, n, even, x);
      map(x[0], [](float v) { return number(rounded<T>(v)); });  // what would be kept
      write_tile(values + c, x[0]);
      if (!asks(commit)) continue;
      const Pack<T> old = load_raw(out + c, n, packed);
#pragma unroll
      for (int i = 0; i < P; ++i)
        if (i < n) change.see(x[0][i], number(old.of[i]));
    }
    if (asks(commit)) change.unite(32);
    if (!(listed.passes[row] || passes_by_change(commit, change))) continue;
    for (int c = lane * P; c < width; c += 32 * P) {
      float x[P];
      read_tile(values + c, x);
      store_pack(out + c, min(P, width - c), packed, x);
    }
    if (lane == 0 && commit.mask != nullptr) updated += mark(commit, p[0]);
  }
  return updated;
}

// What commit will read of the listed pixels is fetched from memory in the meantime.
template <class T, int M>
__device__ void fetch_operands(const Commit& commit, const Listed<M>& listed, int begin, int end, int first,
                               int width) {
  const auto fetch = [&](const void* data, int64_t pitch) {
    for (int row = begin + threadIdx.x; row < end; row += blockDim.x)
      for (int c = 0; c < width; c += 128 / sizeof(T))
        asm volatile(
            "prefetch.global.L2 [%0];" ::"l"(static_cast<const T*>(data) + listed.pixel[row] * pitch + first + c));
  };
  for (int s = 0; s < commit.step_count; ++s)
    if (commit.steps[s].kind == Operand::per_pixel) fetch(commit.steps[s].operand, commit.steps[s].pitch);
  if (asks(commit)) fetch(commit.out.data, commit.out.pitch);
}

// The end of a kernel that committed: notes how many pixels of the node were computed, and adds up what the threads of
// this block have counted as updated. All of them call it, once.
__device__ inline void end_commit(const Commit& commit, int computed, int updated) {
  __shared__ int total;
  if (commit.decision == Decision::always) return;
  if (threadIdx.x == 0) total = 0;
  __syncthreads();
  if (updated) atomicAdd(&total, updated);
  __syncthreads();
  if (threadIdx.x != 0) return;
  auto* tally = reinterpret_cast<unsigned long long*>(commit.tally);
  if (blockIdx.x == 0) {
    commit.tally[kComputed] = computed;
    atomicAdd(tally + kComputedSum, static_cast<unsigned long long>(computed));  // does not wait for what stands there
    atomicAdd(tally + kFrames, 1ull);
  }
  if (total == 0) return;
  atomicAdd(tally + kUpdated, static_cast<unsigned long long>(total));
  atomicAdd(tally + kUpdatedSum, static_cast<unsigned long long>(total));
}

}  // namespace deltafx::cuda
