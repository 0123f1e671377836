"""What the audited cards can do: limits of a multiprocessor, data-sheet peaks, occupancy and roofline.

Every time that comes out of this file is predicted from data-sheet numbers, never measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

WARP = 32
REGISTERS_PER_SM = 65536
REGISTER_UNIT = 256  # registers of a warp are handed out in units of 256
WARPS_PER_SCHEDULER_STEP = 4  # four schedulers a multiprocessor: warps are handed out in fours
PEAK_FRACTION = 0.9  # share of the data-sheet bandwidth that a plain copy reaches; the target of every prediction
DRAM_LATENCY = 0.6e-6  # seconds from a load to its data when DRAM is busy; assumed, for the bytes-in-flight rule

# Of whole calls, assumed alike for all cards here; the latencies are those that microbenchmarks of such cards report.
LAUNCH = 4e-6  # seconds from one launch to the next where the kernels are shorter
CACHE_BANDWIDTH = 5.5e12  # bytes/s of the second-level cache
CACHE_LATENCY = 270  # clocks, of the second-level cache
SHARED_LATENCY = 25  # clocks
ISSUE_LATENCY = 2  # clocks between two instructions of one warp, half of which wait for the one before
SCHEDULERS = 4  # a multiprocessor, each one instruction of a warp a clock
SECTOR = 32  # bytes
SECTORS_A_CLOCK = 2  # that a multiprocessor gets from the second-level cache
GEMM_TILE = 64 * 64  # outputs that torch's products give to one multiprocessor at least


@dataclass(frozen=True)
class Sm:
    """Limits of one multiprocessor (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability")."""

    threads: int
    blocks: int
    shared: int  # bytes a multiprocessor
    shared_reserved: int  # bytes the driver takes from it per block
    shared_unit: int


SMS = {
    75: Sm(1024, 16, 65536, 0, 256),
    80: Sm(2048, 32, 167936, 1024, 128),
    86: Sm(1536, 16, 102400, 1024, 128),
    89: Sm(1536, 24, 102400, 1024, 128),
    90: Sm(2048, 32, 233472, 1024, 128),
    100: Sm(2048, 32, 233472, 1024, 128),
    120: Sm(1536, 24, 102400, 1024, 128),
}


@dataclass(frozen=True)
class Gpu:
    """Peaks of one card: bandwidth in bytes/s, clock in Hz, lanes of a pipe per multiprocessor and clock."""

    arch: int
    bandwidth: float
    sms: int
    clock: float
    fp32: int
    fp64: int
    source: str


MUFU_LANES = 16  # special-function results per multiprocessor and clock, all architectures here
ISSUE_LANES = 128  # four schedulers, one warp instruction each per clock

# fp32 and fp64 lanes and the clock reproduce the data sheet's peak: lanes * 2 * multiprocessors * clock.
GPUS = {
    "A100": Gpu(80, 2.039e12, 108, 1.41e9, 64, 32, "NVIDIA A100 80GB SXM data sheet: 2039 GB/s, 19.5 TFLOPS FP32"),
    "H100": Gpu(90, 3.35e12, 132, 1.98e9, 128, 64, "NVIDIA H100 SXM data sheet: 3.35 TB/s, 67 TFLOPS FP32"),
    "H200": Gpu(90, 4.8e12, 132, 1.98e9, 128, 64, "NVIDIA H200 SXM data sheet: 4.8 TB/s, 67 TFLOPS FP32"),
    "B200": Gpu(
        100, 8.0e12, 148, 1.97e9, 128, 64, "NVIDIA DGX B200 data sheet, 8 cards: 64 TB/s; 75 TFLOPS FP32 a card"
    ),
}


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def occupancy(arch: int, threads: int, registers: int, shared: int) -> tuple[int, float]:
    """Resident blocks per multiprocessor and the share of its warp slots they fill.

    `registers` per thread, `shared` bytes per block (static plus dynamic, without the driver's reserve).
    """
    sm = SMS[arch]
    warps = -(-threads // WARP)
    per_warp = _round_up(max(registers, 1) * WARP, REGISTER_UNIT)
    warps_by_registers = REGISTERS_PER_SM // WARPS_PER_SCHEDULER_STEP // per_warp * WARPS_PER_SCHEDULER_STEP
    per_block = _round_up(shared + sm.shared_reserved, sm.shared_unit)
    limits = [sm.blocks, sm.threads // WARP // warps, warps_by_registers // warps]
    if per_block:
        limits.append(sm.shared // per_block)
    blocks = min(limits)
    return blocks, blocks * warps * WARP / sm.threads


@dataclass(frozen=True)
class Cost:
    """What one element costs in the hot loop: bytes moved and lane operations on each pipe."""

    bytes: float
    instructions: float
    fp32: float
    fp64: float
    mufu: float


@dataclass(frozen=True)
class Prediction:
    """Predicted milliseconds per 1e9 elements on each resource; the largest is the bound."""

    memory: float
    issue: float
    fp32: float
    fp64: float
    mufu: float

    @property
    def time(self) -> float:
        return max(self.memory, self.issue, self.fp32, self.fp64, self.mufu)

    @property
    def bound(self) -> str:
        return max(("memory", "issue", "fp32", "fp64", "mufu"), key=lambda name: getattr(self, name))


def predict(gpu: Gpu, cost: Cost) -> Prediction:
    """Roofline: every resource at its peak (memory at `PEAK_FRACTION` of it), the slowest decides."""
    lanes = gpu.sms * gpu.clock / 1e12  # per millisecond and 1e9 elements
    return Prediction(
        memory=cost.bytes / (gpu.bandwidth * PEAK_FRACTION) * 1e12,
        issue=cost.instructions / (lanes * ISSUE_LANES),
        fp32=cost.fp32 / (lanes * gpu.fp32),
        fp64=cost.fp64 / (lanes * gpu.fp64),
        mufu=cost.mufu / (lanes * MUFU_LANES),
    )


def bytes_in_flight_needed(gpu: Gpu) -> int:
    """Bytes each multiprocessor must keep requested to reach the target bandwidth (Little's law)."""
    return math.ceil(gpu.bandwidth * PEAK_FRACTION * DRAM_LATENCY / gpu.sms)
