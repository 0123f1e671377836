// What the binding does otherwise over the shim (csrc/bind/launch.h, PFK_BACKEND_SIMT): it tells the checker about the
// tensors of a call, and sees them on a pretended card.
#pragma once

#include "core.h"

#include "csrc/bind/dlpack.h"
#include "csrc/bind/tensor.h"

#include <algorithm>
#include <map>

namespace pfk::bind {

constexpr Device::Kind kDevice = Device::CPU;

inline std::map<void*, std::size_t>& observed() { // address -> bytes; one tensor may come as several arguments
    static std::map<void*, std::size_t> tensors;
    return tensors;
}

inline void observe(const Tensor& t, bool input) {
    const std::size_t item = t.dtype == DType::F64 ? 8 : t.dtype == DType::F32 ? 4 : 2;
    const std::int64_t rows = t.ndim > 0 ? t.rows() : 1;
    const std::int64_t elements = rows == 0 ? 0 : (rows - 1) * t.row_stride + (t.ndim > 0 ? t.row_size() : 1);
    std::size_t& bytes = observed()[t.data];
    bytes = std::max(bytes, static_cast<std::size_t>(elements) * item);
    const std::string name = (input ? "input " : "output ") + std::to_string(observed().size() - 1);
    simt::adopt((name + " " + shape_text(t)).c_str(), t.data, bytes, input);
}

inline void observe(const Indices& t) {
    std::size_t bytes = sizeof(std::int64_t);
    for (std::int64_t d = 0; d < t.ndim; ++d)
        bytes *= static_cast<std::size_t>(t.shape[d]);
    void* data = const_cast<std::int64_t*>(t.data);
    observed()[data] = bytes;
    simt::adopt(("indices " + shape_text(t.shape, t.ndim)).c_str(), data, bytes, true);
}

inline void forget_observed() {
    for (const auto& tensor : observed())
        simt::forget(tensor.first);
    observed().clear();
}

// torch's table, whose tensors are on the pretended card, and whose streams are its.
inline const dlpack::ExchangeAPI* seen_by_binding(const dlpack::ExchangeAPI* of_torch) {
    static const dlpack::ExchangeAPI* real = of_torch;
    static const dlpack::ExchangeAPI pretended = [] {
        dlpack::ExchangeAPI api = *real;
        api.tensor_from_object = [](void* object, dlpack::Tensor* out) {
            const int failed = real->tensor_from_object(object, out);
            out->device.id = out->device.type == dlpack::kCPU ? simt::machine().tensors_on : out->device.id;
            return failed;
        };
        api.current_stream = [](int32_t, int32_t card, void** out) {
            *out = simt::stream_of(card);
            return 0;
        };
        return api;
    }();
    return &pretended;
}

} // namespace pfk::bind
