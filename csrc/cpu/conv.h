// Convolution of the listed pixels: out[p] = bias + sum over taps of weight[tap] * x[q(p, tap)], for any window.
//
// A sum is made of pieces, whose terms lie side by side in the input; for some pixels at a time, pointers to the pieces of
// each meet one packed panel of weights after another. What does not lie side by side is gathered. Each sum runs over taps
// and channels in one order, in runs of one length, so its bits depend on nothing but the pixel's own inputs.
#pragma once

constexpr int kPanel = kPanelVecs * Vec::width;
// Pixels of one tile at most, for large weights and for others: so often a panel is used once it is in the cache.
constexpr int64_t kRows = divide_up(192, kTileRows) * kTileRows, kFewRows = kRows / 2;
static_assert(kFewRows % kTileRows == 0, "whole microkernels");
constexpr int64_t kBlocks = kRows / kTileRows;
constexpr int64_t kDepth = 512;  // terms of one pass at most: a panel and the rows stay in the second-level cache
constexpr int64_t kShared = 1 << 18;  // weights: with more, few pixels are shared by output channels, not by pixels
constexpr int64_t kNear = 1 << 17;  // weights: not more stay in the second-level cache with all else

alignas(64) static const float kNothing[kRun] = {};  // the terms of a tap that is not there

// What a microkernel multiplies: pieces, and for each of them the rows of kTileRows pixels.
struct Block {
  const float* const* rows;  // [pieces][kTileRows]; the first is null where a piece is there for no pixel
  const Piece* pieces;
  const Piece* end;
};

// What is to be fetched meanwhile, `step` bytes with each term of the sum: what is multiplied next, and what is compared
// and written over at the end.
struct Soon {
  const char* next;
  int64_t next_step;
  const char* old;
  int64_t old_step;
};
constexpr int kParts = 4;  // in which the next panel is fetched, one with each block

// Memory that many calls of a microkernel fetch, each a part; with every term of its sum, a few bytes.
struct Region {
  const char* from = nullptr;
  int64_t size = 0, of_call = 0;

  static Region of(const void* from, int64_t size, int64_t calls) {
    return {static_cast<const char*>(from), size, divide_up(size, calls)};
  }
};

// What the commit of a tile reads: old values, and operands of its steps.
struct Regions {
  static constexpr int kMost = 3;
  Region regions[kMost];
  int count = 0;
  int64_t of_call = 0;

  void add(const Matrix& rows, const int32_t* pixels, int n, int64_t calls) {
    if (count == kMost || pixels[n - 1] - pixels[0] != n - 1) return;
    const int64_t pixel = rows.pitch * (rows.dtype == Dtype::bfloat16 ? 2 : 4);
    regions[count] = Region::of(static_cast<const char*>(rows.data) + pixels[0] * pixel, n * pixel, calls);
    of_call += regions[count++].of_call;
  }
  // Where the part of a call begins.
  const char* part(int64_t call, const char* otherwise) const {
    int64_t at = call * of_call;
    for (int i = 0; i < count; at -= regions[i++].size)
      if (at < regions[i].size) return regions[i].from + at;
    return otherwise;
  }
};

// R rows times V vectors of one panel, added to the bias or, where that is null, to what stands in `out`, and bounded.
// The sums of a run stay in registers.
template <int R, int V>
void multiply(Block block, const float* panel, Soon soon, const float* bias, const Bounds& bounds, float* out,
              int64_t out_stride) {
  const Piece* piece = block.pieces;
  const float* const* rows = block.rows;
  do {
    Vec sum[R][V];
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) sum[r][v] = Vec::all(0.0f);
    do {
      const int64_t terms = piece->terms();
      if (rows[0] == nullptr) {
        rows += kTileRows, panel += terms * kPanel;
        continue;
      }
      const float* a[R];
      for (int r = 0; r < R; ++r) a[r] = rows[r];
      rows += kTileRows;
      for (int64_t k = 0; k < terms; ++k, panel += kPanel) {
        __builtin_prefetch(soon.next, 0, 2);
        __builtin_prefetch(soon.old, 1, 3);
        soon.next += soon.next_step, soon.old += soon.old_step;
        Vec weight[V];
        for (int v = 0; v < V; ++v) weight[v] = Vec::load(panel + v * Vec::width);
        for (int r = 0; r < R; ++r) {
          const Vec x = Vec::all(a[r][k]);
          for (int v = 0; v < V; ++v) sum[r][v] = fma(x, weight[v], sum[r][v]);
        }
      }
    } while (!(piece++)->ends);
    // Unrolled, so that the sums stay in registers here too.
    const int64_t from_stride = bias ? 0 : out_stride;
    const float* from = bias ? bias : out;
    if (piece == block.end) {
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v)
          bounds(sum[r][v] + Vec::load(from + r * from_stride + v * Vec::width)).store(out + r * out_stride + v * Vec::width);
      return;
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v)
        (sum[r][v] + Vec::load(from + r * from_stride + v * Vec::width)).store(out + r * out_stride + v * Vec::width);
    bias = nullptr;
  } while (true);
}

