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
// out[p] = steps(depthwise(p)) and out[p] = steps(pool(p)), as in a sparse frame. The axes are those of the window. The
// first adds up each row of the result too, if `sums` is not null: [rows of all streams, channels].
cudaError_t depthwise_all(const Depthwise&, const Axis& rows, const Axis& columns, float* sums, const Commit&,
                          int pixels, int plane, cudaStream_t);
cudaError_t pool_all(const Pool&, const Commit&, int pixels, int plane, cudaStream_t);
// out[n] = steps(reduce(n)); the mask and `refresh` are null. Partial results are made and counted in `arrived`, or, if
// x has no data, they are there. They stay for the sparse frames after it.
cudaError_t reduce_all(const Reduce&, const Commit&, cudaStream_t);

struct Product {
  Matrix x;
  const void* weight;  // [channels of the result, channels of x], of the dtype of x
  bool packed;         // of the weights: 16 bytes at once
};
// out[p] = steps(weight x[p]), for few pixels.
cudaError_t product_all(const Product&, const Commit&, int pixels, int plane, cudaStream_t);

}  // namespace deltafx::cuda
