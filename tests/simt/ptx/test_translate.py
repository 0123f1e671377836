"""Each opcode class against known results, on hand-written PTX; what the translator does not know must stop it."""

from __future__ import annotations

import ctypes
import math
import re
import struct
from dataclasses import dataclass

import pytest
from simt.bench import Bench
from simt.build import unavailable
from simt.ptx import build
from simt.ptx.parse import PtxError
from simt.ptx.translate import translate

pytestmark = pytest.mark.skipif(bool(unavailable()), reason=unavailable())

HEAD = '.version 8.0\n.target sm_80\n.address_size 64\n.file 1 "hand/written.cu"\n'
CODES = {"f32": "f", "f64": "d", "f16": "e"}
NAN, INF = math.nan, math.inf
ALL = 0xFFFFFFFF


@dataclass
class Case:
    """`text` computes d from a, b, c (or d and e, where `second` names e's type)."""

    text: str
    types: str  # of d, a, b, c
    inputs: tuple[float, ...]
    expected: float

    @property
    def kinds(self) -> list[str]:
        return self.types.split()


def f32(x: float) -> float:
    return struct.unpack("<f", struct.pack("<f", x))[0]


def bf16(x: float) -> int:
    return struct.unpack("<I", struct.pack("<f", x))[0] >> 16


def f16(x: float) -> int:
    return struct.unpack("<H", struct.pack("<e", x))[0]


