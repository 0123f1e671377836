"""Rows that stay in a file: arrays of numpy's, and scratch files for what comes in another format."""

from __future__ import annotations

import tempfile
from array import array
from mmap import mmap
from typing import IO, Any

import torch
from torch import Tensor

from .memory import fits
from .rows import OnDemand


class ScratchError(RuntimeError):
    """There is no room for the scratch file of a table."""


class FileRows(OnDemand):
    """Rows of an array of numpy's that is mapped into memory: float64, or bytes as they are.

    The system keeps of the file what it has room for, and reads the rest again. Raises ValueError, when rows are taken,
    for a file that has been shortened meanwhile: to read where it was would end the process (SIGBUS).
    """

    def __init__(self, numbers: Any) -> None:
        is_bytes = numbers.dtype == "uint8" and numbers.ndim > 2
        shape = numbers.shape if is_bytes else (len(numbers), numbers[:1].size)
        super().__init__(shape, torch.uint8 if is_bytes else torch.float64)
        self._numbers, self._kind = numbers, "uint8" if is_bytes else "float64"
        self._name, self._end = numbers.filename, numbers.offset + numbers.nbytes

    def __getitem__(self, rows: Tensor | slice, /) -> Tensor:
        import numpy as np

        held = self._numbers.base  # a copy of the rows, in another process, holds no file
        if isinstance(held, mmap) and held.size() < self._end:
            raise ValueError(f"{self._name}: has changed: {held.size():,} bytes where there were {self._end:,}")
        if isinstance(rows, slice):
            found = np.array(self._numbers[rows], self._kind)  # never the map itself
        else:
            found = np.asarray(self._numbers[rows.numpy()], self._kind)
        return torch.from_numpy(found.reshape(len(found), *self.shape[1:]))


class Numbers:
    """Numbers that come one after the other and become a table: in memory while they fit, then in a scratch file.

    The file lies where TMPDIR says. It has no name, so that it is gone when the process ends, however it ends. Raises
    ScratchError where there is no room.
    """

    def __init__(self, memory: int | None = None) -> None:
        self._memory, self._kept = memory, array("d")
        self._file: IO[bytes] | None = None
        self._count, self._looked = 0, 0

    def __len__(self) -> int:
        return self._count

    def extend(self, numbers: Any) -> None:
        """Numbers as a list, or as a float64 array of numpy's."""
        before = len(self._kept)
        if isinstance(numbers, list):
            self._kept.extend(numbers)
        else:
            self._kept.frombytes(numbers.tobytes())
        self._count += len(self._kept) - before
        if len(self._kept) >= self._looked + LOOK:
            if self._file is None and fits(self._kept.itemsize * len(self._kept), self._memory):
                self._looked = len(self._kept)
            else:
                self._spill()

    def _spill(self) -> None:
        """What is kept goes into the file."""
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="pyflowk-", buffering=0)  # noqa: SIM115
            left = memoryview(self._kept).cast("B")
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise ScratchError(
                f"{tempfile.gettempdir()}: no room for a scratch file beyond {8 * self._count:,} bytes "
                f"({error.strerror}), which a table that does not fit in memory needs; TMPDIR names another folder"
            ) from error
        self._kept, self._looked = array("d"), 0

    def rows(self, width: int, skip: int = 0) -> Any:
        """The table (N, width) without its first ``skip`` rows: a tensor, or rows on demand."""
        if self._file is None:
            kept = torch.frombuffer(self._kept, dtype=torch.float64) if self._kept else torch.empty(0).double()
            return kept.reshape(-1, width)[skip:].clone()
        import numpy as np

        self._spill()
        shape = (self._count // width - skip, width)
        return FileRows(np.memmap(self._file, np.float64, "r", 8 * width * skip, shape))


LOOK = 1 << 17
"""Numbers after which is looked whether all of them still fit."""
