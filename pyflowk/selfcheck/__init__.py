"""Is every op right on every back end of this machine, and how fast: a one-page report, fit for a bug report.

`run` makes a `Report` of a `Result` an op and back end; `TRIALS` tells by a `Trial` how an op is called, `PREDICTED`
how fast a card is thought to be.

>>> from pyflowk import selfcheck
>>> report = selfcheck.run(["cpu"], megabytes=0.1)
>>> report.ok
True
"""

from __future__ import annotations

import io
import time
import warnings
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch
from torch import Tensor

from .._native import show_config
from ..ops import registry
from ..ops._backends import Backend, backend, backends
from ..ops._router import FusedOp, flat
from .trial import Trial, each, noise
from .trials import TRIALS

__all__ = ["PREDICTED", "TRIALS", "Report", "Result", "Trial", "run"]

ROWS = 9
REPEATS = 15
CALL_SECONDS = 0.01  # what one timed call should take at most: an op bound by arithmetic is timed on fewer rows
CALLS = {"cpu": 1, "cuda": 20}  # of one time measurement: a card's clock needs more than one

#: Predicted, not measured: what a memory-bound kernel moves in GB/s, 0.9 of the data sheet's peak (benchmarks/audit).
PREDICTED = {"A100-SXM4-80GB": 1835.0, "H100 80GB HBM3": 3015.0, "H200": 4320.0, "B200": 7200.0}


# ---- the report ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """What came of one op on one back end: `problem` is empty where every call was right."""

    op: str
    problem: str
    summary: str
    speeds: dict[str, float] = field(default_factory=dict)  # GB/s by direction


@dataclass(frozen=True)
class Section:
    """One back end: either why it cannot be used, or its copy bandwidth in GB/s and its results."""

    backend: str
    device: str
    unavailable: str = ""
    copy: float = 0.0
    results: list[Result] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        if self.unavailable:
            yield f"back end {self.backend}: not usable here: {self.unavailable}"
            return
        predicted = next((rate for card, rate in PREDICTED.items() if card in self.device), None)
        promise = f"; kernels are predicted to move {predicted:.0f}" if predicted else ""
        yield f"back end {self.backend} ({self.device}): copying moves {self.copy:.1f} GB/s{promise}"
        for result in self.results:
            yield f"  {result.op}: {result.problem or result.summary}"
            if result.speeds:
                rates = (
                    f"{way} {r:.1f} GB/s ({100 * r / self.copy:.0f} % of copying)" for way, r in result.speeds.items()
                )
                yield "    " + ", ".join(rates)


@dataclass(frozen=True)
class Report:
    """What `run` found; `text()` is the page to attach to a bug report."""

    configuration: str
    sections: list[Section]

    @property
    def wrong(self) -> list[tuple[str, str]]:
        """The (back end, op) of everything that is wrong."""
        return [(s.backend, r.op) for s in self.sections for r in s.results if r.problem]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.wrong

    def text(self) -> str:
        """Write the configuration, then every back end with its ops."""
        lines = [line for section in self.sections for line in section.lines()]
        if self.ok:
            verdict = "all ops are right"
        else:
            names = ",".join(f"{name}:{op}" for name, op in self.wrong)
            verdict = (
                f"{len(self.wrong)} op(s) are WRONG; set PYFLOWK_OFF={names} to leave them to what comes after them"
            )
        return "\n".join([self.configuration, *lines, verdict])


def run(devices: Collection[str] | None = None, *, megabytes: float = 64.0) -> Report:
    """Compare every op with its float64 formula on every back end that can serve here, and measure its speed.

    Values and gradients of all masks, bounds, layouts, directions and dtypes, of few rows and once of as many as models
    have, count as right while no number's error, relative to it and to what is usual beside it, is more than twice the
    worst of the plain formula in the same precision, plus eight units of rounding. A kernel that is wrong is
    switched off in this process, with a warning: the next back end or the formula then serves.

    Args:
        devices: device types to check, such as ["cpu"] or ["cuda"]; all if None.
        megabytes: size of the tensors whose speed is measured, > 0; less where a call would take too long.

    Raises:
        ValueError: megabytes is not positive.

    Cost: some seconds a back end, and what its first calls compile.
    """
    if not megabytes > 0:
        raise ValueError(f"megabytes: expected a number > 0, got {megabytes}")
    configuration = io.StringIO()
    show_config(configuration)
    serving = [entry for entry in list(backends.values()) if entry.automatic]
    chosen = [entry for entry in serving if devices is None or entry.device in devices]
    return Report(configuration.getvalue().rstrip(), [_section(entry, megabytes) for entry in chosen])


