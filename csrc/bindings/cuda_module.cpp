// The Python module deltafx._cuda: loading it registers the operators; it says what was built and what names mean.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <map>
#include <string>

#include "../cuda/kernels.h"
#include "../include/code_names.h"
#include "cuda_choice.h"
#include "cuda_cudnn.h"

PYBIND11_MODULE(_cuda, m) {
  using deltafx::cuda::Relation;
  m.doc() = "The compiled CUDA backend of deltafx; its operators are in torch.ops.deltafx_cuda.";
  m.attr("compiler") = "nvcc " + std::to_string(CUDART_VERSION / 1000) + "." + std::to_string(CUDART_VERSION % 1000 / 10);
  m.attr("architectures") = DELTAFX_CUDA_ARCHITECTURES;
  m.attr("codes") = deltafx::code_names();
  m.attr("operands") = deltafx::operand_names();
  m.attr("relations") = std::map<std::string, int>{
      {"window", static_cast<int>(Relation::window)}, {"same", static_cast<int>(Relation::same)},
      {"per_stream", static_cast<int>(Relation::per_stream)}, {"whole", static_cast<int>(Relation::whole)}};
  using deltafx::cuda::Tile;
  m.attr("tiles") = std::map<std::string, int>{{"large", static_cast<int>(Tile::large)},
                                               {"tall", static_cast<int>(Tile::tall)},
                                               {"small", static_cast<int>(Tile::small)}};
  m.attr("max_sources") = deltafx::cuda::kMaxSources;
  m.attr("max_steps") = deltafx::cuda::kMaxSteps;
  m.attr("own_sources") = deltafx::cuda::kOwnSources;
  m.attr("most_units") = deltafx::cuda::kMostUnits;
  deltafx::bind_choices(m);
  deltafx::bind_cudnn(m);
  using deltafx::cuda::grid_of;
  using Axis = std::array<int, 5>;
  const auto axis = [](const Axis& a) { return deltafx::cuda::Axis{a[0], a[1], a[2], a[3], a[4]}; };
  m.def(
      "units", [](int streams, int plane, int columns) { return grid_of(streams, plane, columns).units(); },
      "In how many units the pixels of all streams are collected.");
  m.def(
      "unit_bytes",
      [axis](int streams, int plane, int columns, bool windowed, const Axis& rows, const Axis& across) {
        return deltafx::cuda::unit_bytes(grid_of(streams, plane, columns), windowed, axis(rows), axis(across));
      },
      "Shared memory that it takes to collect a unit.");
  m.def(
      "finds_by_itself",
      [axis](int streams, int plane, int columns, bool windowed, const Axis& rows, const Axis& across) {
        return deltafx::cuda::finds_by_itself(grid_of(streams, plane, columns), windowed, axis(rows), axis(across));
      },
      "Whether a kernel finds its pixels without `collect`.");
}
