"""A step's graph as C++ that solves row by row: for fields that are formulas in a few numbers a row.

torch.compile's front end traces the step, guards it and hands over what the field has captured. `rowwise_graph` reads
that graph as expressions of one row's numbers; a loop around them, written and compiled here, steps a row to its end
with its whole state in registers. So a row costs its own steps alone, and cannot depend on its mates.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from .rowwise_graph import TYPES, Entry, NotRowwise, Reader, run

__all__ = ["Solver"]

_LOOP = """
#include <cmath>
#include <cstdint>

extern "C" int64_t solve(int64_t rows, int64_t most, int threads, {T}* y, {T}* k, double* clock,
                         const double* numbers, double* clocks, {T}* states, void* const* fixed) {{
    {pointers}
    int64_t longest = 0;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 8) reduction(max : longest) if (rows > 32)
    for (int64_t row = 0; row < rows; ++row) {{
        {load}
        int64_t i = 0;
        for (; i < most && c{step} != 0; ++i) {{
            {body}
            if (clocks) {{
                double* to = clocks + (i * rows + row) * {columns};
                {put_clock}
            }}
            if (states) {{
                {put_states}
            }}
            {turn}
        }}
        longest = i > longest ? i : longest;
        c{good} = 0;
        for (; clocks && i < most; ++i) {{
            double* to = clocks + (i * rows + row) * {columns};
            {put_rest}
        }}
        {store}
    }}
    return longest;
}}
"""


@dataclass
class _Loop:
    """A compiled loop, and which tensors it reads."""

    solve: Any
    prologue: list[Entry]
    fixed: list[int]


class Solver:
    """What torch.compile calls instead of the graph of a step: many steps of every row.

    The step takes, among what it has captured, tensors y, k (B, *event), clock (B, columns) and numbers (B, n), the
    same for all rows, and returns y, k and clock after it, and y with all slopes stacked, (stages + 1, B, *event). Each
    call is announced to `expect`, with buffers for clocks and states of all steps or None, and overwrites y, k and
    clock: dense tensors that nobody else holds.
    """

    _call = threading.local()

    def __init__(self, graph: torch.fx.GraphModule, step: int, good: int) -> None:
        self.graph, self.step, self.good = graph, step, good
        # numbers that have changed from call to call come as tensors: they may stay so
        self.loose = [node for node in graph.graph.nodes if node.op == "call_method" and node.target == "item"]
        for node in self.loose:
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
        graph.recompile()
        self.loops: dict[tuple[Any, ...], _Loop] = {}

    @classmethod
    def expect(cls, most: int, *tensors: Tensor | None) -> None:
        """y, k, clock, numbers, and the two buffers."""
        cls._call.expected = most, tensors

    @classmethod
    def steps(cls) -> int:
        """How many there were in the call."""
        return cls._call.steps

    def __call__(self, *inputs: Any) -> tuple[Tensor, ...]:
        most, tensors = self._call.expected
        y, k, clock, numbers, _, _ = tensors
        own = tuple(x for x in inputs if not isinstance(x, Tensor))  # written into the code
        if own not in self.loops:
            self.loops[own] = self._build(inputs, {"y": y, "k": k, "c": clock, "r": numbers})
        loop = self.loops[own]
        values = list(inputs)
        for entry in loop.prologue:
            values.append(run(values, entry))
        fixed = [values[place].contiguous() for place in loop.fixed]
        addresses = [None if x is None else x.data_ptr() for x in tensors]
        table = (ctypes.c_void_p * (len(fixed) + 1))(*(x.data_ptr() for x in fixed))
        self._call.steps = loop.solve(len(y), most, torch.get_num_threads(), *addresses, table)
        return y, k, clock, y

    def _build(self, inputs: Sequence[Any], tensors: dict[str, Tensor]) -> _Loop:
        from torch._decomp import core_aten_decompositions
        from torch._inductor.codecache import CppCodeCache

        kept = {torch.ops.aten.stack.default}  # whose rule puts rows behind rows
        table = {op: rule for op, rule in core_aten_decompositions().items() if op not in kept}
        try:
            traced = make_fx(self.graph, decomposition_table=table)(*inputs)
        except (RuntimeError, TypeError) as error:
            if not self.loose:
                raise
            raise NotRowwise("a number that must be known") from error
        reader = Reader(traced, inputs, {id(tensor): name for name, tensor in tensors.items()})
        y, k, clock, states = reader.read()
        number = TYPES[y.dtype]
        sizes = {name: tensor[0].numel() for name, tensor in tensors.items()}
        arrays = {"y": "y", "k": "k", "c": "clock"}
        after = {"y": y.items.ravel(), "k": k.items.ravel(), "c": clock.items.ravel()}
        stages = len(states.items)
        source = _LOOP.format(
            T=number, columns=sizes["c"], step=self.step, good=self.good,
            pointers=" ".join(
                [f"const {TYPES[dtype]}* {name} = static_cast<const {TYPES[dtype]}*>(fixed[{i}]);"
                 for i, (name, dtype) in enumerate(reader.pointers.values())]
                + [f"const double r{i} = numbers[{i}];" for i in range(sizes["r"])]
            ),
            load=" ".join(
                f"{'double' if name == 'c' else number} {name}{i} = {array}[row * {sizes[name]} + {i}];"
                for name, array in arrays.items() for i in range(sizes[name])
            ),
            body="\n            ".join(reader.lines),
            put_clock=" ".join(f"to[{i}] = {item};" for i, item in enumerate(after["c"])),
            put_states=" ".join(
                f"states[((i * {stages} + {s}) * rows + row) * {sizes['y']} + {e}] = {item};"
                for s in range(stages) for e, item in enumerate(states.items[s].ravel())
            ),
            turn=" ".join(
                [f"const auto next_{name}{i} = {item};" for name in arrays for i, item in enumerate(after[name])]
                + [f"{name}{i} = next_{name}{i};" for name in arrays for i in range(sizes[name])]
            ),
            put_rest=" ".join(f"to[{i}] = c{i};" for i in range(sizes["c"])),
            store=" ".join(f"{array}[row * {sizes[name]} + {i}] = {name}{i};"
                           for name, array in arrays.items() for i in range(sizes[name])),
        )  # fmt: skip
        solve = CppCodeCache.load(source).solve
        solve.restype = ctypes.c_int64
        solve.argtypes = [ctypes.c_int64] * 2 + [ctypes.c_int] + [ctypes.c_void_p] * 7
        return _Loop(solve, reader.prologue, list(reader.pointers))
