// The loop that every kernel shares: pixels, a few at a time, into a tile of float32 in the cache, and commit.
#pragma once

constexpr int64_t kTileFloats = 256 * 1024;  // of one tile at most; weights that are read again cost more than its spill
constexpr int64_t kAlone = 1 << 16;  // multiplications in all: with fewer, waking another thread takes longer

// The floats of one tile row: whole vectors, one more so that a kernel may write beyond the last channel.
inline int64_t tile_stride(int64_t channels) { return (divide_up(channels, Vec::width) + kPanelVecs) * Vec::width; }

// Pixels of a tile that stays in the first-level cache.
inline int64_t near_rows(int64_t channels) { return least(64, most(4, 4096 / tile_stride(channels))); }

// Runs f(task) for every task on the pool. `f` must not throw.
template <class F>
void spread(const Pool& pool, int64_t tasks, F f) {
  if (tasks <= 1 || pool.threads == 1) {
    for (int64_t task = 0; task < tasks; ++task) f(task);
    return;
  }
  pool.run(tasks, [](void* context, int64_t task) { (*static_cast<F*>(context))(task); }, &f);
}

// A job divided among threads: as many pixels for each, whole multiples of `whole`.
struct Shares {
  int64_t threads, size;

  // `cost` is about how many multiplications a pixel takes.
  static Shares of(const Job& job, int64_t whole, int64_t cost) {
    const int64_t threads = job.count * cost < kAlone ? 1 : job.pool.threads;
    return {threads, divide_up(divide_up(job.count, threads), whole) * whole};
  }
  // Pixels of a tile, of which a share has tiles of about one size, whole multiples of `whole` and `at_most` so many.
  int64_t rows(int64_t whole, int64_t at_most, int64_t stride) const {
    const int64_t fitting = most(1, least(at_most, kTileFloats / stride));
    return divide_up(divide_up(size, divide_up(size, fitting)), whole) * whole;
  }
  // Runs f(first, end) for every share on the pool, and adds up what it returns.
  template <class F>
  int64_t run(const Job& job, F f) const {
    std::atomic<int64_t> total{0};
    spread({static_cast<int>(threads), job.pool.run}, divide_up(job.count, size),
           [&](int64_t part) { total += f(part * size, least((part + 1) * size, job.count)); });
    return total;
  }
};

// fill(pixels, rows, tile, stride, first) writes the new values of `rows` pixels, [rows, channels], into the tile;
// `first` is the first of a thread. Tiles are as `Shares` says. Returns how many pixels were updated.
template <class F>
int64_t for_each_tile(const Job& job, int64_t whole, int64_t rows_at_most, int64_t cost, F fill) {
  const int64_t stride = tile_stride(job.commit.out.channels);
  const Shares shares = Shares::of(job, whole, cost);
  const int64_t rows = shares.rows(whole, rows_at_most, stride);
  return shares.run(job, [&](int64_t first, int64_t end) {
    float* tile = scratch(0, rows * stride);
    int64_t found = 0;
    for (int64_t p = first; p < end; p += rows) {
      const int n = static_cast<int>(least(rows, end - p));
      fill(job.pixels + p, n, tile, stride, p == first);
      found += commit_rows(job.commit, tile, stride, job.pixels + p, n);
    }
    return found;
  });
}

// Finishes a tile of the whole job, the threads some rows each.
inline int64_t commit_shared(const Job& job, float* tile, int64_t stride, int rows) {
  const int64_t share = divide_up(rows, job.pool.threads);
  std::atomic<int64_t> updated{0};
  spread(job.pool, divide_up(rows, share), [&](int64_t part) {
    const int64_t first = part * share, n = least(share, rows - first);
    updated += commit_rows(job.commit, tile + first * stride, stride, job.pixels + first, static_cast<int>(n));
  });
  return updated;
}
