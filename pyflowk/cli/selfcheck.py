"""`pyflowk selfcheck`: is every op right on every back end of this machine, and how fast?"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..ops import registry
from ..ops._backends import Backend, backend, backends
from ..ops._router import FusedOp
from ..ops.affine_coupling import ADDITIVE, BOUNDS
from ..ops.masks import MASKS, transformed_channels

if TYPE_CHECKING:
    from .commands import Selfcheck

ROWS = 9
REPEATS = 15
PRECISIONS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Probe:
    """How to try one op: `configs` are its arguments after the tensors, `inputs(config, rows)` its float64 tensors.

    The first config is the one whose speed is measured.
    """

    configs: list[tuple[Any, ...]]
    inputs: Callable[[tuple[Any, ...], int], tuple[Tensor, ...]]


def _coupling_configs() -> list[tuple[Any, ...]]:
    bounds = (BOUNDS["tanh"], BOUNDS["sigmoid"], BOUNDS["none"], ADDITIVE)
    masks = (MASKS[name] for name in ("half", "alternating", "checkerboard", "all"))
    flags = product(masks, (0, 1), bounds, (False, True), (False, True))
    return [
        (mask + swap, bound, 2.0, interleaved, inverse)
        for mask, swap, bound, interleaved, inverse in flags
        if not (bound == ADDITIVE and interleaved) and not (mask == MASKS["all"] and swap)
    ]


def _coupling_inputs(config: tuple[Any, ...], rows: int) -> tuple[Tensor, ...]:
    names = {code: name for name, code in MASKS.items()}
    mask, swap, bound = names[config[0] & ~1], bool(config[0] & 1), config[1]
    event = (3, 5, 7) if mask == "checkerboard" else (64,)
    channels = transformed_channels(event[0], mask, swap) * (1 if bound == ADDITIVE else 2)
    return _noise(rows, *event), _noise(rows, channels, *event[1:])


def _noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


PROBES: dict[str, Probe] = {"affine_coupling": Probe(_coupling_configs(), _coupling_inputs)}
"""Who adds an op adds its probe here; an op without one fails the check."""


def selfcheck(command: Selfcheck) -> int:
    """Check and time every op on every back end; exit status 1 when one is wrong or cannot be checked."""
    if not command.megabytes > 0:
        raise ValueError(f"--megabytes: expected a number > 0, got {command.megabytes}")
    wrong = 0
    for entry in backends.values():
        if reason := entry.settled().unavailable:
            print(f"back end {entry.name}: not usable here: {reason}")
            continue
        copy = copy_bandwidth(entry.device, command.megabytes)
        print(f"back end {entry.name} ({_device_name(entry.device)}): copying moves {copy:.1f} GB/s")
        for name, op in registry().items():
            problem, line = _check(entry, name, op)
            wrong += problem
            print(f"  {name}: {line}")
            if not problem and entry.kernel(name) is not None:
                print(f"    {_speed(entry, op, PROBES[name], command.megabytes, copy)}")
    print("all ops are right" if not wrong else f"{wrong} op(s) are WRONG")
    return 1 if wrong else 0


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} thread(s)"


def _check(entry: Backend, name: str, op: FusedOp) -> tuple[bool, str]:
    """(wrong?, what to say)."""
    if name not in PROBES:
        return True, "no probe knows how to call it"
    probe, worst, calls = PROBES[name], 0.0, 0
    for config, dtype in product(probe.configs, PRECISIONS):
        excess, error = deviation(entry, op, config, tuple(t.to(dtype) for t in probe.inputs(config, ROWS)))
        if not excess <= 0:
            return True, f"WRONG for {config} in {dtype}: error {error:.2g} is {excess:.2g} above what is allowed"
        worst, calls = max(worst, error if dtype == torch.float32 else 0.0), calls + 1
    kind = "kernel" if entry.kernel(name) is not None else f"no kernel ({entry.off.get(name, 'not built')}), formula"
    return False, f"{kind}, {calls} calls and gradients right; largest float32 error {worst:.1e}"


def deviation(entry: Backend, op: FusedOp, config: tuple[Any, ...], inputs: tuple[Tensor, ...]) -> tuple[float, float]:
    """How far values and gradients are above the allowed error, and the largest error, against float64.

    Allowed is twice the error of the plain formula in the same precision, plus four units of rounding.
    """
    outputs = op.formula(*inputs, *config)
    cotangents = tuple(_noise(*t.shape).to(t.dtype) for t in outputs)
    with backend("reference"):
        exact = _values(op, config, tuple(t.double() for t in inputs), tuple(t.double() for t in cotangents))
        plain = _values(op, config, inputs, cotangents)
    with backend(entry.name):
        got = _values(op, config, *(tuple(t.to(entry.device) for t in group) for group in (inputs, cotangents)))
    excess, largest = float("-inf"), 0.0
    for kernel, formula, truth in zip(got, plain, exact):
        rounding = 4 * torch.finfo(formula.dtype).eps * (truth.abs().max().item() + 1)
        allowed = 2 * (formula.double() - truth).abs().max().item() + rounding
        error = (kernel.double().cpu() - truth).abs().max().item()
        # not max(): a NaN must win
        excess = error - allowed if not error - allowed <= excess else excess
        largest = error if not error <= largest else largest
    return excess, largest


def _values(
    op: FusedOp, config: tuple[Any, ...], inputs: tuple[Tensor, ...], cotangents: tuple[Tensor, ...]
) -> list[Tensor]:
    inputs = tuple(t.detach().requires_grad_() for t in inputs)
    outputs = op(*inputs, *config)
    gradients = torch.autograd.grad(outputs, inputs, cotangents, allow_unused=True, materialize_grads=True)
    return [t.detach() for t in (*outputs, *gradients)]


def _speed(entry: Backend, op: FusedOp, probe: Probe, megabytes: float, copy: float) -> str:
    """GB/s of both passes over tensors of `megabytes`; every input is read and every output written once."""
    config = probe.configs[0]
    width = probe.inputs(config, 1)[0].numel()
    rows = max(1, round(megabytes * 1e6 / 4 / width))
    inputs = tuple(t.float().to(entry.device).requires_grad_() for t in probe.inputs(config, rows))
    with backend(entry.name):
        with torch.no_grad():
            forward = seconds(lambda: op(*inputs, *config), entry.device)
        outputs = op(*inputs, *config)
        ones = tuple(torch.ones_like(t) for t in outputs)
        backward = seconds(lambda: torch.autograd.grad(outputs, inputs, ones, retain_graph=True), entry.device)
    moved = {"forward": _gigabytes(*inputs, *outputs), "backward": _gigabytes(*inputs, *inputs, *outputs)}
    rates = {"forward": moved["forward"] / forward, "backward": moved["backward"] / backward}
    return ", ".join(f"{way} {rate:.1f} GB/s ({100 * rate / copy:.0f} % of copying)" for way, rate in rates.items())


def _gigabytes(*tensors: Tensor) -> float:
    return sum(t.numel() * t.element_size() for t in tensors) / 1e9


def copy_bandwidth(device: str, megabytes: float) -> float:
    """GB/s, bytes read plus bytes written, of copying tensors of `megabytes` to new memory, as an op's outputs are."""
    source = torch.ones(max(1, round(megabytes * 1e6 / 4)), device=device)
    return _gigabytes(source, source) / seconds(source.clone, device)


def seconds(call: Callable[[], object], device: str) -> float:
    """Median time of one call."""
    times = []
    for _ in range(REPEATS + 1):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[REPEATS // 2]  # the first call warms up