// The last rows, fewer than a whole tile: the same sums in the same order.
template <int R, int V>
void multiply_rest(int rows, Block block, const float* panel, Soon soon, const float* bias, const Bounds& bounds,
                   float* out, int64_t out_stride) {
  if constexpr (R > 0) {
    if (rows == R) return multiply<R, V>(block, panel, soon, bias, bounds, out, out_stride);
    multiply_rest<R - 1, V>(rows, block, panel, soon, bias, bounds, out, out_stride);
  }
}

// The pieces that one pass adds, and where their terms begin.
struct Pass {
  const Piece* pieces;
  const Piece* end;
  int64_t start, terms;
  int64_t input_step = 0, old_step = 0;  // bytes to be fetched with each term
};

// The pass after `pass`, of whole runs; that of no pieces is the end.
inline Pass next_pass(const Conv& conv, const Pass& pass) {
  const Piece* const end = conv.pieces + conv.piece_count;
  Pass next{pass.end, pass.end, pass.start + pass.terms, 0};
  for (int64_t run = 0; next.end < end; run = 0) {
    const Piece* piece = next.end;
    do run += piece->terms();
    while (!(piece++)->ends);
    if (next.terms > 0 && next.terms + run > kDepth) break;
    next.end = piece, next.terms += run;
  }
  return next;
}

// Gathers a piece of a pixel that is not a pixel inside.
template <class T>
void gather_piece(const Conv& conv, const Piece& piece, const T* x, const Place& place, float* to) {
  const Window& w = conv.window;
  const int32_t y = w.rows[place.y * w.kernel_rows + piece.row];
  const int32_t* xs = w.columns + place.x * w.kernel_columns + piece.column;
  for (int32_t i = 0; i < piece.taps; ++i, to += piece.channels) {
    const bool there = y >= 0 && xs[i] >= 0;
    const T* from = x + ((place.n * w.in_rows + y) * w.in_columns + xs[i]) * conv.x.pitch + piece.channel;
    for (int64_t c = 0; c < piece.channels; c += Vec::width) {
      const int n = static_cast<int>(least(Vec::width, piece.channels - c));
      (there ? load_some(from + c, n) : Vec::all(0.0f)).store(to + c, n);
    }
  }
}

// Points to the pieces of `n` pixels, or gathers them at `spare`; `place` is the pixel before, and then the last one.
template <class T>
void point_rows(const Conv& conv, int64_t group, const Pass& pass, const int32_t* pixels, int n, Place& place,
                const float** rows, float* spare) {
  constexpr bool readable = sizeof(T) == sizeof(float);  // where they lie
  const Window& w = conv.window;
  const T* x = static_cast<const T*>(conv.x.data) + group * conv.in_per_group;
  bool outside = true;
  for (int r = 0; r < n; ++r) {
    place = place.at(pixels[r], w);
    const float** to = rows + r;
    if (readable && w.y.has(place.y) && w.x.has(place.x)) {
      const float* from = reinterpret_cast<const float*>(x) +
          ((place.n * w.in_rows + w.y.first(place.y)) * w.in_columns + w.x.first(place.x)) * conv.x.pitch;
      for (const Piece* piece = pass.pieces; piece < pass.end; ++piece, to += kTileRows) *to = from + piece->offset;
      outside = false;
      continue;
    }
    for (const Piece* piece = pass.pieces; piece < pass.end; ++piece, to += kTileRows) {
      const int32_t y = w.rows[place.y * w.kernel_rows + piece->row];
      const int32_t column = w.columns[place.x * w.kernel_columns + piece->column];
      if (piece->taps == 1 && (y < 0 || column < 0)) {
        *to = kNothing;
      } else if (readable && piece->taps == 1) {
        *to = reinterpret_cast<const float*>(x) + ((place.n * w.in_rows + y) * w.in_columns + column) * conv.x.pitch +
              piece->channel;
      } else {
        gather_piece(conv, *piece, x, place, spare);
        *to = spare;
        spare += piece->terms();
      }
    }
  }
  if (!outside) return;
  for (const Piece* piece = pass.pieces; piece < pass.end; ++piece, rows += kTileRows) {
    bool there = false;
    for (int r = 0; r < n; ++r) there |= rows[r] != kNothing;
    if (!there) rows[0] = nullptr;
  }
}

