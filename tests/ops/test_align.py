"""align: Levenshtein's distance, ways back that are valid and evenly drawn, kernel against formula, rows, bad input."""

from __future__ import annotations

from collections import Counter
from functools import cache

import pytest
import torch
from torch import Tensor

import pyflowk
from pyflowk.ops import Alignment, align

BACKENDS = ["reference", "cpu"]
every_backend = pytest.mark.parametrize("name", BACKENDS)


def distance_of(a: list[int], b: list[int]) -> int:
    """By the recursion itself."""

    @cache
    def of(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return i + j
        return min(of(i - 1, j) + 1, of(i, j - 1) + 1, of(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    return of(len(a), len(b))


def pairs(rows: int, n0: int, n1: int, symbols: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Related sequences, empty ones among them."""
    generator = torch.Generator().manual_seed(seed)
    x0 = torch.randint(0, symbols, (rows, n0), generator=generator)
    x1 = torch.randint(0, symbols, (rows, n1), generator=generator)
    shared = min(n0, n1) // 2
    x1[::2, :shared] = x0[::2, shared : 2 * shared]
    lengths0, lengths1 = (torch.randint(0, n + 1, (rows,), generator=generator) for n in (n0, n1))
    lengths0[-1], lengths1[-1] = n0, n1
    return x0, lengths0, x1, lengths1, torch.arange(rows) * 2**33 - 1


def assert_valid(found: Alignment, x0: Tensor, lengths0: Tensor, x1: Tensor, lengths1: Tensor) -> None:
    for z, x, lengths in ((found.z0, x0, lengths0), (found.z1, x1, lengths1)):
        assert z.shape == (len(x0), x0.shape[1] + x1.shape[1])
        assert [row[row != -1].tolist() for row in z] == [row[:n].tolist() for row, n in zip(x, lengths.tolist())]
    assert torch.equal((found.z0 != found.z1).sum(1), found.distance)
    gone = ((found.z0 == -1) & (found.z1 == -1)).long()
    assert torch.equal(gone, gone.cummax(1).values)  # blank pairs stand at the end


@every_backend
@pytest.mark.parametrize("n0, n1, symbols", [(7, 5, 2), (30, 20, 4), (0, 3, 2), (3, 0, 2), (0, 0, 1), (70, 66, 3)])
def test_distances_and_ways_back(n0: int, n1: int, symbols: int, name: str) -> None:
    x0, lengths0, x1, lengths1, keys = pairs(12, n0, n1, symbols)
    with pyflowk.backend(name):
        found = align(x0, lengths0, x1, lengths1, keys)
        alone = align(x0[4:5], lengths0[4:5], x1[4:5], lengths1[4:5], keys[4:5])
    rows = zip(x0, lengths0.tolist(), x1, lengths1.tolist())
    assert found.distance.tolist() == [distance_of(a[:n].tolist(), b[:m].tolist()) for a, n, b, m in rows]
    assert_valid(found, x0, lengths0, x1, lengths1)
    assert all(torch.equal(whole[4:5], one) for whole, one in zip(found, alone))


@pytest.mark.parametrize("n0, n1, symbols", [(9, 200, 2), (130, 64, 3), (65, 65, 200)])
def test_kernel_and_formula_go_the_same_way(n0: int, n1: int, symbols: int) -> None:
    """Numbers of a tie are those of its row's key and its place on the way back; any threads, any neighbours."""
    given = pairs(40, n0, n1, symbols, seed=n0)
    threads = torch.get_num_threads()
    with pyflowk.backend("reference"):
        formula = align(*given)
    with pyflowk.backend("cpu"):
        kernel = align(*given)
        try:
            torch.set_num_threads(2)
            again = align(*(t.repeat_interleave(2, 0)[::2] for t in given))
        finally:
            torch.set_num_threads(threads)
    for one, two, three in zip(formula, kernel, again):
        assert torch.equal(one, two) and torch.equal(two, three)


@every_backend
def test_ties_are_drawn_evenly(name: str) -> None:
    """a a against a: whichever is deleted; a b against b a: each step back has two ways, or three."""
    rows = 6000
    keys = torch.randint(0, 2**62, (rows,), generator=torch.Generator().manual_seed(1))

    def ways(a: list[int], b: list[int]) -> Counter[tuple[int, ...]]:
        with pyflowk.backend(name):
            z0, z1, _ = align(
                torch.tensor(a).expand(rows, -1), torch.full((rows,), len(a)), torch.tensor(b).expand(rows, -1),
                torch.full((rows,), len(b)), keys,
            )  # fmt: skip
        return Counter(tuple(row) for row in torch.cat((z0, z1), 1).tolist())

    deleted = ways([1, 1], [1])
    swapped = ways([1, 2], [2, 1])
    for found, chances in (
        (deleted, {(1, 1, -1, -1, 1, -1): 1 / 2, (1, 1, -1, 1, -1, -1): 1 / 2}),
        (swapped, {(1, 2, -1, -1, -1, 2, 1, -1): 1 / 3, (-1, 1, 2, -1, 2, 1, -1, -1): 1 / 3,
                   (1, 2, -1, -1, 2, 1, -1, -1): 1 / 3}),
    ):  # fmt: skip
        assert found.keys() == chances.keys()
        for way, chance in chances.items():
            assert abs(found[way] / rows - chance) < 5 * (chance * (1 - chance) / rows) ** 0.5


@every_backend
def test_bad_input_is_refused(name: str) -> None:
    x0, lengths0, x1, lengths1, keys = pairs(3, 4, 5, 2)
    with pyflowk.backend(name):
        with pytest.raises(ValueError, match=r"expected x0 \(B, N0\) and x1 \(B, N1\) on one device; got \(4,\)"):
            align(x0[0], lengths0, x1, lengths1, keys)
        with pytest.raises(TypeError, match=r"x1 must be int64; got torch.int32"):
            align(x0, lengths0, x1.int(), lengths1, keys)
        with pytest.raises(TypeError, match=r"lengths0 must be int64; got torch.float32"):
            align(x0, lengths0.float(), x1, lengths1, keys)
        with pytest.raises(ValueError, match=r"lengths1 must be \(3,\), one a row"):
            align(x0, lengths0, x1, lengths1[:2], keys)
        with pytest.raises(ValueError, match="lengths0 must be 0 to 4; got 0 to 5"):
            align(x0, torch.tensor([0, 5, 1]), x1, lengths1, keys)
        with pytest.raises(ValueError, match=r"keys must be \(3,\), one a row; got \(2,\)"):
            align(x0, lengths0, x1, lengths1, keys[:2])
        empty = align(x0[:0], lengths0[:0], x1[:0], lengths1[:0], keys[:0])
    assert empty.z0.shape == empty.z1.shape == (0, 9) and empty.distance.shape == (0,)
