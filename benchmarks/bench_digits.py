"""Bits per dimension of the digits after one minute of training on one thread, three seeds: `--only digits`.

The zoo's RealNVP with the trainer's own settings; the seed draws weights, batches and noise, the data's split stays.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import mean, stdev

import torch

from pyflowk import datasets, training, zoo
from pyflowk.training import TrainConfig, Trainer

from .report import machine, save

ON_REQUEST = True
SEEDS = (0, 1, 2)
PEER = 2.415  # bits/dim: RealNVP with 10 couplings in another package, same data, time and thread
DRAWS = 16


def run(minutes: float, folder: Path | None) -> bool:
    """Train once per seed, print bits/dim +- standard error over the seeds, write folder/digits.json; always True."""
    torch.set_num_threads(1)
    scores = [train(seed, minutes) for seed in SEEDS]
    bits = [bits for bits, _ in scores]
    error = stdev(bits) / len(bits) ** 0.5
    for seed, (value, steps) in zip(SEEDS, scores):
        print(f"seed {seed}: {value:.3f} bits/dim on the test set after {steps} steps")
    verdict = "met" if mean(bits) <= PEER else "NOT MET"
    print(f"digits, {60 * minutes:.0f} s, one thread: {mean(bits):.3f} +- {error:.3f} bits/dim; bar {PEER}: {verdict}")
    if folder is not None:
        rows = [{"seed": seed, "bits": value, "steps": steps} for seed, (value, steps) in zip(SEEDS, scores)]
        save(folder, "digits", {"machine": machine(), "minutes": minutes, "by": [], "rows": rows})
    return True


def train(seed: int, minutes: float) -> tuple[float, int]:
    """(bits/dim on the test set under the weights with the best validation loss, steps)."""
    data = datasets.load("digits")
    torch.manual_seed(seed)
    model = zoo.create("realnvp", data.space.shape, levels=data.space.levels)
    config = TrainConfig(minutes=minutes, cpu=True, tensorboard=False, seed=seed)
    with tempfile.TemporaryDirectory() as out:
        result = Trainer(model, data, config, out=Path(out)).run()
        best, _ = training.load_model(Path(out), "best")
    report = training.evaluate(best, data, seed=seed, draws=DRAWS)
    assert report.model is not None and report.model.bits is not None
    return report.model.bits, result.step
