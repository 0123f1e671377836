// One call from Python: reads its arguments, answers for memory and streams, keeps what it made alive until it is over.
// Included by module.cpp alone.
#pragma once

#include "exchange.h"
#include "function.h"
#include "torch.h"

namespace pfk::bind {

class PythonCall final : public Call {
  public:
    PythonCall(PyObject* const* arguments, size_t count) : arguments_(arguments), given_(count) {}
    ~PythonCall() {
        forget_observed();
        leave();
        for (int i = 0; i < count_; ++i)
            Py_DECREF(objects_[i]);
        Py_XDECREF(result_);
    }

    Tensor tensor(size_t place) override { return read(arguments_[place]); }

    Tensors tensors(size_t place) override {
        PyObject* const list = arguments_[place];
        if (!PyList_Check(list) && !PyTuple_Check(list))
            throw TypeError("expected a list of tensors");
        const Py_ssize_t count = PySequence_Fast_GET_SIZE(list);
        if (count > Tensors::kMost)
            refuse<std::invalid_argument>("expected at most ", Tensors::kMost, " tensors in a list; got ", count);
        Tensors tensors;
        tensors.count = static_cast<int>(count);
        for (int i = 0; i < tensors.count; ++i)
            tensors.at[i] = read(PySequence_Fast_GET_ITEM(list, i));
        return tensors;
    }

    Indices indices(size_t place) override {
        PyObject* owner = arguments_[place];
        const dlpack::Tensor t = visit(owner);
        if (t.dtype.lanes != 1 || t.dtype.code != dlpack::kInt || t.dtype.bits != 64)
            throw TypeError("expected an int64 tensor of indices");
        if (t.ndim > 0 && t.shape[0] > 1 && element_count(t) > 0 && t.strides[0] != element_count(t) / t.shape[0])
            throw std::invalid_argument("expected a contiguous tensor of indices");
        const Indices indices{reinterpret_cast<const int64_t*>(static_cast<char*>(t.data) + t.byte_offset),
                              t.shape,
                              t.ndim,
                              {kDevice, t.device.id}};
        observe(indices);
        return indices;
    }

    Numbers numbers(size_t place) override {
        Numbers numbers{0, {}};
        for_each(place, "numbers", [&numbers](PyObject* item, Py_ssize_t count) {
            if (count > Numbers::kMost || numbers.count == Numbers::kMost)
                refuse<std::invalid_argument>("expected at most ", Numbers::kMost, " numbers; got ", count);
            numbers.at[numbers.count++] = as_number(item);
        });
        return numbers;
    }

    std::vector<int64_t> integers(size_t place) override {
        std::vector<int64_t> integers;
        for_each(place, "integers", [&integers](PyObject* item, Py_ssize_t) { integers.push_back(as_integer(item)); });
        return integers;
    }

    int64_t integer(size_t place, int64_t least, int64_t most) override {
        const int64_t value = as_integer(arguments_[place]);
        if (value < least || value > most)
            refuse<TypeError>("expected an integer from ", least, " to ", most, "; got ", value);
        return value;
    }

    double number(size_t place) override { return as_number(arguments_[place]); }

    bool flag(size_t place) override {
        if (place >= given_)
            return false;
        const int truth = PyBool_Check(arguments_[place]) ? PyObject_IsTrue(arguments_[place]) : -1;
        if (truth < 0)
            refuse<TypeError>("expected True or False; got a ", Py_TYPE(arguments_[place])->tp_name);
        return truth == 1;
    }

    void give(const Tensor* outputs, size_t count, const Tensors* list) override {
        result_ = checked(PyTuple_New(static_cast<Py_ssize_t>(count) + (list != nullptr ? 1 : 0)));
        for (size_t i = 0; i < count; ++i)
            PyTuple_SET_ITEM(result_, i, Py_NewRef(static_cast<PyObject*>(outputs[i].object)));
        if (list == nullptr)
            return;
        PyObject* const last = checked(PyList_New(list->count));
        for (int i = 0; i < list->count; ++i)
            PyList_SET_ITEM(last, i, Py_NewRef(static_cast<PyObject*>(list->at[i].object)));
        PyTuple_SET_ITEM(result_, count, last);
    }

    // What the call gave, for the caller to keep.
    PyObject* result() { return std::exchange(result_, nullptr); }

    Tensor empty(const int64_t* shape, int64_t ndim, DType dtype, Device device) override {
        return allocate(shape, ndim, static_cast<int>(dtype), dtype, device);
    }

    Tensor empty_indices(const int64_t* shape, int64_t ndim, Device device) override {
        return allocate(shape, ndim, kInt64, DType::F64, device);
    }

    void* stream(Device device) override {
        void* stream = nullptr;
        if (api_->current_stream(device_type_, device.id, &stream) != 0)
            throw pybind11::error_already_set();
        return stream;
    }

