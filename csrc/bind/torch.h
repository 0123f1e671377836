// What the binding asks of torch by name: memory that torch's allocator owns and, on a card, its device guard. Included
// by module.cpp and python_call.h alone.
#pragma once

#include <algorithm>

#include <pybind11/pybind11.h>

#include "tensor.h"

namespace pfk::bind {

constexpr int kInt64 = 4; // after those of DType

// Found when the module is imported, and kept for as long as the process lives.
struct Torch {
    pybind11::handle dtypes[5];
    pybind11::handle cuda;
    // (sizes, strides, dtype) -> a new tensor, on the current device if this module is for cards. Python hands it over,
    // since what is cheap enough has a private name.
    pybind11::object allocate;

    Torch() {
        const auto torch = pybind11::module_::import("torch");
        const char* const names[5] = {"float32", "float64", "bfloat16", "float16", "int64"};
        for (int i = 0; i < 5; ++i)
            dtypes[i] = pybind11::object(torch.attr(names[i])).release();
        cuda = pybind11::object(torch.attr("cuda")).release();
    }
};

inline Torch& torch() {
    static auto* const found = new Torch; // never destroyed: Python ends first
    return *found;
}

// A new dense tensor.
inline PyObject* new_tensor(const int64_t* shape, int64_t ndim, int dtype) {
    const pybind11::tuple sizes(ndim), strides(ndim);
    for (int64_t d = ndim - 1, stride = 1; d >= 0; stride *= std::max<int64_t>(1, shape[d]), --d) {
        PyTuple_SET_ITEM(sizes.ptr(), d, PyLong_FromLongLong(shape[d]));
        PyTuple_SET_ITEM(strides.ptr(), d, PyLong_FromLongLong(stride));
    }
    if (!torch().allocate)
        throw std::runtime_error("this module has no memory: pyflowk hands it over when it is imported");
    PyObject* const given[] = {sizes.ptr(), strides.ptr(), torch().dtypes[dtype].ptr()};
    PyObject* const made = PyObject_Vectorcall(torch().allocate.ptr(), given, 3, nullptr);
    if (made == nullptr)
        throw pybind11::error_already_set();
    return made;
}

} // namespace pfk::bind
