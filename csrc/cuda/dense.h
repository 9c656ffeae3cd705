// Kernels that compute every pixel of a node and look at no mask. The results lie where a sparse kernel leaves them.
#pragma once

#include "kernels.h"

namespace deltafx::cuda {

// Of a Commit they take the bias, the steps and the result.
struct Dense {
  Commit commit;
  int32_t pixels;
  Divisor plane, packs;  // pixels of a stream; pieces of 16 bytes of a pixel
};

// out[p] = steps(from[p]); `from` may be the result itself.
cudaError_t finish(const Matrix& from, const Commit&, int pixels, int plane, cudaStream_t);
// out[p] = steps(pool(p)), as in a sparse frame.
cudaError_t pool_all(const Pool&, const Commit&, int pixels, int plane, cudaStream_t);

}  // namespace deltafx::cuda
