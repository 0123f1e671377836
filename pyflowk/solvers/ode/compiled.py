"""compile=True: field, stages and control of many adaptive steps as one compiled loop.

Where `rowwise` can write it, on the CPU, that is a loop over rows in C++. Otherwise it is a loop over steps in one
graph of torch.compile: on the CPU it sees by itself when all rows have ended; on other devices it does a fixed number
of steps and the host looks in between, as a loop that asks for its condition would wait for the device at every step.
"""

from __future__ import annotations

import functools
import logging
import types
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ...ops.dtypes import state_dtype
from ...ops.modes import while_loop
from ...ops.rk_control import END, GOOD, STEP, TIME, advanced, stage_times
from ...ops.rk_step import rk_combine_formula, rk_error_formula
from .checked import Checked
from .control import Clock, combined
from .rowwise import Solver
from .rowwise_graph import NotRowwise
from .stages import column, rk_stages
from .tableaus import Tableau

__all__ = ["KEEP", "advance_compiled"]

#: what is kept of every step -> how many steps a graph may do: buffers are copied at each.
KEEP = {"nothing": 1000, "clocks": 32, "all": 8}
_ROWWISE = {"nothing": 100_000, "clocks": 64, "all": 16}  # where they are not
_OTHER_DEVICES = 8  # steps between two looks of the host

#: code of a field -> (method, kept or "rows") -> compiled function, each with dynamo's own limit of recompilations;
#: None for a loop over rows that cannot be written.
_compiled: WeakKeyDictionary[types.CodeType, dict[tuple[str, str], Any]] = WeakKeyDictionary()


def advance_compiled(
    f: Checked, table: Tableau, numbers: Sequence[float], keep: str, y: Tensor, k: Tensor, clock: Clock
) -> tuple[Tensor, Tensor, Clock, list[tuple[Clock, Clock, Tensor, list[Tensor]]]]:
    """Several steps: state, slope and clock after them, and (clock before, clock after, state, slopes) of each, as far
    as `keep` wants them."""
    _announce(f.f, table.name)
    try:
        found = _by_rows(f, table, keep, y, k, clock.data, numbers)
        if found is None:
            rates = [torch.tensor(float(number), dtype=clock.data.dtype, device=y.device) for number in numbers]
            most = KEEP[keep] if y.device.type == "cpu" else min(KEEP[keep], _OTHER_DEVICES)
            run = _function(f.f, table.name, keep, y.device.type)
            found = run(f, table, keep, most, y, k, clock.data, rates)
        y, k, data, count, buffers = found
    except (torch._dynamo.exc.TorchDynamoException, torch._dynamo.exc.BackendCompilerFailed) as error:
        raise RuntimeError(
            f"compile: the field could not be compiled ({type(error).__name__}: {str(error).splitlines()[0]}); "
            "it must be plain tensor operations, without a question to the host"
        ) from error
    steps: list[tuple[Clock, Clock, Tensor, list[Tensor]]] = []
    if buffers:
        before = clock
        for i in range(int(count)):
            after = Clock(buffers[0][i])
            state, *slopes = buffers[1][i].unbind(0) if keep == "all" else (y,)
            steps.append((before, after, state, slopes))
            before = after
    return y, k, Clock(data), steps


def _by_rows(
    f: Checked, table: Tableau, keep: str, y: Tensor, k: Tensor, clock: Tensor, numbers: Sequence[float]
) -> tuple[Tensor, Tensor, Tensor, int, list[Tensor]] | None:
    """Many steps as `rowwise` does them, or None where it cannot."""
    known = _compiled.setdefault(_code(f.f), {})
    key = table.name, "rows"
    if (key in known and known[key] is None) or y.device.type != "cpu" or not y.numel():
        return None
    if key not in known:
        own = types.FunctionType(_step.__code__.replace(co_name=f"{table.name}_rows"), _step.__globals__)
        known[key] = torch.compile(own, fullgraph=True, backend=lambda graph, _: Solver(graph, STEP, GOOD))
    most, buffers = _ROWWISE[keep], []
    if keep != "nothing":
        buffers.append(clock.new_empty((most, *clock.shape)))
    if keep == "all":
        buffers.append(y.new_empty((most, table.stages + 1, *y.shape)))
    rates = torch.tensor(numbers, dtype=clock.dtype).expand(len(y), -1)
    # own tensors, which the field cannot have captured, to be overwritten
    y, k, clock = (x.clone(memory_format=torch.contiguous_format) for x in (y, k, clock))
    Solver.expect(most, y, k, clock, rates, *buffers, *[None] * (2 - len(buffers)))
    try:
        y, k, clock, _ = known[key](f, table, y, k, clock, rates)
    except NotRowwise:
        known[key] = None
        return None
    return y, k, clock, Solver.steps(), buffers