def _section(entry: Backend, megabytes: float) -> Section:
    if reason := entry.settled().unavailable:
        return Section(entry.name, entry.device, reason)
    copy = copy_bandwidth(entry.device, megabytes)
    results = []
    for name, op in registry().items():
        had_kernel = entry.kernel(name) is not None
        problem, summary = _check(entry, name, op)
        if problem and had_kernel and name in TRIALS:
            _switch_off(entry, op, problem)
        measured = had_kernel and not problem
        speeds = _speeds(entry, op, TRIALS[name], megabytes) if measured else {}
        results.append(Result(name, problem, summary, speeds))
    return Section(entry.name, _device_name(entry.device), "", copy, results)


def _switch_off(entry: Backend, op: FusedOp, problem: str) -> None:
    for part in (op, op.backward, *op.parts):
        if part is not None:
            entry.switch_off(part.name, "it failed the self-check")
    warnings.warn(
        f"the {entry.name} kernel of {op.name} is {problem}; it is switched off in this process",
        RuntimeWarning,
        stacklevel=4,
    )


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} thread(s)"


# ---- parity ----------------------------------------------------------------------------------------------------------


def _check(entry: Backend, name: str, op: FusedOp) -> tuple[str, str]:
    """(what is wrong, else empty; what to say)."""
    if name not in TRIALS:
        return "no trial knows how to call it", ""
    trial, worst, calls = TRIALS[name], 0.0, 0
    for what, config, inputs in _calls(trial):
        excess, error = deviation(entry, op, config, inputs, trial.conditioning(config), trial.compared)
        if not excess <= 0:
            return f"WRONG for {what}: relative error {error:.2g} is {excess:.2g} above what is allowed", ""
        worst, calls = max(worst, error if "float32" in what else 0.0), calls + 1
    kind = "kernel" if entry.kernel(name) is not None else f"no kernel ({entry.off.get(name, 'not built')}), formula"
    what = "calls" if op.backward is None else "calls and gradients"
    return "", f"{kind}, {calls} {what} right; largest float32 error {worst:.1e}"


def _calls(trial: Trial) -> Iterator[tuple[str, tuple[Any, ...], tuple[Any, ...]]]:
    """(in words, configuration, inputs) of everything that an op is tried on."""
    for config, dtype in product(trial.configs, trial.precisions):
        yield f"{config} in {dtype}", config, trial.tensors(config, ROWS, dtype)
    for other, dtype in product(trial.others, trial.precisions):
        yield (
            f"{other.config} in {dtype}, {other.rows} others",
            other.config,
            trial.large_tensors(other.rows, dtype, other),
        )
    large = trial.large
    yield f"{large.config} in {torch.float32}, {large.rows} large rows", large.config, trial.large_tensors(large.rows)


def deviation(
    entry: Backend,
    op: FusedOp,
    config: tuple[Any, ...],
    inputs: tuple[Any, ...],
    conditioning: float = 1.0,
    compared: int | None = None,
) -> tuple[float, float]:
    """Measure how far values and gradients are above the allowed error, and the largest error, against float64; each
    number's is relative to its size plus the median of those beside it, as sums may cancel."""
    outputs = op.formula(*inputs, *config)
    cotangents = tuple(noise(*t.shape).to(t.dtype) for t in outputs)
    # an output in float64 is no more exact than the float32 numbers that went into it
    double = all(t.dtype == torch.float64 for t in flat(inputs) if t.is_floating_point())
    arithmetic = torch.finfo(torch.float64 if double else torch.float32).eps
    with backend("reference"):
        exact = _values(op, config, _double(inputs), _double(cotangents))
        plain = _values(op, config, inputs, cotangents)
    with backend(entry.name):
        got = _values(op, config, *(each(lambda t: t.to(entry.device), group) for group in (inputs, cotangents)))
    excess, largest = float("-inf"), 0.0
    for kernel, formula, truth in list(zip(got, plain, exact))[:compared]:
        if not truth.numel():
            continue
        eps = max(torch.finfo(formula.dtype).eps, arithmetic) if formula.is_floating_point() else arithmetic
        scale = truth.abs() + _usual(truth)
        allowed = 2 * ((formula.double() - truth).abs() / scale).max().item() + 8 * conditioning * eps
        error = ((kernel.double().cpu() - truth).abs() / scale).max().item()
        # not max(): a NaN must win
        excess = error - allowed if not error - allowed <= excess else excess
        largest = error if not error <= largest else largest
    return excess, largest


