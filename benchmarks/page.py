"""results/README.md: every figure that is kept, with its machine and date, from the .json files beside it.

`python -m benchmarks` writes it anew after every run, `python -m benchmarks --page` alone. Of a .json file it shows the
`machine`, what the variants are (`notes`), the contests (`cases`), every other list of flat records as a table, and
what else it says in one line. Where `by` names what tells rows apart, those that agree in it are one row, with the mean
of each figure and the standard error of that mean.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .report import RESULTS, figure, matrix

HEAD = """# Every figure, its machine and its date

Made by `python -m benchmarks --page` from the .json files in this folder: not to be edited. Times are CPU time of one
thread, in turns with the rivals; ratios are the rival's time over ours, so that above 1 ours is faster. "load" is the
machine's load average before the run: above 1, other jobs ran beside it. What a card is predicted to do, and how the
machine code of the CUDA kernels was audited, is in [audit.md](audit.md).
"""
SHOWN = ("machine", "notes", "cases", "by")
"""Keys of a file that have their own place."""


def write(folder: Path) -> None:
    """results/README.md, if the figures went to results/: no other folder has such a page."""
    if folder == RESULTS:
        (folder / "README.md").write_text(render(folder), encoding="utf-8")


def render(folder: Path) -> str:
    """The whole page."""
    files = sorted(folder.glob("*.json"))
    sections = (_section(file, json.loads(file.read_text(encoding="utf-8"))) for file in files)
    return "\n".join((HEAD, *sections))


def _section(file: Path, content: Mapping[str, Any]) -> str:
    chart = f" ([chart]({file.stem}.png))" if file.with_suffix(".png").exists() else ""
    lists = {key: value for key, value in content.items() if key not in SHOWN and _records(value)}
    said = {key: value for key, value in content.items() if key not in SHOWN and key not in lists}
    parts = [f"## {file.stem}", _facts(content["machine"]) + chart]
    if said:
        parts.append("; ".join(f"{key}: {_cell(value)}" for key, value in said.items()))
    if "notes" in content:
        parts.append("\n".join(f"- {variant}: {note}" for variant, note in content["notes"].items()))
    if "cases" in content:
        parts += [matrix(content["cases"]), *_missed(content["cases"])]
    for key, rows in lists.items():
        parts.append(_table(rows, content.get("by") if key == "rows" else None))
    return "\n\n".join(parts) + "\n"


def _facts(machine: Mapping[str, Any]) -> str:
    """The machine in one line, whatever is known of it."""
    named = {"torch": "torch {}", "gemm_gflops": "sgemm of 512 at {:.0f} GFLOP/s", "load": "load {:.1f}"}
    known = (named.get(key, "{}").format(value) for key, value in machine.items() if key not in ("onednn", "threads"))
    return ", ".join(known) + "."


def _missed(entries: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """A list of the bars that were not met; nothing where all were."""
    bars = [(entry["case"], bar) for entry in entries for bar in entry["bars"] if not bar["met"]]
    if bars:
        yield "Missed:\n\n" + "\n".join(f"- {case}: {bar['text']}, came to {_cell(bar['value'])}" for case, bar in bars)


# ---- tables of records -----------------------------------------------------------------------------------------------


def _records(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _table(rows: Sequence[Mapping[str, Any]], by: Sequence[str] | None) -> str:
    """Markdown; a dict in a row takes a column for each of its entries."""
    flat = [dict(_flat(row)) for row in rows]
    if by is not None:
        flat = [*_means(flat, by)]
    names = [*dict.fromkeys(name for row in flat for name in row)]
    lines = [names, ["---"] * len(names), *([_cell(row.get(name)) for name in names] for row in flat)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _flat(row: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in row.items():
        if isinstance(value, dict):
            yield from ((f"{name}, {part}", inner) for part, inner in value.items())
        else:
            yield name, value


def _means(rows: Iterable[Mapping[str, Any]], by: Sequence[str]) -> Iterator[dict[str, Any]]:
    """One row for all that agree in `by`; a figure becomes the list of what it was, `seed` their number."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in by), []).append(row)
    for key, group in groups.items():
        figures = {name: [row[name] for row in group] for name in group[0] if name not in (*by, "seed")}
        yield {**dict(zip(by, key, strict=True)), "seeds": len(group), **figures}


def _cell(value: Any) -> str:
    """A value in four digits; the mean of a list of numbers and its standard error."""
    if value is None or value == [] or value == {}:
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_cell(inner)}" for name, inner in value.items())
    if isinstance(value, list) and all(isinstance(one, (int, float)) for one in value):
        if len({*value}) == 1:
            return _cell(value[0])
        return f"{_cell(statistics.mean(value))} +- {statistics.stdev(value) / len(value) ** 0.5:.2g}"
    return figure(value) if isinstance(value, float) else str(value)
