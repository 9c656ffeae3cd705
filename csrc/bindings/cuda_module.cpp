// The Python module deltafx._cuda: loading it registers the operators; it says what was built and what names mean.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <string>

#include "../cuda/kernels.h"
#include "../include/code_names.h"

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
  m.attr("max_sources") = deltafx::cuda::kMaxSources;
  m.attr("max_steps") = deltafx::cuda::kMaxSteps;
  m.def("scan_blocks", &deltafx::cuda::scan_blocks, "How many blocks tell each other what they found, of a map.");
}
