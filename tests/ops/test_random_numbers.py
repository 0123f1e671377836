"""Random numbers by counter: the right generator, the same numbers everywhere, a row alone, the right moments."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import pyflowk
from pyflowk.ops import random_numbers
from pyflowk.ops.random_numbers import RANDOM, philox

#: of the authors' table of known answers (Salmon et al. 2011): counter, key, words
KNOWN = [
    ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    ([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], [0xA4093822, 0x299F31D0],
     [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]),
]  # fmt: skip
BACKENDS = ["reference", "cpu"]


def word64(low: int, high: int) -> Tensor:
    whole = high << 32 | low
    return torch.tensor([whole - (1 << 64) if whole >> 63 else whole])


def some_keys(rows: int = 5) -> Tensor:
    return torch.randint(-(2**63), 2**63 - 1, (rows,), generator=torch.Generator().manual_seed(rows))


@pytest.mark.parametrize("counter, key, expected", KNOWN)
def test_the_formula_is_philox(counter: list[int], key: list[int], expected: list[int]) -> None:
    blocks, draw, kind = word64(*counter[:2]), torch.tensor(counter[2:3]), counter[3]
    assert [int(word) for word in philox(word64(*key), blocks, draw, kind)] == expected


@pytest.mark.parametrize("name", BACKENDS)
def test_a_kernel_is_philox(name: str) -> None:
    """The bits of the first 128 signs of key 0 are the four words of the first known answer."""
    with pyflowk.backend(name):
        signs = random_numbers(torch.tensor([0]), 1, 128, "sign")
    bits = (signs > 0).long().reshape(4, 32)
    assert (bits << torch.arange(32)).sum(1).tolist() == KNOWN[0][2]


@pytest.mark.parametrize("kind", RANDOM)
@pytest.mark.parametrize("draws, size", [(1, 1), (3, 37), (2, 300), (2, 0)])
def test_kernel_and_formula_make_the_same_numbers(kind: str, draws: int, size: int, name: str = "cpu") -> None:
    keys = some_keys()
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        with pyflowk.backend(name):
            kernel = random_numbers(keys, draws, size, kind, dtype)
        with pyflowk.backend("reference"):
            formula = random_numbers(keys, draws, size, kind, dtype)
        assert kernel.shape == (5, draws, size) and kernel.dtype == dtype
        tolerance = 16 * torch.finfo(dtype).eps if kind == "normal" else 0
        torch.testing.assert_close(kernel, formula, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", RANDOM)
@pytest.mark.parametrize("name", BACKENDS)
def test_a_number_depends_on_its_key_and_place_alone(kind: str, name: str) -> None:
    keys = some_keys()
    with pyflowk.backend(name):
        whole = random_numbers(keys, 3, 300, kind)
        for row in range(5):
            assert torch.equal(random_numbers(keys[row : row + 1], 2, 130, kind)[0], whole[row, :2, :130])
    assert (whole[0] != whole[1]).any() and (whole[0, 0] != whole[0, 1]).any()


@pytest.mark.parametrize("name", BACKENDS)
def test_keys_of_any_strides(name: str) -> None:
    keys = some_keys(4)
    with pyflowk.backend(name):
        whole = random_numbers(keys, 2, 5)
        for other in (keys.repeat_interleave(2)[::2], torch.stack((keys, keys), 1)[:, 1]):
            assert torch.equal(random_numbers(other, 2, 5), whole)
        assert torch.equal(random_numbers(keys[:1].expand(4), 2, 5), whole[:1].expand(4, 2, 5))


def test_moments() -> None:
    numbers = {kind: random_numbers(some_keys(400), 5, 500, kind, torch.float64).flatten() for kind in RANDOM}
    n = len(numbers["sign"])  # a million
    for kind, moments in {
        "sign": (0, 1, 0, 1),
        "normal": (0, 1, 0, 3),
        "uniform": (1 / 2, 1 / 3, 1 / 4, 1 / 5),
    }.items():
        for power, moment in enumerate(moments, 1):
            deviation = {"normal": 96**0.5}.get(kind, 1.0)
            assert abs((numbers[kind] ** power).mean().item() - moment) < 5 * deviation / n**0.5
    assert numbers["uniform"].min() > 0 and numbers["uniform"].max() <= 1
    assert {*numbers["sign"].unique().tolist()} == {-1.0, 1.0}


def test_kinds_share_no_words() -> None:
    """The words of the uniform numbers are not those of the signs: a kernel may draw both under one key."""
    keys = some_keys(1)
    uniform = random_numbers(keys, 1, 4, "uniform", torch.float64)[0, 0]
    words = (uniform * 2**32 - 0.5).long()
    bits = (random_numbers(keys, 1, 128, "sign")[0, 0] > 0).long().reshape(4, 32)
    assert (words != (bits << torch.arange(32)).sum(1)).all()


@pytest.mark.parametrize("name", BACKENDS)
def test_bad_input_is_refused(name: str) -> None:
    keys = some_keys()
    with pytest.raises(ValueError, match="kind: expected one of sign, normal, uniform; got 'gaussian'"):
        random_numbers(keys, 1, 1, "gaussian")
    with pytest.raises(TypeError, match=r"dtype: expected one of torch\.float32, .*; got torch\.int64"):
        random_numbers(keys, 1, 1, dtype=torch.int64)
    with pyflowk.backend(name):
        with pytest.raises(ValueError, match=r"keys must be \(B,\); got \(1, 5\)"):
            random_numbers(keys[None], 1, 1)
        with pytest.raises(ValueError, match="expected numbers of draws and of places"):
            random_numbers(keys, -1, 1)
        with pytest.raises(TypeError, match="int64"):
            random_numbers(keys.int(), 1, 1)
