// cuDNN's graph of one convolution and what ends it: operations on each of its numbers, one after the other. A
// transposed one is what cuDNN calls a convolution's gradient by its data, of which x is the gradient by the result.
// PyTorch has operators for it, which allocate what they return; here the result goes to a buffer that exists. Built
// where PyTorch's cuDNN has its headers.
#include "cuda_cudnn.h"

#include <pybind11/stl.h>

#ifdef DELTAFX_CUDNN

#include <ATen/cudnn/Handle.h>

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

namespace deltafx {
namespace {

void check(cudnnStatus_t status, const char* what) {
  if (status != CUDNN_STATUS_SUCCESS)
    throw std::runtime_error(std::string("cuDNN: ") + what + ": " + cudnnGetErrorString(status));
}

using Four = std::array<int64_t, 4>;  // N, C, H, W
using Two = std::array<int64_t, 2>;   // H, W

// A descriptor of cuDNN's backend, which is set attribute by attribute and then finalized.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(cudnnBackendDescriptorType_t type) {
    cudnnBackendDescriptor_t made = nullptr;
    check(cudnnBackendCreateDescriptor(type, &made), "a descriptor");
    held_.reset(made, [](cudnnBackendDescriptor_t d) { cudnnBackendDestroyDescriptor(d); });
  }

  cudnnBackendDescriptor_t get() const { return held_.get(); }

  Descriptor& set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t count,
                  const void* values) {
    check(cudnnBackendSetAttribute(get(), name, type, count, values), "an attribute");
    return *this;
  }
  template <class T>
  Descriptor& set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, const T& value) {
    return set(name, type, 1, &value);
  }
  template <size_t N>
  Descriptor& set(cudnnBackendAttributeName_t name, const std::array<int64_t, N>& values) {
    return set(name, CUDNN_TYPE_INT64, N, values.data());
  }
  Descriptor& set(cudnnBackendAttributeName_t name, const Descriptor& other) {
    const cudnnBackendDescriptor_t raw = other.get();
    used_.push_back(other);
    return set(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &raw);
  }
  Descriptor& set(cudnnBackendAttributeName_t name, const std::vector<Descriptor>& others) {
    std::vector<cudnnBackendDescriptor_t> raw;
    for (const Descriptor& each : others) raw.push_back(each.get());
    used_.insert(used_.end(), others.begin(), others.end());
    return set(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, static_cast<int64_t>(raw.size()), raw.data());
  }
  Descriptor& finalize(const char* what) {
    check(cudnnBackendFinalize(get()), what);
    return *this;
  }

 private:
  std::shared_ptr<void> held_;
  std::vector<Descriptor> used_;  // which must outlive this one
};

// What lies between, and numbers that are given, come from kMore on.
enum Id : int64_t { kX = 1, kW, kBias, kResidual, kY, kMore };

enum class Place { memory, between, host };  // where a tensor is: on the device, nowhere, or one number that is given

Descriptor tensor(int64_t id, const Four& sizes, const Four& strides, cudnnDataType_t dtype,
                  Place place = Place::memory) {
  Descriptor d(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  return d.set(CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, dtype)
      .set(CUDNN_ATTR_TENSOR_DIMENSIONS, sizes)
      .set(CUDNN_ATTR_TENSOR_STRIDES, strides)
      .set(CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, id)
      .set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, int64_t{16})
      .set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, place == Place::between)
      .set(CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, place == Place::host)
      .finalize("a tensor");
}

// An operation on the result so far: what it is, its other operand, and a number. The operand is none (""), "bias",
// "residual", the "number" itself, or the "result" of that number: 0 is the convolution's, 1 the first operation's.
using Step = std::tuple<std::string, std::string, double>;

const std::map<std::string, cudnnPointwiseMode_t> kModes{{"add", CUDNN_POINTWISE_ADD},
                                                         {"mul", CUDNN_POINTWISE_MUL},
                                                         {"max", CUDNN_POINTWISE_MAX},
                                                         {"relu", CUDNN_POINTWISE_RELU_FWD},
                                                         {"silu", CUDNN_POINTWISE_SWISH_FWD},
                                                         {"sigmoid", CUDNN_POINTWISE_SIGMOID_FWD},
                                                         {"tanh", CUDNN_POINTWISE_TANH_FWD},
                                                         {"gelu", CUDNN_POINTWISE_GELU_FWD},
                                                         {"gelu_tanh", CUDNN_POINTWISE_GELU_APPROX_TANH_FWD}};

