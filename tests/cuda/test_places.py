"""The element-wise reading of the masks (csrc/math/places.h) agrees with their runs (csrc/math/mask.h)."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from itertools import product
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
MASKS = (0, 2, 3, 4, 5, 6, 7)
ALL, HALF, BOARD = 0, 2, 6


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    target = tmp_path_factory.mktemp("places") / "places.so"
    source = Path(__file__).with_name("places.cpp")
    flags = [
        "-std=c++17",
        "-O1",
        "-shared",
        "-fPIC",
        "-fsanitize=undefined",
        "-fno-sanitize-recover=all",
        "-Wall",
        "-Wextra",
        "-Werror",
    ]
    subprocess.run(["g++", *flags, str(source), "-o", str(target)], check=True)
    library = ctypes.CDLL(str(target))
    library.disagreements.restype = ctypes.c_int64
    library.disagreements.argtypes = [ctypes.c_int64] * 3 + [ctypes.c_int] * 4
    library.quotient.argtypes = [ctypes.c_uint32] * 2
    library.quotient.restype = ctypes.c_uint32
    return library


def events(mask: int) -> list[tuple[int, int, int]]:
    """(channels, inner, width)"""
    if mask < BOARD:
        return [(c, inner, 1) for c, inner in product((1, 2, 3, 4, 7, 8, 16, 33), (1, 2, 4, 6, 16, 35, 64))]
    return [(c, h * w, w) for c, h, w in product((1, 2, 3), (1, 2, 3, 8), (1, 2, 3, 4, 8, 24, 41))]


@pytest.mark.parametrize("n", [1, 2, 4, 8])
@pytest.mark.parametrize("mask", MASKS)
def test_every_element_stands_where_its_run_says(library: ctypes.CDLL, mask: int, n: int) -> None:
    seen = 0
    for event, interleaved, params in product(events(mask), (0, 1), (1, 2, 5)):
        found = library.disagreements(*event, mask, interleaved, params, n)
        assert found <= 0, (event, mask, interleaved, params, n)
        seen += found == 0
    assert seen >= 10, "hardly any event was compared"


def test_the_common_events_have_units(library: ctypes.CDLL) -> None:
    for event, mask in [((64, 1, 1), HALF), ((3, 12, 1), ALL), ((4, 256, 1), 4), ((3, 64, 8), BOARD)]:
        assert library.disagreements(*event, mask, 0, 2, 4) == 0, (event, mask)
    assert library.disagreements(6, 49, 1, HALF, 0, 2, 2) == -1  # a part has 147 elements
    assert library.disagreements(8, 49, 1, HALF, 0, 2, 4) == 0  # 196, though a channel has 49
    assert library.disagreements(64, 1, 1, HALF, 1, 2, 4) == -1  # raw log-scales beside shifts
    assert library.disagreements(64, 1, 1, 4, 0, 2, 4) == -1  # transformed elements beside others


def test_division_by_multiplication(library: ctypes.CDLL) -> None:
    largest = 2**31 - 1
    divisors = [*range(1, 300), 2**15 - 1, 2**16, 2**16 + 1, 10**9, 2**30, 2**30 + 1, largest]
    for divisor in divisors:
        edges = {
            0,
            1,
            divisor - 1,
            divisor,
            divisor + 1,
            largest,
            largest // divisor * divisor,
            largest // divisor * divisor - 1,
        }
        for n in edges:
            if 0 <= n <= largest:
                assert library.quotient(n, divisor) == n // divisor, (n, divisor)
