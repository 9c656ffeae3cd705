#include "cpu_program.h"

#include <utility>

namespace deltafx {

Program::Program(const Tensor& rows)
    : rows_(rows), flags_(reinterpret_cast<const uint8_t*>(data<bool>(rows, at::kBool, 1, "rows"))) {}

void Program::begin_node(int64_t flags, bool aligned, int64_t dense_above) {
  nodes_.push_back({{}, flags, aligned, dense_above});
}

ProgramNode& Program::last() {
  TORCH_CHECK_VALUE(!nodes_.empty(), "program: no node was begun");
  return nodes_.back();
}

void Program::append(CollectCall collect) { last().parts.push_back({std::move(collect), {}}); }

void Program::append(Call call) {
  TORCH_CHECK_VALUE(!last().parts.empty(), "program: what finds the node's pixels comes first");
  last().parts.back().calls.push_back(std::move(call));
}

void Program::force(int64_t node, const std::optional<Tensor>& forced) {
  for (auto& part : nodes_.at(node).parts)
    for (Call& call : part.calls) call.force(forced);
}

const uint8_t* Program::refresh_of(const ProgramNode& node) {
  const uint8_t* refresh = refreshing(flags_, rows_.numel());
  if (!refresh || node.aligned) return refresh;
  others_.assign(node.flags, 1);
  return others_.data();
}

int64_t Program::run(int64_t first, int64_t end) {
  TORCH_CHECK_INDEX(0 <= first && first <= end && end <= size(), "program: nodes ", first, " to ", end, " of ", size());
  for (int64_t index = first; index < end; ++index) {
    ProgramNode& node = nodes_[index];
    const uint8_t* refresh = refresh_of(node);
    for (auto& part : node.parts) {
      count_ = part.collect.run(refresh);
      if (count_ == 0) continue;
      if (count_ > node.dense_above) return index;
      for (Call& call : part.calls) call.run(count_, refresh);
    }
  }
  return end;
}

}  // namespace deltafx
