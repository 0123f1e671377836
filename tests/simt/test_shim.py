"""CUDA C++ on the CPU means what it means on a card: warp operations, barriers, atomics, launches, schedules."""

from __future__ import annotations

import ctypes
import math
import struct
from functools import reduce
from operator import xor
from pathlib import Path

import pytest
from simt import build
from simt.bench import Bench, KernelError

HERE = Path(__file__).parent
SCHEDULES = [{"order": "in_order"}, {"order": "reversed"}, {"order": "shuffled", "seed": 1, "preempt": 3}]
INVALID_VALUE, INVALID_CONFIGURATION = 1, 9
pytestmark = pytest.mark.skipif(bool(build.unavailable()), reason=build.unavailable())


@pytest.fixture(scope="module", params=["plain", "checker", "ucontext"])
def bench(request: pytest.FixtureRequest) -> Bench:
    mode = "checker" if request.param == "checker" else "plain"
    library = build.build([HERE / "cases" / "language.cu"], mode, ucontext=request.param == "ucontext")
    return Bench(library, check=mode == "checker")


@pytest.fixture(scope="module")
def launches() -> Bench:
    return Bench(build.build([HERE / "planted" / "divergence.cu"], "checker"), check=True)


def source_lane(kind: int, lane: int, argument: int, width: int) -> int:
    """Where CUDA's shuffles read: index, up, down, xor within segments of `width` lanes."""
    first = lane // width * width
    if kind == 0:
        return first + argument % width
    source = [0, lane - argument, lane + argument, lane ^ argument][kind]
    inside = source >= first if kind == 1 else source < first + width
    return source if inside else lane


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s["order"])
def test_shuffles(bench: Bench, schedule: dict[str, object]) -> None:
    out = bench.buffer("out", 128, ctypes.c_int)
    with bench.options(**schedule):
        for width in (1, 2, 4, 8, 16, 32):
            for argument in (0, 1, 3, 8, 17, 31):
                bench.call("run_shuffles", out, argument, width)
                expected = [100 + source_lane(k, lane, argument, width) for k in range(4) for lane in range(32)]
                assert list(out.values) == expected


def test_inactive_source_lane_gives_poison(bench: Bench) -> None:
    out = bench.buffer("out", [0.0] * 32, ctypes.c_double)
    bench.call("run_inactive_source", out)
    for lane in range(0, 32, 2):
        assert math.isnan(out.values[lane]) if lane < 16 else out.values[lane] == 1.0


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s["order"])
def test_votes_and_reductions(bench: Bench, schedule: dict[str, object]) -> None:
    out = bench.buffer("out", [0] * 512, ctypes.c_uint)
    lanes = range(32)
    with bench.options(**schedule):
        bench.call("run_votes", out)
    for lane in lanes:
        row = out.values[16 * lane : 16 * lane + 13]
        assert row[0] == sum(1 << i for i in lanes if i % 3 == 0)
        assert row[1:3] == [1, 2]
        assert row[3] == sum(1 << i for i in lanes if i % 5 == lane % 5)
        assert row[4:7] == [sum(lanes), 7, 31]
        assert [ctypes.c_int(v).value for v in row[7:9]] == [-20, -9]
        assert row[9:12] == [8, 6, reduce(xor, lanes)]
        assert row[12] == (0xFF if lane < 8 else 0x55555500)


def test_partial_warp(bench: Bench) -> None:
    out = bench.buffer("out", 40, ctypes.c_uint)
    bench.call("run_partial_warp", out)
    assert list(out.values) == [0xFFFFFFFF] * 32 + [0xFF] * 8


@pytest.mark.parametrize("limit, expected", [(0, [0, 0, 0]), (50, [50, 0, 1]), (96, [96, 1, 1])])
def test_counting_barriers(bench: Bench, limit: int, expected: list[int]) -> None:
    out = bench.buffer("out", 3, ctypes.c_int)
    bench.call("run_block_votes", out, limit)
    assert list(out.values) == expected


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s["order"])
def test_atomics(bench: Bench, schedule: dict[str, object]) -> None:
    ints, words = bench.buffer("i", [0] * 3, ctypes.c_int), bench.buffer("u", [127, 0, 0, 99, 0], ctypes.c_uint)
    longs = bench.buffer("l", [0], ctypes.c_ulonglong)
    floats, doubles = bench.buffer("f", [0.0]), bench.buffer("d", [0.0], ctypes.c_double)
    with bench.options(**schedule):
        bench.call("run_atomics", ints, words, longs, floats, doubles)
    assert list(ints.values) == [2 * (sum(range(64)) - 3 * 64), -63, 63]
    assert list(words.values)[:3] == [64, 63, 0] and words.values[3] < 64 and words.values[4] == 256
    assert (longs.values[0], floats.values[0], doubles.values[0]) == (128 << 40, 64.0, 32.0)


def test_indices(bench: Bench) -> None:
    out = bench.buffer("out", 24 * 30, ctypes.c_int)
    bench.call("run_indices", out)
    assert list(out.values) == [1000 * b + t for b in range(24) for t in range(30)]


