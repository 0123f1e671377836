// The binary interface of DLPack 1.x and its C exchange API (github.com/dmlc/dlpack, PyTorch >= 2.10), as far as
// pyflowk uses it: layouts and function signatures, declared here so that no header of torch is needed.
#pragma once

#include <cstdint>

namespace pfk::dlpack {

constexpr uint32_t kMajor = 1;
constexpr const char* kCapsule = "dlpack_exchange_api";

enum DeviceType : int32_t { kCPU = 1, kCUDA = 2, kCUDAHost = 3, kROCM = 10 };
enum TypeCode : uint8_t { kInt = 0, kUInt = 1, kFloat = 2, kBfloat = 4 };

struct Version {
    uint32_t major, minor;
};
struct Device {
    int32_t type, id;
};
struct DataType {
    uint8_t code, bits;
    uint16_t lanes;
};
struct Tensor {
    void* data;
    Device device;
    int32_t ndim;
    DataType dtype;
    int64_t* shape;
    int64_t* strides; // in elements
    uint64_t byte_offset;
};

struct ExchangeAPI {
    Version version;
    ExchangeAPI* previous;
    void (*allocate)(); // unused, as what they give is not known to torch's allocator
    void (*managed_from_object)();
    void (*managed_to_object)();
    int (*tensor_from_object)(void* object, Tensor* out); // borrowed: valid while the object lives
    int (*current_stream)(int32_t device_type, int32_t device_id, void** out);
};

} // namespace pfk::dlpack
