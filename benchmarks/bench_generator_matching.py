"""Digits by flow, by jumps and by both, after equal CPU time on one thread: `--only generator_matching`.

One U-Net and trainer for all: flow matching, generator matching of jumps alone, from straight lines and from replaced
noise, and of a flow and jumps at once, which is then sampled by several shares of jumps and as a diffusion. Samples are
drawn for labels of the test pictures: how far they are from these in the features of a classifier that has learned the
training pictures (squared Frechet distance, beside it that of two parts of the test pictures), how often it tells the
label that was asked for, and which share of the chances of jumps was above 1.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Generator, Tensor

from pyflowk import datasets, metrics, training, zoo
from pyflowk.datasets import Dataset
from pyflowk.training import TrainConfig, Trainer

from .bench_images import Judge
from .report import machine, save

ON_REQUEST = True
STEPS = 100
#: system, its options, and how samples are drawn
PLANS: tuple[tuple[str, dict[str, Any], tuple[dict[str, Any], ...]], ...] = (
    ("flow_matching", {}, ({"method": "euler", "steps": STEPS},)),
    ("generator_matching", {"process": "jump"}, ({"steps": STEPS}, {"steps": 3 * STEPS})),
    ("generator_matching", {"process": "jump", "path": "mixture"}, ({"steps": STEPS},)),
    ("generator_matching", {}, tuple(
        {"steps": STEPS, "share": share, "noise": noise}
        for share, noise in ((0.0, 0.0), (0.0, 1.0), (0.5, 0.0), (1.0, 0.0))
    )),
)  # fmt: skip


def train(system: str, options: dict[str, Any], data: Dataset, minutes: float) -> tuple[zoo.GenerativeModel, int]:
    """The weights with the best validation loss, and the steps that were taken."""
    torch.manual_seed(0)
    model = zoo.create(system, data.space, **options)
    config = TrainConfig(minutes=minutes, cpu=True, threads=1, tensorboard=False, sample_every=0)
    with tempfile.TemporaryDirectory() as out:
        trainer = Trainer(model, data, config, out=out, console=Console(quiet=True), clock=time.process_time)
        steps = trainer.run().step
        return training.load_model(out, "best")[0], steps


def judged(judge: Judge, model: zoo.GenerativeModel, how: dict[str, Any]) -> dict[str, Any]:
    """Figures of samples that are drawn in such a way."""
    began, saturated = time.process_time(), 0.0
    generator, labels = Generator().manual_seed(0), judge.labels
    with torch.no_grad():
        if isinstance(model, zoo.GeneratorModel):
            samples, above = model.walk(len(labels), labels, generator, **how)
            saturated = above.mean().item()
        else:
            samples = model.sample(len(labels), labels, generator, **how)
    assert isinstance(samples, Tensor)
    seconds = time.process_time() - began
    near = metrics.compare_features(judge.classifier.features(samples), judge.seen, Generator().manual_seed(0))
    frechet = near["frechet_distance"]
    return {
        "sampling": how, "seconds": seconds, "frechet": frechet.value, "frechet_error": frechet.error,
        "frechet_floor": frechet.noise, "accuracy": judge.classifier.accuracy(samples, labels).item(),
        "saturated": saturated,
    }  # fmt: skip


def run(minutes: float, folder: Path | None) -> bool:
    """All plans, each in so many minutes; folder/generator_matching.json is written after each; always True."""
    torch.set_num_threads(1)
    data = datasets.load("digits")
    judge = Judge(data, 20)
    page: dict[str, Any] = {"machine": machine(), "minutes": minutes, "runs": []}
    page["accuracy of test pictures"] = judge.accuracy
    print(f"digits, {60 * minutes:.0f} s of CPU time, one thread; of test pictures {judge.accuracy:.3f} told")
    for system, options, ways in PLANS:
        model, steps = train(system, options, data, minutes)
        for how in ways:
            found = {"system": system, "options": options, "steps": steps, **judged(judge, model.eval(), how)}
            page["runs"].append(found)
            print(
                f"  {system} {options}, {steps} steps, drawn by {how} in {found['seconds']:.1f} s: Frechet distance "
                f"{found['frechet']:.3f} +- {found['frechet_error']:.3f} (test pictures {found['frechet_floor']:.3f}), "
                f"{found['accuracy']:.3f} as asked, {found['saturated']:.3f} saturated", flush=True,
            )  # fmt: skip
        if folder is not None:
            save(folder, "generator_matching", page)
    return True