// A tile: a few pixels, whose new values [rows, channels] are computed.
struct Tile {
  int rows;
  float* values;
  int64_t stride;
  Region input;  // of the next tile; empty where weights are fetched instead
  Regions old;
};

template <int V>
void multiply_blocks(const Tile& tile, const Pass& pass, const Block* blocks, int64_t call, const float* weight,
                     const float* next, const float* bias, int64_t channel, const Bounds& bounds) {
  const char* const nothing = reinterpret_cast<const char*>(weight);
  Soon soon{nothing, pass.input_step, nothing, pass.old_step};
  call *= divide_up(tile.rows, kTileRows);
  for (int b = 0, r = 0; r < tile.rows; ++b, r += kTileRows) {
    if (tile.input.size > 0) {
      soon.next = tile.input.from + (call + b) * tile.input.of_call;
    } else {
      soon.next = b < kParts ? reinterpret_cast<const char*>(next + b * pass.terms * (kPanel / kParts)) : nothing;
      soon.next_step = b < kParts ? kPanel / kParts * sizeof(float) : 0;
    }
    if (pass.old_step > 0) soon.old = tile.old.part(call + b, nothing);
    const int n = static_cast<int>(least(kTileRows, tile.rows - r));
    float* to = tile.values + r * tile.stride + channel;
    if (n == kTileRows) multiply<kTileRows, V>(blocks[b], weight, soon, bias, bounds, to, tile.stride);
    else multiply_rest<kTileRows - 1, V>(n, blocks[b], weight, soon, bias, bounds, to, tile.stride);
  }
}

// One panel of output channels for all rows. A panel's last channels may not exist: they are written beyond those of the
// group, where the next group, or nobody, writes later. A last panel that is at most half full is multiplied by halves.
inline void multiply_panel(const Conv& conv, int64_t group, int64_t panel, const Pass& pass, const Block* blocks,
                           const Bounds& bounds, const Tile& tile) {
  const int64_t depth = conv.in_per_group * conv.window.kernel_rows * conv.window.kernel_columns;
  const int64_t panels = divide_up(conv.out_per_group, kPanel), first = panel * kPanel;
  const int64_t channel = group * conv.out_per_group + first, there = conv.out_per_group - first;
  float part[kPanel] = {};
  const float* bias = conv.bias ? conv.bias + channel : kNothing;
  if (conv.bias && there < kPanel) {
    std::memcpy(part, bias, there * sizeof(float));
    bias = part;
  }
  if (pass.start > 0) bias = nullptr;
  const float* weight = conv.weight + ((group * panels + panel) * depth + pass.start) * kPanel;
  const float* next = weight + (panel + 1 < panels ? depth * kPanel : 0);
  const int64_t call = group * panels + panel;
  if (there <= Vec::width) multiply_blocks<1>(tile, pass, blocks, call, weight, next, bias, channel, bounds);
  else multiply_blocks<kPanelVecs>(tile, pass, blocks, call, weight, next, bias, channel, bounds);
}

// The input that pixels after `pixel` read and others before them do not: that of the window's last row.
template <class T>
Region input_after(const Conv& conv, int32_t pixel, int rows, int64_t calls) {
  const Window& w = conv.window;
  const Place place = Place().at(pixel, w);
  if (!w.y.has(place.y) || !w.x.has(place.x)) return {};
  const int64_t row = w.y.first(place.y) + (w.kernel_rows - 1) * w.y.step;
  const int64_t column = w.x.first(place.x) + (w.kernel_columns - 1) * w.x.step + w.x.stride;
  const T* x = static_cast<const T*>(conv.x.data) + ((place.n * w.in_rows + row) * w.in_columns + column) * conv.x.pitch;
  return Region::of(x, static_cast<int64_t>(rows * w.x.stride * conv.x.pitch * sizeof(T)), calls);
}

