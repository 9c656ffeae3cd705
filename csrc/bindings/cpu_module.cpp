// The Python module deltafx._cpu: loading it registers the operators; it says what was built and what names mean.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <string>
#include <vector>

#include "../cpu/collect.h"
#include "../cpu/kernels.h"
#include "../include/code_names.h"

namespace {

using deltafx::cpu::Relation;

// The instruction sets that this processor can run, the fastest first.
std::vector<std::string> instruction_sets() {
  std::vector<std::string> found;
  for (const char* isa : {"avx512", "avx2", "portable"})
    if (deltafx::cpu::kernels_for(isa)) found.emplace_back(isa);
  return found;
}

const std::map<std::string, int> kRelations = {
    {"window", static_cast<int>(Relation::window)}, {"same", static_cast<int>(Relation::same)},
    {"per_stream", static_cast<int>(Relation::per_stream)},
};

}  // namespace

PYBIND11_MODULE(_cpu, m) {
  m.doc() = "The compiled CPU backend of deltafx; its operators are in torch.ops.deltafx.";
  m.attr("compiler") = std::string(
#if defined(__clang__)
      "clang " __clang_version__
#elif defined(__GNUC__)
      "gcc " __VERSION__
#else
      "unknown"
#endif
  );
  m.attr("instruction_sets") = instruction_sets();
  m.attr("codes") = deltafx::code_names();
  m.attr("operands") = deltafx::operand_names();
  m.attr("relations") = kRelations;
  m.def("panel", [](const std::string& isa) {
    const deltafx::cpu::Kernels* kernels = deltafx::cpu::kernels_for(isa.c_str());
    if (!kernels) throw pybind11::value_error("isa: this processor has no " + isa);
    return kernels->panel;
  }, "How many output channels stand side by side in packed weights.");
}
