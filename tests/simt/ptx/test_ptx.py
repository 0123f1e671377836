"""Threads together: barriers, warp operations, atomics, memory spaces; planted faults found in nvcc's own PTX."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from simt.bench import Bench, KernelError
from simt.ptx import build
from simt.ptx.parse import PtxError
from simt.ptx.translate import translate
from simt.test_checker import DIVERGENCE, MEMORY, PLANTED, RACES, SCHEDULES, found

pytestmark = pytest.mark.skipif(bool(build.unavailable()), reason=build.unavailable())
ARCHS = (80, 90)

HEAD = '.version 8.0\n.target sm_80\n.address_size 64\n.file 1 "hand/written.cu"\n'
# name -> (module-scope text, body); %in and %out are the two pointers, %t the thread's number in the block.
KERNELS = {
    # out[t] = in[t ^ 1] through static shared memory; line 7 is the barrier, 9 the read
    "exchange": (
        ".shared .align 4 .b8 tile[128];",
        """.loc 1 5 1
        ld.global.u32 %r1, [%in]; mov.u32 %r2, tile; add.u32 %r2, %r2, %o4; st.shared.u32 [%r2], %r1;
        .loc 1 7 1
        bar.sync 0;
        .loc 1 9 1
        xor.b32 %r3, %o4, 4; mov.u32 %r2, tile; add.u32 %r2, %r2, %r3; ld.shared.u32 %r4, [%r2];
        st.global.u32 [%out], %r4;""",
    ),
    # sum over dynamic shared memory by thread 0, through generic addresses
    "dynamic": (
        ".extern .shared .align 16 .b8 room[];",
        """ld.global.u32 %r1, [%in]; mov.u64 %rd1, room; cvta.shared.u64 %rd2, %rd1; cvt.u64.u32 %rd3, %o4;
        add.u64 %rd4, %rd2, %rd3; st.u32 [%rd4], %r1; barrier.sync.aligned 0; mov.u32 %r2, 0; mov.u32 %r3, %ntid.x;
        $L_again: ld.shared.u32 %r4, [%rd1]; add.u32 %r2, %r2, %r4; add.u64 %rd1, %rd1, 4; sub.u32 %r3, %r3, 1;
        setp.ne.u32 %p1, %r3, 0; @%p1 bra $L_again;
        st.global.u32 [%out], %r2;""",
    ),
    "shuffles": (
        "",
        """ld.global.u32 %r1, [%in];
        shfl.sync.down.b32 %r2|%p1, %r1, 1, 31, -1; selp.u32 %r3, 100, 0, %p1; add.u32 %r2, %r2, %r3;
        shfl.sync.bfly.b32 %r4, %r2, 16, 31, -1; shfl.sync.idx.b32 %r5, %r4, 3, 0x181f, 0xffffffff;
        st.global.u32 [%out], %r5;""",
    ),
    "votes": (
        "",
        """ld.global.u32 %r1, [%in]; setp.gt.u32 %p1, %r1, 29; vote.sync.ballot.b32 %r2, %p1, -1;
        vote.sync.any.pred %p2, %p1, -1; vote.sync.all.pred %p3, %p1, -1; and.b32 %r3, %r1, 1;
        match.any.sync.b32 %r4, %r3, -1; redux.sync.max.u32 %r5, %r1, -1;
        selp.u32 %r6, 1, 0, %p2; selp.u32 %r7, 1, 0, %p3; popc.b32 %r4, %r4;
        popc.b32 %r2, %r2; mad.lo.u32 %r2, %r2, 10, %r6; mad.lo.u32 %r2, %r2, 10, %r7; mad.lo.u32 %r2, %r2, 100, %r4;
        mad.lo.u32 %r2, %r2, 100, %r5; st.global.u32 [%out], %r2;""",
    ),
    "barrier_reductions": (
        "",
        """ld.global.u32 %r1, [%in]; setp.gt.u32 %p1, %r1, 29; bar.red.popc.u32 %r2, 0, %p1;
        bar.red.or.pred %p2, 0, %p1; bar.red.and.pred %p3, 0, %p1; selp.u32 %r3, 10, 0, %p2; selp.u32 %r4, 100, 0, %p3;
        add.u32 %r2, %r2, %r3; add.u32 %r2, %r2, %r4; st.global.u32 [%out], %r2;""",
    ),
    "atomics": (
        ".shared .align 4 .u32 total;",
        """ld.global.u32 %r1, [%in]; mov.u32 %r2, 0; setp.eq.u32 %p1, %t, 0; @%p1 st.shared.u32 [total], %r2;
        bar.sync 0; red.shared.add.u32 [total], %r1; bar.sync 0; ld.shared.u32 %r3, [total];
        atom.global.relaxed.gpu.cas.b32 %r4, [%out], 7, %r3; bar.sync 0; ld.global.u32 %r5, [%out];
        bar.sync 0; st.global.u32 [%out], %r5;""",
    ),
    # local depot, v4 access, bytes, a constant table read by run-time index
    "spaces": (
        ".const .align 4 .u32 table[4] = {10, 20, 30, 40};\n.global .align 1 .b8 bytes[4] = {1, 2, 3, 255};",
        """.local .align 16 .b8 depot[16]; mov.u64 %rd1, depot; cvta.local.u64 %rd2, %rd1; and.b32 %r1, %t, 3;
        mul.wide.u32 %rd3, %r1, 4; mov.u64 %rd4, table; add.u64 %rd4, %rd4, %rd3; ld.const.u32 %r2, [%rd4];
        mov.u32 %r3, 1; mov.u32 %r4, 2; mov.u32 %r5, 3; st.local.v4.u32 [%rd1], {%r3, %r4, %r5, %r2};
        add.u64 %rd5, %rd2, %rd3; ld.u32 %r6, [%rd5]; cvt.u64.u32 %rd6, %r1; mov.u64 %rd7, bytes;
        add.u64 %rd7, %rd7, %rd6; ld.global.s8 %r7, [%rd7]; mad.lo.s32 %r6, %r6, 1000, %r7;
        st.global.u32 [%out], %r6;""",
    ),
    "bounded": ("", "st.global.u32 [%out], %t;"),
}  # fmt: skip


def entry(name: str, body: str, directives: str = "") -> str:
    return f""".visible .entry {name}(.param .u64 in, .param .u64 out) {directives}
    {{
        .reg .pred %p<8>; .reg .b32 %r<10>; .reg .b64 %rd<10>; .reg .b32 %t, %o4; .reg .b64 %in, %out, %o;
        mov.u32 %t, %tid.x; shl.b32 %o4, %t, 2; cvt.u64.u32 %o, %o4; ld.param.u64 %in, [in]; ld.param.u64 %out, [out];
        cvta.to.global.u64 %in, %in; cvta.to.global.u64 %out, %out; add.u64 %in, %in, %o; add.u64 %out, %out, %o;
        {body}
        ret;
    }}
    """


def text_of(names: list[str], change: Callable[[str], str] = lambda body: body) -> str:
    scope = "\n".join(dict.fromkeys(KERNELS[n][0] for n in names))
    bounded = {"bounded": ".maxntid 8, 4, 1"}
    return f"{HEAD}{scope}\n" + "".join(entry(n, change(KERNELS[n][1]), bounded.get(n, "")) for n in names)


@pytest.fixture(scope="module")
def hand() -> Bench:
    return Bench(build.library([text_of(list(KERNELS))]), check=True)


def run(
    bench: Bench, name: str, values: list[int], *, out: list[int] | int | None = None, shared: int = 0
) -> list[int]:
    source = bench.buffer("in", values, ctypes.c_uint32)
    target = bench.buffer("out", len(values) if out is None else out, ctypes.c_uint32)
    build.launch(bench, name, [source, target], block=len(values), shared=shared)
    return list(target.values)


N = list(range(32))
RESULTS = {
    "exchange": [i ^ 1 for i in N],
    "dynamic": [sum(N)] * 32,
    # down by one (the last lane keeps its own, its predicate is false), then lane ^ 16, then lane 3 of each group of 8
    "shuffles": [[(j + 1 + 100 if j < 31 else 31) for j in N][(i // 8 * 8 + 3) ^ 16] for i in N],
    "votes": [2_1_0_16_31] * 32,
    "barrier_reductions": [2 + 10] * 32,
    "spaces": [[1001, 2002, 3003, 39999][i % 4] for i in N],
}


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("name", RESULTS)
def test_threads_together(hand: Bench, name: str, schedule: dict[str, object]) -> None:
    with hand.options(**schedule):
        assert run(hand, name, N, shared=128 if name == "dynamic" else 0) == RESULTS[name]


def test_atomics(hand: Bench) -> None:
    assert run(hand, "atomics", [1] * 32, out=[7] + [0] * 31) == [32] + [0] * 31


def test_launch_bounds_and_unknown_kernels_are_refused(hand: Bench) -> None:
    assert run(hand, "bounded", [0] * 32) == N
    with pytest.raises(KernelError, match=r"cudaError 1$"):  # cudaErrorInvalidValue
        run(hand, "bounded", [0] * 33)
    with pytest.raises(KernelError, match=r"cudaError 500$"):  # cudaErrorSymbolNotFound
        run(hand, "missing", [0] * 32)


def test_shared_memory_is_seen_by_the_checker(hand: Bench) -> None:
    with pytest.raises(KernelError, match=r"OUT OF BOUNDS .* past the end of shared tile .*, at written.cu:5"):
        run(hand, "exchange", list(range(64)))
    with pytest.raises(KernelError, match="OUT OF BOUNDS write of 4 bytes"):
        run(hand, "dynamic", N, shared=64)
    with pytest.raises(KernelError, match="OUT OF BOUNDS write of 4 bytes, 0 bytes past the end of out"):
        run(hand, "exchange", N, out=31)


def test_deleted_barrier_is_a_race() -> None:
    bench = Bench(build.library([text_of(["exchange"], lambda body: body.replace("bar.sync 0;", ""))]), check=True)
    for schedule in SCHEDULES:
        with bench.options(**schedule), pytest.raises(KernelError, match=r"shared tile\+\d+, written.cu:9"):
            run(bench, "exchange", N)


def test_equal_stores_of_one_warp() -> None:
    """Lanes that store one value to one address race, unless the caller says that the compiler does that on purpose."""
    same = f"{HEAD}{entry('same', 'ld.param.u64 %out, [out]; mov.u32 %r1, 5; st.global.u32 [%out], %r1;')}"
    with pytest.raises(KernelError, match="RACE write-after-write of 4 bytes at out"):
        run(Bench(build.library([same]), check=True), "same", N)
    assert run(Bench(build.library([same], benign_equal_stores=True), check=True), "same", N, out=[0])[0] == 5


def test_fuzz_moves_approximate_instructions_only() -> None:
    body = """ld.global.f32 %r1, [%in]; {op} st.global.f32 [%out], %r1;"""
    ops = {"moved": "ex2.approx.ftz.f32 %r1, %r1;", "kept": "add.f32 %r1, %r1, %r1;"}
    bench = Bench(build.library([HEAD + "".join(entry(n, body.format(op=op)) for n, op in ops.items())]), check=True)
    half = [0x3F000000] * 32
    exact = {name: run(bench, name, half) for name in ops}
    with bench.options(fuzz=True, seed=1):
        fuzzed = {name: run(bench, name, half) for name in ops}
    assert fuzzed["kept"] == exact["kept"]
    distance = {abs(a - b) for a, b in zip(exact["moved"], fuzzed["moved"])}
    assert distance != {0} and max(distance) <= 2


# ---- nvcc's own PTX, started by the shipped launch() from nvcc's own host object --------------------------------
@pytest.fixture(scope="module")
def nvcc() -> dict[str, Bench]:
    names = ("memory", "races", "divergence")

    def make(name: str) -> Bench:
        compiled = build.compile_cuda(PLANTED / f"{name}.cu", ARCHS)
        return Bench(build.library(compiled.ptx.values(), objects=[compiled.host]), check=True)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(names, pool.map(make, names)))


FAULTS = [
    *(("memory", launcher, description, expected) for launcher, (description, expected) in MEMORY.items()),
    *(("races", f"launch_{launcher}", ["y:256", 0], expected) for launcher, expected in RACES.items()),
    *(("divergence", f"launch_{launcher}", ["y:64"], expected) for launcher, expected in DIVERGENCE.items()),
]


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("file, launcher, description, expected", FAULTS, ids=[fault[1] for fault in FAULTS])
def test_planted_fault_is_found_in_real_ptx(
    nvcc: dict[str, Bench], file: str, launcher: str, description: list[str | int], expected: str, arch: int
) -> None:
    bench = nvcc[file]
    assert bench.library.ptx_select(arch)
    assert re.search(expected, found(bench, launcher, 1, description, {}))
    for schedule in SCHEDULES:
        assert found(bench, launcher, 1, description, schedule)
        assert found(bench, launcher, 0, description, schedule) == ""


def test_real_ptx_with_an_unknown_instruction_stops() -> None:
    text = build.compile_cuda(PLANTED / "races.cu", ARCHS).ptx[80]
    line = text[: text.index("bar.sync")].count("\n") + 1
    with pytest.raises(PtxError, match=rf"line {line}: .*wait.sync"):
        translate([text.replace("bar.sync", "wait.sync", 1)])