def _usual(truth: Tensor) -> Tensor:
    """The median size of what is not zero; 1 where all is."""
    sizes = truth[truth != 0].abs()
    return sizes.median() if len(sizes) else truth.new_ones(())


def _double(tensors: tuple[Any, ...]) -> tuple[Any, ...]:
    return each(lambda t: t.double() if t.is_floating_point() else t, tensors)


def _registered(op: FusedOp) -> Callable[..., tuple[Tensor, ...]]:
    call = getattr(torch.ops.pyflowk, op.name)

    def always_a_tuple(*args: Any) -> tuple[Tensor, ...]:
        outputs = call(*args)
        return (outputs,) if isinstance(outputs, Tensor) else outputs

    return always_a_tuple


def _values(
    op: FusedOp, config: tuple[Any, ...], inputs: tuple[Any, ...], cotangents: tuple[Tensor, ...]
) -> list[Tensor]:
    if op.backward is None:  # its formula would serve where a gradient is asked for
        return list(_registered(op)(*inputs, *config))
    inputs = each(lambda t: t.detach().requires_grad_(t.is_floating_point()), inputs)
    outputs = _registered(op)(*inputs, *config)
    real = [t for t in flat(inputs) if t.requires_grad]
    told, theirs = zip(*((t, c) for t, c in zip(outputs, cotangents, strict=True) if t.requires_grad))
    gradients = torch.autograd.grad(told, real, theirs, allow_unused=True, materialize_grads=True)
    return [t.detach() for t in (*outputs, *gradients)]


# ---- speed -----------------------------------------------------------------------------------------------------------


def _speeds(entry: Backend, op: FusedOp, trial: Trial, megabytes: float) -> dict[str, float]:
    """GB/s of its passes over tensors of `megabytes`, or of what takes CALL_SECONDS where that is less; every input is
    read and every output written once."""
    config, call = trial.configs[0], _registered(op)
    row = trial.tensors(config, 1, torch.float32)
    rows = max(1, round(megabytes * 1e6 / 4 / max(t.numel() for t in (row[0], *op.formula(*row, *config)))))
    few = min(rows, 10 * ROWS)

    def passes(rows: int, repeats: int) -> tuple[dict[str, float], float, float]:
        """(seconds by direction, GB of the inputs, of the outputs)"""
        inputs = each(lambda t: t.to(entry.device), trial.tensors(config, rows, torch.float32))
        real = [t.requires_grad_() for t in flat(inputs) if op.backward is not None and t.is_floating_point()]
        with backend(entry.name):
            with torch.no_grad():
                times = {"forward": seconds(lambda: call(*inputs, *config), entry.device, repeats)}
            outputs = call(*inputs, *config)
            if real:
                told = tuple(t for t in outputs if t.requires_grad)  # some ops keep something for the way back alone
                ones = tuple(torch.ones_like(t) for t in told)
                gradient = lambda: torch.autograd.grad(told, real, ones, retain_graph=True)  # noqa: E731
                times["backward"] = seconds(gradient, entry.device, repeats)
        return times, _gigabytes(*flat(inputs)), _gigabytes(*outputs)

    affordable = round(few * CALL_SECONDS / max(passes(few, 1)[0].values()))
    times, read, written = passes(max(few, min(rows, affordable)), REPEATS)
    moved = {"forward": read + written, "backward": 2 * read + written}
    return {direction: moved[direction] / time for direction, time in times.items()}


def _gigabytes(*tensors: Tensor) -> float:
    return sum(t.numel() * t.element_size() for t in tensors) / 1e9


def copy_bandwidth(device: str, megabytes: float) -> float:
    """Measure the GB/s, read plus written, of copying tensors of `megabytes` to new memory, as an op's outputs are."""
    source = torch.ones(max(1, round(megabytes * 1e6 / 4)), device=device)
    return _gigabytes(source, source) / seconds(source.clone, device)


def seconds(call: Callable[[], object], device: str, repeats: int = REPEATS) -> float:
    """Measure the median time of a call; on a card, of one among several in a row, as launches overlap in use."""
    calls, times = CALLS[device], []
    for _ in range(repeats + 1):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append((time.perf_counter() - start) / calls)
    return sorted(times[1:])[repeats // 2]  # the first round warms up
