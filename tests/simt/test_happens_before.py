"""The checker against a complete happens-before over random programs: it reports a race exactly where there is one."""

from __future__ import annotations

import ctypes
import itertools
import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from simt import build
from simt.bench import Bench, KernelError

THREADS, LANES, CELLS = 64, (0, 1, 2, 3, 32, 33, 34), 6  # the other threads only meet at barriers
NOTHING, READ, WRITE, ADD, SYNC_WARP, SYNC_BLOCK = range(6)
SCHEDULES = [{"order": "in_order"}, {"order": "reversed"}, {"order": "shuffled", "seed": 1, "preempt": 2}]
pytestmark = pytest.mark.skipif(bool(build.unavailable()), reason=build.unavailable())


def first_clocks() -> list[list[int]]:
    return [[int(i == j) for j in range(THREADS)] for i in range(THREADS)]


@dataclass
class Access:
    thread: int
    what: int
    cell: int
    clock: list[int]  # of its thread at that moment


@dataclass
class Program:
    """Step by step, what each thread does, with the vector clocks that an exact checker would keep."""

    code: list[int] = field(default_factory=list)
    operand: list[int] = field(default_factory=list)
    clocks: list[list[int]] = field(default_factory=first_clocks)
    accesses: list[Access] = field(default_factory=list)

    def step(self, does: dict[int, tuple[int, int]]) -> None:
        self.code += [does.get(t, (NOTHING, 0))[0] for t in range(THREADS)]
        self.operand += [does.get(t, (NOTHING, 0))[1] for t in range(THREADS)]
        for thread, (what, cell) in does.items():
            if what in (READ, WRITE, ADD):
                self.accesses.append(Access(thread, what, cell, list(self.clocks[thread])))

    def join(self, group: list[int]) -> None:
        joined = [max(column) for column in zip(*(self.clocks[t] for t in group))]
        for thread in group:
            self.clocks[thread] = list(joined)
            self.clocks[thread][thread] += 1

    def has_race(self) -> bool:
        def races(one: Access, two: Access) -> bool:
            harmless = one.what == two.what and one.what in (READ, ADD)
            if one.cell != two.cell or one.thread == two.thread or harmless:
                return False
            return one.clock[two.thread] < two.clock[two.thread] and two.clock[one.thread] < one.clock[one.thread]

        return any(races(one, two) for one, two in itertools.combinations(self.accesses, 2))


def random_program(seed: int) -> Program:
    """A few accesses between barriers of the block, of whole warps and of parts of a warp."""
    generator, program = random.Random(seed), Program()
    for _ in range(generator.randrange(3, 9)):
        kind = generator.random()
        if kind < 0.6:
            chosen = generator.sample(LANES, generator.randrange(1, 4))
            program.step({t: (generator.choice((READ, READ, WRITE, ADD)), generator.randrange(CELLS)) for t in chosen})
        elif kind < 0.7:
            program.step({t: (SYNC_BLOCK, 0) for t in range(THREADS)})
            program.join(list(range(THREADS)))
        else:
            first = generator.choice((0, 32))
            lanes = generator.choice((range(32), generator.sample(range(4), 2)))
            program.step({first + lane: (SYNC_WARP, sum(1 << k for k in lanes)) for lane in lanes})
            program.join([first + lane for lane in lanes])
    return program


def test_checker_agrees_with_complete_vector_clocks() -> None:
    bench = Bench(build.build([Path(__file__).parent / "cases" / "program.cu"], "checker"), check=True)
    races = 0
    for seed in range(400):
        program = random_program(seed)
        code = bench.buffer("code", program.code, ctypes.c_int)
        operand = bench.buffer("operand", program.operand, ctypes.c_uint)
        for schedule in SCHEDULES:
            cells, sink = bench.buffer("cells", [0] * CELLS, ctypes.c_int), bench.buffer("sink", THREADS, ctypes.c_int)
            report = ""
            with bench.options(**schedule):
                try:
                    bench.call("run_program", THREADS, code, operand, len(program.code) // THREADS, cells, sink)
                except KernelError as error:
                    report = str(error)
            assert ("RACE" in report) == program.has_race(), f"program {seed}, {schedule}: {report or 'no report'}"
        races += program.has_race()
    assert 100 < races < 300  # both answers were tested
