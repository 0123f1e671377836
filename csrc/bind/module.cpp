// The Python module of one back end: a function for everything that the ops expose.

#include <exception>
#include <new>

#include <pybind11/pybind11.h>

#include "python_call.h"

#ifdef PFK_BACKEND_CPU
#include "../cpu/dispatch.h"
#include "snapshot.h"
#endif

namespace py = pybind11;

namespace pfk::bind {

#define PFK_OP(name) void expose_##name(Module&);
#include "ops.h"
#undef PFK_OP

namespace {

// Every function that Python can call, for as long as the process lives: Python keeps pointers to them.
const std::vector<Function>& functions() {
    static const std::vector<Function> all = [] {
        Module module;
#define PFK_OP(name) expose_##name(module);
#include "ops.h"
#undef PFK_OP
        return module.functions;
    }();
    return all;
}

PyObject* call(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
    const Function& function = *static_cast<const Function*>(PyCapsule_GetPointer(self, nullptr));
    const auto given = static_cast<size_t>(count);
    try {
        if (given < function.least || given > function.most)
            refuse<TypeError>(function.name, ": expected ", function.least, " arguments; got ", given);
        PythonCall python(arguments, given);
        function.run(python);
        return python.result();
    } catch (py::error_already_set& error) {
        error.restore();
    } catch (const TypeError& error) {
        PyErr_SetString(PyExc_TypeError, error.what());
    } catch (const std::invalid_argument& error) {
        PyErr_SetString(PyExc_ValueError, error.what());
    } catch (const std::bad_alloc&) {
        PyErr_NoMemory();
#ifdef PFK_BACKEND_CPU
    } catch (const pfk::cpu::Interrupted&) { // what the signal's handler raised is set
#endif
    } catch (const std::exception& error) {
        PyErr_SetString(PyExc_RuntimeError, error.what());
    }
    return nullptr;
}

// METH_FASTCALL: the arguments arrive as they lie on the interpreter's stack, without a tuple.
void add_functions(py::module_& m) {
    static std::vector<PyMethodDef> definitions;
    for (const Function& function : functions())
        definitions.push_back(
            {function.name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(call)), METH_FASTCALL, nullptr});
    for (size_t i = 0; i < definitions.size(); ++i) {
        const py::capsule self(&functions()[i]);
        m.add_object(definitions[i].ml_name, py::reinterpret_steal<py::object>(PyCFunction_NewEx(
                                                 &definitions[i], self.ptr(), m.attr("__name__").ptr())));
    }
}

} // namespace
} // namespace pfk::bind

PYBIND11_MODULE(PFK_MODULE, m) {
    using namespace pfk::bind;
    m.def("_allocate_by", [](py::object allocate) { torch().allocate = std::move(allocate); });
    add_functions(m);
    py::dict arguments; // how many each function takes, but for Inplace
    for (const Function& function : functions())
        arguments[function.name] = function.least;
    m.attr("_arguments") = arguments;
#ifdef PFK_BACKEND_CPU
    py::register_exception_translator([](std::exception_ptr p) { // what Snapshot throws
        try {
            if (p)
                std::rethrow_exception(p);
        } catch (const pfk::TypeError& error) {
            PyErr_SetString(PyExc_TypeError, error.what());
        }
    });
    py::class_<Snapshot>(m, "Snapshot").def(py::init<const py::list&>()).def("same", &Snapshot::same);
    m.attr("isa") = pfk::cpu::isa();
    pfk::cpu::signal_raised = [] { return PyErr_CheckSignals() != 0; };
#else
    m.def("device_error", [] { return pfk::cuda::device_error(); });
    m.attr("architectures") = PFK_CUDA_ARCHITECTURES;
#endif
}
