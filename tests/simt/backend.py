"""The compiled module `_simt`: the sources of `_cuda` (csrc/bind, csrc/cuda) over the shim, as the back end "simt"."""

from __future__ import annotations

import importlib.util
import sysconfig
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType

from pyflowk.ops._backends import Backend, register_backend
from pyflowk.ops.modes import empty_on_cpu

from . import build
from .bench import Bench

CUDA, BIND = build.ROOT / "csrc" / "cuda", build.ROOT / "csrc" / "bind"


def binding_flags() -> list[str]:
    """How the binding is compiled, for every module over the core: `_simt` in place of `_cuda`, tensors on the CPU."""
    import pybind11

    flags = ["-DPFK_BACKEND_SIMT", "-DPFK_MODULE=_simt", '-DPFK_CUDA_ARCHITECTURES="simt"', "-fvisibility=hidden"]
    return [*flags, f"-I{BIND}", f"-isystem{pybind11.get_include()}", f"-isystem{sysconfig.get_paths()['include']}"]


def library(mode: str, *, replaced: Path | None = None, kernel_flags: Sequence[str] = ()) -> Path:
    """Build the extension module; bindings are compiled plainly, kernels in `mode`.

    `replaced` stands in for the file of the same name.
    """
    kernels, *host = (
        [replaced if replaced and replaced.name == source.name else source for source in sorted(sources)]
        for sources in (CUDA.glob("*.cu"), CUDA.glob("*.cpp"), BIND.glob("*.cpp"))
    )
    host = [source for sources in host for source in sources]
    return build.build(kernels, mode, host=host, host_flags=binding_flags(), kernel_flags=kernel_flags, module="_simt")


@cache
def load(path: Path, check: bool) -> tuple[ModuleType, Bench]:
    """The module, and the bench that holds its options, reports and counters."""
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}._simt", path)  # pybind11 caches modules by name
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module._allocate_by(empty_on_cpu)
    return module, Bench(path, check=check)


def register(mode: str, name: str = "simt", path: Path | None = None) -> Bench:
    """Make `pyflowk.backend(name)` run the CUDA kernels on the CPU; it never serves unless forced."""
    module, bench = load(path or library(mode), mode == "checker")
    register_backend(Backend(name, "cpu", module, automatic=False))
    return bench
