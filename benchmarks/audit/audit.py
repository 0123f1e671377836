"""Static audit of the CUDA kernels' machine code: no card needed, every time figure is predicted.

    python benchmarks/audit/audit.py [--arch sm_80 sm_90 sm_100] [--calls [OP ...]] [--write]

compiles the source of every spec file (benchmarks/audit/*.toml) with nvcc, disassembles the cubins, and checks each
kernel against its row: no spills, no local memory, no accidental double, width of the global accesses in the hot loop,
loads in flight there, loads a product in the innermost loop of products, bytes per element against the minimum,
occupancy, bytes in flight, memory-bound by roofline. `--calls` also compares whole calls with their formulas: a kernel
must be predicted faster, or leave the call to the formula (calls.py). A gate that fails prints its reason on one line
and the exit status is 1. `--write` does all that and writes benchmarks/results/audit.md.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import tomllib

sys.path.insert(0, str(Path(__file__).resolve().parent))  # a script, not a package: its two neighbours

import machine
import sass

SPECS = Path(__file__).resolve().parent
RESULT = SPECS.parent / "results" / "audit.md"
BEFORE = SPECS / "before.md"  # of kernels that were designed anew
DOUBLE = re.compile(r"D(ADD|MUL|FMA|SETP|MNMX)\b")


@dataclass(frozen=True)
class Row:
    """Gates of one kernel, or of several that one regular expression matches."""

    label: str
    match: str  # regular expression, searched in the demangled name
    threads: int  # a block
    minimum_bytes: float | None = None  # read and written per element by any implementation; None: not asked for
    store_bytes: float = 0  # written per element: the hot loop's element count follows from what it stores,
    load_bytes: float = 0  # or, where it stores nothing, or not there, from what the loop that loads most loads
    access_bits: Sequence[int] = (128,)  # allowed widths of the hot loop's global accesses; empty: any
    shared: int = 0  # dynamic bytes a block
    occupancy: float = 0.5
    loads_in_flight: int = 0  # of one lane in the hot loop before it needs the first, at least
    loads_a_product: float | None = None  # in the innermost loop of products, at most; None: not asked for
    double: bool = False  # float64 kernel: double instructions are meant
    memory_bound: tuple[str, ...] = ()  # cards on which the roofline must be the memory's

    def hot_loop(self, kernel: sass.Kernel) -> list[sass.Instruction]:
        return kernel.hot_loop(loads=not self.store_bytes)


@dataclass(frozen=True)
class Spec:
    source: Path
    rows: tuple[Row, ...]

    @classmethod
    def read(cls, path: Path) -> Spec:
        data = tomllib.loads(path.read_text())
        rows = [Row(**{**data.get("common", {}), **row}) for row in data["kernel"]]
        return cls(sass.ROOT / data["source"], tuple(rows))


@dataclass(frozen=True)
class Facts:
    """One kernel as compiled for one architecture, its row, and what came of the gates."""

    arch: int
    row: Row
    kernel: sass.Kernel
    loads: dict[int, int]
    stores: dict[int, int]
    flight: sass.Flight
    loads_a_product: float
    blocks: int
    occupancy: float
    cost: machine.Cost

    @classmethod
    def of(cls, kernel: sass.Kernel, row: Row, arch: int) -> Facts:
        loop = row.hot_loop(kernel)
        counted, unit = ({"STG"}, row.store_bytes) if row.store_bytes else (sass.LOADS, row.load_bytes)
        elements = sum(i.width for i in loop if i.base in counted) / unit
        if not elements:
            what = " or ".join(sorted(counted))
            raise ValueError(f"{kernel.name} for sm_{arch}: no {what} in its hot loop, nothing to count elements by")
        count = lambda pattern: sum(bool(re.match(pattern, i.opcode)) for i in loop) / elements  # noqa: E731
        cost = machine.Cost(
            bytes=sass.bytes_moved(loop) / elements,
            instructions=len(loop) / elements,
            fp32=count(r"[FH](?!2)[A-Z]"),
            fp64=count(DOUBLE.pattern),
            mufu=count(r"MUFU|F2[FI]\b|I2F\b"),
        )
        blocks, share = machine.occupancy(arch, row.threads, kernel.registers, kernel.shared + row.shared)
        loads, stores = sass.widths(loop, sass.LOADS), sass.widths(loop, {"STG"})
        flight, ratio = sass.loads_before_use(loop), sass.loads_a_product(kernel.arithmetic_loop())
        return cls(arch, row, kernel, loads, stores, flight, ratio, blocks, share, cost)

    def failures(self) -> list[str]:
        """Every gate that this kernel misses, a line each."""
        row, kernel, found = self.row, self.kernel, []
        touches = [i for i in kernel.code if i.base in {"LDL", "STL"}]
        doubles = [i for i in kernel.code if DOUBLE.match(i.opcode)]
        doubles += [i for i in row.hot_loop(kernel) if ".F64" in i.opcode]  # a conversion before the loop does no harm
        if kernel.spills:
            found.append(f"{kernel.spills} bytes of spill stores and loads, expected none")
        if kernel.stack or kernel.local or (touches and not kernel.spills):
            found.append(f"{kernel.stack + kernel.local} bytes of local memory, {len(touches)} accesses; expected none")
        if doubles and not row.double:
            found.append(f"{len(doubles)} double-precision instructions (first {doubles[0].opcode}), expected none")
        narrow = {w: n for w, n in (*self.loads.items(), *self.stores.items()) if 8 * w not in row.access_bits}
        if row.access_bits and narrow:
            seen = ", ".join(f"{8 * width}-bit" for width in sorted(narrow))
            allowed = " or ".join(f"{bits}-bit" for bits in row.access_bits)
            found.append(f"hot loop has {seen} global accesses, expected only {allowed}")
        if row.minimum_bytes is not None and abs(self.cost.bytes - row.minimum_bytes) > 1e-6:
            found.append(f"{self.cost.bytes:g} bytes per element, expected the minimum {row.minimum_bytes:g}")
        if self.occupancy < row.occupancy:
            found.append(f"occupancy {self.occupancy:.0%} ({kernel.registers} registers), expected {row.occupancy:.0%}")
        if self.flight.loads < row.loads_in_flight:
            found.append(f"{self.flight.loads} loads in flight in the hot loop, expected {row.loads_in_flight}")
        if row.loads_a_product is not None and self.loads_a_product > row.loads_a_product:
            found.append(f"{self.loads_a_product:.2f} loads a product, expected at most {row.loads_a_product:g}")
        for name in row.memory_bound:
            gpu = machine.GPUS[name]
            if gpu.arch != self.arch:
                continue
            if (bound := machine.predict(gpu, self.cost).bound) != "memory":
                found.append(f"bound by {bound} on {name}, expected by memory")
            if self.flying(gpu) < machine.bytes_in_flight_needed(gpu):
                need = machine.bytes_in_flight_needed(gpu)
                found.append(f"{self.flying(gpu)} bytes in flight a multiprocessor on {name}, expected {need}")
        return found

    def flying(self, gpu: machine.Gpu) -> int:
        return self.flight.bytes * self.blocks * self.row.threads


def audit(spec: Spec, archs: Sequence[int], flags: tuple[str, ...] = ()) -> tuple[list[Facts], list[str]]:
    """Facts of every kernel of `spec` on every architecture, and every failed gate as one line."""
    facts, failures = [], []
    for arch in archs:
        cubin, log = sass.compile_cubin(spec.source, arch, flags)
        kernels = sass.read_cubin(cubin, arch, log)
        for row in spec.rows:
            matching = [k for k in kernels if re.search(row.match, k.name)]
            if not matching:
                failures.append(f"sm_{arch} {row.label}: no kernel of {spec.source.name} matches {row.match!r}")
            facts += [Facts.of(k, row, arch) for k in matching]
        for k in kernels:
            if (n := sum(bool(re.search(row.match, k.name)) for row in spec.rows)) != 1:
                failures.append(f"sm_{arch} {k.name}: {n} rows of the spec match it, expected one")
    failures += [f"sm_{f.arch} {f.row.label}: {reason} [{f.kernel.name}]" for f in facts for reason in f.failures()]
    return facts, failures


def _counts(widths: dict[int, int]) -> str:
    return " + ".join(f"{n} x {8 * width}" for width, n in widths.items()) or "-"


def _or_dash(number: float | None) -> str:
    return "-" if number is None else f"{number:g}"


def _range(values: Iterable[float]) -> str:
    texts = [f"{value:.1f}" for value in sorted(values)]
    return texts[0] if texts[0] == texts[-1] else f"{texts[0]} - {texts[-1]}"


def report(spec: Spec, facts: Sequence[Facts]) -> str:
    """The readable tables: machine code by architecture, then predicted time by card."""
    out = [
        f"## {spec.source.name}",
        "",
        "| kernel | arch | kernels | threads | registers | spills | local | occupancy | loads x bits | stores x bits "
        "| loads in flight | loads/product | instr/elem | MUFU/elem | bytes/elem (minimum) | gates |",
        "|---|" + "--:|" * 7 + "---|---|" + "--:|" * 5 + "---|",
    ]
    groups: dict[tuple[str, int], list[Facts]] = {}
    for f in facts:
        groups.setdefault((f.row.label, f.arch), []).append(f)
    for (label, arch), group in groups.items():
        worst = max(group, key=lambda f: f.cost.instructions)
        bad = sum(bool(f.failures()) for f in group)
        out.append(
            f"| {label} | sm_{arch} | {len(group)} | {worst.row.threads} | {max(f.kernel.registers for f in group)} "
            f"| {sum(f.kernel.spills or 0 for f in group)} | {max(f.kernel.stack + f.kernel.local for f in group)} "
            f"| {min(f.occupancy for f in group):.0%} | {_counts(worst.loads)} | {_counts(worst.stores)} "
            f"| {min(f.flight.loads for f in group)} | {max(f.loads_a_product for f in group):.2f} "
            f"| {_range(f.cost.instructions for f in group)} | {_range(f.cost.mufu for f in group)} "
            f"| {worst.cost.bytes:g} ({_or_dash(worst.row.minimum_bytes)}) | {f'{bad} FAIL' if bad else 'pass'} |"
        )
    out += [
        "",
        "Predicted milliseconds per 1e9 elements (not measured), slowest kernel of each row:",
        "",
        "| kernel | card | memory | issue | FP32 | FP64 | MUFU | predicted | bound by | in flight per SM (needed) |",
        "|---|---|" + "--:|" * 6 + "---|--:|",
    ]
    for (label, arch), group in groups.items():
        for name, gpu in machine.GPUS.items():
            if gpu.arch != arch:
                continue
            f = max(group, key=lambda f: machine.predict(gpu, f.cost).time)
            p = machine.predict(gpu, f.cost)
            flying, need = f.flying(gpu) / 1024, machine.bytes_in_flight_needed(gpu) / 1024
            out.append(
                f"| {label} | {name} | {p.memory:.2f} | {p.issue:.2f} | {p.fp32:.2f} | {p.fp64:.2f} | {p.mufu:.2f} "
                f"| {p.time:.2f} | {p.bound} | {flying:.0f} KiB ({need:.0f}) |"
            )
    return "\n".join(out) + "\n"


HEADER = """# Static audit of the CUDA kernels

