// The Python module deltafx._cpu: loading it registers the operators; it says what was built and what names mean.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

#include <map>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "../cpu/collect.h"
#include "../cpu/kernels.h"
#include "../include/code_names.h"
#include "cpu_program.h"

namespace {

namespace py = pybind11;
using at::Tensor;
using deltafx::Ending;
using deltafx::Program;
using deltafx::cpu::Relation;
using Optional = std::optional<Tensor>;

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

// The methods that append a kernel to a node take what its operator takes, without the count of pixels, the prescribed
// decision and the refresh flags, which are those of the frame.
template <class... Own>
auto appends(deltafx::Call (*make)(const Ending&, Own...)) {
  return [make](Program& p, std::decay_t<Own>... own, const Tensor& pixels, const std::vector<Tensor>& operands,
                const std::vector<int64_t>& steps, const std::vector<double>& numbers, double threshold, bool max_norm,
                const std::string& isa, const Tensor& out, const Tensor& mask, const Tensor& tally) {
    const Optional forced;
    const Ending ending{pixels, p.last().flags, operands, steps, numbers, forced, threshold, max_norm, isa, out, mask,
                        tally};
    p.append(make(ending, own...));
  };
}

void collect(Program& p, const std::vector<Tensor>& masks, const std::vector<Tensor>& tallies,
             const std::vector<int64_t>& relations, const Tensor& rows, const Tensor& columns, int64_t in_rows,
             int64_t in_columns, bool passes_on, const Tensor& candidates, const Tensor& pixels, const Tensor& mask,
             const Tensor& tally) {
  p.append(deltafx::CollectCall(masks, tallies, relations, rows, columns, in_rows, in_columns, p.last().flags, passes_on,
                                candidates, pixels, mask, tally));
}

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
    return deltafx::kernels(isa).panel;
  }, "How many output channels stand side by side in packed weights.");

  m.def("pairs", [](const std::string& isa) { return deltafx::cpu::multiplies_pairs(deltafx::kernels(isa)); },
        "Whether weights in bfloat16 may be packed in pairs.");

  py::class_<Program>(m, "Program", "All compiled nodes of a plan, which run without Python in between.")
      .def(py::init<const Tensor&>(), py::arg("rows"))
      .def("__len__", &Program::size)
      .def("begin_node", &Program::begin_node, py::arg("flags"), py::arg("aligned"), py::arg("dense_above"))
      .def("collect", &collect)
      .def("convolve", appends(&deltafx::convolve_call))
      .def("depthwise", appends(&deltafx::depthwise_call))
      .def("separable", appends(&deltafx::separable_call))
      .def("pool", appends(&deltafx::pool_call))
      .def("copy", appends(&deltafx::copy_call))
      .def("reduce", appends(&deltafx::reduce_call))
      .def("force", &Program::force)
      .def("run", &Program::run, py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("count", &Program::count)
      .def("time", &Program::time, py::arg("on"))
      .def("spend", &Program::spend, py::arg("node"), py::arg("seconds"))
      .def("take_times", &Program::take_times);
}
