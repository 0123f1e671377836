"""Shortest alignments of token sequences, and edits applied to them, beside torch, Python and rapidfuzz (if there).

`python -m benchmarks --only align`. rapidfuzz is given strings, made before; of several shortest alignments it
gives one, ours draws.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from pyflowk.ops import align, apply_edits
from pyflowk.ops.align import _formula
from pyflowk.ops.apply_edits import _formula as _edited

from .report import OURS, Case, ratio_bar
from .timing import Effort

ON_REQUEST = False
OPS = ("align", "apply_edits")
TORCH, PYTHON, RAPIDFUZZ = "plain torch", "Python", "rapidfuzz, strings given"
HAS_PEER = importlib.util.find_spec("rapidfuzz") is not None
PAIRS, SYMBOLS, SIZES = 64, 64, (64, 256, 1024)


def notes() -> dict[str, str]:
    """What each rival's time includes."""
    return {
        OURS: "ops.align or ops.apply_edits",
        TORCH: "the op's formula: rows of the table by cummin, all pairs a step back at a time; cumsum and scatter",
        PYTHON: "the table by lists and a way back, without ties",
        RAPIDFUZZ: "rapidfuzz.distance.Levenshtein.editops of every pair",
    }


def by_lists(a: list[int], b: list[int]) -> list[tuple[int, int]]:
    """A shortest alignment as a textbook has it."""
    table = [[*range(len(b) + 1)]]
    for i, x in enumerate(a):
        row = [i + 1]
        for j, y in enumerate(b):
            row.append(min(table[i][j + 1] + 1, row[j] + 1, table[i][j] + (x != y)))
        table.append(row)
    i, j, way = len(a), len(b), []
    while i or j:
        if i and j and table[i][j] == table[i - 1][j - 1] + (a[i - 1] != b[j - 1]):
            i, j = i - 1, j - 1
            way.append((a[i], b[j]))
        elif i and table[i][j] == table[i - 1][j] + 1:
            i -= 1
            way.append((a[i], -1))
        else:
            j -= 1
            way.append((-1, b[j]))
    return way[::-1]


def related(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sequences and others, a third of whose tokens differ, moved by some places; lengths."""
    generator = torch.Generator().manual_seed(n)
    x0, other = (torch.randint(0, SYMBOLS, (PAIRS, n), generator=generator) for _ in range(2))
    x1 = torch.where(torch.rand(x0.shape, generator=generator) < 1 / 3, other, x0.roll(3, 1))
    return x0, x1, torch.full((PAIRS,), n)


def case(n: int) -> Case:
    """One contest of alignments."""
    x0, x1, lengths = related(n)
    keys = torch.arange(PAIRS)
    variants: dict[str, Callable[[], object]] = {OURS: lambda: align(x0, lengths, x1, lengths, keys)}
    bars = []
    if n < 1000:
        variants[TORCH] = lambda: _formula(x0, x1, lengths, lengths, keys)
    if n < 100:
        variants[PYTHON] = lambda: [by_lists(a, b) for a, b in zip(x0.tolist(), x1.tolist())]
        bars.append(ratio_bar(4.0, TORCH, PYTHON))
    if HAS_PEER:
        from rapidfuzz.distance import Levenshtein

        strings = [["".join(map(chr, row)) for row in x.tolist()] for x in (x0, x1)]
        variants[RAPIDFUZZ] = lambda: [Levenshtein.editops(a, b) for a, b in zip(*strings)]
        bars.append(ratio_bar(1.4, RAPIDFUZZ))
    effort = Effort(rounds=5, batches=1, warmups=1)
    return Case(f"align, {PAIRS} pairs of {n}", variants, bars, effort=effort)


def case_edits(n: int) -> Case:
    """One contest of edits."""
    x, insert, lengths = related(n)
    insert, delete, none = torch.where(insert < 8, insert, -1), x < 8, torch.full_like(x, -1)
    variants = {
        OURS: lambda: apply_edits(x, lengths, insert, delete, none, limit=2 * n),
        TORCH: lambda: _edited(torch.where(delete, -1, torch.where(none >= 0, none, x)), insert, lengths, 2 * n, 0),
    }
    return Case(f"edits, {PAIRS} x {n}", variants, [ratio_bar(1.0, TORCH)])


def cases(quick: bool) -> Iterator[Case]:
    """Every contest, built when its turn comes."""
    for n in SIZES[:1] if quick else SIZES:
        yield case(n)
    yield case_edits(64 if quick else 1024)
