// What a dense frame needs after a library's convolutions: out[p] = steps(x[p] + bias), which reads x and the operands
// of the steps once and writes the result once.
#include "whole.cuh"

namespace deltafx::cuda {
namespace {

constexpr int kResident = 3;  // blocks of a multiprocessor: it waits for memory, and more of it is under way

// A thread has one pack of channels of kTogether pixels.
template <class T>
__global__ void __launch_bounds__(kWholeThreads, kResident)
    finish_kernel(const __grid_constant__ Matrix from, const __grid_constant__ Dense d) {
  constexpr int P = kPack<T>, R = kTogether;
  begin_kernel();
  const int own = blockIdx.x * kWholeThreads + threadIdx.x, group = own / d.packs, apart = (d.pixels + R - 1) / R;
  if (group >= apart) return;
  const Commit& commit = d.commit;
  const int c = (own - group * d.packs.by) * P, n = min(P, commit.out.channels - c);
  int p[R];
  float x[R][P];
  Pack<T> raw[R];
#pragma unroll
  for (int r = 0; r < R; ++r)
    p[r] = min(group + r * apart, d.pixels - 1);  // beyond the last: it is read, and not written
#pragma unroll
  for (int r = 0; r < R; ++r)
    raw[r] = load_raw(static_cast<const T*>(from.data) + p[r] * from.pitch + c, n, from.packed);
#pragma unroll
  for (int r = 0; r < R; ++r)
#pragma unroll
    for (int i = 0; i < P; ++i) x[r][i] = number(raw[r].of[i]);
  finish_packs<T>(d, p, c, n, true, x);
  T* const out = static_cast<T*>(commit.out.data) + c;
#pragma unroll
  for (int r = 0; r < R; ++r)
    if (group + r * apart < d.pixels) store_pack(out + p[r] * commit.out.pitch, n, commit.out.packed, x[r]);
}

}  // namespace

cudaError_t finish(const Matrix& from, const Commit& commit, int pixels, int plane, cudaStream_t stream) {
  return with_type(from.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const Dense d = dense_of<T>(commit, pixels, plane);
    return launch_items(divide_up(pixels, kTogether) * d.packs.by,
                        [&](const Blocks& blocks) { return launch(&finish_kernel<T>, blocks, stream, from, d); });
  });
}

}  // namespace deltafx::cuda
