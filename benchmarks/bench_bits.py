"""Bits per dimension of pictures after equal CPU time on one thread, TARFlow beside other flows: `--only bits`.

TARFlow as it is by default and by splines in two maps of one layer, NSF, Glow and MAF, each in the trainer whose clock
is the CPU time of the process. Digits in 25 seconds, Fashion-MNIST in three minutes, without labels; the batch and the
average of the weights are those that such short times want, the same for all. Test bits are of the weights with the
best validation loss.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from rich.console import Console

from pyflowk import datasets, training, zoo
from pyflowk.datasets import Dataset
from pyflowk.training import TrainConfig, Trainer

from .report import describe, machine, save

ON_REQUEST = True
SYSTEMS: dict[str, tuple[str, dict[str, Any]]] = {
    "tarflow": ("tarflow", {}),
    "tarflow, splines": ("tarflow", {"map": "spline", "blocks": 2, "depth": 1, "start": True}),
    "nsf": ("nsf", {}),
    "glow": ("glow", {}),
    "maf": ("maf", {}),
}
#: minutes, seeds, and what differs from the trainer's defaults
PLANS: dict[str, tuple[float, int, dict[str, Any]]] = {
    "digits": (25 / 60, 3, {"batch_size": 32, "ema": 0.99}),
    "fashion-mnist": (3.0, 1, {"batch_size": 32, "ema": 0.99, "validate_samples": 256}),
}
DRAWS, SCORED = 4, 1000


def train(system: str, data: Dataset, minutes: float, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """One run, and its test bits."""
    name, options = SYSTEMS[system]
    torch.manual_seed(seed)
    model = zoo.create(name, data.space.shape, levels=data.space.levels, **options)
    config = TrainConfig(minutes=minutes, cpu=True, tensorboard=False, threads=1, sample_every=0, seed=seed, **settings)
    with tempfile.TemporaryDirectory() as out:
        quiet = Console(quiet=True)
        steps = Trainer(model, data, config, out=out, console=quiet, clock=time.process_time).run().step
        best, _ = training.load_model(out, "best")
    x = data.take("test", slice(SCORED))[0]
    nats = training.log_prob(best, x, seed=seed, draws=DRAWS).mean().item()
    bits = -nats / (data.space.dims * math.log(2))
    return {"data": data.name, "system": system, "seed": seed, "steps": steps, "bits": bits}


def contest(name: str, minutes: float) -> Iterator[dict[str, Any]]:
    """All systems on one data set, seed by seed."""
    data = datasets.load(name)
    full, seeds, settings = PLANS[name]
    for seed in range(seeds if minutes >= 1 else 1):
        for system in SYSTEMS:
            yield train(system, data, minutes * full, seed, settings)


def run(minutes: float, folder: Path | None) -> bool:
    """Everything, in `minutes` times the time of its plan, written to folder/bits.json after each run; always True."""
    torch.set_num_threads(1)
    page: dict[str, Any] = {"machine": machine(), "by": ["data", "system"], "rows": []}
    print(describe(page["machine"]))
    for name in PLANS:
        try:
            for row in contest(name, minutes):
                page["rows"].append(row)
                print(
                    "  {data:14} {system:17} seed {seed}, {steps:5} steps: {bits:.3f} bits/dim".format(**row),
                    flush=True,
                )
                if folder is not None:
                    save(folder, "bits", page)
        except FileNotFoundError as missing:
            print(f"{name} left out: {missing}")
            continue
        for system in SYSTEMS:
            found = [row["bits"] for row in page["rows"] if (row["data"], row["system"]) == (name, system)]
            error = f" +- {stdev(found) / len(found) ** 0.5:.3f}" if len(found) > 1 else ""
            print(f"{name:14} {system:17} {mean(found):.3f}{error}")
    return True
