"""Arithmetic, moves, comparisons and conversions: PTX -> C++ on the functions of ops.h."""

from __future__ import annotations

from .operands import Operands, bits_type, cxx_type
from .parse import SIZES

ROUNDS = {"rn": "nearest", "rz": "zero", "rm": "down", "rp": "up"}
FENV = {"rz": "FE_TOWARDZERO", "rm": "FE_DOWNWARD", "rp": "FE_UPWARD"}
COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
           "lo": "<", "ls": "<=", "hi": ">", "hs": ">="}  # fmt: skip

# opcode -> expression in a, b, c for any type; {T} is the C++ type.
ARITHMETIC = {
    "add": "a + b", "sub": "a - b", "fma": "std::fma(a, b, c)", "neg": "-a", "abs": "a < 0 ? -a : a",
    "min": "minimum<{T}>(a, b)", "max": "maximum<{T}>(a, b)", "and": "a & b", "or": "a | b", "xor": "a ^ b",
    "cnot": "a == 0", "rem": "remainder<{T}>(a, b)", "div": "divide<{T}>(a, b)", "mov": "a",
    "sad": "c + (a < b ? b - a : a - b)",
}  # fmt: skip
FLOAT = {
    "mul": "a * b", "div": "a / b", "sqrt": "std::sqrt(a)", "neg": "-a", "abs": "std::fabs(a)", "rcp": "1 / a",
    "copysign": "std::copysign(b, a)", "mad": "std::fma(a, b, c)",
}  # fmt: skip
APPROXIMATE = {
    "ex2": "std::exp2(x)", "lg2": "std::log2(x)", "rcp": "1 / x", "sqrt": "std::sqrt(x)", "rsqrt": "1 / std::sqrt(x)",
    "sin": "std::sin(x)", "cos": "std::cos(x)", "tanh": "std::tanh(x)", "div": "x / y",
}  # fmt: skip
FLAGS = {"rn", "rz", "rm", "rp", "ftz", "sat", "approx", "full", "NaN"}  # of floating-point arithmetic
BITS = {  # opcode -> (types of the operands, expression); {T} is the type the instruction names
    "not": ("T", "~a"),
    "shl": ("T u32", "shift_left<{T}>(a, b)"),
    "shr": ("T u32", "shift_right<{T}>(a, b)"),
    "popc": ("T", "u32(std::popcount(a))"),
    "clz": ("T", "u32(std::countl_zero(a))"),
    "bfind": ("T", "a ? u32(std::countl_zero(a)) : ~u32(0)"),  # .shiftamt, of a number without sign
    "brev": ("T", "reverse_bits(a)"),
    "bfe": ("T u32 u32", "field_extract<{T}>(a, b, c)"),
    "bfi": ("T T u32 u32", "field_insert<{T}>(a, b, c, d)"),
    "prmt": ("T T u32", "permute(a, b, c)"),
    "lop3": ("T T T u32", "logic3(a, b, c, d)"),
    "selp": ("T T pred", "c ? a : b"),
}


