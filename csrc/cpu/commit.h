// The end of every kernel: pointwise steps, then for each pixel of a tile: compare with what was propagated last,
// withhold or write, set the mask. Reads the tile, the operands of the steps and the old values once; writes what changed.
#pragma once

// A first step that bounds what comes out of a kernel, which does so before it stores: min(high, max(low, x)).
struct Bounds {
  Vec low = Vec::all(-INFINITY), high = Vec::all(INFINITY);

  Vec operator()(Vec x) const { return clamp(x, low, high); }
};

// Takes the first step from those of a kernel if it is one that bounds.
inline Bounds take_bounds(const Step*& steps, int64_t& count) {
  Bounds bounds;
  if (count == 0) return bounds;
  const Step& first = steps[0];
  if (first.code == Code::relu) bounds.low = Vec::all(0.0f);
  else if (first.code == Code::clamp) bounds.low = Vec::all(first.a), bounds.high = Vec::all(first.b);
  else return bounds;
  ++steps, --count;
  return bounds;
}

// Writes a pixel's channels that have changed, in the dtype in which they are kept; whether there is any.
template <class T>
bool renew_row(const float* row, T* out, int64_t channels) {
  bool any = false;
  int64_t c = 0;
  for (; c + Vec::width <= channels; c += Vec::width) any |= Vec::load(row + c).renew(out + c);
  const int rest = static_cast<int>(channels - c);
  return rest > 0 ? Vec::load(row + c, rest).renew(out + c, rest) | any : any;
}

// The root mean square, or the maximum, of a pixel's change. What is not a number gives what is not one.
template <class T>
float change_of(const float* row, const T* old, int64_t channels, Norm norm) {
  Vec total = Vec::all(0.0f), largest = Vec::all(0.0f);
  for (int64_t c = 0; c < channels; c += Vec::width) {
    const int n = static_cast<int>(least(Vec::width, channels - c));
    const Vec change = n == Vec::width ? Vec::load(row + c) - Vec::load(old + c) : Vec::load(row + c, n) - Vec::load(old + c, n);
    total = fma(change, change, total);  // also tells, below, whether something is not a number
    largest = max(abs(change), largest);
  }
  float sums[Vec::width], sizes[Vec::width];
  total.store(sums);
  largest.store(sizes);
  float sum = 0.0f, size = 0.0f;
  for (int i = 0; i < Vec::width; ++i) {
    sum += sums[i];
    size = sizes[i] > size ? sizes[i] : size;
  }
  if (norm == Norm::max) return sum == sum ? size : sum;
  return std::sqrt(sum / static_cast<float>(channels));
}

template <class T>
void write_row(const float* row, T* out, int64_t channels) {
  int64_t c = 0;
  for (; c + Vec::width <= channels; c += Vec::width) Vec::load(row + c).store(out + c);
  if (c < channels) Vec::load(row + c, static_cast<int>(channels - c)).store(out + c, static_cast<int>(channels - c));
}

// Rounds a row to bfloat16 in place: what is compared is what would be kept.
inline void round_row(float* row, int64_t channels) {
  for (int64_t c = 0; c < channels; c += Vec::width) Vec::load(row + c).rounded().store(row + c);  // whole vectors
}

template <class T>
int64_t commit_tile(const Commit& commit, float* tile, int64_t stride, const int32_t* pixels, int rows) {
  const int64_t channels = commit.out.channels;
  int64_t updated = 0;
  for (int r = 0; r < rows; ++r) {
    float* row = tile + r * stride;
    const int64_t p = pixels[r];
    T* old = static_cast<T*>(commit.out.data) + p * commit.out.pitch;
    if (sizeof(T) == sizeof(Bfloat16)) round_row(row, channels);
    bool update = true;
    if (commit.refresh && commit.refresh[p / commit.pixels_per_stream]) {
      write_row(row, old, channels);
    } else if (!commit.forced && commit.threshold == 0.0f) {
      update = renew_row(row, old, channels);
    } else {
      update = commit.forced ? commit.forced[p] != 0
                             : !(change_of(row, old, channels, commit.norm) <= commit.threshold);
      if (update) write_row(row, old, channels);
    }
    commit.mask[p] = update;
    updated += update;
  }
  return updated;
}

// Finishes `rows` rows of a tile; returns how many pixels were updated. A few rows at a time, which stay in the
// first-level cache from step to step.
inline int64_t commit_rows(const Commit& commit, float* tile, int64_t stride, const int32_t* pixels, int rows) {
  const int together = static_cast<int>(most(1, 2048 / stride));
  int64_t updated = 0;
  for (int r = 0; r < rows; r += together, tile += together * stride, pixels += together) {
    const int n = static_cast<int>(least(together, rows - r));
    for (int64_t i = 0; i < commit.step_count; ++i)
      apply_step(commit.steps[i], tile, stride, commit.out.channels, pixels, n, commit.pixels_per_stream);
    updated += commit.out.dtype == Dtype::bfloat16 ? commit_tile<Bfloat16>(commit, tile, stride, pixels, n)
                                                    : commit_tile<float>(commit, tile, stride, pixels, n);
  }
  return updated;
}
