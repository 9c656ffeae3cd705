// Convolutions of a dense frame that cuDNN ends with bias, residual and activation by itself.
#pragma once

#include <pybind11/pybind11.h>

namespace deltafx {

void bind_cudnn(pybind11::module_& m);

}  // namespace deltafx
