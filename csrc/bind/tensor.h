// What the ops see of a tensor, and the words in which they refuse one.
#pragma once

#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>

#include "../math/host_device.h"

namespace pfk {

struct Device {
    enum Kind : int { CPU, CUDA } kind;
    int id;
    bool operator==(const Device& other) const { return kind == other.kind && id == other.id; }
};

struct TypeError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// A view of a torch tensor for the length of one call. Rows are dense inside: only dimension 0 may have any stride.
struct Tensor {
    void* data;
    const int64_t* shape;
    int64_t ndim, row_stride;
    DType dtype;
    Device device;
    void* object; // the Python tensor behind it

    int64_t rows() const { return shape[0]; }
    int64_t row_size() const { // elements of one row
        int64_t size = 1;
        for (int64_t d = 1; d < ndim; ++d)
            size *= shape[d];
        return size;
    }
};

// A short list of tensors: slopes, the weights of layers.
struct Tensors {
    static constexpr int kMost = 16;
    int count;
    Tensor at[kMost];
    const Tensor& operator[](int i) const { return at[i]; }
};

// A dense int64 tensor: permutations, degrees, positions.
struct Indices {
    const int64_t* data;
    const int64_t* shape;
    int64_t ndim;
    Device device;
};

// A short list of numbers.
struct Numbers {
    static constexpr int kMost = 16;
    int count;
    double at[kMost];
};

// What an op may ask of the world outside: memory, and the stream to work on. On a card, the device of its first tensor
// is current.
struct Frame {
    virtual Tensor empty(const int64_t* shape, int64_t ndim, DType dtype, Device device) = 0;
    // An output of int64, whose `data` is all that counts: `dtype` only says how wide an element is.
    virtual Tensor empty_indices(const int64_t* shape, int64_t ndim, Device device) = 0;
    virtual void* stream(Device device) = 0;
    Tensor empty_like(const Tensor& t) { return empty(t.shape, t.ndim, t.dtype, t.device); }

  protected:
    ~Frame() = default;
};

inline const char* name(DType t) {
    switch (t) {
    case DType::F32:
        return "float32";
    case DType::F64:
        return "float64";
    case DType::BF16:
        return "bfloat16";
    case DType::F16:
        return "float16";
    }
    return "?";
}

inline std::string name(Device d) { return d.kind == Device::CPU ? "cpu" : "cuda:" + std::to_string(d.id); }

inline std::string shape_text(const int64_t* shape, int64_t ndim) {
    std::string text = "(";
    for (int64_t d = 0; d < ndim; ++d)
        text += std::to_string(shape[d]) + (d + 1 < ndim ? ", " : ndim == 1 ? "," : "");
    return text + ")";
}
inline std::string shape_text(const Tensor& t) { return shape_text(t.shape, t.ndim); }

template <class Error, class... Parts> [[noreturn]] void refuse(const Parts&... parts) {
    std::ostringstream text;
    (text << ... << parts);
    throw Error(text.str());
}

// Checks, one line each at the top of an op; `what` is "op: argument".
inline void require_same_device(const char* op, const Tensor& a, const char* a_name, const Tensor& b,
                                const char* b_name) {
    if (!(a.device == b.device))
        refuse<std::invalid_argument>(op, ": ", a_name, " and ", b_name, " must be on one device; got ", name(a.device),
                                      " and ", name(b.device));
}

inline void require_same_shape(const char* op, const Tensor& a, const char* a_name, const Tensor& b,
                               const char* b_name) {
    bool same = a.ndim == b.ndim;
    for (int64_t d = 0; same && d < a.ndim; ++d)
        same = a.shape[d] == b.shape[d];
    if (!same)
        refuse<std::invalid_argument>(op, ": ", b_name, " must have the shape of ", a_name, ", ", shape_text(a),
                                      "; got ", shape_text(b));
}

inline void require_dtype(const char* op, const Tensor& t, const char* t_name, DType expected) {
    if (t.dtype != expected)
        refuse<TypeError>(op, ": ", t_name, " must be ", name(expected), "; got ", name(t.dtype));
}

inline DType accumulator(DType t) { return t == DType::F64 ? DType::F64 : DType::F32; }

} // namespace pfk