CASES = [
    Case("add.s32 d, a, b;", "s32 s32 s32", (7, -9), -2),
    Case("add.s32 d, a, b;", "s32 s32 s32", (2**31 - 1, 1), -(2**31)),
    Case("sub.u64 d, a, 3;", "u64 u64", (1,), 2**64 - 2),
    Case("mul.lo.s32 d, a, b;", "s32 s32 s32", (65537, 65537), 131073),
    Case("mul.hi.s32 d, a, b;", "s32 s32 s32", (-(2**31), 2), -1),
    Case("mul.hi.u64 d, a, b;", "u64 u64 u64", (2**63, 6), 3),
    Case("mul.wide.s32 d, a, b;", "s64 s32 s32", (-3, 2**31 - 1), -3 * (2**31 - 1)),
    Case("mul.wide.u16 d, a, b;", "u32 u16 u16", (65535, 65535), 65535**2),
    Case("mad.lo.s32 d, a, b, c;", "s32 s32 s32 s32", (5, -6, 7), -23),
    Case("mad.wide.u32 d, a, b, c;", "u64 u32 u32 u64", (2**31, 4, 5), 2**33 + 5),
    Case("div.s32 d, a, b;", "s32 s32 s32", (-7, 2), -3),
    Case("div.u32 d, a, b;", "u32 u32 u32", (2**32 - 1, 2), 2**31 - 1),
    Case("rem.s32 d, a, b;", "s32 s32 s32", (-7, 2), -1),
    Case("rem.u64 d, a, b;", "u64 u64 u64", (2**40 + 3, 8), 3),
    Case("neg.s32 d, a;", "s32 s32", (5,), -5),
    Case("abs.s32 d, a;", "s32 s32", (-5,), 5),
    Case("min.s32 d, a, b;", "s32 s32 s32", (-5, 4), -5),
    Case("max.u32 d, a, b;", "u32 u32 u32", (2**31, 4), 2**31),
    Case("and.b32 d, a, 0xF0;", "u32 u32", (0x1234,), 0x30),
    Case("or.b64 d, a, b;", "u64 u64 u64", (1 << 40, 1), (1 << 40) + 1),
    Case("xor.b32 d, a, -1;", "u32 u32", (5,), ALL - 5),
    Case("not.b32 d, a;", "u32 u32", (5,), ALL - 5),
    Case("shl.b32 d, a, b;", "u32 u32 u32", (3, 31), 2**31),
    Case("shl.b32 d, a, b;", "u32 u32 u32", (3, 40), 0),
    Case("shr.s32 d, a, b;", "s32 s32 u32", (-16, 2), -4),
    Case("shr.s32 d, a, b;", "s32 s32 u32", (-16, 99), -1),
    Case("shr.u64 d, a, b;", "u64 u64 u32", (2**63, 63), 1),
    Case("shf.l.wrap.b32 d, a, b, c;", "u32 u32 u32 u32", (0x80000000, 1, 33), 3),
    Case("shf.r.clamp.b32 d, a, b, c;", "u32 u32 u32 u32", (1, 7, 40), 7),
    Case("prmt.b32 d, a, b, 0x5410;", "u32 u32 u32", (0x11112222, 0x33334444), 0x44442222),
    Case("prmt.b32 d, a, b, 0x8880;", "u32 u32 u32", (0x80, 0), 0xFFFFFF80),
    Case("bfe.u32 d, a, 4, 8;", "u32 u32", (0xABCD,), 0xBC),
    Case("bfe.s32 d, a, 4, 8;", "s32 u32", (0xABCD,), 0xBC - 256),
    Case("bfi.b32 d, a, b, 8, 4;", "u32 u32 u32", (0xF5, 0xFFFFFFFF), 0xFFFFF5FF),
    Case("popc.b32 d, a;", "u32 u32", (0xF0F0,), 8),
    Case("popc.b64 d, a;", "u32 u64", (2**64 - 1,), 64),
    Case("clz.b32 d, a;", "u32 u32", (1,), 31),
    Case("bfind.shiftamt.u32 d, a;", "u32 u32", (1,), 31),
    Case("bfind.shiftamt.u32 d, a;", "u32 u32", (0,), 0xFFFFFFFF),
    Case("brev.b32 d, a;", "u32 u32", (1,), 2**31),
    Case("lop3.b32 d, a, b, c, 0x96;", "u32 u32 u32 u32", (12, 10, 7), 12 ^ 10 ^ 7),
    Case("lop3.b32 d, a, b, c, 0xE8;", "u32 u32 u32 u32", (12, 10, 6), 14),
    Case("selp.b32 d, a, b, p; ", "u32 u32 u32", (3, 4), 3),
    # float32: exact operations, rounding, flags
    Case("add.f32 d, a, b;", "f32 f32 f32", (1.0, 2.0**-24), 1.0),
    Case("add.rn.f32 d, a, 0f3F800000;", "f32 f32", (0.5,), 1.5),
    Case("add.rp.f32 d, a, b;", "f32 f32 f32", (1.0, 2.0**-30), 1 + 2.0**-23),
    Case("mul.rz.f32 d, a, b;", "f32 f32 f32", (1 + 2.0**-23, 1 + 2.0**-23), 1 + 2.0**-22),
    Case("fma.rn.f32 d, a, b, c;", "f32 f32 f32 f32", (1 + 2.0**-12, 1 + 2.0**-12, -1 - 2.0**-11), 2.0**-24),
    Case("fma.rm.f32 d, a, b, c;", "f32 f32 f32 f32", (1.0, 1.0, -(2.0**-30)), 1 - 2.0**-24),
    Case("sub.rm.f64 d, a, b;", "f64 f64 f64", (1.0, 2.0**-80), 1 - 2.0**-53),
    Case("mul.ftz.f32 d, a, b;", "f32 f32 f32", (2.0**-100, 2.0**-30), 0.0),
    Case("mul.f32 d, a, b;", "f32 f32 f32", (2.0**-100, 2.0**-30), 2.0**-130),
    Case("add.sat.f32 d, a, b;", "f32 f32 f32", (0.75, 0.75), 1.0),
    Case("div.rn.f32 d, a, b;", "f32 f32 f32", (1.0, 3.0), f32(1 / 3)),
    Case("div.full.f32 d, a, b;", "f32 f32 f32", (1.0, 3.0), f32(1 / 3)),
    Case("sqrt.rn.f32 d, a;", "f32 f32", (2.0,), f32(math.sqrt(2))),
    Case("rcp.approx.ftz.f32 d, a;", "f32 f32", (4.0,), 0.25),
    Case("rcp.approx.ftz.f64 d, a;", "f64 f64", (3.0,), float.fromhex("0x1.55555p-2")),
    Case("rsqrt.approx.f32 d, a;", "f32 f32", (16.0,), 0.25),
    Case("ex2.approx.ftz.f32 d, a;", "f32 f32", (3.5,), f32(2.0**3.5)),
    Case("ex2.approx.ftz.f32 d, a;", "f32 f32", (-140.0,), 0.0),
    Case("lg2.approx.f32 d, a;", "f32 f32", (8.0,), 3.0),
    Case("sin.approx.f32 d, a;", "f32 f32", (0.5,), f32(math.sin(0.5))),
    Case("tanh.approx.f32 d, a;", "f32 f32", (0.5,), f32(math.tanh(0.5))),
    Case("neg.f32 d, a;", "f32 f32", (2.5,), -2.5),
    Case("abs.f32 d, a;", "f32 f32", (-2.5,), 2.5),
    Case("copysign.f32 d, a, b;", "f32 f32 f32", (-1.0, 3.0), -3.0),
    Case("min.f32 d, a, b;", "f32 f32 f32", (NAN, 2.0), 2.0),
    Case("max.NaN.f32 d, a, b;", "f32 f32 f32", (NAN, 2.0), NAN),
    Case("fma.rn.f64 d, a, b, c;", "f64 f64 f64 f64", (1 + 2.0**-30, 1 + 2.0**-30, -1 - 2.0**-29), 2.0**-60),
    Case("mov.f64 d, 0d3FF8000000000000;", "f64 f64", (0.0,), 1.5),
    # conversions
    Case("cvt.rni.s32.f32 d, a;", "s32 f32", (2.5,), 2),
    Case("cvt.rzi.s32.f32 d, a;", "s32 f32", (-2.7,), -2),
    Case("cvt.rmi.f32.f32 d, a;", "f32 f32", (-2.2,), -3.0),
    Case("cvt.rpi.s32.f32 d, a;", "s32 f32", (2.2,), 3),
    Case("cvt.rzi.u32.f32 d, a;", "u32 f32", (-5.0,), 0),
    Case("cvt.rzi.s32.f32 d, a;", "s32 f32", (1e20,), 2**31 - 1),
    Case("cvt.rzi.s32.f32 d, a;", "s32 f32", (NAN,), 0),
    Case("cvt.rn.f32.s32 d, a;", "f32 s32", (2**24 + 1,), 2.0**24),
    Case("cvt.rn.f32.u64 d, a;", "f32 u64", (2**63,), 2.0**63),
    Case("cvt.f64.f32 d, a;", "f64 f32", (1.5,), 1.5),
    Case("cvt.rn.f32.f64 d, a;", "f32 f64", (1 / 3,), f32(1 / 3)),
    Case("cvt.s64.s32 d, a;", "s64 s32", (-2,), -2),
    Case("cvt.u64.u32 d, a;", "u64 u32", (ALL,), ALL),
    Case("cvt.u32.u64 d, a;", "u32 u64", (2**40 + 9,), 9),
    Case("cvt.s32.s8 d, a;", "s32 s32", (0x1FF,), -1),
    Case("cvt.sat.f32.f32 d, a;", "f32 f32", (-3.0,), 0.0),
    Case("cvt.sat.f32.f32 d, a;", "f32 f32", (NAN,), 0.0),
    Case("cvt.rn.bf16.f32 d, a;", "u16 f32", (1 + 2.0**-8,), bf16(1.0)),  # a tie goes to even
    Case("cvt.rn.bf16.f32 d, a;", "u16 f32", (1 + 3 * 2.0**-8,), bf16(1 + 2.0**-6)),
    Case("cvt.rn.bf16.f32 d, a;", "u16 f32", (NAN,), 0x7FFF),
    Case("cvt.f32.bf16 d, a;", "f32 u16", (bf16(-2.5),), -2.5),
    Case("cvt.rn.f16.f32 d, a;", "u16 f32", (0.1,), f16(0.1)),
    Case("cvt.rn.f16.f32 d, a;", "u16 f32", (1e6,), f16(INF)),
    Case("cvt.f32.f16 d, a;", "f32 u16", (f16(-0.375),), -0.375),
    Case("neg.bf16 d, a;", "u16 u16", (bf16(-2.5),), bf16(2.5)),
    Case("abs.f16 d, a;", "u16 u16", (f16(-2.5),), f16(2.5)),
    Case("cvt.rn.bf16x2.f32 d, a, b;", "u32 f32 f32", (1.0, 2.0), bf16(1.0) << 16 | bf16(2.0)),
    # packing, predicates, comparisons
    Case("mov.b32 d, {a, b};", "u32 u16 u16", (0x1111, 0x2222), 0x22221111),
    Case("{ .reg .b16 t; mov.b32 {t, d}, a;}", "u16 u32", (0x22221111,), 0x2222),
    Case("mov.b32 {_, d}, a;", "u16 u32", (0x22221111,), 0x2222),
    Case("mov.b64 d, {a, b};", "u64 u32 u32", (5, 6), 6 << 32 | 5),
    Case("setp.lt.s32 p, a, b; selp.u32 d, 1, 0, p;", "u32 s32 s32", (-1, 1), 1),
    Case("setp.lo.u32 p, a, b; selp.u32 d, 1, 0, p;", "u32 u32 u32", (ALL, 1), 0),
    Case("setp.ne.f32 p, a, b; selp.u32 d, 1, 0, p;", "u32 f32 f32", (NAN, 1.0), 0),
    Case("setp.neu.f32 p, a, b; selp.u32 d, 1, 0, p;", "u32 f32 f32", (NAN, 1.0), 1),
    Case("setp.gtu.f32 p, a, b; selp.u32 d, 1, 0, p;", "u32 f32 f32", (0.0, 1.0), 0),
    Case("setp.nan.f32 p, a, a; selp.u32 d, 1, 0, p;", "u32 f32", (NAN,), 1),
    Case("setp.eq.s32 p|q, a, b; selp.u32 d, 1, 0, q;", "u32 s32 s32", (1, 2), 1),
    Case("setp.eq.s32 q, a, a; setp.eq.and.s32 p, a, b, !q; selp.u32 d, 1, 0, p;", "u32 s32 s32", (1, 1), 0),
    Case("setp.eq.s32 q, a, b; not.pred p, q; selp.u32 d, 1, 0, p;", "u32 s32 s32", (1, 1), 0),
    Case("mov.u32 d, 9; setp.gt.s32 p, a, 0; @!p mov.u32 d, 7;", "u32 s32", (1,), 9),
    Case("mov.u32 d, 9; setp.gt.s32 p, a, 0; @p mov.u32 d, 7;", "u32 s32", (1,), 7),
    # registers of nested inline-asm scopes are their own
    Case("mov.u32 d, 1; { .reg .u32 d; mov.u32 d, 2; { .reg .u32 d; mov.u32 d, 3; } }", "u32 u32", (0,), 1),
    Case("{ .reg .u32 t; mov.u32 t, a; add.u32 t, t, 1; mov.u32 d, t;}", "u32 u32", (4,), 5),
    # special registers of a single thread, address arithmetic
    Case("mov.u32 d, %ntid.x;", "u32 u32", (0,), 1),
    Case("mov.u32 d, %laneid;", "u32 u32", (0,), 0),
    Case("mov.u32 d, WARP_SZ;", "u32 u32", (0,), 32),
]  # fmt: skip


