"""Compile CUDA sources with g++ over the shim: kernels and core in one shared object, cached by content in build/simt.

Modes: "plain"; "checker" (every load and store of a kernel is reported to the happens-before checker); "asan"
(AddressSanitizer and UBSan; needs `sanitizer_environment()`).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHIM = Path(__file__).resolve().parent / "shim"
CACHE = ROOT / "build" / "simt"
PARTS = ("core", "fiber", "warp", "memory", "machine", "checker", "traffic", "atomic", "describe")
CORE = tuple(SHIM / f"{part}.cpp" for part in PARTS)
FRONT = (SHIM / "cudart.cpp", SHIM / "c_api.cpp")
PARALLEL = 2

WARNINGS = ["-Wall", "-Wextra", "-Wno-unknown-pragmas"]
COMMON = ["-std=c++17", "-fPIC", "-fno-strict-aliasing", "-fvisibility-inlines-hidden", *WARNINGS]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
# No scalar replacement, no vectorisers: a 16-byte copy of a struct stays one 16-byte access.
CHECKED = [
    *("-O1", "-fsanitize=thread", "-fno-tree-sra", "-fno-tree-vectorize", "-fno-tree-slp-vectorize"),
    "-fno-tree-loop-distribute-patterns",
]
# Reports name source lines and what is inlined there; where variables lie is a quarter of the time of compilation.
LINES = ["-g", "-fno-var-tracking", "-fno-var-tracking-assignments"]
KERNEL_FLAGS = {"plain": ["-O2", *LINES], "checker": [*CHECKED, *LINES], "asan": ["-O1", *LINES, *SANITIZE]}
RENAMED = ("memcpy", "memmove", "memset")  # calls that -fsanitize=thread leaves to a run-time library


def cuda_include() -> Path | None:
    """The folder of the CUDA headers, or None."""
    nvcc = shutil.which("nvcc")
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), nvcc and Path(nvcc).resolve().parents[1]]
    for home in [*homes, "/usr/local/cuda"]:
        if home and (Path(home) / "include" / "cuda_runtime_api.h").exists():
            return Path(home) / "include"
    return None


def unavailable() -> str:
    """Why the bench cannot be built here; empty if it can."""
    if shutil.which("g++") is None:
        return "needs g++"
    return "" if cuda_include() else "needs the CUDA headers (set CUDA_HOME)"


def _digest(*parts: str | bytes) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(part.encode() if isinstance(part, str) else part)
        total.update(b"\0")
    return total.hexdigest()[:20]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix(".lock"), "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def run(command: Sequence[str | Path]) -> None:
    """Run a build command; its whole output is in the error if it fails."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")


def _is_current(stamp: Path) -> bool:
    if not stamp.exists():
        return False
    files: dict[str, str] = json.loads(stamp.read_text())
    return all(Path(f).exists() and _digest(Path(f).read_bytes()) == digest for f, digest in files.items())


def compile_object(source: Path, flags: Sequence[str], *, renamed: Sequence[str] = ()) -> Path:
    """The object of one source; compiled only if it or a header it includes has changed."""
    includes = [f"-I{SHIM}", f"-I{ROOT}", f"-I{ROOT / 'csrc'}", f"-isystem{cuda_include()}"]
    options = [*COMMON, *flags, *includes]
    target = CACHE / f"{source.stem}-{_digest(str(source), *options, *renamed)}.o"
    stamp, dependencies = target.with_suffix(".json"), target.with_suffix(".d")
    with _locked(target):
        if target.exists() and _is_current(stamp):
            return target
        run(["g++", *options, "-MMD", "-MF", dependencies, "-x", "c++", "-c", source, "-o", target])
        if renamed:
            run(["objcopy", *(f"--redefine-sym={name}=simt_{name}" for name in renamed), target])
        files = dependencies.read_text().split(":", 1)[1].replace("\\\n", " ").split()
        stamp.write_text(json.dumps({f: _digest(Path(f).read_bytes()) for f in files}))
    return target


def build(
    kernels: Sequence[Path],
    mode: str = "plain",
    *,
    host: Sequence[Path] = (),
    host_flags: Sequence[str] = (),
    kernel_flags: Sequence[str] = (),
    objects: Sequence[Path] = (),
    module: str | None = None,
    ucontext: bool = False,
) -> Path:
    """Link kernels, host sources and the core into one shared object and return its path.

    Kernels are compiled in `mode`, host sources always plainly; `objects` are linked as they are. `module` names a
    Python extension module.
    """
    jobs = [(source, [*KERNEL_FLAGS[mode], *kernel_flags], RENAMED if mode == "checker" else ()) for source in kernels]
    jobs += [(source, ["-O2", *host_flags], ()) for source in host]
    core = [*CORE, *FRONT, *([SHIM / "tsan_hooks.cpp"] if mode == "checker" else [])]
    for source in core:
        defines = ["-DSIMT_ASAN"] if mode == "asan" and source.stem in ("fiber", "memory") else []
        defines += ["-DSIMT_UCONTEXT"] if ucontext and source.stem == "fiber" else []
        jobs.append((source, ["-O2", *defines], ()))
    with ThreadPoolExecutor(PARALLEL) as pool:
        objects = [*pool.map(lambda job: compile_object(job[0], job[1], renamed=job[2]), jobs), *objects]
    folder = CACHE / _digest(mode, module or "", *(o.name.encode() + o.read_bytes() for o in objects))
    suffix = sysconfig.get_config_var("EXT_SUFFIX") if module else ".so"
    target = folder / f"{module or 'kernels'}{suffix}"
    with _locked(target):
        if not target.exists():
            sanitize = SANITIZE if mode == "asan" else []
            unresolved = [] if module or mode == "asan" else ["-Wl,-z,defs"]
            partial = target.with_suffix(".partial")
            run(["g++", "-shared", "-Wl,-Bsymbolic", *unresolved, *sanitize, *objects, "-ldl", "-o", partial])
            partial.rename(target)
    return target


def sanitizer_environment() -> dict[str, str]:
    """The environment in which Python can load a library built in mode "asan"."""
    libraries = [
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    options = {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
    return {**os.environ, "LD_PRELOAD": " ".join(libraries), **options}
