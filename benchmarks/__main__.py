"""Take the figures: `python -m benchmarks [--only NAME] [--quick]`, or put those that are kept on a page: `--page`.

`pyflowk bench` runs the ops' own tests first.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import torch

from . import page
from .peers import load
from .report import OURS, RESULTS, describe, machine, matrix, run_case, write
from .timing import QUICK, Effort

#: every benchmark is a file, bench_<name>.py; it says by `ON_REQUEST` whether it takes minutes whatever the machine and
#: therefore runs only when asked for by name
NAMES = sorted(path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmarks; 1 where one of our own variants failed, 2 for an unknown name."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", default="", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--quick", action="store_true", help="a smoke test: its figures mean nothing, nothing is kept")
    parser.add_argument("--rounds", type=int, default=Effort.rounds, help="rounds of all variants in turn")
    parser.add_argument("--minutes", type=float, default=1.0, help="of training, in those that run on request")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the .json and .png files")
    parser.add_argument("--page", action="store_true", help="run nothing: write results/README.md from the .json files")
    options = parser.parse_args(argv)
    if options.page:
        page.write(options.out)
        return 0
    chosen = [name for name in NAMES if options.only in name and (options.only or not _bench(name).ON_REQUEST)]
    if not chosen:
        parser.error(f"no benchmark named {options.only!r}: there are {', '.join(NAMES)}")
    if options.rounds < 1:
        parser.error(f"--rounds: expected at least 1, got {options.rounds}")

    torch.set_num_threads(1)
    failures = [name for name in chosen if not _run(name, options)]
    if not options.quick:
        page.write(options.out)
    return 1 if failures else 0


def _bench(name: str) -> ModuleType:
    return importlib.import_module(f"benchmarks.bench_{name}")


def _run(name: str, options: argparse.Namespace) -> bool:
    """Whether all of ours ran."""
    contest = _bench(name)
    if contest.ON_REQUEST:
        minutes, folder = (0.02, None) if options.quick else (options.minutes, options.out)
        return contest.run(minutes=minutes, folder=folder)
    # torch.compile falls back to eager without a word once a function was compiled for this many shapes
    torch._dynamo.config.recompile_limit = 1000
    effort = QUICK if options.quick else Effort(rounds=options.rounds)
    facts, notes = machine(), contest.notes()
    print(f"{name}\n{describe(facts)}")
    for peer, reason in load()[1].items():
        print(f"peer {peer} is missing: {reason}")
    entries = [run_case(case, effort) for case in contest.cases(options.quick)]
    print("\nwhat is timed:", *(f"  {variant}: {note}" for variant, note in notes.items()), sep="\n")
    print(f"\n{matrix(entries)}")
    judged = [(entry["case"], bar) for entry in entries for bar in entry["bars"]]
    missed = [f"  {case}: {bar['text']}" for case, bar in judged if not bar["met"]]
    print(f"\n{len(judged) - len(missed)} of {len(judged)} bars met", *missed, sep="\n")
    if options.quick:
        print("(a smoke test: these figures mean nothing)")
    else:
        write(name, entries, facts, notes, effort, options.out)
    return not any(variant.startswith(OURS) for entry in entries for variant in entry["failed"])


if __name__ == "__main__":
    sys.exit(main())
