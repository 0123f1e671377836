// What nvcc's host objects ask of the CUDA runtime: registration and launches. With the bench's cudart.cpp it takes the
// place of libcudart, so the shipped launchers run unchanged over translated PTX.
#include "runtime.h"

#include <map>

namespace {

std::map<const void*, std::string>& names() { // host stub -> PTX name; registration runs before static constructors
    static std::map<const void*, std::string> map;
    return map;
}

cudaError_t start(const void* function, const cudaLaunchConfig_t& config, void** args) {
    auto name = names().find(function);
    const ptx::Kernel* kernel = name == names().end() ? nullptr : ptx::find(name->second.c_str());
    if (!kernel)
        return cudaErrorInvalidDeviceFunction;
    return ptx::launch(*kernel, {config.gridDim, config.blockDim, config.dynamicSmemBytes, function, config.stream},
                       args);
}

} // namespace

extern "C" {

void** __cudaRegisterFatBinary(void*) {
    static void* handle = nullptr;
    return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterFunction(void**, const char* host, char*, const char* device, int, uint3*, uint3*, dim3*, dim3*,
                            int*) {
    names()[host] = device;
}

// The body of a host stub, reached only by <<<>>>, which this project does not use.
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
    *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(function));
    return cudaSuccess;
}
cudaError_t __cudaPopCallConfiguration(dim3*, dim3*, std::size_t*, void*) { return cudaErrorNotSupported; }
cudaError_t __cudaLaunchKernel(cudaKernel_t, dim3, dim3, void**, std::size_t, cudaStream_t) {
    return cudaErrorNotSupported;
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function, void** args) {
    if (config->numAttrs)
        return cudaErrorNotSupported;
    return start(function, *config, args);
}

} // extern "C"
