// The few questions that the binding asks the CUDA runtime. Needs no header of CUDA.
#pragma once

#include <string>

#include "../math/kernel.h"

namespace pfk::cuda {

// Makes a device current for the length of a launch.
class DeviceGuard {
  public:
    explicit DeviceGuard(int device);
    ~DeviceGuard();
    DeviceGuard(const DeviceGuard&) = delete;
    DeviceGuard& operator=(const DeviceGuard&) = delete;

  private:
    int before_ = -1; // nothing to restore
};

// Throws std::runtime_error naming op, device and cause unless `error` is success.
void check(const char* op, Error error, int device);

// Why no CUDA device can be used here; empty if one can.
std::string device_error();

} // namespace pfk::cuda
