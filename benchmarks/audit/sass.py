"""From a .cu file to facts about its machine code: nvcc, ptxas -v, cuobjdump and nvdisasm, hot loops."""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "audit"
KEPT = ROOT / "build" / "make" / "nvcc"  # of a build with PYFLOWK_KEEP, as `make test` makes it
# What the wheel's build passes to nvcc, plus ptxas' own report; -Werror would hide the other rows, so gates judge.
NVCC_FLAGS = ("-O3", "-DNDEBUG", "-std=c++17", "-lineinfo", "-Xptxas", "-v")


def tool(package: str) -> Path:
    """Path of a CUDA binary tool that a PyPI package installs (nvidia-cuda-cuobjdump, nvidia-cuda-nvdisasm)."""
    name = package.removeprefix("nvidia-cuda-")
    for file in importlib.metadata.files(package) or []:
        if file.name == name:
            return Path(str(file.locate()))
    raise FileNotFoundError(f"{package} is installed but holds no {name}")


def run(*command: str | Path) -> tuple[str, str]:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout, done.stderr


def _fingerprint(source: Path, arch: int, flags: tuple[str, ...]) -> str:
    digest = hashlib.sha256(repr((arch, flags, run("nvcc", "--version")[0])).encode())
    headers = [path for path in sorted((ROOT / "csrc").rglob("*")) if path.suffix in {".h", ".cuh"}]
    for path in [source, *headers]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@cache
def package_is_current() -> bool:
    """Whether the package's build kept what nvcc made of the very sources that are here."""
    if not (KEPT / "sources.sha256").exists():
        return False
    lines = (line.split(maxsplit=1) for line in (KEPT / "sources.sha256").read_text().splitlines())
    files = {ROOT / name: digest for digest, name in lines}
    return all(file.exists() and hashlib.sha256(file.read_bytes()).hexdigest() == files[file] for file in files)


def compile_cubin(source: Path, arch: int, flags: tuple[str, ...] = ()) -> tuple[Path, str | None]:
    """The cubin of `source` for sm_`arch` and the log of ptxas.

    The package's own cubin, without a log, where its build kept it; else nvcc's, cached by content under build/audit/.
    """
    kept = KEPT / f"{source.stem}.compute_{arch}.cubin"
    if not flags and source.is_relative_to(ROOT / "csrc") and package_is_current() and kept.exists():
        return kept, None
    flags = NVCC_FLAGS + flags
    cubin = BUILD / f"{source.stem}-sm_{arch}-{_fingerprint(source, arch, flags)}.cubin"
    log = cubin.with_suffix(".log")
    if not log.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        _, text = run("nvcc", "-cubin", f"-arch=sm_{arch}", *flags, "-I", ROOT / "csrc", "-o", cubin, source)
        log.write_text(text)
    return cubin, log.read_text()


@dataclass(frozen=True)
class Instruction:
    opcode: str  # with modifiers: LDG.E.128
    operands: str
    predicated: bool

    @property
    def base(self) -> str:
        return self.opcode.split(".")[0]

    @property
    def width(self) -> int:
        """Bytes one lane moves with this load or store."""
        bits = [int(part) for part in re.findall(r"\.[USB]?(8|16|32|64|128|256)\b", self.opcode)]
        return bits[-1] // 8 if bits else 4


@dataclass
class Kernel:
    """One entry function of a cubin."""

    name: str
    mangled: str
    registers: int
    stack: int
    shared: int  # static bytes a block
    local: int
    spills: int | None  # bytes stored and loaded, None where ptxas' log is not known
    code: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)

    def hot_loop(self, loads: bool = False) -> list[Instruction]:
        """The innermost loop that moves most bytes of global memory, or loads most; where none does, the whole code."""
        return self._innermost(bytes_loaded if loads else bytes_moved)

    def arithmetic_loop(self) -> list[Instruction]:
        """The innermost loop that multiplies and adds most; the whole code where no loop does."""
        return self._innermost(products)

    def _innermost(self, worth: Callable[[list[Instruction]], int]) -> list[Instruction]:
        """Of the loops that hold no other loop of any worth, the one that is worth most, the longest of several."""
        loops = {}
        for end, instruction in enumerate(self.code):
            target = re.search(r"`\((\.L_\w+)\)", instruction.operands)
            if instruction.base == "BRA" and target and (start := self.labels.get(target[1], end + 1)) <= end:
                loops[start, end] = worth(self.code[start : end + 1])
        holds = lambda a, b: a != b and a[0] <= b[0] and b[1] <= a[1]  # noqa: E731
        inner = [a for a in loops if not any(holds(a, b) and loops[b] for b in loops)]
        best = max(inner, key=lambda loop: (loops[loop], loop[1] - loop[0]), default=None)
        return self.code[best[0] : best[1] + 1] if best and loops[best] else self.code


