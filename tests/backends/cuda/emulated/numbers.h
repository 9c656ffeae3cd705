// Random numbers as kernels take them, and trying something with many of them.
#pragma once

#include <cmath>
#include <cstdlib>
#include <random>
#include <vector>

#include "cuda/pack.cuh"

inline std::mt19937 generator;
inline int any(int low, int high) { return std::uniform_int_distribution<int>(low, high)(generator); }
inline bool one_in(int count) { return any(1, count) == 1; }

// Of a program whose arguments are a seed and how often to try: whether that went well every time, as it exits with it.
template <class F>
int tried(char** arguments, F once) {
  generator.seed(std::atoi(arguments[1]));
  for (int count = std::atoi(arguments[2]); count > 0; --count)
    if (!once()) return 1;
  return 0;
}

// Pixels of some channels, filled up to whole pieces of 16 bytes or not.
template <class T>
struct Numbers {
  int pitch;
  std::vector<deltafx::cuda::Pack<T>> memory;

  Numbers(int rows, int channels, bool filled) {
    using deltafx::cuda::kPack;
    pitch = filled ? (channels + kPack<T> - 1) / kPack<T> * kPack<T> : channels;
    memory.resize((rows * pitch + kPack<T> - 1) / kPack<T>);
    for (auto& pack : memory)
      for (T& x : pack.of) x = deltafx::cuda::rounded<T>(std::normal_distribution<float>()(generator));
  }

  T* at(int row) { return memory.data()->of + row * pitch; }
  deltafx::cuda::Matrix matrix(int channels, deltafx::cuda::Dtype dtype) {
    return {at(0), pitch, channels, dtype, pitch % deltafx::cuda::kPack<T> == 0};
  }
};

// But for rounding to T, and what some operations before it add to that.
template <class T>
bool near(double got, double want) {
  if (std::isnan(want)) return std::isnan(got);
  const double most = sizeof(T) == 4 ? 3e38 : 65504;  // beyond it there is infinity
  if (std::abs(want) > most) return std::isinf(got) && (got > 0) == (want > 0);
  return std::abs(got - want) <= (sizeof(T) == 4 ? 1e-5 : 4e-3) * (1 + std::abs(want));
}
