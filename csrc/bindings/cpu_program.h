// All compiled nodes of a plan in one object, which runs a frame of them without Python in between.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "cpu_calls.h"

namespace deltafx {

// A node: what finds its pixels and what computes them. A view of several outputs has several such pairs.
struct ProgramNode {
  struct Part {
    CollectCall collect;
    std::vector<Call> calls;
  };
  std::vector<Part> parts;
  int64_t flags;        // how many refresh flags its kernels want
  bool aligned;         // they are those of the streams; else all are set if one stream is in refresh
  int64_t dense_above;  // of more pixels than this its dense operator is faster, and that is not run here
  double seconds = 0, seconds_sum = 0;  // where nodes are timed
};

class Program {
 public:
  // `rows` has this frame's refresh flag of each stream.
  explicit Program(const Tensor& rows);

  void begin_node(int64_t flags, bool aligned, int64_t dense_above);
  ProgramNode& last();
  void append(CollectCall collect);
  void append(Call call);
  int64_t size() const { return static_cast<int64_t>(nodes_.size()); }
  // Prescribes, or no longer, what a node's kernels propagate.
  void force(int64_t node, const std::optional<Tensor>& forced);
  // Runs the nodes [first, end) of a frame, up to one that wants its dense operator, whose pixels are collected by then.
  // Returns that node, or `end`.
  int64_t run(int64_t first, int64_t end);
  int64_t count() const { return count_; }  // of the pixels of the node that `run` stopped at

  // Whether nodes are timed: seconds of the last frame, and their sum, which `take_times` starts anew.
  void time(bool on) { times_ = on; }
  void spend(int64_t node, double seconds);  // what Python took to compute a node that `run` stopped at
  std::vector<std::pair<double, double>> take_times();

 private:
  const uint8_t* refresh_of(const ProgramNode& node);
  bool run_node(ProgramNode& node);  // whether all of it is done

  Tensor rows_;
  const uint8_t* flags_;
  std::vector<ProgramNode> nodes_;
  std::vector<uint8_t> others_;  // refresh flags of a node that is not aligned
  int64_t count_ = 0;
  bool times_ = false;
};

}  // namespace deltafx