def test_schedules(bench: Bench) -> None:
    """In order, reversed, and shuffles that a seed fixes; every thread of every block runs once."""

    def arrivals(**schedule: object) -> list[int]:
        counter, out = bench.buffer("counter", [0], ctypes.c_int), bench.buffer("out", 128, ctypes.c_int)
        with bench.options(**schedule):
            bench.call("run_arrival", counter, out)
        assert sorted(out.values) == list(range(128))
        return list(out.values)

    assert arrivals() == list(range(128))
    assert arrivals(order="reversed") == list(range(127, -1, -1))
    shuffled = [arrivals(order="shuffled", seed=seed) for seed in (1, 2, 1)]
    assert shuffled[0] == shuffled[2] != shuffled[1]


@pytest.mark.parametrize("threads", [32, 128, 1024])
def test_block_reductions_have_one_order(bench: Bench, threads: int) -> None:
    data = [math.sin(i) for i in range(threads)]
    x, results = bench.buffer("x", data), []
    for schedule in SCHEDULES:
        out = bench.buffer("out", 4 * threads)
        with bench.options(**schedule):
            bench.call("run_reductions", threads, x, out)
        results.append(list(out.values))
    assert results[0] == results[1] == results[2]
    sums, largest, squares, eights = (results[0][k * threads : (k + 1) * threads] for k in range(4))
    assert len(set(sums)) == 1 and sums[0] == pytest.approx(math.fsum(data), abs=1e-5)
    assert set(largest) == {max(x.values)}
    assert len(set(squares)) == 1 and squares[0] == pytest.approx(math.fsum(v * v for v in data), rel=1e-5)
    assert eights == pytest.approx([math.fsum(data[i // 8 * 8 : i // 8 * 8 + 8]) for i in range(threads)], abs=1e-6)


def round_to(value: float, kind: int) -> float:
    if kind == 3:
        return struct.unpack("e", struct.pack("e", value))[0]
    if kind < 2:
        return value
    bits = struct.unpack("I", struct.pack("f", value))[0]
    return struct.unpack("f", struct.pack("I", (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000))[0]


@pytest.mark.parametrize("kind", range(4), ids=["float32", "float64", "bfloat16", "float16"])
def test_vectors_and_conversions(bench: Bench, kind: int) -> None:
    x, out = bench.buffer("x", [math.cos(i) * 2.0 ** (i % 12) for i in range(1024)]), bench.buffer("out", 1024)
    bench.call("run_convert", kind, x, out)
    assert list(out.values) == [round_to(v, kind) for v in x.values]


def test_last_blocks_of_a_huge_launch(bench: Bench) -> None:
    """A block filter and sparse pages: only the end of 2^31 + 300 elements is touched."""
    size = 2**31 + 300
    out = bench.buffer("out", size, ctypes.c_ubyte)
    blocks = (size + 255) // 256
    with bench.options(blocks=(blocks - 2, blocks)):
        bench.call("run_fill", out, size)
    assert out.values[size - 300 : size] == [7] * 300 and out.values[0] == 0


def test_fuzz_moves_approximate_functions(bench: Bench) -> None:
    exact, moved = bench.buffer("exact", 64), bench.buffer("moved", 64)
    bench.call("run_approximate", exact)
    with bench.options(fuzz=True, seed=5):
        bench.call("run_approximate", moved)
    ulps = [round((b - a) / math.ulp(a) * 2.0**-29) for a, b in zip(exact.values, moved.values)]
    assert max(map(abs, ulps)) == 2 and set(ulps) == {-2, -1, 0, 1, 2}


REFUSED = [
    *((0, 1, 1, 1, 1, 1), (2**31, 1, 1, 1, 1, 1), (1, 65536, 1, 1, 1, 1), (1, 1, 65536, 1, 1, 1)),
    *((1, 1, 1, 0, 1, 1), (1, 1, 1, 1025, 1, 1), (1, 1, 1, 32, 33, 1), (1, 1, 1, 1, 1, 65)),
]


@pytest.mark.parametrize("shape", REFUSED)
def test_shapes_that_a_driver_refuses(launches: Bench, shape: tuple[int, ...]) -> None:
    with pytest.raises(KernelError) as error:
        launches.call("launch_shape", *shape)
    assert error.value.code == INVALID_CONFIGURATION


@pytest.mark.parametrize("shape", [(1, 1, 1, 1024, 1, 1), (1, 1, 1, 4, 4, 64), (3, 65535, 1, 1, 1, 1)])
def test_shapes_that_a_driver_takes(launches: Bench, shape: tuple[int, ...]) -> None:
    with launches.options(blocks=(0, 8)):
        launches.call("launch_shape", *shape)


def test_shared_memory_limits(launches: Bench) -> None:
    """48 KiB without the opt-in, the card's limit with it, 48 KiB of static arrays."""
    y = launches.buffer("y", 1)
    launches.call("launch_without_opt_in", y, 48 * 1024)
    launches.call("launch_with_opt_in", y, 227 * 1024)
    for launcher, size in (("launch_without_opt_in", 48 * 1024 + 1), ("launch_with_opt_in", 227 * 1024 + 1)):
        with pytest.raises(KernelError) as error:
            launches.call(launcher, y, size)
        assert error.value.code == INVALID_VALUE
    with launches.options(shared_limit=99 * 1024), pytest.raises(KernelError):
        launches.call("launch_with_opt_in", y, 100 * 1024)
    with pytest.raises(KernelError, match="static arrays exceed 48 KiB with second"):
        launches.call("launch_large_static", y)