// Multiplications of a block with a panel.
inline int64_t calls_of(const Conv& conv, int rows) {
  return conv.groups * divide_up(conv.out_per_group, kPanel) * divide_up(rows, kTileRows);
}

// What the commit of a tile will read.
inline Regions compared(const Commit& commit, const int32_t* pixels, int rows, int64_t calls) {
  Regions old;
  old.add(commit.out, pixels, rows, calls);
  for (int64_t i = 0; i < commit.step_count; ++i)
    if (commit.steps[i].kind == Operand::per_pixel) old.add(commit.steps[i].operand, pixels, rows, calls);
  return old;
}

// Computes panels [first, end) of the pixels of a tile.
template <class T>
void convolve_rows(const Conv& conv, const Bounds& bounds, const int32_t* pixels, int64_t first, int64_t end, const Tile& tile) {
  const int rows = tile.rows;
  const int64_t spare_size = kTileRows * kDepth;  // of a block
  float* spare = scratch(1, kBlocks * spare_size);
  const float** pointers = reinterpret_cast<const float**>(scratch(4, 2 * kBlocks * spare_size));
  Block blocks[kBlocks];
  for (int64_t group = 0; group < conv.groups; ++group) {
    Pass pass = next_pass(conv, {conv.pieces, conv.pieces, 0, 0});
    for (Pass next; pass.terms > 0; pass = next) {
      next = next_pass(conv, pass);
      Place place;
      for (int b = 0, r = 0; r < rows; ++b, r += kTileRows) {
        const float** to = pointers + b * kTileRows * (pass.end - pass.pieces);
        point_rows<T>(conv, group, pass, pixels + r, static_cast<int>(least(kTileRows, rows - r)), place, to,
                      spare + b * spare_size);
        blocks[b] = {to, pass.pieces, pass.end};
      }
      const bool last = next.terms == 0;
      pass.input_step = divide_up(tile.input.of_call, pass.terms);
      pass.old_step = last ? divide_up(tile.old.of_call, pass.terms) : 0;
      for (int64_t panel = first; panel < end; ++panel)
        multiply_panel(conv, group, panel, pass, blocks, last ? bounds : Bounds(), tile);
    }
  }
}

template <class T>
int64_t convolve_as(const Conv& conv, Job job) {
  const Bounds bounds = take_bounds(job.commit.steps, job.commit.step_count);
  const int64_t depth = conv.in_per_group * conv.window.kernel_rows * conv.window.kernel_columns;
  const int64_t panels = divide_up(conv.out_per_group, kPanel), weights = depth * conv.out_per_group;
  const int64_t threads = job.pool.threads;

  // Few pixels and many weights: the threads share the output channels, so that each reads but its part of the weights.
  const int64_t many = job.count <= kTileRows ? kShared / 4 : kShared;
  if (threads > 1 && job.count <= kRows && conv.groups == 1 && panels > threads && weights >= many) {
    const int rows = static_cast<int>(job.count);
    const int64_t stride = tile_stride(job.commit.out.channels), share = divide_up(panels, threads);
    float* tile = scratch(0, rows * stride);
    spread(job.pool, divide_up(panels, share), [&](int64_t part) {
      convolve_rows<T>(conv, bounds, job.pixels, part * share, least(panels, (part + 1) * share),
                       {rows, tile, stride, {}, compared(job.commit, job.pixels, rows, calls_of(conv, rows))});
    });
    return commit_shared(job, tile, stride, rows);
  }

  const bool near = weights <= kNear;
  const int64_t few = near_rows(job.commit.out.channels) / kTileRows * kTileRows;
  const int64_t together = near ? most(kTileRows, few) : weights > 2 * kShared ? kRows : kFewRows;
  return for_each_tile(job, kTileRows, together, weights * conv.groups,
                       [&](const int32_t* pixels, int rows, float* tile, int64_t stride, bool first) {
                         const int64_t calls = calls_of(conv, rows);
                         const Region input = near && !first ? input_after<T>(conv, pixels[rows - 1], rows, calls) : Region{};
                         convolve_rows<T>(conv, bounds, pixels, 0, panels,
                                          {rows, tile, stride, input, compared(job.commit, pixels, rows, calls)});
                       });
}

inline int64_t convolve(const Conv& conv, const Job& job) {
  return conv.x.dtype == Dtype::bfloat16 ? convolve_as<Bfloat16>(conv, job) : convolve_as<float>(conv, job);
}
