"""PTX -> a program for the shim core: one C++ function per form of instruction, kernels as the words that call them.

A form is an instruction without its registers, literals, target and source line: a few hundred make up all kernels, so
that g++ has as little to do for ten megabytes of PTX as for a page. An instruction, modifier or operand that is not in
the tables raises PtxError with its line: nothing is guessed.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from .arithmetic import Arithmetic
from .operands import bits_type, cxx_type
from .parse import ENTRY, SIZES, Kernel, Module, PtxError, Statement, Variable, entries, parse

MASK = (1 << 64) - 1
SCALARS = {"u32", "s32", "u64", "s64", "f32", "f64"}
SPACES = {"global", "shared", "local", "param", "const"}
CACHE = re.compile(r"nc|ca|cg|cs|lu|cv|wb|wt|weak|L[12]::\w+")  # hints, without meaning for the result
ATOMICS = {"add": "add", "min": "min", "max": "max", "exch": "exchange", "cas": "compare_exchange", "and": "bit_and",
           "or": "bit_or", "xor": "bit_xor"}  # fmt: skip

#: the words and tables of a program as symbols of its library
EMBEDDED = "".join(
    f'asm(".pushsection .rodata\\n.balign 128\\n.globl ptx_{name}\\n.hidden ptx_{name}\\n"\n'
    f'    "ptx_{name}: .incbin \\"{name}.bin\\"\\n.popsection");\n'
    for name in ("words", "tables")
)


class Writer(Arithmetic):
    """The C++ of one kernel."""

    benign_equal_stores = False
    local_bytes = 0

    def statement(self, s: Statement) -> str:
        self.now = s
        self.words = []
        base, *mods = s.opcode.split(".")
        guard = f"if ({self.value(s.guard, 'pred')}) " if s.guard else ""
        try:
            text = self.dispatch(base, mods, list(s.operands))
        except (IndexError, ValueError) as error:
            raise error if isinstance(error, PtxError) else self.fail("operands or modifiers are not known") from error
        return f"{guard}{{ {text} }}"

    def dispatch(self, base: str, mods: list[str], ops: list[str]) -> str:
        special: dict[str, Callable[[list[str], list[str]], str]] = {
            "bra": self.branch, "ret": self.leave, "exit": self.leave, "trap": self.trap, "mov": self.move,
            "ld": self.load, "ldu": self.load, "st": self.store, "cvta": self.change_space, "setp": self.compare,
            "cvt": self.convert, "mul": self.multiply, "mad": self.multiply, "shf": self.funnel, "bar": self.barrier,
            "barrier": self.barrier, "shfl": self.shuffle, "vote": self.vote, "match": self.match, "redux": self.reduce,
            "atom": self.atomic, "red": self.atomic, "membar": self.fence, "fence": self.fence,
        }  # fmt: skip
        if base in special:
            return special[base](mods, ops)
        return self.arithmetic(base, mods, ops)

    # ---- memory ----------------------------------------------------------------------------------------------
    def memory_kind(self, mods: list[str]) -> tuple[str, int, str]:
        """(state space, vector length, element type) of a load or store; cache hints dropped."""
        space, length, kind = "generic", 1, ""
        for mod in mods:
            if mod.split("::")[0] in SPACES:
                space = mod.split("::")[0]
            elif mod in {"v2", "v4"}:
                length = int(mod[1])
            elif mod in SIZES:
                kind = mod
            elif not CACHE.fullmatch(mod):
                raise self.fail(f"modifier .{mod} is not known")
        if not kind:
            raise self.fail("access without a type")
        return space, length, kind

    def load(self, mods: list[str], ops: list[str]) -> str:
        space, length, kind = self.memory_kind(mods)
        size = SIZES[kind]
        targets = [p.strip() for p in ops[0].strip("{}").split(",")]
        if len(targets) != length or len(ops) != 2:
            raise self.fail("operands are not known")
        text = f"const char* p = {self.pointer(ops[1], space)};"
        if space not in {"param", "local"}:
            text += f" simt::access(simt::Access::read, p, {size * length}, {self.where()});"
        for i, target in enumerate(targets):
            if target != "_":
                text += f" fetch<{cxx_type(kind)}>({self.register(target)}, p + {size * i});"
        return text

    def store(self, mods: list[str], ops: list[str]) -> str:
        space, length, kind = self.memory_kind(mods)
        size = SIZES[kind]
        sources = [p.strip() for p in ops[1].strip("{}").split(",")]
        if len(sources) != length or len(ops) != 2 or space in {"param", "const"}:
            raise self.fail("operands are not known")
        text = f"char* p = {self.pointer(ops[0], space)}; char v[{size * length}];"
        text += "".join(f" put(v + {size * i}, {self.value(s, cxx_type(kind))});" for i, s in enumerate(sources))
        if space != "local":
            benign = ", v" if self.benign_equal_stores else ""
            text += f" simt::access(simt::Access::write, p, {size * length}, {self.where()}{benign});"
        return f"{text} std::memcpy(p, v, sizeof v);"

    def change_space(self, mods: list[str], ops: list[str]) -> str:
        to = mods[0] == "to"
        space, kind = mods[-2].split("::")[0], mods[-1]
        if space not in SPACES or kind not in {"u64", "u32"}:
            raise self.fail("address conversion is not known")
        value = self.value(ops[1], "u64")
        if space == "shared":
            value = f"shared_offset(pointer({value}))" if to else f"address(shared({value}))"
        return f"set({self.register(ops[0])}, u64({value}));"

    def atomic(self, mods: list[str], ops: list[str]) -> str:
        returns = self.now.opcode.startswith("atom")
        known = {"relaxed", "gpu", "cta", "sys", *SPACES}
        space = next((m.split("::")[0] for m in mods if m.split("::")[0] in SPACES), "generic")
        op, kind = [m for m in mods if m.split("::")[0] not in known]
        scalar = {"b32": "u32", "b64": "u64"}.get(kind, kind)
        if op not in ATOMICS or scalar not in SCALARS or space not in {"generic", "global", "shared"}:
            raise self.fail("atomic is not known")
        address, *values = ops[1:] if returns else ops
        bits = [self.value(v, bits_type(kind)) for v in values]
        compare, operand = (bits[0], bits[1]) if op == "cas" else ("0", bits[0])
        call = f"simt::atomic(simt::Atomic::{ATOMICS[op]}, simt::Scalar::{scalar}, {self.pointer(address, space)}, "
        call += f"{operand}, {compare}, {self.where()})"
        if not returns or ops[0] == "_":
            return f"{call};"
        return f"set({self.register(ops[0])}, {bits_type(kind)}({call}));"

    # ---- control and synchronisation -------------------------------------------------------------------------
    def branch(self, mods: list[str], ops: list[str]) -> str:
        if mods not in ([], ["uni"]) or len(ops) != 1:
            raise self.fail("branch is not known")
        return f"return f.code + {self.word(ops[0])};"

    def leave(self, mods: list[str], ops: list[str]) -> str:
        if ops or mods not in ([], ["uni"]):
            raise self.fail("return is not known")
        return "return nullptr;"

    def trap(self, mods: list[str], ops: list[str]) -> str:
        return f'simt::fail(cudaErrorLaunchFailure, "trap", {self.where()});'

    def fence(self, mods: list[str], ops: list[str]) -> str:
        return "/* one thread runs at a time: memory is sequentially consistent here */"

    def barrier(self, mods: list[str], ops: list[str]) -> str:
        mods = [m for m in mods if m not in {"aligned", "cta"}]
        if mods == ["warp", "sync"]:
            return f"simt::syncwarp({self.value(ops[0], 'u32')}, {self.where()});"
        if mods == ["sync"] and ops == ["0"]:
            return f"simt::barrier({self.where()});"
        if mods[:1] == ["red"] and ops[1] == "0" and len(ops) == 3:
            count = f"simt::barrier_count({self.value(ops[2], 'pred')}, {self.where()})"
            if mods[1:] == ["popc", "u32"]:
                return f"set({self.register(ops[0])}, u32({count}));"
            if mods[1:] == ["or", "pred"]:
                return f"{self.register(ops[0])} = {count} > 0;"
            if mods[1:] == ["and", "pred"]:
                threads = "simt::block_dim().x * simt::block_dim().y * simt::block_dim().z"
                return f"{self.register(ops[0])} = {count} == {threads};"
        raise self.fail("barrier is not known")

    def shuffle(self, mods: list[str], ops: list[str]) -> str:
        sync, mode, kind = mods
        if sync != "sync" or kind != "b32" or mode not in {"up", "down", "bfly", "idx"}:
            raise self.fail("shuffle is not known")
        target, *predicate = [p.strip() for p in ops[0].split("|")]
        a, b, c, mask = (self.value(op, "u32") for op in ops[1:])
        text = f"const auto r = simt::shuffle(simt::Shuffle::{mode}, {mask}, {a}, {b}, {c}, {self.where()});"
        if target != "_":
            text += f" set({self.register(target)}, u32(r.value));"
        return text + "".join(f" {self.register(p)} = r.in_range;" for p in predicate)

    def vote(self, mods: list[str], ops: list[str]) -> str:
        sync, mode, kind = mods
        p, mask = self.value(ops[1], "pred"), self.value(ops[2], "u32")
        yes, no = (f"simt::ballot({mask}, {q}, {self.where()})" for q in (p, f"!({p})"))
        if sync != "sync" or (mode, kind) not in {("ballot", "b32"), ("any", "pred"), ("all", "pred")}:
            raise self.fail("vote is not known")
        result = {"ballot": yes, "any": f"{yes} != 0", "all": f"{no} == 0"}[mode]
        return f"set({self.register(ops[0])}, {result});"

    def match(self, mods: list[str], ops: list[str]) -> str:
        if mods[:2] != ["any", "sync"] or mods[2] not in {"b32", "b64"}:
            raise self.fail("match is not known")
        value, mask = self.value(ops[1], bits_type(mods[2])), self.value(ops[2], "u32")
        return f"set({self.register(ops[0])}, simt::match_any({mask}, {value}, {self.where()}));"

    def reduce(self, mods: list[str], ops: list[str]) -> str:
        sync, op, kind = mods
        name = {"and": "bit_and", "or": "bit_or", "xor": "bit_xor", "add": "add"}.get(op, f"{op}_{kind}")
        if sync != "sync" or kind not in {"u32", "s32", "b32"}:
            raise self.fail("reduction is not known")
        value, mask = self.value(ops[1], "u32"), self.value(ops[2], "u32")
        return f"set({self.register(ops[0])}, simt::reduce(simt::Reduce::{name}, {mask}, {value}, {self.where()}));"


@dataclass(frozen=True)
class Code:
    """A kernel's words, which mean the same wherever they lie, and the size of a thread's frame."""

    words: bytes
    slots: int
    local_bytes: int


@dataclass
class Program:
    """Kernels by architecture and name, and what they share."""

    forms: dict[tuple[str, int], int] = field(default_factory=dict)  # (C++ text, number of words) -> number
    places: dict[str, int] = field(default_factory=dict)
    tables: bytearray = field(default_factory=bytearray)  # of constants
    starts: dict[Code, int] = field(default_factory=dict)  # in words
    kernels: dict[tuple[int, str], tuple[Code, Kernel]] = field(default_factory=dict)

    def instruction(self, text: str, words: list[int | str]) -> list[int | str]:
        return [self.forms.setdefault((text, len(words)), len(self.forms)), *words]

    def add(self, kernel: Kernel, module: Module, benign_equal_stores: bool) -> None:
        writer = Writer(kernel, module, self.places)
        writer.benign_equal_stores = benign_equal_stores
        body: list[list[int | str]] = []
        labels: dict[str, int] = {}  # -> number of the statement behind it
        for s in kernel.body:
            if s.opcode == "label":
                labels[s.operands[0]] = len(body)
            else:
                body.append(self.instruction(writer.statement(s), writer.words))
        body.append(self.instruction("return nullptr;", []))
        first = [self.variable(writer, writer.variables[name]) for name in sorted(writer.named)]
        offsets = [0, *accumulate(map(len, first + body))]
        targets: dict[int | str, int] = {name: offsets[len(first) + number] for name, number in labels.items()}
        if unknown := {w for line in body for w in line if isinstance(w, str)} - targets.keys():
            raise PtxError(f"{kernel.name}: label {unknown.pop()} is not known")
        words = array("Q", [w & MASK for line in first + body for w in (targets.get(w, w) for w in line)])
        code = Code(words.tobytes(), len(writer.slots), writer.local_bytes)
        self.starts.setdefault(code, sum(len(other.words) for other in self.starts) // 8)
        self.kernels[module.arch, kernel.name] = code, kernel

    def variable(self, writer: Writer, v: Variable) -> list[int | str]:
        """The instruction that puts the address of a variable in its slot: shared arrays belong to a block, tables are
        read-only, local ones to a thread."""
        writer.words = []
        target, word = writer.slot(f"&{v.name}", "u64"), writer.word
        if v.size is None:
            address = "address(simt::shared_dynamic())"
        elif v.space == "shared":  # known by the address of these very words
            label = writer.place(re.sub(r".*\d+E?([A-Za-z_]\w*)$", r"\1", v.name))
            address = f"address(simt::shared_static(s, places[{word(label)}], {word(v.size)}, {word(v.align)}))"
        elif v.space == "local":
            start = -(-writer.local_bytes // v.align) * v.align
            writer.local_bytes = start + v.size
            address = f"address(f.local + {word(start)})"
        else:
            self.tables += bytes(-len(self.tables) % v.align)
            address = f"address(tables + {word(len(self.tables))})"
            self.tables += bytes(map(int, filter(None, v.data.split(", ")))).ljust(v.size, b"\0")
        return self.instruction(f"{target} = {address};", writer.words)

    def source(self) -> str:
        """The C++: a function per form, and the kernels under their names."""
        functions = "".join(
            f"const u64* form_{i}(Frame& f, const u64* s) {{ {text} return s + {words}; }}\n"
            for (text, words), i in self.forms.items()
        )
        rows: dict[int, str] = {}
        for (arch, name), (code, kernel) in self.kernels.items():
            row = f'    {{"{name}", {self.starts[code]}, {code.slots}, {code.local_bytes}, {kernel.max_threads}}},\n'
            rows[arch] = rows.get(arch, "") + row
        made = "".join(f"const Registration sm_{arch}({arch}, {{\n{text}}});\n" for arch, text in rows.items())
        places = "".join(f'    "{name}",\n' for name in self.places)
        forms = "".join(f"    form_{i},\n" for i in range(len(self.forms)))
        return (
            f'#include "runtime.h"\n\n{EMBEDDED}\nnamespace ptx {{\nnamespace {{\n\n{functions}\n{made}\n}}\n\n'
            f"const Form forms[] = {{\n{forms}}};\nconst char* const places[] = {{\n{places}    nullptr}};\n\n}}\n"
        )

    def words(self) -> bytes:
        return b"".join(code.words for code in self.starts)


def translate(texts: Sequence[str], *, benign_equal_stores: bool = False) -> Program:
    """The kernels of some PTX files; those that are equal, but for the name, are there once.

    benign_equal_stores: lanes of one warp may store the same value to one address without a race, as Triton does.
    """
    program = Program()
    known: dict[tuple[str, ...], tuple[int, str]] = {}  # text of a kernel and of what is around it -> itself
    for text in texts:
        head, parts, tail = entries(text)
        around = re.sub(r"\.target\s+sm_\d+", "", head), tail
        fresh = [part if (*around, part) not in known else "\n" * part.count("\n") for part in parts]
        module = parse("".join([head, *fresh, tail]))
        for v in module.variables:
            if v.space == "global" and not v.data:
                raise PtxError(f"variable {v.name}: writable global memory is not known")
        for kernel in module.kernels:
            program.add(kernel, module, benign_equal_stores)
        for part in parts:
            if entry := ENTRY.match(part):
                origin = known.setdefault((*around, part), (module.arch, entry[1]))
                program.kernels[module.arch, entry[1]] = program.kernels[origin]
    return program
