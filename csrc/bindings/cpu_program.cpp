#include "cpu_program.h"

#include <chrono>
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
  for (auto& part : nodes_.at(node).parts) {
    part.collect.force(forced);
    for (Call& call : part.calls) call.force(forced);
  }
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
    if (!times_) {
      if (!run_node(node)) return index;
      continue;
    }
    const auto start = std::chrono::steady_clock::now();
    const bool done = run_node(node);
    node.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    node.seconds_sum += node.seconds;
    if (!done) return index;
  }
  return end;
}

bool Program::run_node(ProgramNode& node) {
  const uint8_t* refresh = refresh_of(node);
  for (auto& part : node.parts) {
    count_ = part.collect.run(refresh);
    if (count_ == 0) continue;
    if (count_ > node.dense_above) return false;
    for (Call& call : part.calls) call.run(count_, refresh);
  }
  return true;
}

void Program::spend(int64_t node, double seconds) {
  nodes_.at(node).seconds += seconds;
  nodes_.at(node).seconds_sum += seconds;
}

std::vector<std::pair<double, double>> Program::take_times() {
  std::vector<std::pair<double, double>> taken;
  for (ProgramNode& node : nodes_) taken.emplace_back(node.seconds, std::exchange(node.seconds_sum, 0.0));
  return taken;
}

}  // namespace deltafx
