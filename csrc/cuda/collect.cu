// The mask rule: which pixels a node must compute in this frame, as an ascending list. In one pass over the output pixels:
// a block evaluates a chunk of them and says how many it has found; what the chunks before it have found is where its part
// of the list begins. Chunks are given out in the order in which blocks start, so that no block waits for one that
// has not started, and the list does not depend on that order.
#include "launch.cuh"
#include "pack.cuh"

namespace deltafx::cuda {
namespace {

constexpr int kThreads = 256, kWords = kChunk / 32;  // words of 32 pixels
constexpr int kFewest = kThreads / 32;                // words of a chunk of a small map, whose pixels have a thread each

// What blocks tell each other, behind Collect::scan. The tag tells this launch's counts from those of the one before.
struct Scan {
  unsigned given, ended;  // chunks; both 0 between launches
  unsigned long long tag;
  unsigned long long found[1];  // by chunk: tag << 32 | count

  __device__ void publish(int chunk, unsigned long long now, int count) {
    *const_cast<volatile unsigned long long*>(&found[chunk]) = now << 32 | static_cast<unsigned>(count);
  }
  __device__ int wait_for(int chunk, unsigned long long now) const {
    unsigned long long word;
    do word = *const_cast<const volatile unsigned long long*>(&found[chunk]);
    while (word >> 32 != now);
    return static_cast<int>(word & 0xffffffffu);
  }
};

// Windows of up to K x K taps, all of whose reads are under way at once.
template <int K>
__device__ bool any_in_window(const uint8_t* mask, const Window& w, int n, int place) {
  const int32_t* rows = w.rows + place / w.out_columns * w.kernel_rows;
  const int32_t* columns = w.columns + place % w.out_columns * w.kernel_columns;
  const uint8_t* image = mask + static_cast<int64_t>(n) * w.in_rows * w.in_columns;
  int row[K], column[K], set = 0;
#pragma unroll
  for (int i = 0; i < K; ++i) {
    row[i] = i < w.kernel_rows ? rows[i] : -1;
    column[i] = i < w.kernel_columns ? columns[i] : -1;
  }
#pragma unroll
  for (int i = 0; i < K; ++i)
#pragma unroll
    for (int j = 0; j < K; ++j)
      if (row[i] >= 0 && column[j] >= 0) set |= image[row[i] * w.in_columns + column[j]];
  return set != 0;
}

__device__ bool any_in_large_window(const uint8_t* mask, const Window& w, int n, int place) {
  const int32_t* rows = w.rows + place / w.out_columns * w.kernel_rows;
  const int32_t* columns = w.columns + place % w.out_columns * w.kernel_columns;
  const uint8_t* image = mask + static_cast<int64_t>(n) * w.in_rows * w.in_columns;
  int set = 0;
  for (int i = 0; i < w.kernel_rows; ++i)
    for (int j = 0; j < w.kernel_columns; ++j)
      if (rows[i] >= 0 && columns[j] >= 0) set |= image[rows[i] * w.in_columns + columns[j]];
  return set != 0;
}

// `news`: the sources in which something is set, bit by bit.
__device__ bool is_candidate(const Collect& job, unsigned long long news, int p, int plane) {
  const int n = p / plane, place = p % plane;
  bool set = job.refresh[n] != 0;
  for (; news != 0; news &= news - 1) {
    const Source& source = job.sources[__ffsll(news) - 1];
    if (source.relation == Relation::same) set |= source.mask[p] != 0;
    if (source.relation == Relation::per_stream) set |= source.mask[n] != 0;
    if (source.relation != Relation::window) continue;
    const int taps = max(job.window.kernel_rows, job.window.kernel_columns);
    set |= taps == 1   ? any_in_window<1>(source.mask, job.window, n, place)
           : taps <= 3 ? any_in_window<3>(source.mask, job.window, n, place)
           : taps <= 7 ? any_in_window<7>(source.mask, job.window, n, place)
                       : any_in_large_window(source.mask, job.window, n, place);
  }
  return set;
}

// Of the streams [first, first + size): whether anything is set in a source that is one output pixel's whole input.
__device__ void see_whole_streams(const Collect& job, unsigned long long news, int first, int size, unsigned* words) {
  for (; news != 0; news &= news - 1) {
    const Source& source = job.sources[__ffsll(news) - 1];
    if (source.relation != Relation::whole) continue;
    for (int n = first; n < min(first + size, job.streams); ++n) {
      const uint8_t* mask = source.mask + static_cast<int64_t>(n) * source.pixels;
      int set = 0;
      if (source.pixels % 16 == 0) {
        for (int k = threadIdx.x; k < source.pixels / 16; k += kThreads) {
          const uint4 v = reinterpret_cast<const uint4*>(mask)[k];
          set |= (v.x | v.y | v.z | v.w) != 0;
        }
      } else {
        for (int k = threadIdx.x; k < source.pixels; k += kThreads) set |= mask[k];
      }
      if (__syncthreads_or(set) && threadIdx.x == 0) words[(n - first) / 32] |= 1u << (n - first) % 32;
    }
  }
}

__global__ void __launch_bounds__(kThreads)
    collect_kernel(const __grid_constant__ Collect job, int size) {  // pixels of a chunk
  __shared__ int chunk, before, found;
  __shared__ unsigned words[kWords];
  __shared__ int starts[kWords];
  __shared__ unsigned long long news;
  begin_kernel();
  Scan* scan = reinterpret_cast<Scan*>(job.scan);
  const unsigned long long tag = *const_cast<volatile unsigned long long*>(&scan->tag) + 1;
  if (threadIdx.x == 0) {
    chunk = static_cast<int>(atomicAdd(&scan->given, 1u));
    before = 0, news = 0;
  }
  if (threadIdx.x < kWords) words[threadIdx.x] = 0;
  __syncthreads();
  if (threadIdx.x < job.source_count && job.sources[threadIdx.x].tally[kUpdated] != 0)
    atomicOr(&news, 1ull << threadIdx.x);
  const int plane = job.window.out_rows * job.window.out_columns, all = job.streams * plane;
  const int first = chunk * size, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  __syncthreads();
  see_whole_streams(job, news, first, size, words);
  __syncthreads();
  for (int word = warp; word < size / 32; word += kThreads / 32) {
    const int p = first + word * 32 + lane;
    bool set = (words[word] >> lane & 1u) != 0;
    if (p < all && !set) set = is_candidate(job, news, p, plane);
    const unsigned bits = __ballot_sync(0xffffffffu, set);
    if (p < all) job.mask[p] = job.passes_on && set;
    if (lane == 0) words[word] = bits;
  }
  __syncthreads();
  if (warp == 0) {
    const int own = __popc(words[lane]);
    int sum = own;
    for (int o = 1; o < 32; o *= 2) {
      const int other = __shfl_up_sync(0xffffffffu, sum, o);
      if (lane >= o) sum += other;
    }
    starts[lane] = sum - own;
    if (lane == 31) {
      found = sum;
      scan->publish(chunk, tag, sum);
    }
  }
  __syncthreads();
  const bool last = first + size >= all;
  if (found != 0 || last) {
    int sum = 0;
    for (int other = threadIdx.x; other < chunk; other += kThreads) sum += scan->wait_for(other, tag);
    if (sum) atomicAdd(&before, sum);
    __syncthreads();
  }
  for (int word = warp; word < size / 32; word += kThreads / 32) {
    if ((words[word] >> lane & 1u) == 0) continue;
    const int place = before + starts[word] + __popc(words[word] & ((1u << lane) - 1));
    job.pixels[place] = first + word * 32 + lane;
    job.claims[place] = 0;
  }
  if (threadIdx.x != 0) return;
  if (last) {
    const int total = before + found;
    *job.count = total;
    job.tally[kComputed] = total;
    job.tally[kComputedSum] += total;
    job.tally[kFrames] += 1;
    job.tally[kUpdated] = job.passes_on ? total : 0;
    if (job.passes_on) job.tally[kUpdatedSum] += total;
  }
  __threadfence();
  if (atomicAdd(&scan->ended, 1u) == gridDim.x - 1) {
    scan->given = scan->ended = 0;
    scan->tag = tag;
  }
}
static_assert(kMaxSources <= 64 && kMaxSources <= kThreads, "a bit and a thread for each source");
static_assert(kWords == 32, "one warp adds up the words of a chunk");

}  // namespace

cudaError_t collect(const Collect& job, cudaStream_t stream) {
  const int64_t all = static_cast<int64_t>(job.streams) * job.window.out_rows * job.window.out_columns;
  const int size = all <= kSmallMap ? kFewest * 32 : kChunk;
  return launch(&collect_kernel, divide_up(all, size), kThreads, 0, stream, job, size);
}

}  // namespace deltafx::cuda
