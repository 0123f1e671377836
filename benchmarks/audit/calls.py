"""Whole calls of the ops on a card, kernel beside formula: how many launches, how wide, how long. All is predicted.

A kernel's figures come from the bench of tests/simt: its first block runs in nvcc's own PTX, where instructions,
sectors and bank wavefronts are counted; the launcher tells the grid, the cubin registers and loads in flight. Those of
the formula come from the torch operations that it makes: the bytes that each reads and writes, and the products. Left
out are tails, what one operation leaves in the cache for the next, and how well torch's kernels are made.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import machine
import sass
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

sys.path[:0] = [str(sass.ROOT), str(sass.ROOT / "tests")]

CARD = "H200"
SIZES = (1, 64, 1024)
#: the grid, or how often a loop goes round, depends on numbers that the first block alone does not make
UNPREDICTED = {"assignment", "assignment_of_points", "sinkhorn", "sinkhorn_draw"}


@dataclass(frozen=True)
class Estimate:
    """Seconds of one call, predicted."""

    launches: int
    blocks: int  # of its widest launch
    seconds: float


@dataclass(frozen=True)
class Comparison:
    """One op in one direction on so many rows: its kernel, its formula, and which of the two serves."""

    op: str
    rows: int
    kernel: Estimate
    formula: Estimate
    routed: bool  # to the formula, on a card

    @property
    def failure(self) -> str:
        if self.routed or self.kernel.seconds <= self.formula.seconds:
            return ""
        return (
            f"{self.op} of {self.rows} rows: the kernel is predicted to take {1e6 * self.kernel.seconds:.1f} us, its "
            f"formula {1e6 * self.formula.seconds:.1f} us; speed it up, or leave such calls to the formula"
        )


# ---- the formula -----------------------------------------------------------------------------------------------------

NO_LAUNCH = {"_reshape_alias", "_unsafe_view", "alias", "detach", "empty", "empty_like", "empty_strided", "lift_fresh",
             "new_empty", "new_empty_strided"}  # fmt: skip


class _Operations(TorchDispatchMode):
    """Adds up what the operations inside take on a card, one after another."""

    def __init__(self, gpu: machine.Gpu) -> None:
        super().__init__()
        self.gpu, self.launches, self.seconds, self.widest = gpu, 0, 0.0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.is_view or func.overloadpacket.__name__ in NO_LAUNCH:
            return out
        flops = flop_registry.get(func.overloadpacket)
        products = flops(*args, **(kwargs or {}), out_val=out) if flops else 0
        tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)]
        made = [t for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        share = min(1.0, sum(t.numel() for t in made) / (machine.GEMM_TILE * self.gpu.sms))
        peak = 2 * self.gpu.sms * self.gpu.clock * self.gpu.fp32 * machine.PEAK_FRACTION
        needs = max(
            _bytes(tensors) / (self.gpu.bandwidth * machine.PEAK_FRACTION), products / (peak * max(share, 1e-9))
        )
        self.launches += 1
        self.seconds += max(machine.LAUNCH, needs)
        return out


def _bytes(tensors: Sequence[torch.Tensor]) -> int:
    """Of their memory: what is expanded is read once."""
    return sum(min(t.numel(), t.untyped_storage().nbytes() // t.element_size()) * t.element_size() for t in tensors)


def of_formula(call: Callable[[], object], gpu: machine.Gpu) -> Estimate:
    """What plain torch takes: every operation at its memory's or its products' speed, and none below a launch."""
    with torch.no_grad(), _Operations(gpu) as counted:
        call()
    return Estimate(counted.launches, 0, counted.seconds)


# ---- the kernel ------------------------------------------------------------------------------------------------------


def of_launches(launches: Sequence[Any], kernels: dict[str, sass.Kernel], moved: int, gpu: machine.Gpu) -> Estimate:
    """What these launches take, whose first blocks were counted; `moved` bytes of tensors go through memory."""
    seconds = [max(machine.LAUNCH, _device_seconds(launch, kernels[launch.kernel], moved, gpu)) for launch in launches]
    widest = max((math.prod(launch.grid) for launch in launches), default=0)
    return Estimate(len(launches), widest, sum(seconds))


def _device_seconds(launch: Any, kernel: sass.Kernel, moved: int, gpu: machine.Gpu) -> float:
    """The slowest of memory, second-level cache and the busiest multiprocessor: that one's pipes while its blocks hide
    each other's waits, its blocks' own waits else."""
    threads, blocks = math.prod(launch.block), math.prod(launch.grid)
    warps, turns = -(-threads // machine.WARP), -(-blocks // gpu.sms)  # turns: blocks that the busiest one takes
    resident = max(1, machine.occupancy(gpu.arch, threads, kernel.registers, kernel.shared + launch.dynamic_shared)[0])
    issued = launch.instructions / machine.WARP
    busy = max(issued / machine.SCHEDULERS, launch.wavefronts, launch.sectors / machine.SECTORS_A_CLOCK)
    total = blocks * launch.sectors * machine.SECTOR
    fresh = min(1.0, moved / total) if total else 0.0  # of what is asked for: the rest is in the second-level cache
    latency = fresh * machine.DRAM_LATENCY * gpu.clock + (1 - fresh) * machine.CACHE_LATENCY
    flight = max(1, sass.loads_before_use(kernel.hot_loop()).loads)
    waits = launch.loads / warps / flight * latency + launch.shared / warps * machine.SHARED_LATENCY / flight
    waits += issued / warps * machine.ISSUE_LATENCY
    clocks = max(turns * busy, -(-turns // min(resident, turns)) * waits)
    memory = min(moved, total) / (gpu.bandwidth * machine.PEAK_FRACTION)
    return max(memory, total / machine.CACHE_BANDWIDTH, clocks / gpu.clock)


def cubins(arch: int) -> dict[str, sass.Kernel]:
    """Every kernel of the package by its mangled name."""
    found = {}
    for source in sorted((sass.ROOT / "csrc" / "cuda").glob("*.cu")):
        cubin, log = sass.compile_cubin(source, arch)
        found |= (
            {kernel.mangled: kernel for kernel in sass.read_cubin(cubin, arch, log)} if source.stem != "runtime" else {}
        )
    return found


# ---- both ------------------------------------------------------------------------------------------------------------


def compare(ops: Sequence[str] = (), sizes: Sequence[int] = SIZES) -> Iterator[Comparison]:
    """Every op that has a CUDA kernel (or these), forward and backward, as large as its self-check's large trial."""
    gpu = machine.GPUS[CARD]
    from simt.ptx import backend as ptxsim

    from pyflowk import selfcheck
    from pyflowk.ops import registry
    from pyflowk.ops._backends import backends

    bench, kernels = ptxsim.register(gpu.arch), cubins(gpu.arch)
    module = backends["ptxsim"].kernels
    for name, op in registry().items():
        if not hasattr(module, name) or name in UNPREDICTED or (ops and name not in ops):
            continue
        large = selfcheck.TRIALS[name].large
        for rows in sizes:
            args = *selfcheck.TRIALS[name].large_tensors(rows), *large.config
            yield _comparison(bench, kernels, op, args, rows, gpu)
            if op.backward is not None and hasattr(module, op.backward.name):
                yield _comparison(bench, kernels, op.backward, op.backward_arguments(args), rows, gpu)


