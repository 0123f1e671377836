"""From times to a page: cases with their bars, the machine they were taken on, the table, JSON and a bar chart."""

from __future__ import annotations

import json
import os
import platform
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from .timing import Effort, Times, interleaved

RESULTS = Path(__file__).resolve().parent / "results"
OURS = "ours"
COPY_NEW, COPY_INTO = "copy to new memory", "copy into place"
_BESIDES = (OURS, COPY_NEW, COPY_INTO)


@dataclass(frozen=True)
class Bar:
    """A figure to reach: `of(seconds by variant)` must be at least `target` (at most, for a limit)."""

    text: str
    target: float
    of: Callable[[Mapping[str, float]], float]
    limit: bool = False

    def judge(self, seconds: Mapping[str, float]) -> dict[str, Any]:
        """What was reached; None, and not met, where a variant that it needs is missing."""
        try:
            value = self.of(seconds)
        except KeyError as missing:
            return {"text": f"{self.text} (no figure for {missing.args[0]})", "value": None, "met": False}
        met = value <= self.target if self.limit else value >= self.target
        return {"text": self.text, "value": value, "met": bool(met)}


def ratio_bar(target: float, *rivals: str) -> Bar:
    """Ours at least `target` times as fast as each rival."""
    text = f">= {target:g}x {' and '.join(rivals)}"
    return Bar(text, target, lambda seconds: min(seconds[rival] for rival in rivals) / seconds[OURS])


def never_slower_bar() -> Bar:
    """Ours at least as fast as the fastest rival."""
    text = ">= 1x the fastest rival"
    return Bar(text, 1.0, lambda seconds: min(t for n, t in seconds.items() if n not in _BESIDES) / seconds[OURS])


def microseconds_bar(limit: float) -> Bar:
    """Ours in at most `limit` microseconds a call."""
    return Bar(f"<= {limit:g} us a call", limit, lambda seconds: 1e6 * seconds[OURS], limit=True)


@dataclass(frozen=True)
class Case:
    """One contest. `traffic`: bytes that must move, by variant; `grad`: whether autograd records."""

    name: str
    variants: Mapping[str, Callable[[], object]]
    bars: list[Bar] = field(default_factory=list)
    traffic: Mapping[str, float] = field(default_factory=dict)
    grad: bool = False
    effort: Effort | None = None  # its own, where a call takes seconds


def run_case(case: Case, effort: Effort) -> dict[str, Any]:
    """Measure, judge, print; the JSON of the case."""
    torch._dynamo.reset()  # a guard list that grows with every shape would slow torch.compile down
    with torch.set_grad_enabled(case.grad):
        times = interleaved(case.variants, case.effort or effort)
    entry = _entry(case, times)
    print("\n".join(_lines(entry)), flush=True)
    return entry


def hand_over(case: Case, variant: str, benchmark: Any) -> None:
    """Give one variant, warmed up, to pytest-benchmark; skip where it takes no part."""
    if variant not in case.variants:
        import pytest

        pytest.skip(f"{variant} is not installed, or cannot do this")
    torch._dynamo.reset()
    benchmark.group = case.name
    with torch.set_grad_enabled(case.grad):
        case.variants[variant]()
        benchmark(case.variants[variant])


def _entry(case: Case, times: Times) -> dict[str, Any]:
    seconds = times.seconds
    ours = seconds.get(OURS)
    variants: dict[str, dict[str, Any]] = {}
    for name, value in seconds.items():
        row: dict[str, Any] = {"seconds": value, "rounds": times.rounds[name]}
        row["ratio"] = value / ours if ours else None
        if name in case.traffic:
            row["bandwidth"] = case.traffic[name] / value
        variants[name] = row
    for name in (COPY_NEW, COPY_INTO):
        if name in variants:
            for row in variants.values():
                if "bandwidth" in row:
                    row[f"of {name}"] = row["bandwidth"] / variants[name]["bandwidth"]
    return {
        "case": case.name,
        "variants": variants,
        "failed": times.failed,
        "bars": [bar.judge(seconds) for bar in case.bars],
    }


def _lines(entry: dict[str, Any]) -> list[str]:
    moved = any("bandwidth" in row for row in entry["variants"].values())
    head = f"{'GB/s':>8}{'% copy new':>12}{'% copy into':>12}" if moved else ""
    lines = ["", entry["case"], f"  {'':28}{'us':>12}{'x ours':>9}{head}"]
    for name, row in entry["variants"].items():
        ratio = f"{row['ratio']:9.2f}" if row["ratio"] else f"{'':9}"
        line = f"  {name:28}{1e6 * row['seconds']:12.2f}{ratio}"
        if "bandwidth" in row:
            line += f"{row['bandwidth'] / 1e9:8.1f}"
            shares = (row.get(f"of {copy}") for copy in (COPY_NEW, COPY_INTO))
            line += "".join(f"{100 * share:12.0f}" if share else f"{'':12}" for share in shares)
        lines.append(line.rstrip())
    lines += [f"  {name:28}FAILED: {reason}" for name, reason in entry["failed"].items()]
    for bar in entry["bars"]:
        value = "not measured" if bar["value"] is None else f"{bar['value']:.2f}"
        lines.append(f"  bar {bar['text']}: {value}, {'met' if bar['met'] else 'NOT MET'}")
    return lines


