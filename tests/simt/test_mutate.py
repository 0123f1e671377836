"""Every barrier that matters is missed when it is deleted; the one that does not is named."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
from simt import build, mutate
from simt.bench import Bench

CASES = Path(__file__).parent / "cases"
pytestmark = pytest.mark.skipif(bool(build.unavailable()), reason=build.unavailable())


def rotation_times_scale(n: int, generator: random.Random) -> tuple[list[float], float]:
    """A product of a permutation, a unit triangle and a diagonal: its log |det| is known."""
    diagonal = [generator.uniform(0.5, 2.0) for _ in range(n)]
    upper = [[1.0 if i == j else generator.uniform(-1, 1) if j > i else 0.0 for j in range(n)] for i in range(n)]
    rows = [[u * d for u, d in zip(row, diagonal)] for row in upper]
    generator.shuffle(rows)
    return [v for row in rows for v in row], math.fsum(map(math.log, diagonal))


def run_elimination(bench: Bench) -> None:
    generator = random.Random(0)
    for n in (1, 5, 40, 70):
        matrices, expected = zip(*(rotation_times_scale(n, generator) for _ in range(2)))
        x, out = bench.buffer("matrices", [v for m in matrices for v in m]), bench.buffer("out", 2)
        bench.call("run_log_abs_determinant", x, out, 2, n)
        assert list(out.values) == pytest.approx(expected, abs=1e-3)


def test_superfluous_barrier_is_the_only_survivor() -> None:
    every, unnoticed = mutate.survivors(CASES / "elimination.cu", run_elimination)
    assert len(every) == 5
    lines = (CASES / "elimination.cu").read_text().splitlines()
    assert [lines[b.line - 1].strip() for b in unnoticed] == ["__syncthreads(); // superfluous"]


def test_block_reduction_needs_both_barriers() -> None:
    def run(bench: Bench) -> None:
        bench.call("run_reductions", 128, bench.buffer("x", [1.0] * 128), bench.buffer("out", 512))

    every, unnoticed = mutate.survivors(CASES / "language.cu", run, [mutate.DEVICE_HEADER])
    assert len(every) == 2 and not unnoticed
