// The end of every kernel: pointwise steps, then for each pixel of a tile: compare with what was propagated last,
// withhold or write, set the mask. Reads the tile, the operands of the steps and the old values once; writes what changed.
#pragma once

#include "steps.cuh"

namespace deltafx::cuda {

constexpr unsigned kWarp = 0xffffffffu;

// A pack of a tile, whose rows begin at multiples of 16 bytes.
template <int P>
__device__ inline void read_tile(const float* from, float (&x)[P]) {
#pragma unroll
  for (int i = 0; i < P; i += 4) {
    const float4 four = *reinterpret_cast<const float4*>(from + i);
    x[i] = four.x, x[i + 1] = four.y, x[i + 2] = four.z, x[i + 3] = four.w;
  }
}

template <int P>
__device__ inline void write_tile(float* to, const float (&x)[P]) {
#pragma unroll
  for (int i = 0; i < P; i += 4)
    *reinterpret_cast<float4*>(to + i) = make_float4(x[i], x[i + 1], x[i + 2], x[i + 3]);
}

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

// Finishes the rows of a tile: channels [first, first + width) of the listed pixels, whose new values stand in
// tile[row * stride + channel - first]. `place` is where in the list the tile begins. A row is shared by some lanes of a
// warp. All threads of the block call it, between barriers; returns how many pixels this thread has counted as updated.
template <class T>
__device__ int commit_rows(const Commit& commit, float* tile, int stride, const int32_t* pixels, int rows, int place,
                           int first, int width) {
  constexpr int P = kPack<T>;
  int lanes = 1;
  while (lanes < 32 && lanes * P < width) lanes *= 2;
  const bool even = first % P == 0;  // the first channel of a group may lie anywhere
  const int lane = threadIdx.x % lanes, together = blockDim.x / lanes, begin = threadIdx.x / lanes;
  int updated = 0;
  for (int from = 0; from < rows; from += together) {  // all lanes of a warp stay together: they exchange below
    const int row = from + begin;
    const bool active = row < rows;
    const int p = active ? pixels[row] : 0, stream = p / commit.pixels_per_stream;
    float* values = tile + row * stride;
    T* out = static_cast<T*>(commit.out.data) + p * commit.out.pitch + first;
    const bool asks = commit.decision == Decision::equal || commit.decision == Decision::norm;
    Change change;
    if (active)
      for (int c = lane * P; c < width; c += lanes * P) {
        const int n = min(P, width - c);
        float x[P], old[P];
        read_tile(values + c, x);
        for (int s = 0; s < commit.step_count; ++s) apply_step<T>(commit.steps[s], p, stream, first + c, n, even, x);
        map(x, [](float v) { return number(rounded<T>(v)); });  // what would be kept
        write_tile(values + c, x);
        if (asks) {
          load_pack(out + c, n, commit.out.packed && even, old);
#pragma unroll
          for (int i = 0; i < P; ++i)
            if (i < n) change.see(x[i], old[i]);
        }
      }
    if (asks) change.unite(lanes);
    if (!active) continue;
    bool update;
    if (commit.decision == Decision::always || commit.refresh[stream]) update = true;
    else if (commit.decision == Decision::prescribed) update = commit.forced[p] != 0;
    else update = commit.decision == Decision::equal ? change.differs : change.exceeds(commit);
    if (!update) continue;
    for (int c = lane * P; c < width; c += lanes * P) {
      float x[P];
      read_tile(values + c, x);
      store_pack(out + c, min(P, width - c), commit.out.packed && even, x);
    }
    if (lane == 0 && commit.mask != nullptr) {
      commit.mask[p] = 1;
      updated += commit.claims == nullptr || atomicExch(&commit.claims[place + row], 1) == 0;
    }
  }
  return updated;
}

// Adds what the threads of a block have counted to the tally. All of them call it, once, at their end.
__device__ inline void count_updated(const Commit& commit, int updated) {
  __shared__ int total;
  if (threadIdx.x == 0) total = 0;
  __syncthreads();
  if (updated) atomicAdd(&total, updated);
  __syncthreads();
  if (threadIdx.x != 0 || total == 0) return;
  auto* tally = reinterpret_cast<unsigned long long*>(commit.tally);
  atomicAdd(tally + kUpdated, static_cast<unsigned long long>(total));
  atomicAdd(tally + kUpdatedSum, static_cast<unsigned long long>(total));
}

}  // namespace deltafx::cuda
