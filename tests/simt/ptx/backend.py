"""The compiled module `_ptxsim`: nvcc's host objects and bindings as shipped, nvcc's PTX in place of the card."""

from __future__ import annotations

import ctypes
import importlib.util
import sysconfig
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import ModuleType

from simt.bench import Bench
from simt.build import ROOT

from pyflowk.ops._backends import Backend, register_backend

from . import build

ARCHS = (80, 90)
SOURCES = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))


def compiled() -> list[build.Compiled]:
    """Every .cu file of the project through nvcc."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(build.compile_cuda, SOURCES))


def library(ptx: Sequence[str] | None = None) -> Path:
    """Build the extension module, over other PTX if given (for planted faults)."""
    import pybind11

    parts = compiled()
    flags = ["-DPFK_BACKEND_SIMT", "-DPFK_MODULE=_ptxsim", '-DPFK_CUDA_ARCHITECTURES="ptx"', "-Wno-attributes"]
    includes = [f"-isystem{pybind11.get_include()}", f"-isystem{sysconfig.get_paths()['include']}"]
    return build.library(
        [text for part in parts for text in part.ptx.values()] if ptx is None else ptx,
        host=sorted((ROOT / "csrc" / "bind").glob("*.cpp")),
        host_flags=[*flags, *includes],
        objects=[part.host for part in parts],
        module="_ptxsim",
    )


_whole = cache(library)


@cache
def load(path: Path) -> tuple[ModuleType, Bench]:
    """The module, and the bench that holds its options and reports, with the checker on."""
    # The folder belongs to the name: pybind11 hands out the module it made before under the same name.
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}._ptxsim", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    bench = Bench(path, check=True)
    bench.library.ptx_differing.restype = ctypes.c_char_p
    return module, bench


def register(arch: int, path: Path | None = None, name: str = "ptxsim") -> Bench:
    """Make `pyflowk.backend(name)` run the PTX of one architecture; it never serves unless forced."""
    module, bench = load(path or _whole())
    if not bench.library.ptx_select(arch):
        raise ValueError(f"no PTX was translated for sm_{arch}")
    register_backend(Backend(name, "cpu", module, automatic=False))
    return bench