Descriptor pointwise(cudnnPointwiseMode_t mode) {
  Descriptor d(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
  d.set(CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, mode)
      .set(CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, CUDNN_DATA_FLOAT);
  if (mode == CUDNN_POINTWISE_RELU_FWD)
    d.set(CUDNN_ATTR_POINTWISE_NAN_PROPAGATION, CUDNN_TYPE_NAN_PROPOGATION, CUDNN_PROPAGATE_NAN);
  return d.finalize("a pointwise operator");
}

Descriptor apply(const Descriptor& how, const Descriptor& x, const Descriptor* b, const Descriptor& y) {
  Descriptor d(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
  d.set(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, how)
      .set(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x)
      .set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
  if (b != nullptr) d.set(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, *b);
  return d.finalize("a pointwise operation");
}

// Whether cuDNN notes this of the engine that a configuration is for.
template <class Note>
bool is_noted(Note note, const Descriptor& config, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type) {
  const Descriptor engine(CUDNN_BACKEND_ENGINE_DESCRIPTOR);
  cudnnBackendDescriptor_t raw = engine.get();
  int64_t count = 0;
  check(cudnnBackendGetAttribute(config.get(), CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &count,
                                 &raw),
        "an engine");
  std::array<Note, 64> notes{};
  check(cudnnBackendGetAttribute(raw, name, type, notes.size(), &count, notes.data()), "notes");
  return std::find(notes.begin(), notes.begin() + count, note) != notes.begin() + count;
}

bool is_compiled(const Descriptor& config) {
  return is_noted(CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION, config, CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE,
                  CUDNN_TYPE_BEHAVIOR_NOTE);
}

bool varies(const Descriptor& config) {
  return is_noted(CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC, config, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE,
                  CUDNN_TYPE_NUMERICAL_NOTE);
}

const std::map<std::string, cudnnDataType_t> kTypes{
    {"float16", CUDNN_DATA_HALF}, {"bfloat16", CUDNN_DATA_BFLOAT16}, {"float32", CUDNN_DATA_FLOAT}};

class FusedConvolution {
 public:
  // Sizes and strides in elements, in the order of the dimensions N, C, H, W; the weight is as long in all four.
  FusedConvolution(const std::string& dtype, bool transposed, const Four& x, const Four& x_strides, const Four& weight,
                   const Four& w_strides, const Four& y, const Four& y_strides,
                   const std::optional<Four>& residual_strides, const Two& padding, const Two& stride,
                   const Two& dilation, const std::vector<Step>& ending) {
    const cudnnDataType_t type = kTypes.at(dtype);
    std::vector<Descriptor> operations;
    int64_t next = kMore, left = 1 + static_cast<int64_t>(ending.size());
    // What the next operation writes: the result, if it is the last one.
    const auto written = [&] {
      return --left == 0 ? tensor(kY, y, y_strides, type)
                         : tensor(next++, y, y_strides, CUDNN_DATA_FLOAT, Place::between);
    };
    Descriptor convolution(CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
    convolution.set(CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, CUDNN_DATA_FLOAT)
        .set(CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, CUDNN_CROSS_CORRELATION)
        .set(CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, int64_t{2})
        .set(CUDNN_ATTR_CONVOLUTION_DILATIONS, dilation)
        .set(CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, stride)
        .set(CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, padding)
        .set(CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, padding)
        .finalize("a convolution");
    std::vector<Descriptor> results{written()};
    const Descriptor from = tensor(kX, x, x_strides, type), by = tensor(kW, weight, w_strides, type);
    Descriptor operation(transposed ? CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR
                                    : CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR);
    if (transposed)
      operation.set(CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC, convolution)
          .set(CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY, from)
          .set(CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W, by)
          .set(CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX, results[0])
          .set(CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA, CUDNN_TYPE_FLOAT, 1.0f)
          .set(CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA, CUDNN_TYPE_FLOAT, 0.0f);
    else
      operation.set(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, convolution)
          .set(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, from)
          .set(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, by)
          .set(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, results[0])
          .set(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_TYPE_FLOAT, 1.0f)
          .set(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, CUDNN_TYPE_FLOAT, 0.0f);
    operation.finalize("a convolution's operation");
    operations.push_back(operation);
    const auto given = [&](double number) {
      const auto [at, is_new] = numbers_.try_emplace(number, Number{next, static_cast<float>(number)});
      next += is_new;
      return tensor(at->second.id, {1, 1, 1, 1}, {1, 1, 1, 1}, CUDNN_DATA_FLOAT, Place::host);
    };
    for (const auto& [mode, operand, number] : ending) {
      Descriptor other;
      if (operand == "bias") other = tensor(kBias, {1, y[1], 1, 1}, {y[1], 1, y[1], y[1]}, type);
      if (operand == "residual") other = tensor(kResidual, y, residual_strides.value(), type);
      if (operand == "number") other = given(number);
      if (operand == "result") other = results.at(static_cast<size_t>(number));
      bias_ |= operand == "bias", residual_ |= operand == "residual";
      const Descriptor result = written();
      operations.push_back(
          apply(pointwise(kModes.at(mode)), results.back(), operand.empty() ? nullptr : &other, result));
      results.push_back(result);
    }
    propose(operations);
  }

  // The ways to compute it that cuDNN knows, the best that it expects first: of each, whether it is compiled when it is
  // made.
  std::vector<bool> ways() const {
    std::vector<bool> compiles;
    for (const Descriptor& config : found_) compiles.push_back(is_compiled(config));
    return compiles;
  }

  // Whether this way works. It is kept, because a kernel that cuDNN compiles takes it a third of a second.
  bool make(int way) {
    if (made_.count(way) > 0) return true;
    Descriptor plan(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    plan.set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, at::native::getCudnnHandle())
        .set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, found_.at(way));
    if (cudnnBackendFinalize(plan.get()) != CUDNN_STATUS_SUCCESS) return false;
    made_.emplace(way, plan);
    return true;
  }

  int64_t workspace(int way) const {
    int64_t got = 0, bytes = 0;
    check(cudnnBackendGetAttribute(made_.at(way).get(), CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1,
                                   &got, &bytes),
          "a workspace");
    return bytes;
  }

  void run(int way, uintptr_t x, uintptr_t weight, uintptr_t bias, uintptr_t residual, uintptr_t y,
           uintptr_t workspace) {
    std::vector<int64_t> ids{kX, kW, kY};
    std::vector<void*> places{at(x), at(weight), at(y)};
    if (bias_) ids.push_back(kBias), places.push_back(at(bias));
    if (residual_) ids.push_back(kResidual), places.push_back(at(residual));
    for (auto& [_, number] : numbers_) ids.push_back(number.id), places.push_back(&number.value);
    Descriptor given(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
    const auto count = static_cast<int64_t>(ids.size());
    given.set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, count, places.data())
        .set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, count, ids.data())
        .set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, at(workspace))
        .finalize("its tensors");
    check(cudnnBackendExecute(at::native::getCudnnHandle(), made_.at(way).get(), given.get()), "a fused convolution");
  }

 private:
  static void* at(uintptr_t address) { return reinterpret_cast<void*>(address); }

  // What cuDNN's heuristic proposes and gives the same bits every time.
  void propose(const std::vector<Descriptor>& operations) {
    cudnnHandle_t handle = at::native::getCudnnHandle();
    graph_ = Descriptor(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    graph_.set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, handle)
        .set(CUDNN_ATTR_OPERATIONGRAPH_OPS, operations)
        .finalize("a graph");
    Descriptor heuristic(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    heuristic.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph_)
        .set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, CUDNN_HEUR_MODE_A)
        .finalize("a heuristic");
    constexpr int kMost = 64;
    std::vector<Descriptor> proposed;
    std::vector<cudnnBackendDescriptor_t> raw;
    for (int k = 0; k < kMost; ++k) {
      proposed.emplace_back(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
      raw.push_back(proposed.back().get());
    }
    int64_t count = 0;
    check(cudnnBackendGetAttribute(heuristic.get(), CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, kMost,
                                   &count, raw.data()),
          "engines");
    for (int64_t k = 0; k < count && k < kMost; ++k)
      if (!varies(proposed[k])) found_.push_back(proposed[k]);
  }

  struct Number {
    int64_t id;
    float value;
  };

  bool bias_ = false, residual_ = false;
  std::map<double, Number> numbers_;
  Descriptor graph_;
  std::vector<Descriptor> found_;
  std::map<int, Descriptor> made_;  // by way
};

}  // namespace

