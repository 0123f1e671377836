// The few functions of the CUDA runtime that launchers and the binding call, with two pretended cards.
#include "core.h"
#include "state.h"

#include <cstring>

namespace {
cudaError_t last_error = cudaSuccess;
cudaError_t remember(cudaError_t error) {
    if (error != cudaSuccess)
        last_error = error;
    return error;
}
cudaError_t happen(const char* call, cudaStream_t stream = nullptr) {
    return remember(simt::happen({call, simt::machine().current, stream}));
}
} // namespace

extern "C" {

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize)
        return remember(cudaErrorNotSupported);
    if (value < 0)
        return remember(cudaErrorInvalidValue);
    happen("attribute");
    return remember(simt::allow_dynamic_shared(kernel, static_cast<std::size_t>(value)));
}

cudaError_t cudaGetLastError() {
    cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}
cudaError_t cudaPeekAtLastError() { return last_error; }

// The reports of the bench take the place of the driver's short text.
const char* cudaGetErrorString(cudaError_t error) {
    static std::string text;
    text.clear();
    if (error == cudaErrorIllegalAddress || error == cudaErrorMisalignedAddress || error == cudaErrorLaunchFailure)
        for (const std::string& line : simt::reports())
            text += (text.empty() ? "" : "\n") + line;
    if (text.empty())
        text = std::string(cudaGetErrorName(error)) + " (" + std::to_string(error) + ")";
    return text.c_str();
}
const char* cudaGetErrorName(cudaError_t error) {
    switch (error) {
    case cudaSuccess:
        return "cudaSuccess";
    case cudaErrorInvalidValue:
        return "cudaErrorInvalidValue";
    case cudaErrorInvalidConfiguration:
        return "cudaErrorInvalidConfiguration";
    case cudaErrorNotSupported:
        return "cudaErrorNotSupported";
    case cudaErrorInvalidResourceHandle:
        return "cudaErrorInvalidResourceHandle";
    case cudaErrorStreamCaptureUnsupported:
        return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorStreamCaptureImplicit:
        return "cudaErrorStreamCaptureImplicit";
    case cudaErrorIllegalAddress:
        return "cudaErrorIllegalAddress";
    case cudaErrorMisalignedAddress:
        return "cudaErrorMisalignedAddress";
    case cudaErrorLaunchFailure:
        return "cudaErrorLaunchFailure";
    default:
        return "cudaError";
    }
}

cudaError_t cudaGetDeviceCount(int* count) { return *count = simt::cards, cudaSuccess; }
cudaError_t cudaGetDevice(int* device) {
    *device = simt::machine().current;
    return happen("get");
}
cudaError_t cudaSetDevice(int device) {
    if (device < 0 || device >= simt::cards)
        return remember(cudaErrorInvalidDevice);
    simt::machine().current = device;
    return happen("set");
}
cudaError_t cudaRuntimeGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaDriverGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaDeviceSynchronize() { return happen("synchronize"); }
cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return happen("synchronize", stream); }

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
    switch (attribute) {
    case cudaDevAttrMaxSharedMemoryPerBlock:
        *value = 48 * 1024;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = static_cast<int>(simt::options().shared_limit);
        break;
    case cudaDevAttrMultiProcessorCount:
        *value = 4;
        break; // few, so that grid-stride loops go round
    case cudaDevAttrMaxThreadsPerMultiProcessor:
        *value = 2048;
        break;
    case cudaDevAttrMaxThreadsPerBlock:
        *value = 1024;
        break;
    case cudaDevAttrWarpSize:
        *value = 32;
        break;
    case cudaDevAttrComputeCapabilityMajor:
        *value = 9;
        break;
    case cudaDevAttrComputeCapabilityMinor:
        *value = 0;
        break;
    default:
        return remember(cudaErrorNotSupported);
    }
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream) {
    if (const cudaError_t refused = happen("memset", stream))
        return refused;
    std::memset(to, value, bytes);
    simt::mark_initialised(to, bytes);
    return cudaSuccess;
}
}
