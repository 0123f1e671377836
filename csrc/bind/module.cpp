// The Python module of one back end, and the only file that knows pybind11 or DLPack.

#include <algorithm>
#include <cstring>
#include <vector>

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "dlpack.h"
#include "launch.h"
#include "ops.h"

namespace py = pybind11;

namespace pfk::bind {
namespace {

// ---- torch tensors, through the exchange table of their type -------------------------------------------------------

const dlpack::ExchangeAPI* table_of(PyTypeObject* type) {
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
        throw py::error_already_set();
    while (api != nullptr && api->version.major != dlpack::kMajor)
        api = api->previous;
    if (api == nullptr)
        throw std::runtime_error("this torch speaks another major version of DLPack than pyflowk does (1)");
    for (int i = 0; i < 2; ++i) // Tensor and Parameter are the first two types that arrive
        if (known[i] == nullptr) {
            Py_INCREF(type);
            known[i] = type;
            tables[i] = api;
            break;
        }
    return api;
}

DType dtype_of(dlpack::DataType t) {
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

dlpack::DataType dlpack_type(DType t) {
    switch (t) {
    case DType::F64:
        return {dlpack::kFloat, 64, 1};
    case DType::BF16:
        return {dlpack::kBfloat, 16, 1};
    case DType::F16:
        return {dlpack::kFloat, 16, 1};
    case DType::F32:
        break;
    }
    return {dlpack::kFloat, 32, 1};
}

bool rows_are_dense(const dlpack::Tensor& t) {
    int64_t expected = 1;
    for (int64_t d = t.ndim - 1; d > 0; --d) {
        if (t.shape[d] != 1 && t.strides[d] != expected)
            return false;
        expected *= t.shape[d];
    }
    return true;
}

int64_t element_count(const dlpack::Tensor& t) {
    int64_t count = 1;
    for (int64_t d = 0; d < t.ndim; ++d)
        count *= t.shape[d];
    return count;
}

// Keeps the Python objects of one call alive and answers for memory and streams.
class PythonFrame final : public Frame {
  public:
    ~PythonFrame() {
        forget_observed();
        for (int i = 0; i < count_; ++i)
            Py_DECREF(objects_[i]);
    }

    Tensor read(py::handle object) {
        PyObject* owner = object.ptr();
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

    Indices read_indices(py::handle object) {
        PyObject* owner = object.ptr();
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

    Tensor empty(const int64_t* shape, int64_t ndim, DType dtype, Device device) override {
        dlpack::Tensor prototype{nullptr,
                                 {device_type_, device.id},
                                 static_cast<int32_t>(ndim),
                                 dlpack_type(dtype),
                                 const_cast<int64_t*>(shape),
                                 nullptr,
                                 0};
        dlpack::ManagedTensor* managed = nullptr;
        void* object = nullptr;
        const auto set_error = [](void*, const char*, const char* message) {
            PyErr_SetString(PyExc_RuntimeError, message);
        };
        if (api_->allocate(&prototype, &managed, nullptr, set_error) != 0 ||
            api_->managed_to_object(managed, &object) != 0)
            throw py::error_already_set();
        const dlpack::Tensor t = view(api_, keep(static_cast<PyObject*>(object)));
        int64_t dense = 1;
        for (int64_t d = 1; d < ndim; ++d)
            dense *= shape[d];
        const Tensor tensor{static_cast<char*>(t.data) + t.byte_offset, t.shape, ndim, dense, dtype, device, object};
        observe(tensor, false);
        return tensor;
    }

    void* stream(Device device) override {
        void* stream = nullptr;
        if (api_->current_stream(device_type_, device.id, &stream) != 0)
            throw py::error_already_set();
        return stream;
    }

  private:
    // The tensor behind a Python object, rows dense inside; `owner` becomes the copy where that takes one.
    dlpack::Tensor visit(PyObject*& owner) {
        const dlpack::ExchangeAPI* api = table_of(Py_TYPE(owner));
        dlpack::Tensor t = view(api, owner);
        if (element_count(t) > 0 && !rows_are_dense(t)) {
            owner = keep(py::handle(owner).attr("contiguous")().release().ptr());
            t = view(api, owner);
        }
        if (api_ == nullptr)
            api_ = api;
        if (kDevice == Device::CPU ? t.device.type != dlpack::kCPU && t.device.type != dlpack::kCUDAHost
                                   : t.device.type != dlpack::kCUDA && t.device.type != dlpack::kROCM)
            throw std::invalid_argument(kDevice == Device::CPU
                                            ? "expected a tensor on the CPU; got one on another device"
                                            : "expected a CUDA tensor; got one on another device");
        return t;
    }

    dlpack::Tensor view(const dlpack::ExchangeAPI* api, PyObject* object) {
        dlpack::Tensor t;
        if (api->tensor_from_object(object, &t) != 0)
            throw py::error_already_set();
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
    const dlpack::ExchangeAPI* api_ = nullptr;
    int32_t device_type_ = dlpack::kCPU;
    PyObject* objects_[kMost];
    int count_ = 0;
};

// ---- from an op to a Python function -------------------------------------------------------------------------------

template <class T> struct Python {
    using Type = T;
    static T read(PythonFrame&, T value) { return value; }
};
template <> struct Python<const Tensor&> {
    using Type = py::handle;
    static Tensor read(PythonFrame& frame, py::handle value) { return frame.read(value); }
};

template <> struct Python<const Indices&> {
    using Type = py::handle;
    static Indices read(PythonFrame& frame, py::handle value) { return frame.read_indices(value); }
};

template <> struct Python<const Numbers&> {
    using Type = py::handle;
    static Numbers read(PythonFrame&, py::handle value) {
        const auto sequence = py::reinterpret_borrow<py::sequence>(value);
        Numbers numbers{static_cast<int>(py::len(sequence)), {}};
        if (numbers.count > Numbers::kMost)
            refuse<std::invalid_argument>("expected at most ", Numbers::kMost, " numbers; got ", numbers.count);
        for (int i = 0; i < numbers.count; ++i)
            numbers.at[i] = py::cast<double>(sequence[i]);
        return numbers;
    }
};

template <> struct Python<const Tensors&> {
    using Type = py::handle;
    static Tensors read(PythonFrame& frame, py::handle value) {
        if (!PyList_Check(value.ptr()) && !PyTuple_Check(value.ptr()))
            throw TypeError("expected a list of tensors");
        const Py_ssize_t count = PySequence_Fast_GET_SIZE(value.ptr());
        if (count > Tensors::kMost)
            refuse<std::invalid_argument>("expected at most ", Tensors::kMost, " tensors in a list; got ", count);
        Tensors tensors;
        tensors.count = static_cast<int>(count);
        for (int i = 0; i < tensors.count; ++i)
            tensors.at[i] = frame.read(PySequence_Fast_GET_ITEM(value.ptr(), i));
        return tensors;
    }
};

py::object object_of(const Tensor& t) { return py::reinterpret_borrow<py::object>(static_cast<PyObject*>(t.object)); }

template <size_t N> py::tuple objects(const Outputs<N>& outputs) {
    py::tuple result(N);
    for (size_t i = 0; i < N; ++i)
        result[i] = object_of(outputs[i]);
    return result;
}

template <size_t N> py::tuple objects(const OutputsAndList<N>& outputs) {
    py::tuple result(N + 1);
    for (size_t i = 0; i < N; ++i)
        result[i] = object_of(outputs.first[i]);
    py::list list(outputs.list.count);
    for (int i = 0; i < outputs.list.count; ++i)
        list[i] = object_of(outputs.list[i]);
    result[N] = list;
    return result;
}

template <auto Op> struct Wrapped;
template <class Result, class... Args, Result (*Op)(Frame&, Args...)> struct Wrapped<Op> {
    static py::tuple call(typename Python<Args>::Type... args) {
        PythonFrame frame;
        return objects(Op(frame, Python<Args>::read(frame, args)...));
    }
};

#ifdef PFK_BACKEND_CPU
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
    explicit Snapshot(const py::list& tensors) {
        for (const py::handle object : tensors) {
            const dlpack::Tensor t = read(object);
            add_header(t, header_);
            all_stretches(t, [this](const char* data, size_t bytes) {
                bits_.insert(bits_.end(), data, data + bytes);
                return true;
            });
        }
    }

    bool same(const py::list& tensors) const {
        std::vector<int64_t> header;
        header.reserve(header_.size());
        std::vector<dlpack::Tensor> views;
        views.reserve(py::len(tensors));
        for (const py::handle object : tensors)
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
    static dlpack::Tensor read(py::handle object) {
        dlpack::Tensor t;
        if (table_of(Py_TYPE(object.ptr()))->tensor_from_object(object.ptr(), &t) != 0)
            throw py::error_already_set();
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

Outputs<1> elementary(Frame& frame, const Tensor& x, int function) {
    if (function < 0 || function > 5 || x.dtype != accumulator(x.dtype) || x.ndim != 1 || x.row_stride != 1)
        throw std::invalid_argument("elementary: function 0..5 of a contiguous float32 or float64 tensor (n,)");
    Tensor y = frame.empty_like(x);
    cpu::Elementary problem{function, x.dtype, x.data, y.data};
    cpu::kernels().elementary(problem, 0, x.rows());
    return {y};
}
#endif

} // namespace
} // namespace pfk::bind

PYBIND11_MODULE(PFK_MODULE, m) {
    using namespace pfk::bind;
    py::register_exception_translator([](std::exception_ptr p) {
        try {
            if (p)
                std::rethrow_exception(p);
        } catch (const pfk::TypeError& error) {
            PyErr_SetString(PyExc_TypeError, error.what());
        }
    });
    m.def("affine_coupling", Wrapped<affine_coupling>::call, py::arg("x"), py::arg("params"), py::arg("mask"),
          py::arg("bound"), py::arg("limit"), py::arg("interleaved"), py::arg("inverse"), py::arg("inplace") = false);
    m.def("affine_coupling_backward", Wrapped<affine_coupling_backward>::call);
    m.def("cnf_trajectory", Wrapped<cnf_trajectory>::call);
    m.def("cnf_trajectory_backward", Wrapped<cnf_trajectory_backward>::call);
    m.def("conv1x1", Wrapped<conv1x1>::call);
    m.def("conv1x1_backward", Wrapped<conv1x1_backward>::call);
    m.def("hutchinson", Wrapped<hutchinson>::call);
    m.def("hutchinson_backward", Wrapped<hutchinson_backward>::call);
    m.def("hutchinson_directions", Wrapped<hutchinson_directions>::call);
    m.def("lu_weight", Wrapped<lu_weight>::call);
    m.def("lu_weight_backward", Wrapped<lu_weight_backward>::call);
    m.def("made_forward", Wrapped<made_forward>::call);
    m.def("made_inverse", Wrapped<made_inverse>::call);
    m.def("made_forward_backward", Wrapped<made_forward_backward>::call);
    m.def("made_inverse_backward", Wrapped<made_inverse_backward>::call);
    m.def("rq_spline", Wrapped<rq_spline>::call);
    m.def("rq_spline_backward", Wrapped<rq_spline_backward>::call);
    m.def("power_series", Wrapped<power_series>::call);
    m.def("rk_combine", Wrapped<rk_combine>::call);
    m.def("rk_combine_backward", Wrapped<rk_combine_backward>::call);
    m.def("rk_error", Wrapped<rk_error>::call);
    m.def("rk_control", Wrapped<rk_control>::call);
#ifdef PFK_BACKEND_CPU
    m.def("lipswish", Wrapped<lipswish>::call);
    m.def("lipswish_backward", Wrapped<lipswish_backward>::call);
    m.def("mlp", Wrapped<mlp>::call);
    m.def("mlp_backward", Wrapped<mlp_backward>::call);
    m.def("_elementary", Wrapped<elementary>::call);
    py::class_<Snapshot>(m, "Snapshot").def(py::init<const py::list&>()).def("same", &Snapshot::same);
    m.attr("isa") = pfk::cpu::kernels().isa;
#else
    m.def("device_error", [] { return pfk::cuda::device_error(); });
    m.attr("architectures") = PFK_CUDA_ARCHITECTURES;
#endif
}
