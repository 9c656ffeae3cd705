// Whether a block of a kernel finds the pixels that the mask rule names, in order: for random rules and masks, beside a
// loop over all pixels and taps. Arguments: seed, how many rules.
#include "block.h"

#include <cstdio>

#include "cuda/candidates.cuh"
#include "cuda/grid.cu"
#include "numbers.h"

using namespace deltafx::cuda;

namespace {

struct Case {
  int streams, taps, stride, dilation, padding, in_rows, in_columns, out_columns, plane, columns;
  bool windowed;
  std::vector<std::vector<uint8_t>> masks;
  std::vector<uint8_t> refresh;
  Candidates job{};

  Case() {
    streams = any(1, 9), taps = any(1, 7), stride = any(1, 3), dilation = any(1, 2);
    padding = any(0, taps * dilation / 2 + 1), windowed = !one_in(4);
    const int least = std::max(1, (taps - 1) * dilation + 1 - 2 * padding);
    in_rows = std::max(least, one_in(2) ? any(1, 200) : any(1, 30));
    in_columns = std::max(least, one_in(2) ? any(1, 340) : any(1, 60));
    const auto out = [&](int in) { return (in + 2 * padding - (taps - 1) * dilation - 1) / stride + 1; };
    out_columns = out(in_columns);
    plane = windowed ? out(in_rows) * out_columns : in_rows * in_columns;
    columns = windowed ? out_columns : std::min(plane, 1024);
    refresh.assign(streams, 0);
    if (one_in(6)) refresh[any(0, streams - 1)] = 1;
    Rule<kOwnSources>& rule = job.rule;
    rule.grid = grid_of(streams, plane, columns);
    rule.row_axis = windowed ? Axis{stride, -padding, dilation, taps, in_rows} : Axis{0, 0, 0, 0, in_rows};
    rule.column_axis = windowed ? Axis{stride, -padding, dilation, taps, in_columns} : Axis{0, 0, 0, 0, in_columns};
    rule.in_words = divisor(static_cast<int>(divide_up(in_columns, 32)));
    rule.refresh = refresh.data();
    add_source(windowed ? Relation::window : Relation::same);
    for (int more = any(0, 2); more > 0; --more)
      add_source(one_in(2) ? Relation::same : one_in(4) ? Relation::per_stream : rule.sources[0].relation);
  }

  bool suits() const { return finds_by_itself(job.rule.grid, windowed, job.rule.row_axis, job.rule.column_axis); }

  void add_source(Relation relation) {
    const int each = relation == Relation::same ? plane : relation == Relation::per_stream ? 1 : in_rows * in_columns;
    std::vector<uint8_t> mask(streams * each);
    for (int set = any(0, 1 + streams * each / 60); set > 0; --set) mask[any(0, streams * each - 1)] = 1;
    masks.push_back(std::move(mask));
    const uint8_t* at = masks.back().data();
    const int row = relation == Relation::same ? columns : in_columns;
    int alignment = 16;
    while (alignment > 1 && (reinterpret_cast<uintptr_t>(at) % alignment || each % alignment || row % alignment))
      alignment /= alignment == 4 ? 4 : 2;
    job.rule.sources[job.rule.source_count++] = {at, relation, each, alignment};
  }

  bool names(int n, int pixel) const {
    bool named = refresh[n];
    for (int s = 0; s < job.rule.source_count; ++s) {
      const Source& source = job.rule.sources[s];
      if (source.relation == Relation::same) named |= source.mask[n * plane + pixel];
      if (source.relation == Relation::per_stream) named |= source.mask[n];
      if (source.relation != Relation::window) continue;
      for (int i = 0; i < taps; ++i)
        for (int j = 0; j < taps; ++j) {
          const int y = pixel / out_columns * stride - padding + i * dilation;
          const int x = pixel % out_columns * stride - padding + j * dilation;
          if (y >= 0 && y < in_rows && x >= 0 && x < in_columns)
            named |= source.mask[(n * in_rows + y) * in_columns + x];
        }
    }
    return named;
  }
};

std::vector<int> found_by_a_block(const Case& given) {
  auto found = std::make_unique<Found>();
  std::vector<uint32_t> staged(kStagedWords);
  std::memset(found.get(), 0x5a, sizeof(Found));
  int count = 0;
  emulated::run(one_in(2) ? 128 : 256, [&] {
    const int own = find(given.job, *found, staged.data());
    if (threadIdx.x == 0) count = own;
  });
  std::vector<int> pixels;
  for (int rank = 0; rank < count; ++rank) pixels.push_back(candidate(given.job, *found, rank));
  return pixels;
}

bool finds() {
  Case given;
  while (!given.suits()) given = Case();
  std::vector<int> want;
  for (int n = 0; n < given.streams; ++n)
    for (int pixel = 0; pixel < given.plane; ++pixel)
      if (given.names(n, pixel)) want.push_back(n * given.plane + pixel);
  const std::vector<int> got = found_by_a_block(given);
  if (got == want) return true;
  std::printf("%zu pixels instead of %zu: %d streams of %dx%d, %d taps, stride %d, dilation %d, padding %d\n",
              got.size(), want.size(), given.streams, given.in_rows, given.in_columns, given.taps, given.stride,
              given.dilation, given.padding);
  return false;
}

}  // namespace

int main(int, char** arguments) { return tried(arguments, finds); }
