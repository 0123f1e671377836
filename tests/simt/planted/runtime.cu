// Planted faults of launchers and bindings: each does rightly on card 0, current, with its stream in hand.
#include "csrc/cuda/device.cuh"

namespace {

__global__ void fill(float* y) { y[threadIdx.x] = 1.f; }

cudaError_t run(float* y, cudaStream_t stream) { return pfk::launch(fill, 1, 32, 0, stream, y); }

} // namespace

extern "C" {

cudaError_t on_its_stream(float* y, cudaStream_t stream) { return run(y, stream); }
cudaError_t on_the_legacy_stream(float* y, cudaStream_t) { return run(y, nullptr); }
cudaError_t clears_on_the_legacy_stream(float* y, cudaStream_t) { return cudaMemsetAsync(y, 0, 4, nullptr); }
cudaError_t waits(float* y, cudaStream_t stream) {
    const cudaError_t error = run(y, stream);
    return error == cudaSuccess ? cudaStreamSynchronize(stream) : error;
}
cudaError_t leaves_another_card_current(float* y, cudaStream_t stream) {
    const cudaError_t error = run(y, stream);
    return error == cudaSuccess ? cudaSetDevice(1) : error;
}
cudaError_t wakes_another_card(float* y, cudaStream_t stream) {
    const cudaError_t error = leaves_another_card_current(y, stream);
    return error == cudaSuccess ? cudaSetDevice(0) : error;
}
cudaError_t forgets_to_change_the_card(float* y, cudaStream_t stream) {
    cudaSetDevice(1);
    const cudaError_t error = run(y, stream);
    cudaSetDevice(0);
    return error;
}
}