Written by `python benchmarks/audit/audit.py --write`. Nothing here ran on a card: registers, spills, widths and
instruction counts are read from the machine code that nvcc makes; every time is **predicted** from data-sheet peaks
(memory at {fraction:.0%} of peak) and is a lower bound: tails, launch latency, caches and DRAM pages are left out.
Instruction counts take both sides of every branch in the hot loop. A row stands for several kernels (maps, types): it
shows the most registers, the least occupancy, the range of instruction counts, the slowest kernel's predicted time.

nvcc: {compiler}. Cards:

{cards}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec", nargs="+", type=Path, default=sorted(SPECS.glob("*.toml")), help="spec files")
    parser.add_argument("--arch", nargs="+", default=["sm_80", "sm_90", "sm_100"], help="architectures, as sm_90")
    parser.add_argument("--write", action="store_true", help=f"write {RESULT.relative_to(sass.ROOT)}")
    parser.add_argument("--calls", nargs="*", metavar="OP", help="whole calls too, of these ops or all; takes minutes")
    chosen = parser.parse_args(arguments)
    archs = [int(name.removeprefix("sm_")) for name in chosen.arch]
    if unknown := [arch for arch in archs if arch not in machine.SMS]:
        parser.error(f"sm_{unknown[0]} has no row in machine.py; known: {', '.join(f'sm_{a}' for a in machine.SMS)}")
    cards = "\n".join(f"- {name}: {gpu.source}" for name, gpu in machine.GPUS.items())
    compiler = re.search(r"release .*", sass.run("nvcc", "--version")[0])
    text, failures = HEADER.format(fraction=machine.PEAK_FRACTION, cards=cards, compiler=compiler and compiler[0]), []
    for path in chosen.spec:
        spec = Spec.read(path)
        facts, failed = audit(spec, archs)
        text += "\n" + report(spec, facts)
        failures += failed
    if chosen.write or chosen.calls is not None:
        import calls  # torch, and the bench of tests/simt

        found = list(calls.compare(chosen.calls or ()))
        text += "\n" + calls.report(found)
        failures += [c.failure for c in found if c.failure]
    print(text)
    if chosen.write:
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(f"{text}\n{BEFORE.read_text()}")
    for line in failures:
        print(f"FAIL {line}", file=sys.stderr)
    print(f"audit: {len(failures)} failed gates", file=sys.stderr)
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
