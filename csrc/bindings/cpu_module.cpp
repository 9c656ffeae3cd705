// The Python module deltafx._cpu: loading it registers the operators; it says what was built and what names mean.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <string>
#include <vector>

#include "../cpu/collect.h"
#include "../cpu/kernels.h"

namespace {

using deltafx::cpu::Code;
using deltafx::cpu::Operand;
using deltafx::cpu::Relation;

// The instruction sets that this processor can run, the fastest first.
std::vector<std::string> instruction_sets() {
  std::vector<std::string> found;
  for (const char* isa : {"avx512", "avx2", "portable"})
    if (deltafx::cpu::kernels_for(isa)) found.emplace_back(isa);
  return found;
}

const std::map<std::string, Code> kCodes = {
    {"relu", Code::relu}, {"clamp", Code::clamp}, {"leaky_relu", Code::leaky_relu}, {"elu", Code::elu},
    {"gelu", Code::gelu}, {"gelu_tanh", Code::gelu_tanh}, {"silu", Code::silu}, {"mish", Code::mish},
    {"sigmoid", Code::sigmoid}, {"tanh", Code::tanh}, {"hardsigmoid", Code::hardsigmoid},
    {"hardswish", Code::hardswish}, {"softplus", Code::softplus}, {"exp", Code::exp}, {"sqrt", Code::sqrt},
    {"abs", Code::abs}, {"square", Code::square}, {"reciprocal", Code::reciprocal}, {"add", Code::add},
    {"rsub", Code::rsub}, {"mul", Code::mul}, {"div", Code::div}, {"rdiv", Code::rdiv}, {"maximum", Code::maximum},
    {"minimum", Code::minimum}, {"prelu", Code::prelu},
};
const std::map<std::string, Operand> kOperands = {
    {"none", Operand::none}, {"number", Operand::number}, {"per_channel", Operand::per_channel},
    {"per_pixel", Operand::per_pixel}, {"per_stream", Operand::per_stream}, {"pixel_gate", Operand::pixel_gate},
};
const std::map<std::string, Relation> kRelations = {
    {"window", Relation::window}, {"same", Relation::same}, {"per_stream", Relation::per_stream},
};

template <class E>
std::map<std::string, int> numbers(const std::map<std::string, E>& names) {
  std::map<std::string, int> result;
  for (const auto& [name, value] : names) result[name] = static_cast<int>(value);
  return result;
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
  m.attr("codes") = numbers(kCodes);
  m.attr("operands") = numbers(kOperands);
  m.attr("relations") = numbers(kRelations);
  m.def("panel", [](const std::string& isa) {
    const deltafx::cpu::Kernels* kernels = deltafx::cpu::kernels_for(isa.c_str());
    if (!kernels) throw pybind11::value_error("isa: this processor has no " + isa);
    return kernels->panel;
  }, "How many output channels stand side by side in packed weights.");
}