LOADS = {"LDG", "LDGSTS"}  # of global memory: into registers, or asynchronously into shared memory
PRODUCTS = re.compile(r"[FD]FMA|HMMA|DMMA")


def bytes_moved(code: list[Instruction]) -> int:
    return sum(i.width for i in code if i.base in {*LOADS, "STG"})


def bytes_loaded(code: list[Instruction]) -> int:
    return sum(i.width for i in code if i.base in LOADS)


def products(code: list[Instruction]) -> int:
    return sum(bool(PRODUCTS.match(i.opcode)) for i in code)


def loads_a_product(code: list[Instruction]) -> float:
    """Loads, from global and shared memory, for each product: at 1/4 a multiprocessor that issues four instructions a
    clock, of which one a load, is as busy with the ones as with the others."""
    loads = sum(i.base in {*LOADS, "LDS", "LDSM"} for i in code)
    return loads / products(code) if products(code) else 0.0


def widths(code: list[Instruction], bases: set[str]) -> dict[int, int]:
    """How many accesses by these instructions of which width in bytes: {16: 6}."""
    return dict(sorted(Counter(i.width for i in code if i.base in bases).items()))


@dataclass(frozen=True, order=True)
class Flight:
    """What one lane has requested of global memory when it first needs some of it."""

    bytes: int = 0
    loads: int = 0


def loads_before_use(code: list[Instruction]) -> Flight:
    """The most that one lane keeps in flight; asynchronous copies into shared memory fly until they are waited for."""
    most = flight = Flight()
    waiting: set[int] = set()
    for i in code:
        if i.base in LOADS:
            if i.base == "LDG" and (target := re.match(r"R(\d+)", i.operands)):
                waiting.update(range(int(target[1]), int(target[1]) + max(i.width // 4, 1)))
            flight = Flight(flight.bytes + i.width, flight.loads + 1)
            most = max(most, flight)
        elif i.base == "DEPBAR" or waiting & {int(r) for r in re.findall(r"\bR(\d+)", i.operands)}:
            waiting.clear()
            flight = Flight()
    return most


def demangle(names: list[str]) -> list[str]:
    return run("c++filt", *names)[0].splitlines() if names else []


def read_cubin(cubin: Path, arch: int, log: str | None = None) -> list[Kernel]:
    """Every entry function of a cubin: resources, spills (from ptxas' log, if given) and code."""
    usage, _ = run(tool("nvidia-cuda-cuobjdump"), "-res-usage", cubin)
    found = re.findall(r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", usage)
    if not found:
        raise RuntimeError(f"{cubin} holds no kernel")
    kernels = {}
    for (mangled, registers, stack, shared, local), name in zip(found, demangle([f[0] for f in found]), strict=True):
        reserve = 1024 if arch >= 90 and int(shared) else 0  # cuobjdump counts the driver's share from sm_90 on
        spills = _spills(log, mangled) if log is not None else None
        kernels[mangled] = Kernel(name, mangled, int(registers), int(stack), int(shared) - reserve, int(local), spills)
    listing, _ = run(tool("nvidia-cuda-nvdisasm"), "-c", cubin)
    current: Kernel | None = None
    for line in listing.splitlines():
        if section := re.match(r"\s*\.section\s+\.text\.(\w+)", line):
            current = kernels.get(section[1])
        elif current and (label := re.match(r"(\.L_\w+):", line)):
            current.labels[label[1]] = len(current.code)
        elif current and (text := re.match(r"\s*/\*[0-9a-f]+\*/\s+(@!?U?P\w+\s+)?([A-Z][\w.]*)\s*(.*?)\s*;", line)):
            current.code.append(Instruction(text[2], text[3], bool(text[1])))
    if empty := [k.name for k in kernels.values() if not k.code]:
        raise RuntimeError(f"the disassembly of {cubin} shows no code for {empty[0]}")
    return list(kernels.values())


def _spills(log: str, mangled: str) -> int:
    report = r"\s+.*?(\d+) bytes spill stores, (\d+) bytes spill loads"
    text = re.search(rf"properties for {re.escape(mangled)}{report}", log)
    if text is None:
        raise RuntimeError(f"ptxas said nothing about {mangled}")
    return int(text[1]) + int(text[2])
