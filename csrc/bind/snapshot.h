// Whether tensors hold the bits that they held before: what `pyflowk.ops.kept` asks. Included by module.cpp alone.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "exchange.h"

namespace pfk::bind {

// Calls run(data, bytes) on every dense stretch of a tensor, in the order of its elements, until one says no.
template <class Run> bool all_stretches(const dlpack::Tensor& t, Run run) {
    if (element_count(t) == 0)
        return true;
    const int64_t size = t.dtype.bits * t.dtype.lanes / 8;
    int64_t outer = t.ndim, dense = 1;
    for (; outer > 0 && (t.shape[outer - 1] == 1 || t.strides[outer - 1] == dense); --outer)
        dense *= t.shape[outer - 1];
    const char* data = static_cast<const char*>(t.data) + t.byte_offset;
    std::vector<int64_t> at(static_cast<size_t>(outer), 0);
    while (true) {
        if (!run(data, static_cast<size_t>(dense * size)))
            return false;
        int64_t d = outer - 1;
        for (; d >= 0; --d) {
            data += t.strides[d] * size;
            if (++at[d] < t.shape[d])
                break;
            data -= t.strides[d] * size * t.shape[d];
            at[d] = 0;
        }
        if (d < 0)
            return true;
    }
}

// The bits of some tensors, to be asked later whether others hold the same: exact, at the speed of memcmp.
class Snapshot {
  public:
    explicit Snapshot(const pybind11::list& tensors) {
        for (const pybind11::handle object : tensors) {
            const dlpack::Tensor t = read(object);
            add_header(t, header_);
            all_stretches(t, [this](const char* data, size_t bytes) {
                bits_.insert(bits_.end(), data, data + bytes);
                return true;
            });
        }
    }

    bool same(const pybind11::list& tensors) const {
        std::vector<int64_t> header;
        header.reserve(header_.size());
        std::vector<dlpack::Tensor> views;
        views.reserve(pybind11::len(tensors));
        for (const pybind11::handle object : tensors)
            add_header(views.emplace_back(read(object)), header);
        const char* place = bits_.data();
        return header == header_ && std::all_of(views.begin(), views.end(), [&place](const dlpack::Tensor& t) {
                   return all_stretches(t, [&place](const char* data, size_t bytes) {
                       const bool equal = std::memcmp(data, place, bytes) == 0;
                       place += bytes;
                       return equal;
                   });
               });
    }

  private:
    static dlpack::Tensor read(pybind11::handle object) {
        dlpack::Tensor t;
        if (table_of(Py_TYPE(object.ptr()))->tensor_from_object(object.ptr(), &t) != 0)
            throw pybind11::error_already_set();
        if (t.device.type != dlpack::kCPU && t.device.type != dlpack::kCUDAHost)
            throw std::invalid_argument("expected a tensor on the CPU; got one on another device");
        if (t.data == nullptr && element_count(t) > 0)
            throw TypeError("expected a tensor with memory of its own; got one without");
        return t;
    }

    static void add_header(const dlpack::Tensor& t, std::vector<int64_t>& header) {
        header.push_back(t.dtype.code << 24 | t.dtype.bits << 8 | t.dtype.lanes);
        header.push_back(t.ndim);
        header.insert(header.end(), t.shape, t.shape + t.ndim);
    }

    std::vector<int64_t> header_; // of every tensor: dtype and shape
    std::vector<char> bits_;
};

} // namespace pfk::bind
