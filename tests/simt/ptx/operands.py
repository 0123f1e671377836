"""PTX operands -> C++ expressions over the words of an instruction; registers hold raw bits, an instruction says how it
reads them."""

from __future__ import annotations

import re

from .parse import SIZES, Kernel, Module, PtxError, Statement, Variable

SPECIAL = {
    **{f"%{ptx}.{axis}": f"simt::{name}().{axis}" for axis in "xyz" for ptx, name in
       (("tid", "thread_idx"), ("ntid", "block_dim"), ("ctaid", "block_idx"), ("nctaid", "grid_dim"))},
    "%laneid": "simt::lane()",
    "%lanemask_eq": "(1u << simt::lane())",
    "%lanemask_lt": "((1u << simt::lane()) - 1)",
    "%lanemask_le": "((2u << simt::lane()) - 1)",
    "%lanemask_gt": "~((2u << simt::lane()) - 1)",
    "%lanemask_ge": "~((1u << simt::lane()) - 1)",
    "WARP_SZ": "32",
}  # fmt: skip


def cxx_type(kind: str) -> str:
    """The C++ type of a PTX type; untyped bits count as unsigned."""
    return f"u{kind[1:]}" if re.fullmatch(r"b\d+", kind) else kind


def bits_type(kind: str) -> str:
    return f"u{8 * SIZES[kind]}"


class Operands:
    """Operands of one kernel's statements as C++ expressions.

    What tells instructions of one form apart (registers, literals, addresses, targets, source lines) is no part of the
    expression: it becomes a word `s[i]` of the instruction, so that equal forms are one function.
    """

    def __init__(self, kernel: Kernel, module: Module, places: dict[str, int]) -> None:
        self.kernel, self.module, self.places = kernel, module, places
        self.variables = {v.name: v for v in (*module.variables, *kernel.variables)}
        self.slots: dict[str, int] = {}  # of registers, and of the variables' addresses, in a thread's frame
        self.named: set[str] = set()  # variables
        self.words: list[int | str] = []  # of the statement in hand; a label is one until its place is known
        self.now: Statement

    def fail(self, why: str) -> PtxError:
        s = self.now
        return PtxError(f"{self.kernel.name}, line {s.line}: {why}: {s.opcode} {', '.join(s.operands)}")

    def word(self, value: int | str) -> str:
        self.words.append(value)
        return f"s[{len(self.words) - 1}]"

    def place(self, text: str) -> int:
        return self.places.setdefault(text, len(self.places))

    def where(self) -> str:
        text, line = self.module.place(self.now.source) if self.now.source else ("ptx", self.now.line)
        return f"where({self.word(self.place(text) << 32 | line)})"

    def slot(self, name: str, kind: str) -> str:
        return f"f.slot<{kind}>({self.word(self.slots.setdefault(name, len(self.slots)))})"

    def bits(self, operand: str) -> str:
        """The raw bits of a source operand as a C++ expression."""
        if operand in self.kernel.registers:
            return self.register(operand)
        if found := re.fullmatch(r"0[fF]([0-9a-fA-F]{8})", operand):
            return f"u32({self.word(int(found[1], 16))})"
        if found := re.fullmatch(r"0[dD]([0-9a-fA-F]{16})", operand):
            return self.word(int(found[1], 16))
        if found := re.fullmatch(r"(-?)(\d+|0[xX][0-9a-fA-F]+)U?", operand):
            return self.word(int(found[2], 0) * (-1 if found[1] else 1))
        if operand in SPECIAL:
            return SPECIAL[operand]
        if operand in self.kernel.params:
            return f"address(f.args[{self.word(self.kernel.params[operand])}])"
        if found := re.fullmatch(r"([A-Za-z_$][\w$]*)([+-]\d+)", operand):
            return f"({self.bits(found[1])} + {self.word(int(found[2]))})"
        if operand in self.variables:
            return self.symbol(self.variables[operand])
        raise self.fail(f"operand {operand!r} is not known")

    def symbol(self, variable: Variable) -> str:
        self.named.add(variable.name)
        address = self.slot(f"&{variable.name}", "u64")
        return f"shared_offset(pointer({address}))" if variable.space == "shared" else address

    def value(self, operand: str, kind: str) -> str:
        if operand.startswith("!") and kind == "pred":
            return f"!{self.value(operand[1:], kind)}"
        if operand.startswith("-") and operand[1:] in self.kernel.registers:
            return f"-{self.value(operand[1:], kind)}"
        if kind == "pred" and operand in self.kernel.registers:
            return self.bits(operand)
        return f"as<{kind}>({self.bits(operand)})"

    def register(self, operand: str) -> str:
        if operand not in self.kernel.registers:
            raise self.fail(f"{operand!r} is not a register")
        kind = self.kernel.registers[operand]
        return self.slot(operand, "bool" if kind == "pred" else bits_type(kind))

    def pointer(self, operand: str, space: str) -> str:
        """A host pointer for [base + offset] in a state space."""
        found = re.fullmatch(r"\[\s*([\w$%]+)\s*(?:\+\s*(-?\d+))?\s*\]", operand)
        if found is None:
            raise self.fail(f"address {operand!r} is not known")
        base, offset = found[1], self.word(int(found[2] or 0))
        if space == "param" and base in self.kernel.params:
            return f"(static_cast<char*>(f.args[{self.word(self.kernel.params[base])}]) + {offset})"
        return f"{'shared' if space == 'shared' else 'pointer'}({self.bits(base)} + {offset})"