def _function(f: Callable[..., Any], method: str, keep: str, device: str) -> Callable[..., Any]:
    """`_loop` compiled for fields of this code, a code object of its own: dynamo counts recompilations by it."""
    known = _compiled.setdefault(_code(f), {})
    if (method, keep) not in known:
        own = types.FunctionType(_loop.__code__.replace(co_name=f"{method}_{keep}"), _loop.__globals__)
        # without Python between the kernels of the loop
        options = {"cpp_wrapper": True} if device == "cpu" else None
        known[method, keep] = torch.compile(own, fullgraph=True, options=options)  # type: ignore[arg-type]
    return known[method, keep]


def _announce(f: Callable[..., Any], method: str) -> None:
    """Say before the first compilation of a field for a method that it takes its time."""
    if not any(name == method for name, _ in _compiled.get(_code(f), {})):
        logging.getLogger("pyflowk").warning(
            "compile=True: compiling the field for %s, which takes from seconds to a minute; later solves reuse it",
            method,
        )


def _code(f: Any) -> types.CodeType:
    """The code that makes a field what it is, the same for every closure made of it."""
    while True:
        if isinstance(f, torch.nn.Module):
            f = type(f).forward
        elif isinstance(f, functools.partial):
            f = f.func
        elif hasattr(f, "__wrapped__"):
            f = f.__wrapped__
        elif isinstance(f, types.MethodType):
            f = f.__func__
        elif isinstance(f, types.FunctionType):
            return f.__code__
        elif isinstance(type(f).__call__, types.FunctionType):
            f = type(f).__call__
        else:
            return _loop.__code__


def _one_step(
    f: Checked, table: Tableau, y: Tensor, k: Tensor, columns: Sequence[Tensor], numbers: Sequence[Tensor],
    **options: Any,
) -> tuple[Tensor, Tensor, tuple[Tensor, ...], Tensor]:  # fmt: skip
    """State, slope and the clock's columns after a step, and the state before it with all slopes, one behind the other.

    numbers: the tolerances as rk_error takes them, then those of the control.
    """
    rtol, atol, *rates = numbers
    *times, h = stage_times(columns[TIME], columns[STEP], columns[END], table.c, state_dtype(y))
    tried, ks = rk_stages(f, table, [column(t, y) for t in times], y, h, k, **options)
    estimates = [([ks[j] for j in places], weights) for places, weights in table.estimates]
    error = combined([rk_error_formula(y, tried, h, *estimate, rtol, atol) for estimate in estimates])
    after = advanced(columns, error, rates)
    taken = column(after[GOOD] != 0, y)
    return torch.where(taken, tried, y), torch.where(taken, ks[-1], k), after, torch.stack([y, *ks])


def _step(
    f: Checked, table: Tableau, y: Tensor, k: Tensor, clock: Tensor, numbers: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `rowwise` reads: every number a column of its own."""
    rtol, atol, *rates = numbers.unbind(1)
    tolerances = [column(number.to(state_dtype(y)), y) for number in (rtol, atol)]
    y, k, after, slopes = _one_step(f, table, y, k, clock.unbind(1), [*tolerances, *rates], combine=rk_combine_formula)
    return y, k, torch.stack(after, 1), slopes


def _loop(
    f: Checked, table: Tableau, keep: str, most: int, y: Tensor, k: Tensor, clock: Tensor, rates: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    begin = clock.unbind(1)
    end, on_cpu = begin[END], y.device.type == "cpu"
    slots = torch.arange(most, device=y.device)

    def columns_of(moving: Sequence[Tensor]) -> list[Tensor]:
        return [*moving[:END], end, *moving[END:]]

    def moving_of(columns: Sequence[Tensor]) -> list[Tensor]:
        return [column.clone() for i, column in enumerate(columns) if i != END]

    def put(buffer: Tensor, i: Tensor, value: Tensor) -> Tensor:
        return torch.where((slots == i).reshape(-1, *[1] * value.ndim), value, buffer)

    def more(i: Tensor, y: Tensor, k: Tensor, *rest: Tensor) -> Tensor:
        return (i < most) & (rest[STEP - 1] != 0).any() if on_cpu else i < most

    def body(i: Tensor, y: Tensor, k: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        columns, buffers = columns_of(rest[: len(begin) - 1]), rest[len(begin) - 1 :]
        y, k, after, slopes = _one_step(f, table, y, k, columns, rates)
        kept = [torch.stack(after, 1), slopes][: len(buffers)]
        found = [put(buffer, i, value) for buffer, value in zip(buffers, kept)]
        return i + 1, y, k, *moving_of(after), *found

    buffers = []
    if keep != "nothing":
        buffers.append(clock.new_zeros((most, *clock.shape)))
    if keep == "all":
        buffers.append(y.new_zeros((most, table.stages + 1, *y.shape)))
    zero = torch.zeros((), dtype=torch.long)
    count, y, k, *rest = while_loop(more, body, (zero, y.clone(), k.clone(), *moving_of(begin), *buffers))
    moving, found = rest[: len(begin) - 1], rest[len(begin) - 1 :]
    return y, k, torch.stack(columns_of(moving), 1), count, list(found)
