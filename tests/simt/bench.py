"""Run kernels of a library made by `build.build`: options, test buffers, reports, traffic counters."""

from __future__ import annotations

import ctypes
import re
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

ORDERS = ("in_order", "reversed", "shuffled")
CARD_SHARED_BYTES = 227 * 1024


class KernelError(RuntimeError):
    """A launch that was refused, or in which something was found; the message holds every report."""

    def __init__(self, code: int, reports: list[str]) -> None:
        super().__init__("\n".join(reports) or f"cudaError {code}")
        self.code = code
        self.reports = reports


@dataclass
class Traffic:
    """What one load or store instruction cost: 32-byte sectors, or bank wavefronts if shared."""

    where: str
    array: str
    shared: bool
    write: bool
    requests: int
    units: int
    minimum: int


class _TrafficRow(ctypes.Structure):
    _fields_ = (
        ("where", ctypes.c_char_p),
        ("array", ctypes.c_char_p),
        ("shared", ctypes.c_int),
        ("write", ctypes.c_int),
        ("requests", ctypes.c_uint64),
        ("units", ctypes.c_uint64),
        ("minimum", ctypes.c_uint64),
    )


@dataclass
class Launch:
    """One launch: the kernel's mangled name, its shape, and of the blocks that ran, if they were counted, what they did
    all together: warp-wide `loads` and `stores` of global memory and the `sectors` of 32 bytes that they touched,
    accesses of `shared` memory and their bank wavefronts, `instructions` of all threads (of PTX alone).
    """

    kernel: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    dynamic_shared: int
    loads: int
    stores: int
    sectors: int
    shared: int
    wavefronts: int
    instructions: int


class _LaunchRow(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("offset", ctypes.c_uint64),
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("dynamic_shared", ctypes.c_uint64),
        ("requests", ctypes.c_uint64 * 2 * 2),
        ("units", ctypes.c_uint64 * 2 * 2),
        ("instructions", ctypes.c_uint64),
    )


class Bench:
    """One loaded library with its own core."""

    def __init__(self, library: Path, *, check: bool = False) -> None:
        self.library = ctypes.CDLL(str(library))
        self.check, self.path = check, library
        lib = self.library
        lib.simt_report.restype = ctypes.c_char_p
        for counts in (lib.simt_report_count, lib.simt_traffic_count, lib.simt_launch_count, lib.simt_event_count):
            counts.restype = ctypes.c_size_t
        lib.simt_allocate.restype = lib.simt_stream.restype = ctypes.c_void_p
        self.configure()

    def configure(
        self,
        *,
        check: bool | None = None,
        order: str = "in_order",
        seed: int = 0,
        preempt: int = 0,
        host_memory: bool = False,
        count: bool = False,
        fuzz: bool = False,
        log: bool = False,
        shared_limit: int = CARD_SHARED_BYTES,
        blocks: tuple[int, int] = (0, 2**64 - 1),
    ) -> None:
        """Set every option; those left out return to their defaults (check: what the bench was made with)."""
        flags = [ctypes.c_int(f) for f in (self.check if check is None else check, host_memory, count, fuzz, log)]
        self.library.simt_set_options(
            ctypes.c_int(ORDERS.index(order)),
            ctypes.c_uint64(seed),
            ctypes.c_uint(preempt),
            *flags,
            ctypes.c_uint64(shared_limit),
            *map(ctypes.c_uint64, blocks),
        )

    @contextmanager
    def options(self, **values: Any) -> Iterator[None]:
        """`configure` for the length of a `with` block."""
        self.configure(**values)
        try:
            yield
        finally:
            self.configure()

    def buffer(self, name: str, data: Iterable[float] | int, kind: Any = ctypes.c_float, *, shift: int = 0) -> Buffer:
        """Memory between red zones: filled with `data`, or uninitialised room for that many elements."""
        return Buffer(self, name, data, kind, shift)

    def reports(self) -> list[str]:
        """What was found since the last call."""
        found = [self.library.simt_report(ctypes.c_size_t(i)).decode() for i in range(self.library.simt_report_count())]
        self.library.simt_clear_reports()
        return found

    def call(self, function: str, *arguments: Any) -> None:
        """Call an extern "C" launcher that returns cudaError_t; raise KernelError unless all went well."""
        values = [ctypes.c_void_p(a.address) if isinstance(a, Buffer) else a for a in arguments]
        values = [ctypes.c_longlong(v) if isinstance(v, int) else v for v in values]
        code = getattr(self.library, function)(*values)
        found = self.reports()
        if code or found:
            raise KernelError(code, found)

    def traffic(self) -> list[Traffic]:
        """The counters since the last call (option `count`)."""
        rows = []
        for i in range(self.library.simt_traffic_count()):
            row = _TrafficRow()
            self.library.simt_traffic(ctypes.c_size_t(i), ctypes.byref(row))
            numbers = (row.requests, row.units, row.minimum)
            rows.append(Traffic(row.where.decode(), row.array.decode(), bool(row.shared), bool(row.write), *numbers))
        self.library.simt_clear_traffic()
        return rows

    @cached_property
    def _names(self) -> dict[int, str]:
        """What stands where in the library."""
        listing = subprocess.run(["nm", str(self.path)], capture_output=True, text=True, check=True).stdout
        return {int(at, 16): name for at, name in re.findall(r"^(\w+) \w (\S+)$", listing, re.MULTILINE)}

    def launches(self) -> list[Launch]:
        """The log of launches since the last call (option `log`)."""
        found = []
        for i in range(self.library.simt_launch_count()):
            row = _LaunchRow()
            self.library.simt_launch(ctypes.c_size_t(i), ctypes.byref(row))
            name = row.name.decode() if row.name else self._names[row.offset]
            (loads, stores), (reads, writes) = row.requests
            sectors, wavefronts = map(sum, row.units)
            found.append(
                Launch(name, (*row.grid,), (*row.block,), row.dynamic_shared, loads, stores, sectors, reads + writes,
                       wavefronts, row.instructions)
            )  # fmt: skip
        self.library.simt_clear_launches()
        return found


class Buffer:
    """A test buffer; `values` is a ctypes array over it (torch.frombuffer makes a tensor of that)."""

    def __init__(self, bench: Bench, name: str, data: Iterable[float] | int, kind: Any, shift: int) -> None:
        contents = None if isinstance(data, int) else list(data)
        count = data if isinstance(data, int) else len(contents or [])
        self.bench = bench
        self.address = bench.library.simt_allocate(
            name.encode(), ctypes.c_size_t(count * ctypes.sizeof(kind)), ctypes.c_size_t(shift), contents is not None
        )
        if not self.address:
            raise MemoryError(f"no room for {count} elements of {name}")
        self.values = (kind * count).from_address(self.address)
        if contents is not None:
            self.values[:] = contents

    def __del__(self) -> None:
        self.bench.library.simt_release(ctypes.c_void_p(self.address))
