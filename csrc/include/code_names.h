// The names of the codes, for the Python modules.
#pragma once

#include <map>
#include <string>

#include "codes.h"

namespace deltafx {

inline std::map<std::string, int> code_names() {
  const std::map<std::string, Code> names = {
      {"relu", Code::relu}, {"clamp", Code::clamp}, {"leaky_relu", Code::leaky_relu}, {"elu", Code::elu},
      {"gelu", Code::gelu}, {"gelu_tanh", Code::gelu_tanh}, {"silu", Code::silu}, {"mish", Code::mish},
      {"sigmoid", Code::sigmoid}, {"tanh", Code::tanh}, {"hardsigmoid", Code::hardsigmoid},
      {"hardswish", Code::hardswish}, {"softplus", Code::softplus}, {"exp", Code::exp}, {"sqrt", Code::sqrt},
      {"abs", Code::abs}, {"square", Code::square}, {"reciprocal", Code::reciprocal}, {"add", Code::add},
      {"rsub", Code::rsub}, {"mul", Code::mul}, {"div", Code::div}, {"rdiv", Code::rdiv},
      {"maximum", Code::maximum}, {"minimum", Code::minimum}, {"prelu", Code::prelu},
  };
  std::map<std::string, int> result;
  for (const auto& [name, code] : names) result[name] = static_cast<int>(code);
  return result;
}

inline std::map<std::string, int> operand_names() {
  const std::map<std::string, Operand> names = {
      {"none", Operand::none}, {"number", Operand::number}, {"per_channel", Operand::per_channel},
      {"per_pixel", Operand::per_pixel}, {"per_stream", Operand::per_stream}, {"pixel_gate", Operand::pixel_gate},
  };
  std::map<std::string, int> result;
  for (const auto& [name, kind] : names) result[name] = static_cast<int>(kind);
  return result;
}

}  // namespace deltafx
