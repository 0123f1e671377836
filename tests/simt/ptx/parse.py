"""PTX text -> kernels: parameters, variables, registers (renamed per scope) and one statement per instruction."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


class PtxError(ValueError):
    """Something in the PTX that the translator does not know; it never guesses."""


Source = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Statement:
    """One instruction or label; `source` says where it comes from as (file number, line), innermost inlining first."""

    opcode: str
    operands: tuple[str, ...]
    guard: str  # "p1", "!p1" or ""
    line: int  # in the PTX
    source: Source


@dataclass
class Variable:
    """A .shared, .local, .global or .const array; `data` is its initial content as C++ values."""

    name: str
    space: str
    align: int
    size: int | None  # None: the dynamic shared array
    data: str = ""


@dataclass
class Kernel:
    name: str
    params: dict[str, int]  # name -> index
    body: list[Statement] = field(default_factory=list)
    registers: dict[str, str] = field(default_factory=dict)  # C++ name -> PTX type
    variables: list[Variable] = field(default_factory=list)
    max_threads: int = 1024


@dataclass
class Module:
    arch: int  # .target sm_NN
    kernels: list[Kernel] = field(default_factory=list)
    variables: list[Variable] = field(default_factory=list)  # of module scope
    files: dict[int, str] = field(default_factory=dict)

    def place(self, source: Source) -> tuple[str, int]:
        """As text and line, helpers inlined there first: ("device.cuh:52 < affine.cu", 41); no toolkit headers."""
        places = [(self.files[number], line) for number, line in source]
        places = [place for place in places if not TOOLKIT.search(place[0])] or places
        names = [(Path(name).name, line) for name, line in places]
        return " < ".join([*(f"{name}:{line}" for name, line in names[:-1]), names[-1][0]]), names[-1][1]


SIZES = {kind + bits: int(bits) // 8 for kind in "bsuf" for bits in ("8", "16", "32", "64", "128")}
TOOLKIT = re.compile(r"/(cuda|nvidia)[^/]*/(.*/)?include/")
TOKEN = re.compile(
    r"\s+|//[^\n]*|/\*.*?\*/|\.(?:loc|file)\b[^\n]*|[{}]|[\w$]+:(?!:)|[^;{}]*(?:\{[^{}]*\}[^;{}]*)*;", re.S
)
VARIABLE = re.compile(
    r"(?:\.(?:visible|extern|weak)\s+)*\.(shared|local|global|const)\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$]+)"
    r"(\[(\d*)\])?(?:\s*=\s*([^;]*))?;",
    re.S,
)
ENTRY = re.compile(r"(?:\.(?:visible|weak)\s+)*\.entry\s+([\w$]+)\s*(?:\((.*?)\))?([^{;]*)\{", re.S)
FUNCTION = re.compile(r"(?:\.(?:visible|weak)\s+)*\.func\b[^{;]*\{", re.S)
SKIP = re.compile(
    r"\s+|//[^\n]*|/\*.*?\*/|\.(?:version|target|address_size)[^\n]*"
    r"|(?:\.(?:visible|weak|extern)\s+)*\.(?:func|entry)\b[^{};]*;|\.section[^{]*\{[^}]*\}|\.pragma[^;]*;",
    re.S,
)
LOC = re.compile(r"\.loc\s+(\d+\s+\d+\s+\d+)(?:.*inlined_at\s+(\d+\s+\d+\s+\d+))?")
FILE = re.compile(r"\.file\s+(\d+)\s+\"([^\"]*)\"[^\n]*")


def parse(text: str) -> Module:
    """The module; raises PtxError with the line of anything unknown."""
    target = re.search(r"^\.target\s+sm_(\d+)", text, re.M)
    if target is None:
        raise PtxError("no .target sm_NN")
    module, at = Module(int(target[1])), 0
    while at < len(text):
        if found := SKIP.match(text, at):
            pass
        elif found := FILE.match(text, at):
            module.files[int(found[1])] = found[2]
        elif found := VARIABLE.match(text, at):
            module.variables.append(_variable(found))
        elif found := ENTRY.match(text, at):
            module.kernels.append(_kernel(found))
            at = _body(text, found.end(), module.kernels[-1])
            continue
        elif found := FUNCTION.match(text, at):  # a device function; a call of it stops the translator
            at = _body(text, found.end(), Kernel("", {}))
            continue
        else:
            raise PtxError(f"line {_line(text, at)}: {_first_line(text[at:])!r} is not known")
        at = found.end()
    return module


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def _first_line(text: str) -> str:
    return text.strip().split("\n")[0][:120]


def _kernel(entry: re.Match[str]) -> Kernel:
    names = re.findall(r"\.param[^,]*?([\w$]+)(?:\[\d+\])?\s*(?:,|$)", entry[2] or "", re.S)
    kernel = Kernel(entry[1], {name: index for index, name in enumerate(names)})
    for directive, value in re.findall(r"\.(\w+)([^.]*)", entry[3]):
        sizes = [int(number) for number in re.findall(r"\d+", value)]
        if directive in {"maxntid", "reqntid"}:
            kernel.max_threads = 1
            for size in sizes:
                kernel.max_threads *= size
        elif directive not in {"minnctapersm", "maxnreg", "maxnctapersm"}:
            raise PtxError(f"kernel {kernel.name}: directive .{directive} is not known")
    return kernel


def _variable(found: re.Match[str]) -> Variable:
    space, align, kind, name, array, count, data = found.groups()
    if kind not in SIZES:
        raise PtxError(f"variable {name}: type .{kind} is not known")
    size = None if array and not count else SIZES[kind] * int(count or 1)
    values = ""
    if data:
        if kind[0] == "f" or not re.fullmatch(r"[{}\s,0-9xXa-fA-F]*", data):
            raise PtxError(f"variable {name}: initial value {data[:60]!r} is not known")
        numbers = [int(number, 0) for number in re.findall(r"\w+", data)]
        values = ", ".join(str(byte) for number in numbers for byte in number.to_bytes(SIZES[kind], "little"))
    return Variable(name, space, int(align or SIZES[kind]), size, values)


def _body(text: str, at: int, kernel: Kernel) -> int:
    """Reads statements up to the brace that closes the kernel; returns the position behind it."""
    scopes: list[dict[str, str]] = [{}]  # PTX register name -> C++ name, innermost last
    inlined: dict[tuple[int, ...], Source] = {}  # (file, line, column) of a .loc -> where it was inlined
    source: Source = ()
    scope_count, line, counted = 0, _line(text, at), at
    while True:
        found = TOKEN.match(text, at)
        if found is None:
            raise PtxError(f"line {_line(text, at)}: {_first_line(text[at:])!r} is not a statement")
        line += text.count("\n", counted, at)
        token, counted, at = found[0], at, found.end()
        if token.isspace() or token.startswith(("//", "/*")):
            continue
        if token == "{":
            scope_count += 1
            scopes.append({})
        elif token == "}":
            scopes.pop()
            if not scopes:
                return at
        elif re.match(r"\.loc\b", token):
            found = LOC.match(token)
            if found is None:
                raise PtxError(f"line {line}: {token!r} is not known")
            here, outer = [tuple(map(int, part.split())) for part in (found[1], found[2] or "")]
            source = ((here[0], here[1]), *(inlined.get(outer) or (((outer[0], outer[1]),) if outer else ())))
            inlined[here] = source
        elif token.endswith(":"):
            kernel.body.append(Statement("label", (token[:-1],), "", line, source))
        elif token.startswith(".reg"):
            _registers(token, scopes[-1], kernel, f"_s{scope_count}" if len(scopes) > 1 else "", line)
        elif variable := VARIABLE.fullmatch(token):
            kernel.variables.append(_variable(variable))
        elif not token.startswith(".pragma"):
            kernel.body.append(_statement(token, scopes, line, source))


def _registers(token: str, scope: dict[str, str], kernel: Kernel, suffix: str, line: int) -> None:
    found = re.fullmatch(r"\.reg\s+\.(\w+)\s+(.*);", token, re.S)
    if found is None or (found[1] != "pred" and found[1] not in SIZES):
        raise PtxError(f"line {line}: register declaration {token!r} is not known")
    for name in found[2].split(","):
        name = name.strip()
        ranged = re.fullmatch(r"(.*)<(\d+)>", name)
        for one in [f"{ranged[1]}{i}" for i in range(int(ranged[2]))] if ranged else [name]:
            scope[one] = one.replace("%", "").replace("$", "_") + suffix + "_"
            kernel.registers[scope[one]] = found[1]


def _split(text: str) -> Iterator[str]:
    """Operands: split at commas outside brackets and braces."""
    depth, start = 0, 0
    for i, c in enumerate(text):
        depth += (c in "{[(") - (c in "}])")
        if c == "," and not depth:
            yield text[start:i].strip()
            start = i + 1
    if text[start:].strip():
        yield text[start:].strip()


def _statement(token: str, scopes: list[dict[str, str]], line: int, source: Source) -> Statement:
    def rename(found: re.Match[str]) -> str:
        for scope in reversed(scopes):
            if found[0] in scope:
                return scope[found[0]]
        return found[0]

    found = re.fullmatch(r"(?:@(!?)([%\w$]+)\s+)?([a-z][\w.:]*)\s*(.*?)\s*;", token.strip(), re.S)
    if found is None:
        raise PtxError(f"line {line}: {token.strip()!r} is not a statement")
    operands = re.sub(r"(?<![\w$%])%?[A-Za-z_$][\w$]*(?:\.[xyz])?", rename, found[4])
    guard = found[1] + re.sub(r".+", rename, found[2]) if found[2] else ""
    return Statement(found[3], tuple(_split(operands)), guard, line, source)


def entries(text: str) -> tuple[str, list[str], str]:
    """(what stands before the kernels, the text of each, what stands behind them)."""
    head, *parts = re.split(r"(?m)^(?=(?:\.(?:visible|weak)\s+)*\.entry\b)", text)
    end = re.search(r"(?m)^\s*\.file\b", parts[-1]) if parts else None
    if end:
        return head, [*parts[:-1], parts[-1][: end.start()]], parts[-1][end.start() :]
    return head, parts, ""


def only(text: str, kernel: str) -> str:
    """The PTX with only those kernels whose name the regular expression `kernel` finds: less to build."""
    head, parts, tail = entries(text)
    return "".join([head, *(part for part in parts if re.search(kernel, part.split("(")[0])), tail])
