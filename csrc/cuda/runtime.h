// The few questions that the binding asks the CUDA runtime. Needs no header of CUDA.
#pragma once

#include <string>

#include "../math/kernel.h"

namespace pfk::cuda {

// The device that is current in this thread; wakes none.
int current_device();

// Throws std::runtime_error naming op, device and cause unless `error` is success.
void check(const char* op, Error error, int device);

// Why no CUDA device can be used here; empty if one can.
std::string device_error();

} // namespace pfk::cuda
