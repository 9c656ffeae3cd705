// The mask rule for kernels that cannot find their pixels by themselves: because there are many, because the window has
// no simple form, or because nothing but masks is computed. A block evaluates a unit of the grid.
#include <algorithm>

#include "candidates.cuh"

namespace deltafx::cuda {
namespace {

constexpr int kThreads = 256;

// 32 pixels whose windows stand in tables.
__device__ uint32_t looked_up(const Source& source, const Window& w, const Grid& grid, int row, int word) {
  const int n = row / grid.rows;
  const int32_t* rows = w.rows + (row - n * grid.rows.by) * w.kernel_rows;
  const uint8_t* image = source.mask + static_cast<int64_t>(n) * w.in_rows * w.in_columns;
  uint32_t bits = 0;
  for (int x = word * 32; x < min(word * 32 + 32, grid.columns); ++x) {
    const int32_t* columns = w.columns + x * w.kernel_columns;
    int set = 0;
    for (int i = 0; i < w.kernel_rows; ++i)
      for (int j = 0; j < w.kernel_columns && !set; ++j)
        if (rows[i] >= 0 && columns[j] >= 0) set = image[rows[i] * w.in_columns + columns[j]];
    bits |= static_cast<uint32_t>(set != 0) << (x - word * 32);
  }
  return bits;
}

// Whether anything is set in a stream's mask. All threads of the block call it.
__device__ bool any_in_stream(const Source& source, int n) {
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
  return __syncthreads_or(set) != 0;
}

__global__ void __launch_bounds__(kThreads) collect_kernel(const __grid_constant__ Collect job) {
  extern __shared__ uint32_t memory[];
  __shared__ int sums[32];
  begin_kernel();
  const Grid& grid = job.rule.grid;
  const Unit unit(grid, blockIdx.x);
  const Rows rows = unit.rows;
  const int words_in_row = grid.row_words.by, count = (rows.end - rows.begin) * words_in_row;
  uint32_t* words = memory;
  evaluate(job.rule, rows, words, memory + grid.unit_rows * words_in_row);
  for (int s = 0; s < job.rule.source_count; ++s) {
    const Source& source = job.rule.sources[s];
    if (source.relation == Relation::whole && any_in_stream(source, rows.begin) && threadIdx.x == 0) words[0] = 1;
    if (source.relation != Relation::window || job.rule.row_axis.stride != 0) continue;
    for (int k = threadIdx.x; k < count; k += kThreads)
      words[k] |= looked_up(source, job.window, grid, rows.begin + k / grid.row_words, k % grid.row_words);
  }
  __syncthreads();
  const int each = (count + kThreads - 1) / kThreads, first = threadIdx.x * each, last = min(first + each, count);
  int own = 0;
  for (int k = first; k < last; ++k) own += __popc(words[k]);
  const Sums found(own, sums);
  int place = unit.first + found.before;
  for (int k = first; k < last; ++k) {
    const int left = unit.first + k / grid.row_words * grid.columns + k % grid.row_words * 32;
    for (uint32_t rest = words[k]; rest != 0; rest &= rest - 1) job.pixels[place++] = left + __ffs(rest) - 1;
  }
  if (threadIdx.x == 0) job.found[blockIdx.x] = found.total;
  if (job.mask == nullptr) return;
  for (int k = threadIdx.x; k < count * 32; k += kThreads) {
    const int row = k / 32 / grid.row_words, x = k - row * words_in_row * 32, p = unit.first + row * grid.columns + x;
    const int y = (rows.begin + row) % grid.rows;
    if (x < grid.columns && y * grid.columns + x < grid.plane.by) job.mask[p] = words[k / 32] >> k % 32 & 1u;
  }
  if (threadIdx.x != 0) return;
  auto* tally = reinterpret_cast<unsigned long long*>(job.tally);
  if (blockIdx.x == 0) atomicAdd(tally + kFrames, 1ull);
  if (found.total == 0) return;
  for (const Tally each : {kComputed, kUpdated, kComputedSum, kUpdatedSum})
    atomicAdd(tally + each, static_cast<unsigned long long>(found.total));
}

__global__ void __launch_bounds__(kThreads) clear_kernel(const Piece* pieces) {
  begin_kernel();
  const Piece piece = pieces[blockIdx.x];
  const int64_t packs = reinterpret_cast<uintptr_t>(piece.begin) % 16 == 0 ? piece.bytes / 16 : 0;
  for (int64_t k = threadIdx.x; k < packs; k += kThreads) reinterpret_cast<uint4*>(piece.begin)[k] = uint4{};
  for (int64_t k = packs * 16 + threadIdx.x; k < piece.bytes; k += kThreads) piece.begin[k] = 0;
}

}  // namespace

cudaError_t collect(const Collect& job, cudaStream_t stream) {
  const Rule<kMaxSources>& rule = job.rule;
  const bool windowed = std::any_of(rule.sources, rule.sources + rule.source_count,
                                    [](const Source& source) { return source.relation == Relation::window; });
  const int64_t shared = unit_bytes(rule.grid, windowed, rule.row_axis, rule.column_axis);
  return launch(&collect_kernel, Blocks{rule.grid.units(), kThreads, static_cast<size_t>(shared)}, stream, job);
}

cudaError_t clear(const Piece* pieces, int64_t count, cudaStream_t stream) {
  return launch(&clear_kernel, Blocks{count, kThreads, 0}, stream, pieces);
}

}  // namespace deltafx::cuda