  private:
    Tensor allocate(const int64_t* shape, int64_t ndim, int type, DType dtype, Device device) {
        PyObject* const object = keep(new_tensor(shape, ndim, type));
        const dlpack::Tensor t = view(api_, object);
        int64_t dense = 1;
        for (int64_t d = 1; d < ndim; ++d)
            dense *= shape[d];
        const Tensor tensor{static_cast<char*>(t.data) + t.byte_offset, t.shape, ndim, dense, dtype, device, object};
        observe(tensor, false);
        return tensor;
    }

#ifdef PFK_BACKEND_CPU
    void enter(int) {}
    void leave() {}
#else
    // Makes the device of the first tensor current until the call is over. torch does it, who alone knows which devices
    // this process uses: to set one back that it does not would wake it, which takes some hundred MB of its memory.
    void enter(int device) {
        if (cuda::current_device() == device)
            return;
        guard_ = checked(PyObject_CallMethod(torch().cuda.ptr(), "device", "i", device));
        Py_DECREF(checked(PyObject_CallMethod(guard_, "__enter__", nullptr)));
    }

    void leave() {
        if (guard_ == nullptr)
            return;
        PyObject* const left = PyObject_CallMethod(guard_, "__exit__", "OOO", Py_None, Py_None, Py_None);
        if (left == nullptr)
            PyErr_WriteUnraisable(guard_);
        Py_XDECREF(left);
        Py_DECREF(guard_);
    }

    PyObject* guard_ = nullptr;
#endif

    static PyObject* checked(PyObject* object) {
        if (object == nullptr)
            throw pybind11::error_already_set();
        return object;
    }

    static int64_t as_integer(PyObject* object) {
        PyObject* const integer = PyFloat_Check(object) ? nullptr : PyNumber_Index(object);
        const long long value = integer != nullptr ? PyLong_AsLongLong(integer) : 0;
        Py_XDECREF(integer);
        if (integer == nullptr || PyErr_Occurred()) {
            PyErr_Clear();
            refuse<TypeError>("expected an integer of 64 bits; got a ", Py_TYPE(object)->tp_name);
        }
        return value;
    }

    static double as_number(PyObject* object) {
        const double value = PyFloat_AsDouble(object);
        if (value == -1 && PyErr_Occurred()) {
            PyErr_Clear();
            refuse<TypeError>("expected a number; got a ", Py_TYPE(object)->tp_name);
        }
        return value;
    }

    // Calls take(item, number of items) on every item of a list or tuple.
    template <class Take> void for_each(size_t place, const char* what, Take take) {
        PyObject* const list = arguments_[place];
        if (!PyList_Check(list) && !PyTuple_Check(list))
            refuse<TypeError>("expected a list of ", what, "; got a ", Py_TYPE(list)->tp_name);
        for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(list); ++i) // an item may change the list
            take(PySequence_Fast_GET_ITEM(list, i), PySequence_Fast_GET_SIZE(list));
    }

    Tensor read(PyObject* owner) {
        const dlpack::Tensor t = visit(owner);
        int64_t dense = 1;
        for (int64_t d = 1; d < t.ndim; ++d)
            dense *= t.shape[d];
        const Tensor tensor{static_cast<char*>(t.data) + t.byte_offset,
                            t.shape,
                            t.ndim,
                            t.ndim > 0 && t.shape[0] > 1 ? t.strides[0] : dense,
                            dtype_of(t.dtype),
                            {kDevice, t.device.id},
                            owner};
        observe(tensor, true);
        return tensor;
    }

    // The tensor behind a Python object, rows dense inside; `owner` becomes the copy where that takes one.
    dlpack::Tensor visit(PyObject*& owner) {
        const dlpack::ExchangeAPI* api = table_of(Py_TYPE(owner));
        dlpack::Tensor t = view(api, owner);
        if (element_count(t) > 0 && !rows_are_dense(t)) {
            owner = keep(pybind11::handle(owner).attr("contiguous")().release().ptr());
            t = view(api, owner);
        }
        if (kDevice == Device::CPU ? t.device.type != dlpack::kCPU && t.device.type != dlpack::kCUDAHost
                                   : t.device.type != dlpack::kCUDA && t.device.type != dlpack::kROCM)
            throw std::invalid_argument(kDevice == Device::CPU
                                            ? "expected a tensor on the CPU; got one on another device"
                                            : "expected a CUDA tensor; got one on another device");
        if (api_ == nullptr) {
            api_ = api;
            enter(t.device.id);
        }
        return t;
    }

    dlpack::Tensor view(const dlpack::ExchangeAPI* api, PyObject* object) {
        dlpack::Tensor t;
        if (api->tensor_from_object(object, &t) != 0)
            throw pybind11::error_already_set();
        if (t.data == nullptr && element_count(t) > 0)
            throw TypeError(
                "expected a tensor with memory of its own; got one without (a fake, functional or wrapped tensor)");
        device_type_ = t.device.type;
        return t;
    }

    PyObject* keep(PyObject* object) {
        if (count_ == kMost) {
            Py_DECREF(object);
            throw std::runtime_error("a call holds more tensors than its frame has room for");
        }
        return objects_[count_++] = object;
    }

    static constexpr int kMost = 48;
    PyObject* const* const arguments_;
    const size_t given_;
    PyObject* result_ = nullptr;
    const dlpack::ExchangeAPI* api_ = nullptr;
    int32_t device_type_ = dlpack::kCPU;
    PyObject* objects_[kMost];
    int count_ = 0;
};

} // namespace pfk::bind
