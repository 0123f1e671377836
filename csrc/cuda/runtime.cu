// What the binding asks the CUDA runtime, and the words for its errors.

#include "device.cuh"
#include "runtime.h"

#include <stdexcept>

namespace pfk::cuda {
namespace {

std::string text_of(cudaError_t error) {
    return std::string(cudaGetErrorName(error)) + ": " + cudaGetErrorString(error);
}

// Errors that end a context. Kernels run behind the host, so a launch is told of them by whoever ran before it.
bool of_any_kernel_before(cudaError_t code) {
    switch (code) {
    case cudaErrorAssert:
    case cudaErrorECCUncorrectable:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalAddress:
    case cudaErrorIllegalInstruction:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorMisalignedAddress:
        return true;
    default:
        return false;
    }
}

} // namespace

int current_device() {
    int current = -1; // a failure shows in the launch that follows
    cudaGetDevice(&current);
    return current;
}

void check(const char* op, Error error, int device) {
    const auto code = static_cast<cudaError_t>(error);
    if (code == cudaSuccess)
        return;
    cudaGetLastError(); // torch must not find this error and blame its own next call
    std::string text = std::string(op) + " on cuda:" + std::to_string(device) + " failed with " + text_of(code);
    if (code == cudaErrorNoKernelImageForDevice || code == cudaErrorUnsupportedPtxVersion)
        text += "; pyflowk's kernels were not compiled for this card: pyflowk.show_config() lists the architectures";
    if (of_any_kernel_before(code))
        text += "; any kernel that ran before it, of whichever package, may be at fault: CUDA_LAUNCH_BLOCKING=1 tells";
    throw std::runtime_error(text);
}

std::string device_error() {
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess) {
        cudaGetLastError();
        return text_of(error);
    }
    return count > 0 ? "" : "no CUDA device is visible";
}

} // namespace pfk::cuda
