"""The back end "ptxsim": nvcc's host objects and the binding as shipped, over nvcc's PTX in place of a card."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from simt.backend import binding_flags, load
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
    parts = compiled()
    return build.library(
        [text for part in parts for text in part.ptx.values()] if ptx is None else ptx,
        host=sorted((ROOT / "csrc" / "bind").glob("*.cpp")),
        host_flags=binding_flags(),
        objects=[part.host for part in parts],
        module="_simt",
    )


_whole = cache(library)


def register(arch: int, path: Path | None = None, name: str = "ptxsim") -> Bench:
    """Make `pyflowk.backend(name)` run the PTX of one architecture; it never serves unless forced."""
    module, bench = load(path or _whole(), check=True)
    bench.library.ptx_differing.restype = ctypes.c_char_p
    if not bench.library.ptx_select(arch):
        raise ValueError(f"no PTX was translated for sm_{arch}")
    register_backend(Backend(name, "cpu", module, automatic=False))
    return bench
