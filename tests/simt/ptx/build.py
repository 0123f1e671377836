"""nvcc's PTX -> a program -> one shared object with the core of the bench; each step is cached by content in build/."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from simt import build as bench_build
from simt.bench import Bench, Buffer
from simt.build import ROOT, run

from benchmarks.audit import sass

from .translate import translate

HERE = Path(__file__).resolve().parent
CACHE = ROOT / "build" / "ptx"
RUNTIME = (HERE / "runtime.cpp", HERE / "nvcc_stubs.cpp")
# PTX says itself which products and sums are fused; integer arithmetic wraps; every access carries its own line.
TRANSLATED = ("-std=c++20", "-O1", "-g0", "-fwrapv", "-ffp-contract=off", "-w", f"-I{HERE}")
RUNTIME_FLAGS = ("-std=c++20", "-O2", f"-I{HERE}")
NVCC = ("nvcc", "-std=c++17", "-O3", "-DNDEBUG", "-lineinfo", "-Xcompiler", "-fPIC")


def unavailable() -> str:
    """Why PTX cannot be made and run here; empty if it can."""
    return "needs nvcc" if shutil.which("nvcc") is None else bench_build.unavailable()


def _cached(target: Path, make: Callable[[Path], object]) -> Path:
    """`target`, made by make(temporary path) if it is not there; other test processes wait for it."""
    with bench_build._locked(target):
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=target.parent) as folder:
                make(Path(folder) / target.name)
                os.replace(Path(folder) / target.name, target)
    return target


@dataclass(frozen=True)
class Compiled:
    """What one run of nvcc makes of a .cu file."""

    ptx: dict[int, str]  # by architecture
    host: Path  # the object with the shipped launchers; its kernels are stubs that nvcc_stubs.cpp resolves


def kept(source: Path, archs: Sequence[int]) -> Compiled | None:
    """What the package's own build made of one of its sources, if it is still there and for these architectures."""
    names = {arch: sass.KEPT / f"{source.stem}.compute_{arch}.ptx" for arch in archs}
    host = sass.KEPT.parent / "CMakeFiles" / "_cuda.dir" / source.relative_to(ROOT).with_suffix(".cu.o")
    if not sass.package_is_current() or not all(path.exists() for path in (host, *names.values())):
        return None
    return Compiled({arch: name.read_text() for arch, name in names.items()}, host)


def compile_cuda(source: Path, archs: Sequence[int] = (80, 90)) -> Compiled:
    """PTX for every architecture and the host object, from one run: both must name local kernels alike.

    That run is the package's build where it kept what it made.
    """
    if (made := kept(source, archs)) is not None:
        return made
    headers = (p.read_bytes() for p in sorted((ROOT / "csrc").rglob("*")) if p.suffix in {".h", ".cuh"})
    key = hashlib.sha256(b"\0".join([source.read_bytes(), repr((NVCC, archs)).encode(), *headers])).hexdigest()[:16]
    targets = [part for arch in archs for part in ("-gencode", f"arch=compute_{arch},code=compute_{arch}")]

    def make(folder: Path) -> None:
        folder.mkdir()
        include = ["-I", ROOT, "-I", ROOT / "csrc"]
        run([*NVCC, *targets, *include, "--keep", "--keep-dir", folder, "-c", source, "-o", folder / "host.o"])
        for leftover in folder.iterdir():
            if leftover.suffix not in {".ptx", ".o"}:
                leftover.unlink()

    folder = _cached(CACHE / f"{source.stem}-{key}", make)
    names = {arch: folder / f"{source.stem}{f'.compute_{arch}' if len(archs) > 1 else ''}.ptx" for arch in archs}
    return Compiled({arch: name.read_text() for arch, name in names.items()}, folder / "host.o")


def translated(ptx: list[str], benign_equal_stores: bool) -> Path:
    """The folder with the C++ of some PTX and the words and tables that it embeds."""
    translator = [(HERE / f"{part}.py").read_text() for part in ("parse", "operands", "arithmetic", "translate")]
    key = hashlib.sha256("\0".join([*ptx, *translator, str(benign_equal_stores)]).encode()).hexdigest()[:16]

    def make(folder: Path) -> None:
        folder.mkdir()
        program = translate(ptx, benign_equal_stores=benign_equal_stores)
        (folder / "forms.cpp").write_text(program.source())
        (folder / "words.bin").write_bytes(program.words())
        (folder / "tables.bin").write_bytes(program.tables)

    return _cached(CACHE / f"program-{key}", make)


def library(
    ptx: Iterable[str],
    *,
    benign_equal_stores: bool = False,
    host: Sequence[Path] = (),
    host_flags: Sequence[str] = (),
    objects: Sequence[Path] = (),
    module: str | None = None,
) -> Path:
    """The translated `ptx`, the core and the PTX runtime in one shared object; the rest as `simt.build.build`."""
    folder = translated(list(ptx), benign_equal_stores)
    runtime = [bench_build.compile_object(source, RUNTIME_FLAGS) for source in RUNTIME]
    return bench_build.build(
        [folder / "forms.cpp"],
        host=host,
        host_flags=host_flags,
        kernel_flags=[*TRANSLATED, f"-Wa,-I{folder}"],
        objects=[*runtime, *objects],
        module=module,
    )


def launch(
    bench: Bench,
    name: str,
    arguments: Sequence[Buffer | int | float | bytes],
    *,
    grid: int | tuple[int, int, int] = 1,
    block: int | tuple[int, int, int] = 1,
    shared: int = 0,
) -> None:
    """Launch a translated kernel and wait; KernelError says what was found.

    Buffers pass as pointers, integers as 64 bits, floats as 32, bytes as they are.
    """
    raw = []
    for value in arguments:
        if isinstance(value, bytes):
            raw.append(value)
        elif isinstance(value, float):
            raw.append(bytes(ctypes.c_float(value)))
        else:
            raw.append(bytes(ctypes.c_int64(value.address if isinstance(value, Buffer) else value)))
    cells = [ctypes.create_string_buffer(value, len(value)) for value in raw]
    pointers = (ctypes.c_void_p * len(cells))(*(ctypes.addressof(cell) for cell in cells))
    sizes = [(ctypes.c_uint * 3)(*(size if isinstance(size, tuple) else (size, 1, 1))) for size in (grid, block)]
    bench.call("ptx_launch", name.encode(), *sizes, shared, pointers)
