"""Steps of training on the CPU in equal time: with one thread, with all, and with as many as the trainer chooses.

`python -m benchmarks --only threads`, on the machine as it is and beside a busy loop on every core.
The zoo's RealNVP on the digits, in processes of their own that take turns. The trainer's own choice is to make at least
1 / 1.5 of one thread's steps beside the busy loops, and on a machine that is idle no fewer than all threads make; other
jobs spoil the second figure, so the load of the machine is kept beside it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from .report import describe, machine, save

ON_REQUEST = True
CONTESTANTS = ("one", "all", "chosen")
ROUNDS = 3
BUSY = "beside a busy loop on every core"
WORKER = """
import sys, tempfile, torch
from pathlib import Path
from rich.console import Console
from pyflowk import datasets, zoo
from pyflowk.training import TrainConfig, Trainer
minutes, who = float(sys.argv[1]), sys.argv[2]
threads = {"one": 1, "all": torch.get_num_threads(), "chosen": None}[who]
data = datasets.load("digits")
torch.manual_seed(0)
model = zoo.create("realnvp", data.space.shape, levels=data.space.levels)
config = TrainConfig(minutes=minutes, cpu=True, tensorboard=False, threads=threads)
with tempfile.TemporaryDirectory() as out:
    result = Trainer(model, data, config, out=Path(out), console=Console(stderr=True)).run()
print(result.step / result.seconds)
"""


def run(minutes: float, folder: Path | None) -> bool:
    """Steps a second of every contestant, `minutes` for all of a turn; writes folder/threads.json; always True."""
    facts = machine()
    print(describe(facts))
    page = {"machine": facts, "rows": [condition("as it is", minutes, 0)]}
    page["rows"].append(condition(BUSY, minutes, os.cpu_count() or 1))
    if folder is not None:
        save(folder, "threads", page)
    return True


def condition(name: str, minutes: float, loops: int) -> dict[str, object]:
    """Rounds of all contestants in turn beside so many busy loops."""
    load, rounds = os.getloadavg()[0], {who: list[float]() for who in CONTESTANTS}
    with busy(loops):
        for turn in range(ROUNDS):
            for who in CONTESTANTS[turn:] + CONTESTANTS[:turn]:
                rounds[who].append(steps_a_second(who, minutes / len(CONTESTANTS)))
    pace = {who: median(values) for who, values in rounds.items()}
    print(f"{name} (load average before: {load:.1f})")
    for who, values in rounds.items():
        print(f"  {who:7} {pace[who]:7.2f} steps/s  of " + ", ".join(f"{value:.2f}" for value in values))
    ratios = {rival: median(a / b for a, b in zip(rounds["chosen"], rounds[rival])) for rival in ("one", "all")}
    print("  chosen against " + ", ".join(f"{rival}: {ratio:.2f}x" for rival, ratio in ratios.items()))
    if loops:
        print(f"  bar: >= {1 / 1.5:.2f}x of one: {'met' if ratios['one'] >= 1 / 1.5 else 'NOT MET'}")
    return {"name": name, "load": load, "loops": loops, "steps_a_second": rounds, "chosen_against": ratios}


def steps_a_second(who: str, minutes: float) -> float:
    """The pace of a training in a process of its own, to which nobody has said a number of threads."""
    environment = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")}
    command = [sys.executable, "-c", WORKER, str(minutes), who]
    return float(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout)


@contextlib.contextmanager
def busy(loops: int) -> Iterator[None]:
    """So many processes that do nothing but turn, ended afterwards."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()
