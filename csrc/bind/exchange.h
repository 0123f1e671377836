// torch tensors, through the DLPack exchange table of their type. Included by module.cpp alone.
#pragma once

#include <pybind11/pybind11.h>

#include "dlpack.h"
#include "launch.h"

namespace pfk::bind {

inline const dlpack::ExchangeAPI* table_of(PyTypeObject* type) {
    static PyTypeObject* known[2] = {};
    static const dlpack::ExchangeAPI* tables[2] = {};
    for (int i = 0; i < 2; ++i)
        if (known[i] == type)
            return tables[i];
    PyObject* capsule = PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), "__dlpack_c_exchange_api__");
    if (capsule == nullptr) {
        PyErr_Clear();
        throw TypeError(std::string("expected a torch.Tensor; got ") + type->tp_name);
    }
    auto* api = static_cast<const dlpack::ExchangeAPI*>(PyCapsule_GetPointer(capsule, dlpack::kCapsule));
    Py_DECREF(capsule); // torch keeps the table for as long as the type lives
    if (api == nullptr)
        throw pybind11::error_already_set();
    while (api != nullptr && api->version.major != dlpack::kMajor)
        api = api->previous;
    if (api == nullptr)
        throw std::runtime_error("this torch speaks another major version of DLPack than pyflowk does (1)");
    api = seen_by_binding(api);
    for (int i = 0; i < 2; ++i) // Tensor and Parameter are the first two types that arrive
        if (known[i] == nullptr) {
            Py_INCREF(type);
            known[i] = type;
            tables[i] = api;
            break;
        }
    return api;
}

inline DType dtype_of(dlpack::DataType t) {
    if (t.lanes == 1 && t.code == dlpack::kFloat && t.bits == 32)
        return DType::F32;
    if (t.lanes == 1 && t.code == dlpack::kFloat && t.bits == 64)
        return DType::F64;
    if (t.lanes == 1 && t.code == dlpack::kBfloat && t.bits == 16)
        return DType::BF16;
    if (t.lanes == 1 && t.code == dlpack::kFloat && t.bits == 16)
        return DType::F16;
    throw TypeError("expected a float32, float64, bfloat16 or float16 tensor");
}

inline bool rows_are_dense(const dlpack::Tensor& t) {
    int64_t expected = 1;
    for (int64_t d = t.ndim - 1; d > 0; --d) {
        if (t.shape[d] != 1 && t.strides[d] != expected)
            return false;
        expected *= t.shape[d];
    }
    return true;
}

inline int64_t element_count(const dlpack::Tensor& t) {
    int64_t count = 1;
    for (int64_t d = 0; d < t.ndim; ++d)
        count *= t.shape[d];
    return count;
}

} // namespace pfk::bind
