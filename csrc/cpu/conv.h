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

// How terms are multiplied: one by one as float32, whatever they are kept as. `Pairs`, which comes with Vec where the
// processor has it, multiplies bfloat16 in pairs, packed likewise, and adds them up as float32.
struct Singles {
  using Term = float;
  using Weights = Vec;
  static constexpr bool kThere = true;
  static constexpr int64_t kTogether = 1;

  static Vec all(const float* x, int64_t k) { return Vec::all(x[k]); }
  static Vec load(const float* weights) { return Vec::load(weights); }
  static Vec add(Vec sum, Vec x, Vec weights) { return fma(x, weights, sum); }
};

template <class M>
const typename M::Term* nothing() {
  return reinterpret_cast<const typename M::Term*>(kNothing);
}

// What a microkernel multiplies: pieces, and for each of them the rows of kTileRows pixels.
template <class M>
struct Block {
  const typename M::Term* const* rows;  // [pieces][kTileRows]; the first is null where a piece is there for no pixel
  const Piece* pieces;
  const Piece* end;
};

// What is to be fetched meanwhile, so many bytes with each step of the sum: what is multiplied next, and what is
// compared and written over at the end.
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
template <class M, int R, int V>
void multiply(Block<M> block, const typename M::Term* panel, Soon soon, const float* bias, const Bounds& bounds,
              float* out, int64_t out_stride) {
  constexpr int64_t step = kPanel * M::kTogether;
  const Piece* piece = block.pieces;
  const typename M::Term* const* rows = block.rows;
  do {
    Vec sum[R][V];
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) sum[r][v] = Vec::all(0.0f);
    do {
      const int64_t terms = piece->terms() / M::kTogether;
      if (rows[0] == nullptr) {
        rows += kTileRows, panel += terms * step;
        continue;
      }
      const typename M::Term* a[R];
      for (int r = 0; r < R; ++r) a[r] = rows[r];
      rows += kTileRows;
      for (int64_t k = 0; k < terms; ++k, panel += step) {
        __builtin_prefetch(soon.next, 0, 2);
        __builtin_prefetch(soon.old, 1, 3);
        soon.next += soon.next_step, soon.old += soon.old_step;
        typename M::Weights weight[V];
        for (int v = 0; v < V; ++v) weight[v] = M::load(panel + v * Vec::width * M::kTogether);
        for (int r = 0; r < R; ++r) {
          const auto x = M::all(a[r], k);
          for (int v = 0; v < V; ++v) sum[r][v] = M::add(sum[r][v], x, weight[v]);
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
template <class M, int R, int V>
void multiply_rest(int rows, Block<M> block, const typename M::Term* panel, Soon soon, const float* bias,
                   const Bounds& bounds, float* out, int64_t out_stride) {
  if constexpr (R > 0) {
    if (rows == R) return multiply<M, R, V>(block, panel, soon, bias, bounds, out, out_stride);
    multiply_rest<M, R - 1, V>(rows, block, panel, soon, bias, bounds, out, out_stride);
  }
}

// The pieces that one pass adds, and where their terms begin.
struct Pass {
  const Piece* pieces;
  const Piece* end;
  int64_t start, terms;
  int64_t input_step = 0, old_step = 0;  // bytes to be fetched with each step
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

template <class T, class To>
void copy_terms(const T* from, To* to, int64_t terms) {
  for (int64_t k = 0; k < terms; k += Vec::width) {
    const int n = static_cast<int>(least(Vec::width, terms - k));
    load_some(from + k, n).store(to + k, n);
  }
}

// Gathers a piece of a pixel that is not a pixel inside.
template <class T, class To>
void gather_piece(const Conv& conv, const Piece& piece, const T* x, const Place& place, To* to) {
  const Window& w = conv.window;
  const int32_t y = w.rows[place.y * w.kernel_rows + piece.row];
  const int32_t* xs = w.columns + place.x * w.kernel_columns + piece.column;
  for (int32_t i = 0; i < piece.taps; ++i, to += piece.channels) {
    const bool there = y >= 0 && xs[i] >= 0;
    const T* from = x + ((place.n * w.in_rows + y) * w.in_columns + xs[i]) * conv.x.pitch + piece.channel;
    if (there) copy_terms(from, to, piece.channels);
    else std::memset(to, 0, piece.channels * sizeof(To));
  }
}

// Bytes between addresses that share a set of the first-level cache, which has fewer places than a tile has rows: of
// pixels so far apart, what is read of one drives out what is still to be read of another.
constexpr int64_t kOneSet = 4096;
constexpr int64_t kApart = 16;       // terms between copies of pixels, so that they share no set
constexpr int64_t kPanelsToCopy = 4;  // that read the copies, for which these pay

template <class T>
bool pays_to_copy(const Conv& conv, int64_t panels) {
  const int64_t distance = conv.window.x.stride * conv.x.pitch * static_cast<int64_t>(sizeof(T));
  return kTileRows > 8 && panels >= kPanelsToCopy && distance % kOneSet == 0;
}

// Points to the pieces of `n` pixels, or gathers them at `spare`; `place` is the pixel before, and then the last one.
// With `copies`, pixels inside are copied too.
template <class T, class M>
void point_rows(const Conv& conv, int64_t group, const Pass& pass, const int32_t* pixels, int n, bool copies,
                Place& place, const typename M::Term** rows, typename M::Term* spare) {
  using Term = typename M::Term;
  constexpr bool readable = sizeof(T) == sizeof(Term);  // where they lie
  const Window& w = conv.window;
  const T* x = static_cast<const T*>(conv.x.data) + group * conv.in_per_group;
  bool outside = true;
  for (int r = 0; r < n; ++r) {
    place = place.at(pixels[r], w);
    const Term** to = rows + r;
    if (w.y.has(place.y) && w.x.has(place.x)) {
      const T* from =
          x + ((place.n * w.in_rows + w.y.first(place.y)) * w.in_columns + w.x.first(place.x)) * conv.x.pitch;
      for (const Piece* piece = pass.pieces; piece < pass.end; ++piece, to += kTileRows) {
        if (readable && !copies) {
          *to = reinterpret_cast<const Term*>(from + piece->offset);
        } else {
          copy_terms(from + piece->offset, spare, piece->terms());
          *to = spare;
          spare += piece->terms();
        }
      }
      if (copies) spare += kApart;
      outside = false;
      continue;
    }
    for (const Piece* piece = pass.pieces; piece < pass.end; ++piece, to += kTileRows) {
      const int32_t y = w.rows[place.y * w.kernel_rows + piece->row];
      const int32_t column = w.columns[place.x * w.kernel_columns + piece->column];
      if (piece->taps == 1 && (y < 0 || column < 0)) {
        *to = nothing<M>();
      } else if (readable && piece->taps == 1) {
        *to = reinterpret_cast<const Term*>(x) + ((place.n * w.in_rows + y) * w.in_columns + column) * conv.x.pitch +
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
    for (int r = 0; r < n; ++r) there |= rows[r] != nothing<M>();
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

template <class M, int V>
void multiply_blocks(const Tile& tile, const Pass& pass, const Block<M>* blocks, int64_t call,
                     const typename M::Term* weight, const typename M::Term* next, const float* bias, int64_t channel,
                     const Bounds& bounds) {
  const char* const here = reinterpret_cast<const char*>(weight);
  Soon soon{here, pass.input_step, here, pass.old_step};
  call *= divide_up(tile.rows, kTileRows);
  for (int b = 0, r = 0; r < tile.rows; ++b, r += kTileRows) {
    if (tile.input.size > 0) {
      soon.next = tile.input.from + (call + b) * tile.input.of_call;
    } else {
      soon.next = b < kParts ? reinterpret_cast<const char*>(next + b * pass.terms * (kPanel / kParts)) : here;
      soon.next_step = b < kParts ? kPanel / kParts * M::kTogether * sizeof(typename M::Term) : 0;
    }
    if (pass.old_step > 0) soon.old = tile.old.part(call + b, here);
    const int n = static_cast<int>(least(kTileRows, tile.rows - r));
    float* to = tile.values + r * tile.stride + channel;
    if (n == kTileRows) multiply<M, kTileRows, V>(blocks[b], weight, soon, bias, bounds, to, tile.stride);
    else multiply_rest<M, kTileRows - 1, V>(n, blocks[b], weight, soon, bias, bounds, to, tile.stride);
  }
}

// One panel of output channels for all rows. A panel's last channels may not exist: they are written beyond those of the
// group, where the next group, or nobody, writes later. A last panel that is at most half full is multiplied by halves.
template <class M>
void multiply_panel(const Conv& conv, int64_t group, int64_t panel, const Pass& pass, const Block<M>* blocks,
                    const Bounds& bounds, const Tile& tile) {
  using Term = typename M::Term;
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
  const Term* weight = static_cast<const Term*>(conv.weight) + ((group * panels + panel) * depth + pass.start) * kPanel;
  const Term* next = weight + (panel + 1 < panels ? depth * kPanel : 0);
  const int64_t call = group * panels + panel;
  if (there <= Vec::width) multiply_blocks<M, 1>(tile, pass, blocks, call, weight, next, bias, channel, bounds);
  else multiply_blocks<M, kPanelVecs>(tile, pass, blocks, call, weight, next, bias, channel, bounds);
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
template <class T, class M>
void convolve_rows_by(const Conv& conv, const Bounds& bounds, const int32_t* pixels, int64_t first, int64_t end,
                      const Tile& tile) {
  using Term = typename M::Term;
  const int rows = tile.rows;
  const int64_t spare_size = kTileRows * (kDepth + kApart);  // of a block
  const bool copies = pays_to_copy<T>(conv, end - first);
  Term* spare = reinterpret_cast<Term*>(scratch(1, kBlocks * spare_size));
  const Term** pointers = reinterpret_cast<const Term**>(scratch(4, 2 * kBlocks * spare_size));
  Block<M> blocks[kBlocks];
  for (int64_t group = 0; group < conv.groups; ++group) {
    Pass pass = next_pass(conv, {conv.pieces, conv.pieces, 0, 0});
    for (Pass next; pass.terms > 0; pass = next) {
      next = next_pass(conv, pass);
      Place place;
      for (int b = 0, r = 0; r < rows; ++b, r += kTileRows) {
        const Term** to = pointers + b * kTileRows * (pass.end - pass.pieces);
        point_rows<T, M>(conv, group, pass, pixels + r, static_cast<int>(least(kTileRows, rows - r)), copies, place, to,
                         spare + b * spare_size);
        blocks[b] = {to, pass.pieces, pass.end};
      }
      const bool last = next.terms == 0;
      const int64_t steps = pass.terms / M::kTogether;
      pass.input_step = divide_up(tile.input.of_call, steps);
      pass.old_step = last ? divide_up(tile.old.of_call, steps) : 0;
      for (int64_t panel = first; panel < end; ++panel)
        multiply_panel<M>(conv, group, panel, pass, blocks, last ? bounds : Bounds(), tile);
    }
  }
}

// By the form in which the weights are packed.
template <class T>
void convolve_rows(const Conv& conv, const Bounds& bounds, const int32_t* pixels, int64_t first, int64_t end,
                   const Tile& tile) {
  if constexpr (Pairs::kThere && sizeof(T) == sizeof(Bfloat16)) {
    if (conv.in_pairs) return convolve_rows_by<T, Pairs>(conv, bounds, pixels, first, end, tile);
  }
  convolve_rows_by<T, Singles>(conv, bounds, pixels, first, end, tile);
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
                         const bool here = near && !first;
                         const Region input = here ? input_after<T>(conv, pixels[rows - 1], rows, calls) : Region{};
                         convolve_rows<T>(conv, bounds, pixels, 0, panels,
                                          {rows, tile, stride, input, compared(job.commit, pixels, rows, calls)});
                       });
}

inline int64_t convolve(const Conv& conv, const Job& job) {
  return conv.x.dtype == Dtype::bfloat16 ? convolve_as<Bfloat16>(conv, job) : convolve_as<float>(conv, job);
}
