"""Barrier mutation: delete each __syncthreads and __syncwarp of a kernel in turn; a checked run must notice.

A deletion that nobody notices is a barrier that is superfluous, or a case that does not exercise it.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import build
from .bench import Bench

BARRIER = re.compile(r"\b__sync(threads|warp)\s*\([^()]*\)\s*;")
DEVICE_HEADER = build.ROOT / "csrc" / "cuda" / "device.cuh"


@dataclass(frozen=True)
class Barrier:
    """One barrier statement of a source file."""

    file: Path
    start: int
    end: int

    @property
    def line(self) -> int:
        return self.file.read_text().count("\n", 0, self.start) + 1

    def __str__(self) -> str:
        return f"{self.file.name}:{self.line}"


def barriers(file: Path) -> Iterator[Barrier]:
    """Every barrier statement that is not in a comment."""
    text = file.read_text()
    for match in BARRIER.finditer(text):
        if "//" not in text[text.rfind("\n", 0, match.start()) + 1 : match.start()]:
            yield Barrier(file, match.start(), match.end())


def _mutant(kernel: Path, barrier: Barrier, folder: Path) -> Path:
    """A copy of the kernel and of all project headers with one barrier gone."""
    shutil.rmtree(folder, ignore_errors=True)
    headers = [f for pattern in ("*.h", "*.cuh") for f in (build.ROOT / "csrc").rglob(pattern)]
    for file in {kernel, *headers}:
        text = file.read_text()
        if file == barrier.file:
            text = f"{text[: barrier.start]};{text[barrier.end :]}"
        copy = folder / file.relative_to(build.ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(text)
    return folder / kernel.relative_to(build.ROOT)


def build_alone(kernel: Path, flags: Sequence[str]) -> Bench:
    """The kernel by itself, for launchers that ctypes can call."""
    return Bench(build.build([kernel], "checker", kernel_flags=flags), check=True)


def survivors(
    kernel: Path,
    run: Callable[[Bench], None],
    files: Sequence[Path] | None = None,
    make: Callable[[Path, Sequence[str]], Bench] = build_alone,
) -> tuple[list[Barrier], list[Barrier]]:
    """Delete each barrier of `files` (default: the kernel's own) in turn and call `run` on the checked build.

    `run` shall launch the kernel as its tests do, and assert its results; `make` builds a kernel file with compiler
    flags. Returns (all barriers, those whose deletion neither the checker nor `run` noticed).
    """
    kernel = kernel.resolve()
    run(make(kernel, []))  # the original is sound
    every = [barrier for file in files or [kernel] for barrier in barriers(file.resolve())]
    unnoticed = []
    for barrier in every:
        folder = build.CACHE / "mutants" / f"{kernel.stem}-{barrier.file.stem}-{barrier.start}"
        bench = make(_mutant(kernel, barrier, folder), [f"-I{folder}"])
        try:
            run(bench)
        except (RuntimeError, AssertionError):  # a report, by way of ctypes or of the binding; or a wrong result
            continue
        unnoticed.append(barrier)
    return every, unnoticed