def _comparison(
    bench: Any, kernels: dict[str, sass.Kernel], op: Any, args: tuple[Any, ...], rows: int, gpu: machine.Gpu
) -> Comparison:
    import pyflowk
    from pyflowk.ops._router import flat

    formula = of_formula(lambda: op.reference(*args), gpu)
    with pyflowk.backend("ptxsim"), bench.options(check=False, count=True, log=True, blocks=(0, 1)):
        bench.launches()
        outputs = op.run(args)
        launches = bench.launches()
    bench.traffic()
    moved = _bytes([t for t in flat((*flat(args), *flat(outputs))) if isinstance(t, torch.Tensor)])
    routed = op.prefers_formula is not None and op.prefers_formula(*args)
    return Comparison(op.name, rows, of_launches(launches, kernels, moved, gpu), formula, routed)


def report(found: Sequence[Comparison]) -> str:
    """The table of whole calls."""
    gpu = machine.GPUS[CARD]
    out = [
        f"## Whole calls on {CARD}, predicted",
        "",
        f"Calls as large as the self-check's large trials. A launch counts {1e6 * machine.LAUNCH:g} us at least, in "
        "kernel and formula: what the host takes to make the next. Blocks are those of the widest launch, beside the "
        f"{gpu.sms} multiprocessors. Not predicted, as their work depends on their numbers: "
        f"{', '.join(sorted(UNPREDICTED))}.",
        "",
        "| op | rows | launches | blocks | blocks/multiprocessor | kernel, us | launches of the formula | formula, us "
        "| formula/kernel | serves | gate |",
        "|---|" + "--:|" * 8 + "---|---|",
    ]
    for c in found:
        out.append(
            f"| {c.op} | {c.rows} | {c.kernel.launches} | {c.kernel.blocks} | {c.kernel.blocks / gpu.sms:.2f} "
            f"| {1e6 * c.kernel.seconds:.1f} | {c.formula.launches} | {1e6 * c.formula.seconds:.1f} "
            f"| {c.formula.seconds / c.kernel.seconds:.1f} | {'formula' if c.routed else 'kernel'} "
            f"| {'FAIL' if c.failure else 'pass'} |"
        )
    return "\n".join(out) + "\n"
