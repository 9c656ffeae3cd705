// A part of a frame as three graphs, of which the device takes one: at rest, where nothing that it reads has changed;
// sparse; or dense, where so much has that computing everything is sooner done.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace deltafx::cuda {

enum class Choice : int32_t { rest, sparse, dense, none };

// What a choice depends on, all on the device. Addresses stand in tables, [count].
struct Choose {
  const int64_t* const*
      tallies;  // of what the part reads: first the `inputs` that share in the decision for dense, then strips
  int32_t inputs, count;
  int64_t many;            // so many updated pixels of the inputs, and more, are computed densely
  const uint8_t* refresh;  // [streams]
  int32_t streams;
  int64_t* const* kept;  // the tallies of the part's own nodes, [kept_count]: a frame at rest is counted there
  int32_t kept_count;
  int32_t* last;  // the Choice of the last frame, none before the first
};

// Adds to `graph` the choice and, by it, one of three graphs, which are copied. `after` is what comes before it, or
// null; it becomes the last node.
cudaError_t add_choice(cudaGraph_t graph, const Choose&, const cudaGraph_t (&forms)[3], cudaGraphNode_t& after);

// Whether this build and the driver have graphs that choose: from CUDA 12.8 on.
bool has_choices();

// Sets memory to a byte, piece by piece, and, in tallies, notes a frame in which all `pixels` were computed and
// updated.
struct Stretch {
  uint8_t* begin;
  int64_t bytes;
};
struct Counted {
  int64_t* tally;
  int64_t pixels;
};
cudaError_t mark(const Stretch*, int64_t stretches, uint8_t value, const Counted*, int64_t counted, cudaStream_t);

}  // namespace deltafx::cuda
