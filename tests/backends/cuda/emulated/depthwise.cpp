// Convolutions with narrow groups at all pixels, and the sums of their rows, beside plain loops: of random windows,
// sizes and types. Arguments: seed, how many of each.
#include "block.h"

#include <cstdio>

#include "cuda/depthwise_all.cu"
#include "cuda/grid.cu"
#include "numbers.h"

using namespace deltafx;
using namespace deltafx::cuda;

namespace {

// The taps of the outputs along one axis, as a table and in its simple form.
struct Taps {
  Axis axis;
  int out;
  std::vector<int32_t> table;

  Taps(int in, int taps, int stride, int padding)
      : axis{stride, -padding, 1, taps, in}, out((in + 2 * padding - taps) / stride + 1) {
    for (int x = 0; x < out; ++x)
      for (int i = 0; i < taps; ++i) table.push_back(at(x, i));
  }

  int at(int x, int i) const {
    const int place = x * axis.stride + axis.offset + i;
    return place >= 0 && place < axis.in ? place : -1;
  }
};

template <class T>
bool convolves(Dtype dtype) {
  const int streams = any(1, 2), taps = 2 * any(0, 2) + 1, stride = any(1, 2), padding = any(0, taps / 2);
  const Taps rows(any(taps, 9), taps, stride, padding), columns(any(taps, 40), taps, stride, padding);
  const int out_of_group = any(1, 4) == 1 ? 2 : 1, in_of_group = any(1, 4) == 1 ? 2 : 1, groups = any(1, 30);
  const int channels = groups * out_of_group, lines = streams * rows.out, pixels = lines * columns.out;
  Numbers<T> x(streams * rows.axis.in * columns.axis.in, groups * in_of_group, any(0, 2) > 0);
  Numbers<T> out(pixels, channels, any(0, 2) > 0);
  Numbers<float> weight(taps * taps * in_of_group, channels, false);
  const Window window{rows.table.data(), columns.table.data(), taps,     taps,
                      rows.axis.in,      columns.axis.in,      rows.out, columns.out};
  const Depthwise depthwise{x.matrix(groups * in_of_group, dtype), window, weight.at(0), in_of_group, out_of_group};
  Commit commit{};
  commit.out = out.matrix(channels, dtype);
  commit.steps[commit.step_count++] = {Code::relu, Operand::none, nullptr, 0, 0.0f, 0.0f, false};
  const Dense dense = dense_of<T>(commit, pixels, rows.out * columns.out);
  const SideBySide shape = side_by_side(depthwise, commit, rows.axis, columns.axis, kPack<T>);
  std::vector<Pack<float>> sums(lines * channels / 4 + 1);
  const Lines adding = lines_of(any(0, 2) > 0 ? sums.data()->of : nullptr, dense.packs.by, shape.row_groups.by,
                                lines, any(1, 40));
  const int items = lines * shape.row_groups.by * dense.packs.by;
  const int blocks = adding.sums != nullptr ? lines * adding.chunks.by : divide_up(items, kWholeThreads);
  emulated::run(blocks, kWholeThreads, [&] { depthwise_all_kernel<T>(depthwise, shape, adding, dense); });
  for (int line = 0; line < lines; ++line)
    for (int c = 0; c < channels; ++c) {
      double total = 0;
      for (int column = 0; column < columns.out; ++column) {
        double want = 0;
        for (int i = 0; i < taps; ++i)
          for (int j = 0; j < taps; ++j)
            for (int k = 0; k < in_of_group; ++k) {
              const int y = rows.at(line % rows.out, i), z = columns.at(column, j);
              if (y < 0 || z < 0) continue;
              const int q = (line / rows.out * rows.axis.in + y) * columns.axis.in + z;
              want += double{number(x.at(q)[c / out_of_group * in_of_group + k])} *
                      weight.at((i * taps + j) * in_of_group + k)[c];
            }
        const double got = number(out.at(line * columns.out + column)[c]);
        total += got;
        if (near<T>(got, std::max(want, 0.0))) continue;
        std::printf("%g instead of %g: channel %d of %d, column %d of %d, %d taps, stride %d\n", got, want, c, channels,
                    column, columns.out, taps, stride);
        return false;
      }
      if (adding.sums == nullptr || near<float>(adding.sums[line * channels + c], total)) continue;
      std::printf("a sum of %g instead of %g: channel %d of %d, %d columns\n", adding.sums[line * channels + c], total,
                  c, channels, columns.out);
      return false;
    }
  return true;
}

}  // namespace

int main(int, char** arguments) {
  return tried(arguments, [] { return convolves<float>(Dtype::float32) && convolves<__half>(Dtype::float16); });
}
