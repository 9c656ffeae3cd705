#include "cuda_choice.h"

#include <pybind11/stl.h>

#include <array>
#include <stdexcept>
#include <string>

#include "../cuda/choose.h"

namespace deltafx {
namespace {

using namespace deltafx::cuda;  // NOLINT: this file only translates between the two

void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess)
    throw std::runtime_error(std::string("deltafx: ") + what + ": " + cudaGetErrorString(error));
}

template <class T>
T* at(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

// One graph out of the parts of a frame, in their order. What the forms and tables stand in must outlive it.
class ChosenGraph {
 public:
  ChosenGraph() { check(cudaGraphCreate(&graph_, 0), "a graph"); }
  ChosenGraph(const ChosenGraph&) = delete;
  ChosenGraph& operator=(const ChosenGraph&) = delete;
  ~ChosenGraph() {
    if (executable_ != nullptr) cudaGraphExecDestroy(executable_);
    if (graph_ != nullptr) cudaGraphDestroy(graph_);
  }

  void add(const std::array<uintptr_t, 3>& forms, uintptr_t tallies, int inputs, int count, int64_t many,
           uintptr_t refresh, int streams, uintptr_t kept, int kept_count, uintptr_t last) {
    const Choose choose{at<const int64_t* const>(tallies),
                        inputs,
                        count,
                        many,
                        at<const uint8_t>(refresh),
                        streams,
                        at<int64_t* const>(kept),
                        kept_count,
                        at<int32_t>(last)};
    const cudaGraph_t graphs[] = {at<CUgraph_st>(forms[0]), at<CUgraph_st>(forms[1]), at<CUgraph_st>(forms[2])};
    check(add_choice(graph_, choose, graphs, after_), "a choice");
  }

  void instantiate() {
    check(cudaGraphInstantiate(&executable_, graph_, 0), "a graph that chooses");
    check(cudaGraphDestroy(graph_), "a graph");
    graph_ = nullptr;
  }

  void launch(uintptr_t stream) {
    check(cudaGraphLaunch(executable_, at<CUstream_st>(stream)), "the launch of a frame");
  }

 private:
  cudaGraph_t graph_ = nullptr;
  cudaGraphNode_t after_ = nullptr;
  cudaGraphExec_t executable_ = nullptr;
};

}  // namespace

void bind_choices(pybind11::module_& m) {
  namespace py = pybind11;
  m.def("has_choices", &has_choices, "Whether this build and the driver have graphs that choose.");
  py::class_<ChosenGraph>(m, "ChosenGraph", "Parts of a frame, each in one of three forms that the device chooses.")
      .def(py::init<>())
      .def("add", &ChosenGraph::add, py::arg("forms"), py::kw_only(), py::arg("tallies"), py::arg("inputs"),
           py::arg("count"), py::arg("many"), py::arg("refresh"), py::arg("streams"), py::arg("kept"),
           py::arg("kept_count"), py::arg("last"),
           "Append a part: the addresses of its graphs at rest, sparse and dense, and of what their choice depends on.")
      .def("instantiate", &ChosenGraph::instantiate, "After the last part, on its device.")
      .def("launch", &ChosenGraph::launch, py::arg("stream"));
}

}  // namespace deltafx
