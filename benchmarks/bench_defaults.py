"""What every system of the zoo learns by default in one minute of CPU time on one thread: `--only defaults`.

It is `pyflowk train SYSTEM --data DATA`, on digits and on moons, whose clock is the CPU time of this process, so that
other jobs on the machine cost nothing. Test scores stand beside one full Gaussian, which every system is to beat.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from pyflowk import datasets, training, zoo
from pyflowk.training import TrainConfig, Trainer
from pyflowk.zoo import Ability, GenerativeModel

from .report import machine, save

ON_REQUEST = True
DATA = ("digits", "moons")


def run(minutes: float, folder: Path | None) -> bool:
    """Train every system on every data set, print a table, write folder/defaults.json after each row; always True."""
    torch.set_num_threads(1)
    page: dict[str, Any] = {"machine": machine(), "minutes": minutes, "rows": []}
    for name in DATA:
        data = datasets.load(name)
        print(f"{name}, {60 * minutes:.0f} s of CPU time, one thread; {unit(data)} on {len(data.test)} test samples")
        for system in systems(data):
            row = train(system, data, minutes)
            page["rows"].append(row)
            verdict = "" if row["beats"] else "  DOES NOT BEAT THE GAUSSIAN"
            score = f"{row['score']:8.3f} +- {row['error']:.3f}"
            print(f"  {system:16}{score} after {row['steps']} steps{verdict}", flush=True)
            if folder is not None:
                save(folder, "defaults", page)
        print(f"  {'one Gaussian':16}{row['gaussian']:8.3f}")
    return True


def systems(data: datasets.Dataset) -> list[str]:
    """Those that take such data and tell a likelihood; a latent model learns its autoencoder, too."""
    fit = [name for name in zoo.names() if data.space.kind in zoo.takes(name)]
    return [name for name in fit if Ability.LIKELIHOOD in built(name, data).abilities]


def built(system: str, data: datasets.Dataset) -> GenerativeModel:
    """The system as it is by default."""
    options = {"joint": True, "coder": "deviation=fixed"} if system == "latent" else {}
    return zoo.create(system, data.space.shape, levels=data.space.levels, **options)


def unit(data: datasets.Dataset) -> str:
    """Bits per dimension, lower is better, or nats of log-likelihood, higher is better."""
    return "nats" if data.space.levels is None else "bits/dim"


def train(system: str, data: datasets.Dataset, minutes: float) -> dict[str, Any]:
    """The test score of the weights with the best validation loss, and the Gaussian's."""
    torch.manual_seed(0)
    model = built(system, data)
    config = TrainConfig(minutes=minutes, cpu=True, tensorboard=False, threads=1)
    with tempfile.TemporaryDirectory() as out:
        quiet = Console(quiet=True)
        result = Trainer(model, data, config, out=Path(out), console=quiet, clock=time.process_time).run()
        best, _ = training.load_model(Path(out), "best")
    report = training.evaluate(best, data)
    assert report.model is not None and report.gaussian is not None
    bits = data.space.levels is not None
    ours, level = ((s.bits, s.bits_error) if bits else (s.nats, s.nats_error) for s in (report.model, report.gaussian))
    beats = ours[0] < level[0] if bits else ours[0] > level[0]
    row = {"data": data.name, "system": system, "unit": unit(data), "score": ours[0], "error": ours[1]}
    return row | {"gaussian": level[0], "beats": beats, "steps": result.step}