def register(kind: str) -> str:
    return f".b{kind[1:]}" if kind[0] in "usb" else f".{kind}"


def entry(name: str, case: Case) -> str:
    out, *sources = case.kinds
    lines = [f".reg .b64 %rd<3>; .reg .pred p, q; .reg {register(out)} d;"]
    lines += [f".reg {register(kind)} {n};" for n, kind in zip("abc", sources)]
    lines += ["ld.param.u64 %rd1, [in]; ld.param.u64 %rd2, [out]; setp.eq.s32 p, 0, 0;"]
    lines += [f"ld.global.{kind} {n}, [%rd1+{8 * i}];" for i, (n, kind) in enumerate(zip("abc", sources))]
    lines += [case.text, f"st.global.{out} [%rd2], d;", "ret;"]
    return f".visible .entry {name}(.param .u64 in, .param .u64 out)\n{{\n" + "\n".join(lines) + "\n}\n"


def pack(kind: str, value: float) -> bytes:
    if kind[0] == "f":
        return struct.pack(f"<{CODES[kind]}", value)
    bits = int(kind[1:])
    return (int(value) & (1 << bits) - 1).to_bytes(bits // 8, "little")


@pytest.fixture(scope="module")
def arithmetic() -> Bench:
    text = HEAD + "".join(entry(f"case_{i}", case) for i, case in enumerate(CASES))
    return Bench(build.library([text]), check=True)


@pytest.mark.parametrize("number", range(len(CASES)), ids=[f"{c.text}-{c.inputs}" for c in CASES])
def test_instruction(arithmetic: Bench, number: int) -> None:
    case = CASES[number]
    out, *sources = case.kinds
    raw = b"".join(pack(kind, value).ljust(8, b"\0") for kind, value in zip(sources, case.inputs, strict=True))
    source, target = arithmetic.buffer("in", raw, ctypes.c_uint8), arithmetic.buffer("out", 8, ctypes.c_uint8)
    build.launch(arithmetic, f"case_{number}", [source, target])
    got, expected = bytes(target.values)[: len(pack(out, 0))], pack(out, case.expected)
    if out[0] == "f" and math.isnan(case.expected):
        assert math.isnan(struct.unpack(f"<{CODES[out]}", got)[0])
    else:
        assert got == expected, f"got {got[::-1].hex()}, expected {expected[::-1].hex()}"


UNKNOWN = {
    "an opcode": "wgmma.fence.sync.aligned;",
    "a modifier": "add.cc.u32 d, a, a;",
    "a type": "add.f16x2 d, a, a;",
    "half arithmetic": "add.f16 d, a, a;",
    "a call": "call.uni (d), helper, (a);",
    "a special register": "mov.u32 d, %clock;",
    "a memory order": "ld.acquire.gpu.global.u32 d, [a];",
    "a partial barrier": "bar.sync 1, 64;",
    "an unsynchronised shuffle": "shfl.down.b32 d, a, 1, 31;",
    "an operand": "mov.u32 d, nowhere;",
    "an address": "ld.global.u32 d, [a+b];",
    "a packed atomic": "red.global.add.noftz.bf16x2 [a], d;",
    "a rounding": "cvt.rz.f16.f32 d, a;",
    "another rounding": "div.rz.f32 d, a, a;",
    "a directive": ".callprototype_ (.param .b32 _) _ ();",
}


@pytest.mark.parametrize("text", UNKNOWN.values(), ids=UNKNOWN)
def test_unknown_stops_with_its_line(text: str) -> None:
    head = f"{HEAD}.visible .entry k()\n{{\n.reg .u32 a, d;\nmov.u32 a, 0;\n"
    line = head.count("\n") + 1
    with pytest.raises(PtxError, match=rf"line {line}\b.*{re.escape(text.split()[0].rstrip(';'))}"):
        translate([f"{head}{text}\nret;\n}}\n"])


def test_unknown_directives_outside_a_kernel_stop() -> None:
    with pytest.raises(PtxError, match=r"line 5: '\.alias"):
        translate([HEAD + ".alias a, b;\n"])