class Arithmetic(Operands):
    """Statements that touch registers only."""

    def arithmetic(self, base: str, mods: list[str], ops: list[str]) -> str:
        *mods, kind = mods
        if kind not in SIZES and kind not in {"pred", "f16", "bf16"}:
            raise self.fail(f"type .{kind} is not known")
        if kind in {"f16", "bf16"} and base in {"neg", "abs"} and not mods:
            sign = {"neg": "^ 0x8000", "abs": "& 0x7fff"}[base]
            return f"set({self.register(ops[0])}, u16({self.value(ops[1], 'u16')} {sign}));"
        real = kind in {"f32", "f64"}
        if base in BITS and (not real or base == "selp"):
            return self.bitwise(base, mods, kind, ops)
        approximate = real and ("approx" in mods or "full" in mods)
        mode = next((m for m in mods if m in FENV), "")
        left = set(mods) - ({"rn", "rz", "rm", "rp", "ftz", "sat", "approx", "full", "NaN"} if real else set())
        table = APPROXIMATE if approximate else {**ARITHMETIC, **FLOAT} if real else ARITHMETIC
        if (
            left
            or base not in table
            or (kind in {"f16", "bf16"})
            or (base in FLOAT and base not in ARITHMETIC and not real)
        ):
            raise self.fail("instruction is not known")
        T = cxx_type(kind)
        inputs = [self.value(op, T) for op in ops[1:]]
        if "ftz" in mods:
            inputs = [f"flush({v})" for v in inputs]
        if approximate:
            names = [f"const double {name} = {v};" for name, v in zip("xy", inputs)]
            result = f"{'approximate' if kind == 'f32' else 'gross'}({table[base]})"
        else:
            names = [f"const {T} {name} = {v};" for name, v in zip("abcd", inputs)]
            result = f"{T}({table[base].format(T=T)})"
        if mode:
            if base not in {"add", "sub", "mul", "fma"}:
                raise self.fail("rounding is not known")
            result = f"rounded_{base}({FENV[mode]}, {', '.join('abc'[: len(inputs)])})"
        if "NaN" in mods:
            result = f"nan_or(a, b, {result})"
        for flag, name in (("ftz", "flush"), ("sat", "saturate")):
            if flag in mods:
                result = f"{name}({result})"
        return f"{' '.join(names)} set({self.register(ops[0])}, {result});"

    def bitwise(self, base: str, mods: list[str], kind: str, ops: list[str]) -> str:
        types, expression = BITS[base]
        known = kind == "b32" if base in {"prmt", "brev", "lop3"} else kind[0] == "u" if base == "bfind" else True
        if mods != (["shiftamt"] if base == "bfind" else []) or len(types.split()) != len(ops) - 1 or not known:
            raise self.fail("instruction is not known")
        if kind == "pred":
            expression = expression.replace("~", "!")
        T = cxx_type(kind)
        kinds = [T if t == "T" else t for t in types.split()]
        names = [f"const {t} {n} = {self.value(op, t)};" for n, t, op in zip("abcd", kinds, ops[1:])]
        result = expression.format(T=T)
        cast = result if base in {"popc", "clz", "bfind"} else f"{T}({result})"
        return f"{' '.join(names)} set({self.register(ops[0])}, {cast});"

    def multiply(self, mods: list[str], ops: list[str]) -> str:
        kind = mods[-1]
        if kind[0] == "f":
            return self.arithmetic("mul" if len(ops) == 3 else "fma", mods, ops)
        part = mods[0] if len(mods) == 2 else ""
        T, size = cxx_type(kind), SIZES[kind]
        result = {"lo": f"{T}(a * b)", "hi": f"high_product<{T}>(a, b)"}.get(part)
        if part == "wide":
            T_out = f"{kind[0]}{16 * size}"
            result = f"{T_out}({T_out}(a) * {T_out}(b))"
        else:
            T_out = T
        if result is None:
            raise self.fail("instruction is not known")
        text = f"const {T} a = {self.value(ops[1], T)}, b = {self.value(ops[2], T)};"
        if len(ops) == 4:
            result = f"{T_out}({result} + {self.value(ops[3], T_out)})"
        return f"{text} set({self.register(ops[0])}, {result});"

    def funnel(self, mods: list[str], ops: list[str]) -> str:
        side, mode, kind = mods
        if kind != "b32" or mode not in {"wrap", "clamp"} or side not in {"l", "r"}:
            raise self.fail("instruction is not known")
        a, b, n = (self.value(op, "u32") for op in ops[1:])
        count = f"{n} & 31" if mode == "wrap" else f"minimum<u32>({n}, 32)"
        name = {"l": "funnel_left", "r": "funnel_right"}[side]
        return f"set({self.register(ops[0])}, {name}({a}, {b}, {count}));"

    def move(self, mods: list[str], ops: list[str]) -> str:
        (kind,) = mods
        target, source = ops
        if target.startswith("{"):
            parts = [p.strip() for p in target[1:-1].split(",")]
            part = f"u{8 * SIZES[kind] // len(parts)}"
            pieces = [f"{part}(all >> {i} * 8 * sizeof({part}))" for i in range(len(parts))]
            sets = [f"set({self.register(p)}, {piece});" for p, piece in zip(parts, pieces) if p != "_"]
            return f"const {bits_type(kind)} all = {self.value(source, bits_type(kind))}; {' '.join(sets)}"
        if source.startswith("{"):
            parts = [p.strip() for p in source[1:-1].split(",")]
            part, whole = f"u{8 * SIZES[kind] // len(parts)}", bits_type(kind)
            shifted = [f"{whole}({self.value(p, part)}) << {i} * 8 * sizeof({part})" for i, p in enumerate(parts)]
            return f"set({self.register(target)}, {whole}({' | '.join(shifted)}));"
        if kind == "pred":
            return f"{self.register(target)} = {self.value(source, 'pred')};"
        return f"set({self.register(target)}, {self.value(source, bits_type(kind))});"

    def compare(self, mods: list[str], ops: list[str]) -> str:
        relation, *rest, kind = [m for m in mods if m != "ftz"]
        real, T = kind[0] == "f", cxx_type(kind)
        a, b = (f"flush({v})" if "ftz" in mods else v for v in (self.value(op, T) for op in ops[1:3]))
        nan = "(std::isnan(a) || std::isnan(b))"
        if real and relation in {"num", "nan"}:
            result = f"!{nan}" if relation == "num" else nan
        elif real and relation in {r + "u" for r in ("eq", "ne", "lt", "le", "gt", "ge")}:
            result = f"({nan} || a {COMPARE[relation[:-1]]} b)"
        elif real and relation == "ne":
            result = f"(!{nan} && a != b)"
        else:
            result = f"(a {COMPARE[relation]} b)" if relation in COMPARE else ""
        if not result:
            raise self.fail("comparison is not known")
        outputs = [p.strip() for p in ops[0].split("|")]
        joined = [result, f"!{result}"]
        if rest:
            sign = {"and": "&&", "or": "||", "xor": "!="}[rest[0]]
            joined = [f"({j}) {sign} {self.value(ops[3], 'pred')}" for j in joined]
        sets = [f"const bool r{i} = {j};" for i, j in enumerate(joined)]
        sets += [f"{self.register(p)} = r{i};" for i, p in enumerate(outputs) if p != "_"]
        return f"const {T} a = {a}; const {T} b = {b}; {' '.join(sets)}"

    def convert(self, mods: list[str], ops: list[str]) -> str:
        *rest, to, source = mods
        flags = set(rest)
        rounding = next((m for m in rest if m.rstrip("i") in ROUNDS), "")
        flags -= {rounding, "ftz", "sat"}
        if to in {"bf16x2", "f16x2"} and source == "f32" and rounding == "rn" and not flags:
            high, low = (f"convert<{to[:-2]}>({self.value(op, 'f32')}, Round::nearest).bits" for op in ops[1:3])
            return f"set({self.register(ops[0])}, u32(u32({high}) << 16 | {low}));"
        known = {*SIZES, "f16", "bf16"}
        narrow = to[0] in "fb" and source[0] in "fb" and rounding not in {"", "rn", "rni", "rzi", "rmi", "rpi"}
        if flags or to not in known or source not in known or narrow or len(ops) != 2:
            raise self.fail("conversion is not known")
        S, T = cxx_type(source), cxx_type(to)
        value = f"flush({self.value(ops[1], S)})" if "ftz" in rest and source == "f32" else self.value(ops[1], S)
        if to in {"f32", "f64"} and source[0] in "us" and rounding not in {"rn", ""}:
            raise self.fail("rounding is not known")
        if rounding.endswith("i") and to[0] == "f":  # to an integer, as a float
            result = f"to_integral({value}, Round::{ROUNDS[rounding[:-1]]})"
        else:
            result = f"convert<{T}>({value}, Round::{ROUNDS.get(rounding.rstrip('i'), 'none')})"
        if "sat" in rest:
            if to[0] != "f":
                raise self.fail("saturation is not known")
            result = f"saturate({result})"
        if "ftz" in rest and to == "f32":
            result = f"flush({result})"
        return f"set({self.register(ops[0])}, {result});"
