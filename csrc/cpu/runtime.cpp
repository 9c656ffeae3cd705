// The choice of the instruction set, and the buffers of the threads.
#include <algorithm>
#include <new>

#include "kernels.h"

namespace deltafx::cpu {

namespace portable { extern const Kernels kKernels; }

#if defined(__x86_64__) || defined(_M_X64)
namespace avx2 { extern const Kernels kKernels; }
namespace avx512 { extern const Kernels kKernels; }

static bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
static bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
static bool has_pairs() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }
#endif

const Kernels* kernels_for(const char* isa) {
  if (std::strcmp(isa, "portable") == 0) return &portable::kKernels;
#if defined(__x86_64__) || defined(_M_X64)
  if (std::strcmp(isa, "avx2") == 0 && has_avx2()) return &avx2::kKernels;
  if (std::strcmp(isa, "avx512") == 0 && has_avx512()) return &avx512::kKernels;
#endif
  return nullptr;
}

bool multiplies_pairs(const Kernels& kernels) {
#if defined(__x86_64__) || defined(_M_X64)
  return kernels.pairs && has_pairs();
#else
  return false;
#endif
}

Inner inner_of(const int32_t* table, int64_t outputs, int64_t taps) {
  Inner inner;
  const int64_t middle = outputs / 2;
  const int32_t* row = table + middle * taps;
  inner.step = taps > 1 ? row[1] - row[0] : 1;
  inner.stride = middle + 1 < outputs ? row[taps] - row[0] : middle > 0 ? row[0] - row[-taps] : 1;
  inner.offset = row[0] - middle * inner.stride;
  const auto fits = [&](int64_t o) {
    for (int64_t i = 0; i < taps; ++i) {
      const int32_t place = table[o * taps + i];
      if (place < 0 || place != inner.first(o) + i * inner.step) return false;
    }
    return true;
  };
  inner.begin = inner.end = middle;
  while (inner.end < outputs && fits(inner.end)) ++inner.end;
  while (inner.begin > 0 && inner.end > middle && fits(inner.begin - 1)) --inner.begin;
  return inner;
}

std::vector<Piece> pieces_of(const Window& w, int64_t pitch, int64_t in) {
  const int64_t taps = w.kernel_rows * w.kernel_columns;
  const bool joined = pitch == in && (w.kernel_columns == 1 || w.x.step == 1);  // neighbours lie side by side
  const int64_t of_run = std::max<int64_t>(1, kRun / in);                       // taps
  std::vector<Piece> pieces;
  for (int64_t tap = 0, next; tap < taps; tap = next) {
    const int64_t row = tap / w.kernel_columns, column = tap % w.kernel_columns;
    next = joined ? std::min({taps, (row + 1) * w.kernel_columns, (tap / of_run + 1) * of_run}) : tap + 1;
    for (int64_t channel = 0; channel < in; channel += kRun) {
      const int64_t channels = std::min(kRun, in - channel);
      const bool ends = in > kRun || next == taps || next % of_run == 0;
      pieces.push_back({static_cast<int32_t>(row), static_cast<int32_t>(column), static_cast<int32_t>(next - tap),
                        static_cast<int32_t>(channel), static_cast<int32_t>(channels), ends,
                        (row * w.y.step * w.in_columns + column * w.x.step) * pitch + channel});
    }
  }
  return pieces;
}

std::vector<int64_t> spans_of(const Window& w) {
  std::vector<int64_t> spans;
  for (int64_t bands = 1; bands <= kMostBands; ++bands) {
    int64_t most = 1;
    for (int64_t y = 0; y + bands <= w.out_rows || y == 0; ++y) {
      int64_t lowest = w.in_rows, highest = -1;
      for (int64_t i = y * w.kernel_rows; i < std::min(y + bands, w.out_rows) * w.kernel_rows; ++i) {
        if (w.rows[i] < 0) continue;
        lowest = std::min<int64_t>(lowest, w.rows[i]), highest = std::max<int64_t>(highest, w.rows[i]);
      }
      most = std::max(most, highest - lowest + 1);
    }
    spans.push_back(most);
  }
  return spans;
}

float* scratch(int slot, int64_t floats) {
  constexpr std::align_val_t kLine{64};
  struct Buffer {
    float* data = nullptr;
    int64_t size = 0;

    ~Buffer() { release(); }
    void release() {
      if (data) ::operator delete(data, kLine);
    }
  };
  thread_local Buffer buffers[kScratchSlots];
  Buffer& buffer = buffers[slot];
  if (buffer.size < floats) {
    buffer.release();
    buffer.data = nullptr;
    buffer.size = 0;
    buffer.data = static_cast<float*>(::operator new(floats * sizeof(float), kLine));
    buffer.size = floats;
  }
  return buffer.data;
}

}  // namespace deltafx::cpu
