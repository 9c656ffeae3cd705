// Which pixels a node must compute in this frame, from the update masks of its inputs: the mask rule.
#pragma once

#include "kernels.h"

namespace deltafx::cpu {

enum class Relation : int32_t {
  window,      // an output pixel depends on the input pixels in its window
  same,        // pixel p depends on pixel p
  per_stream,  // all pixels of a stream depend on one
};

struct Source {
  const uint8_t* mask;
  Relation relation;
};

struct Collect {
  const Source* sources;
  int64_t source_count;
  Window window;           // of the sources that have one; out_rows and out_columns in any case
  int64_t streams;
  const uint8_t* refresh;  // [streams]: all pixels; or null
  uint8_t* candidates;     // [streams, out_rows, out_columns]
  int32_t* pixels;         // the candidates as an ascending list; one place longer
};

// Returns the length of the list.
int64_t collect(const Collect&);

}  // namespace deltafx::cpu