void bind_cudnn(pybind11::module_& m) {
  namespace py = pybind11;
  m.attr("has_cudnn") = true;
  py::class_<FusedConvolution>(m, "FusedConvolution",
                               "A convolution, also a transposed one, with what ends it, to memory that exists.")
      .def(py::init<const std::string&, bool, const Four&, const Four&, const Four&, const Four&, const Four&,
                    const Four&, const std::optional<Four>&, const Two&, const Two&, const Two&,
                    const std::vector<Step>&>(),
           py::kw_only(), py::arg("dtype"), py::arg("transposed"), py::arg("x"), py::arg("x_strides"),
           py::arg("weight"), py::arg("w_strides"), py::arg("y"), py::arg("y_strides"), py::arg("residual_strides"),
           py::arg("padding"), py::arg("stride"), py::arg("dilation"), py::arg("ending"))
      .def_property_readonly("ways", &FusedConvolution::ways,
                             "Those that cuDNN proposes, the best that it expects first: whether it compiles each.")
      .def("make", &FusedConvolution::make, py::arg("way"), py::call_guard<py::gil_scoped_release>(),
           "Whether it works in this way, which is compiled if it has to be.")
      .def("workspace", &FusedConvolution::workspace, py::arg("way"), "Bytes of scratch, of a way that was made.")
      .def("run", &FusedConvolution::run, py::arg("way"), py::kw_only(), py::arg("x"), py::arg("weight"),
           py::arg("bias"), py::arg("residual"), py::arg("y"), py::arg("workspace"),
           "On the current stream, with the addresses of its tensors; 0 for those that it has not.");
}

}  // namespace deltafx

#else

void deltafx::bind_cudnn(pybind11::module_& m) { m.attr("has_cudnn") = false; }

#endif