def figure(value: float) -> str:
    """A number in four digits, a large one in full."""
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def matrix(entries: list[dict[str, Any]]) -> str:
    """All ratios as one Markdown table: a row a case, our time, a column a rival, its time over ours."""
    rivals = [name for name in dict.fromkeys(n for e in entries for n in e["variants"]) if name not in _BESIDES]
    rows = [["time / ours", f"{OURS}, us", *rivals, "bars met"], ["---"] * (len(rivals) + 3)]
    for entry in entries:
        ratios = (entry["variants"].get(name, {}).get("ratio") for name in rivals)
        met = sum(bar["met"] for bar in entry["bars"])
        own = [figure(1e6 * entry["variants"][OURS]["seconds"])] if OURS in entry["variants"] else ["-"]
        cells = own + [f"{ratio:.2f}" if ratio else "-" for ratio in ratios]
        rows.append([entry["case"], *cells, f"{met} of {len(entry['bars'])}"])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


# ---- the machine -----------------------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """Processor, torch, BLAS with its measured GEMM rate on one thread, and how busy the machine is."""
    build = torch.__config__.show()
    blas = re.search(r"BLAS_INFO=(\w+)", build)
    onednn = re.search(r"MKL-DNN v[\d.]+", build)
    library = re.search(r"Math Kernel Library Version ([\d.]+)", build)
    return {
        "processor": _processor(),
        "torch": torch.__version__,
        "isa": torch.backends.cpu.get_cpu_capability(),
        "blas": " ".join(found.group(1) for found in (blas, library) if found) or "unknown",
        "onednn": onednn.group(0) if onednn else "none",
        "threads": torch.get_num_threads(),
        "gemm_gflops": _gemm_rate(),
        "load": os.getloadavg()[0],
        "when": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.exists() else ""
    fields = {key: re.search(rf"^{key}\s*: (.+)$", text, re.MULTILINE) for key in ("model name", "cpu family", "model")}
    if not fields["model name"]:
        return platform.processor() or platform.machine()
    family = ", ".join(f"{key} {match.group(1)}" for key, match in fields.items() if match and key != "model name")
    return f"{fields['model name'].group(1)} ({family})"


def _gemm_rate(size: int = 512) -> float:
    a = torch.randn(size, size)
    times = interleaved({"gemm": lambda: torch.mm(a, a)}, Effort(rounds=3, batches=3, seconds=5e-3))
    return 2 * size**3 / times.seconds["gemm"] / 1e9


def describe(facts: Mapping[str, Any]) -> str:
    """The machine in four lines."""
    return (
        f"processor: {facts['processor']}, load {facts['load']:.1f}\n"
        f"torch {facts['torch']} ({facts['isa']}), BLAS {facts['blas']}, oneDNN {facts['onednn']}; "
        f"sgemm 512: {facts['gemm_gflops']:.0f} GFLOP/s\n"
        f"{facts['threads']} thread; CPU time, median over rounds of the fastest batch, variants in turns, "
        "garbage collection off\n"
        f"{facts['when']}"
    )


# ---- files -----------------------------------------------------------------------------------------------------------


def save(folder: Path, name: str, page: dict[str, Any]) -> None:
    """folder/NAME.json; ValueError for a number that is not finite, which JSON has not."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(page, indent=1, allow_nan=False)
    (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def write(
    name: str, entries: list[dict[str, Any]], facts: dict[str, Any], notes: dict[str, str], effort: Effort, folder: Path
) -> None:
    """folder/NAME.json and folder/NAME.png."""
    save(folder, name, {"machine": facts, "effort": asdict(effort), "notes": notes, "cases": entries})
    _chart(entries, facts, folder / f"{name}.png")
    print(f"\nwrote {name}.json and {name}.png into {folder.name}/")


def _chart(entries: list[dict[str, Any]], facts: Mapping[str, Any], path: Path) -> None:
    """One panel a case: time over ours, one row a rival."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(4, len(entries))
    rows = -(-len(entries) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(4.2 * columns, 2.9 * rows), squeeze=False)
    for axis, entry in zip(axes.flat, entries):
        ratios = {
            name: row["ratio"] for name, row in entry["variants"].items() if row["ratio"] and name not in _BESIDES
        }
        colors = ["tab:blue" if value >= 1 else "tab:red" for value in ratios.values()]
        bars = axis.barh(list(ratios), list(ratios.values()), color=colors)
        axis.bar_label(bars, fmt="%.1f", padding=2, fontsize=7)
        axis.axvline(1, color="black", linewidth=0.8)
        axis.invert_yaxis()
        axis.margins(x=0.15)
        axis.set_title(entry["case"], fontsize=8)
        axis.tick_params(labelsize=7)
    for axis in axes.flat[len(entries) :]:
        axis.axis("off")
    figure.suptitle(
        f"time over ours (above 1: ours is faster); {facts['processor']}, torch {facts['torch']}", fontsize=9
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
