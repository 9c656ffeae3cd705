// The loop that every kernel shares: pixels, a few at a time, into a tile of float32 in the cache, and commit.
#pragma once

constexpr int64_t kTileFloats = 64 * 1024;  // of one tile at most: a quarter of the second-level cache

// The floats of one tile row: whole vectors, one more so that a kernel may write beyond the last channel.
inline int64_t tile_stride(int64_t channels) { return (divide_up(channels, Vec::width) + kPanelVecs) * Vec::width; }

// Runs f(task) for every task on the pool. `f` must not throw.
template <class F>
void spread(const Pool& pool, int64_t tasks, F f) {
  if (tasks <= 1 || pool.threads == 1) {
    for (int64_t task = 0; task < tasks; ++task) f(task);
    return;
  }
  pool.run(tasks, [](void* context, int64_t task) { (*static_cast<F*>(context))(task); }, &f);
}


// fill(pixels, rows, tile, stride) writes the new values of `rows` pixels, [rows, channels], into the tile.
// Returns how many pixels were updated.
template <class F>
int64_t for_each_tile(const Job& job, int64_t rows_at_most, F fill) {
  const int64_t stride = tile_stride(job.commit.out.channels);
  const int64_t fitting = most(1, least(rows_at_most, kTileFloats / stride));
  // As many tiles for every thread, of whole microkernels.
  const int64_t wanted = divide_up(divide_up(job.count, fitting), job.pool.threads) * job.pool.threads;
  const int64_t rows = divide_up(divide_up(job.count, wanted), kTileRows) * kTileRows;
  const int64_t tiles = divide_up(job.count, rows);
  std::atomic<int64_t> updated{0};
  spread(job.pool, tiles, [&](int64_t i) {
    const int64_t first = i * rows, n = least(rows, job.count - first);
    float* tile = scratch(0, rows * stride);
    fill(job.pixels + first, static_cast<int>(n), tile, stride);
    updated += commit_rows(job.commit, tile, stride, job.pixels + first, static_cast<int>(n));
  });
  return updated;
}
