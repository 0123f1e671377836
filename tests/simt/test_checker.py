"""The checker finds every planted fault, names the array and the line, and is silent about the corrected twin."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from simt import build
from simt.bench import Bench, Buffer, KernelError

PLANTED = Path(__file__).parent / "planted"
SCHEDULES = [{"order": "in_order"}, {"order": "reversed"}] + [
    {"order": "shuffled", "seed": seed, "preempt": 4} for seed in range(5)
]
pytestmark = pytest.mark.skipif(bool(build.unavailable()), reason=build.unavailable())

#: launcher -> the buffers and numbers it takes, and what the report says
MEMORY = {
    "read_outside": (
        ["x:60", "y:64?", 60],
        r"OUT OF BOUNDS read of 4 bytes, 0 bytes past the end of x \(240 bytes\), at memory.cu:\d+",
    ),
    "write_outside": (
        ["y:64?", 64],
        r"OUT OF BOUNDS write of 4 bytes, 0 bytes past the end of y \(256 bytes\), at memory.cu:\d+",
    ),
    "dynamic_outside": (
        ["y:64?", 64],
        r"OUT OF BOUNDS .*, 0 bytes past the end of shared dynamic shared memory \(256 bytes\), at memory.cu:\d+",
    ),
    "static_outside": (
        ["y:64?", 64],
        r"OUT OF BOUNDS .*, 0 bytes past the end of shared tile \(256 bytes\), at memory.cu:\d+",
    ),
    "alignment_untested": (["x:64+4", "y:64?", 64], r"MISALIGNED read of 16 bytes at x\+0, at .*memory.cu:\d+"),
    "shared_unwritten": (["y:64?", 64], r"UNINITIALISED read of 4 bytes at shared tile\+28, memory.cu:\d+"),
    "output_unwritten": (["y:64?", 64], r"UNINITIALISED read of 4 bytes at y\+0, memory.cu:\d+"),
}
TILE = r" of 4 bytes at shared tile\+\d+, races.cu:\d+"
EITHER = "RACE (read-after-write|write-after-read)"  # by the order in which the two threads came
RACES = {
    "without_barrier": EITHER + TILE,
    "without_second_barrier": "RACE write-after-read" + TILE,
    "without_syncwarp": EITHER + TILE,
    "shuffle_as_fence": "RACE read-after-write" + TILE,
    "syncwarp_across_warps": EITHER + TILE,
    "half_warp_sync": EITHER + TILE,
    "blocks_share_cell": r"RACE write-after-write of 4 bytes at y\+0, races.cu:\d+, .* of another block",
    "plain_add": r"RACE (read|write)-after-(read|write) of 4 bytes at y\+0, races.cu:\d+",
    "atomic_beside_plain": r"RACE (read-after-atomic|atomic-after-read) of 4 bytes at y\+0, races.cu:\d+",
    "write_after_read": r"RACE (write-after-read|read-after-write) of 4 bytes at shared head\+0, races.cu:\d+",
}
DIVERGENCE = {
    "barrier_in_branch": r"BARRIER DIVERGENCE: thread .* waits at divergence.cu:\d+, thread .* at divergence.cu:\d+",
    "full_mask_in_half_warp": r"WARP (DEADLOCK at divergence.cu:\d+: .*|DIVERGENCE: .*) lane \d+, which has exited",
    "early_return": r"BARRIER DIVERGENCE at divergence.cu:\d+: 24 of 64 threads have exited",
    "exited_lane": r"WARP .*lane 31, which has exited",
    "different_operations": r"WARP DIVERGENCE: shuffle .*, but lane \d+ waits in shuffle .* at divergence.cu:\d+",
    "outside_own_mask": r"WARP DIVERGENCE: caller is not in the mask 0x00000001 .* at divergence.cu:\d+",
}


@pytest.fixture(scope="module")
def library() -> Callable[[str], Bench]:
    benches: dict[str, Bench] = {}

    def load(name: str) -> Bench:
        if name not in benches:
            benches[name] = Bench(build.build([PLANTED / f"{name}.cu"], "checker"), check=True)
        return benches[name]

    return load


def arguments(bench: Bench, description: list[str | int]) -> list[Buffer | int]:
    """Buffers from their descriptions: "x:64+4?" is x of 64 floats, shifted by 4 bytes, uninitialised."""
    values: list[Buffer | int] = []
    for item in description:
        if isinstance(item, int):
            values.append(item)
            continue
        name, size, shift, unset = re.fullmatch(r"(\w+):(\d+)(?:\+(\d+))?(\??)", item).groups()  # type: ignore[union-attr]
        data = int(size) if unset else [0.0] * int(size)
        values.append(bench.buffer(name, data, shift=int(shift or 0)))
    return values


def found(bench: Bench, launcher: str, fault: int, description: list[str | int], schedule: dict[str, object]) -> str:
    with bench.options(**schedule):
        try:
            bench.call(launcher, fault, *arguments(bench, description))
        except KernelError as error:
            return str(error)
    return ""


@pytest.mark.parametrize("launcher", MEMORY)
def test_memory_fault_is_found(library: Callable[[str], Bench], launcher: str) -> None:
    description, expected = MEMORY[launcher]
    assert re.search(expected, found(library("memory"), launcher, 1, description, {}))
    for schedule in SCHEDULES:
        assert found(library("memory"), launcher, 1, description, schedule)
        assert found(library("memory"), launcher, 0, description, schedule) == ""


@pytest.mark.parametrize("launcher", RACES)
def test_race_is_found_in_every_schedule(library: Callable[[str], Bench], launcher: str) -> None:
    bench = library("races")
    for schedule in SCHEDULES:
        assert re.search(RACES[launcher], found(bench, f"launch_{launcher}", 1, ["y:256", 0], schedule))
        assert found(bench, f"launch_{launcher}", 0, ["y:256", 0], schedule) == ""


@pytest.mark.parametrize("launcher", DIVERGENCE)
def test_divergence_is_found(library: Callable[[str], Bench], launcher: str) -> None:
    bench = library("divergence")
    for schedule in SCHEDULES:
        assert re.search(DIVERGENCE[launcher], found(bench, f"launch_{launcher}", 1, ["y:64"], schedule))
        assert found(bench, f"launch_{launcher}", 0, ["y:64"], schedule) == ""


def test_lines_are_right(library: Callable[[str], Bench]) -> None:
    """A report names the line of the faulty statement, also where it sits in an inlined helper."""
    lines = (PLANTED / "memory.cu").read_text().splitlines()

    def at(launcher: str) -> str:
        text = found(library("memory"), launcher, 1, MEMORY[launcher][0], {})
        fault = next(line for line in text.splitlines() if line.startswith(("OUT OF BOUNDS", "MISALIGNED")))
        return lines[int(re.findall(r"memory\.cu:(\d+)", fault)[0]) - 1].strip()

    assert at("read_outside") == "y[i] = x[i];"
    assert at("static_outside") == "tile[Fault ? i + n - threads + 1 : i] = 2.f;"
    assert at("alignment_untested") == "pfk::Vec<float, 4> v = pfk::vload<4>(x + 4 * i);"


def test_patterns_are_counted(library: Callable[[str], Bench]) -> None:
    """32 x 32 transpose: 1024 bank wavefronts without padding, 32 with; strided loads cost a sector each."""
    bench = library("traffic")
    x, y = bench.buffer("x", [0.0] * 1024), bench.buffer("y", 1024)

    def cost(launcher: str, *more: int) -> dict[tuple[str, bool], tuple[int, int]]:
        with bench.options(count=True):
            bench.call(launcher, x, y, *more)
        return {(t.array, t.write): (t.units, t.minimum) for t in bench.traffic()}

    plain, padded = cost("transpose_plain"), cost("transpose_padded")
    assert plain["tile", False] == (1024, 32) and plain["tile", True] == (32, 32)
    assert padded["tile", False] == padded["tile", True] == (32, 32)
    assert plain["x", False] == plain["y", True] == (128, 128)
    assert cost("load_strided", 1)["x", False] == (4, 4)
    assert cost("load_strided", 4)["x", False] == (16, 4)
    assert cost("load_strided", 8)["x", False] == (32, 4)
    assert cost("load_vectors") == {("x", False): (16, 16), ("y", True): (16, 16)}


ASAN = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from simt.bench import Bench
bench = Bench(Path(sys.argv[2]))
x, y = bench.buffer("x", [0.0] * 60, shift=4 * (sys.argv[3] == "alignment_untested")), bench.buffer("y", 64)
arguments = [x, y, 60] if sys.argv[3] in ("read_outside", "alignment_untested") else [y, 64]
bench.call(sys.argv[3], int(sys.argv[4]), *arguments)
print("clean")
"""


@pytest.mark.parametrize(
    "launcher, message",
    {
        "read_outside": "use-after-poison",
        "write_outside": "use-after-poison",
        "dynamic_outside": "use-after-poison",
        "static_outside": r"index 64 out of bounds for type|use-after-poison",
        "alignment_untested": "misaligned address",
    }.items(),
)
def test_sanitizers_find_memory_faults(launcher: str, message: str) -> None:
    library = build.build([PLANTED / "memory.cu"], "asan")
    for fault in (1, 0):
        command = [sys.executable, "-c", ASAN, str(Path(__file__).parents[1]), str(library), launcher, str(fault)]
        done = subprocess.run(command, env=build.sanitizer_environment(), capture_output=True, text=True)
        if fault:
            assert done.returncode and re.search(message, done.stderr) and "memory.cu:" in done.stderr
        else:
            assert done.stdout == "clean\n", done.stderr


def test_plain_build_notices_damaged_red_zones() -> None:
    bench = Bench(build.build([PLANTED / "memory.cu"], "plain"))
    y = bench.buffer("y", 63)
    with pytest.raises(KernelError, match="OUT OF BOUNDS write next to y"):
        bench.call("write_outside", 1, y, 64)
