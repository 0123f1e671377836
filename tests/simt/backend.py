"""The compiled module `_simt`: the sources of `_cuda` (csrc/bind, csrc/cuda) over the shim, as back end "simt" of pyflowk."""

from __future__ import annotations

import importlib.util
import sysconfig
from functools import cache
from pathlib import Path
from types import ModuleType

from pyflowk.ops._backends import Backend, register_backend

from . import build
from .bench import Bench


def library(mode: str = "plain") -> Path:
    """Build the extension module; bindings are compiled plainly, kernels in `mode`."""
    import pybind11

    cuda, bind = build.ROOT / "csrc" / "cuda", build.ROOT / "csrc" / "bind"
    flags = ["-DPFK_BACKEND_SIMT", "-DPFK_MODULE=_simt", '-DPFK_CUDA_ARCHITECTURES="simt"', "-fvisibility=hidden"]
    includes = [f"-isystem{pybind11.get_include()}", f"-isystem{sysconfig.get_paths()['include']}"]
    host = [*sorted(cuda.glob("*.cpp")), *sorted(bind.glob("*.cpp"))]
    return build.build(sorted(cuda.glob("*.cu")), mode, host=host, host_flags=[*flags, *includes], module="_simt")


@cache
def load(mode: str = "plain") -> tuple[ModuleType, Bench]:
    """The module, and the bench that holds its options, reports and counters."""
    path = library(mode)
    spec = importlib.util.spec_from_file_location("_simt", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, Bench(path, check=mode == "checker")


def register(mode: str = "plain", name: str = "simt") -> Bench:
    """Make `pyflowk.backend(name)` run the CUDA kernels on the CPU; it never serves unless forced."""
    module, bench = load(mode)
    register_backend(Backend(name, "cpu", module, automatic=False))
    return bench
