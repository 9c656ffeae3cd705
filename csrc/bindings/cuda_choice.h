// The run-time object that launches a frame whose form the device chooses.
#pragma once

#include <pybind11/pybind11.h>

namespace deltafx {

void bind_choices(pybind11::module_& m);

}  // namespace deltafx
