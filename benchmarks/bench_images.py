"""Flow matching of pictures after equal CPU time on one thread: `--only images`, or a part of it by
`python -m benchmarks.bench_images --help`.

Digits and Fashion-MNIST, given their labels. Ours and torchcfm's objective train the same U-Net in the same trainer,
whose clock is the CPU time of the process, and draw in the same steps; Glow and RealNVP have that time, too. Samples
are drawn for labels of test pictures: how far they are from these in the features of a classifier that has learned the
training pictures (squared Frechet distance, beside it that of two parts of the test pictures), and how often it
tells the label that was asked for. Likelihoods, in bits/dim, are of the first test pictures. Samples of ours are in
images_<data>.png, ten of each label.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Generator, Tensor

from pyflowk import datasets, metrics, training, zoo
from pyflowk.datasets import Dataset
from pyflowk.metrics import Classifier
from pyflowk.nets import Field
from pyflowk.objectives import Matching
from pyflowk.objectives.nll import reduce
from pyflowk.training import TrainConfig, Trainer
from pyflowk.training.pictures import draw_samples
from pyflowk.zoo import Ability

from . import page as results
from .report import OURS, RESULTS, machine, save

ON_REQUEST = True
PEER = "torchcfm"
HAS_PEER = all(importlib.util.find_spec(name) for name in (PEER, "ot"))
#: minutes, seeds of the two that match, pictures that are scored, and what differs from the trainer's defaults
PLANS: dict[str, tuple[float, int, int, dict[str, Any]]] = {
    "digits": (1.0, 3, 360, {}),
    "fashion-mnist": (4.0, 1, 256, {"batch_size": 32, "lr": 1.5e-3, "ema": 0.995, "validate_samples": 256}),
}
DRAWN = 1000
SAMPLING = {"method": "heun2", "steps": 12}
LEARNED = 20_000
"""Training pictures, at most, that the classifier learns from."""


class Peer(Matching):
    """torchcfm's objective, for the network and in the place of ours."""

    def __call__(
        self,
        net: Field | Callable[..., Tensor],
        x: Tensor,
        context: Tensor | None = None,
        *,
        generator: Generator | None = None,
        reduction: str = "none",
    ) -> Tensor:
        from torchcfm.conditional_flow_matching import ConditionalFlowMatcher

        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))  # its draws are torch's own
        t, x_t, target = ConditionalFlowMatcher(0.0).sample_location_and_conditional_flow(torch.randn_like(x), x)
        return reduce((net(t, x_t, context) - target).square().flatten(1).mean(1), reduction)


def train(system: str, data: Dataset, config: TrainConfig) -> tuple[zoo.GenerativeModel, int]:
    """The weights with the best validation loss, and the steps that were taken."""
    torch.manual_seed(config.seed)
    model = zoo.create("flow_matching" if system in (OURS, PEER) else system, data.space)
    if system == PEER:
        assert isinstance(model, zoo.MatchingModel)
        model.objective = Peer(source=model.objective.source)
    with tempfile.TemporaryDirectory() as out:
        trainer = Trainer(model, data, config, out=out, console=Console(quiet=True), clock=time.process_time)
        steps = trainer.run().step
        return training.load_model(out, "best")[0], steps


class Judge:
    """A classifier of a data set's labels, and what it says of samples."""

    def __init__(self, data: Dataset, scored: int) -> None:
        assert isinstance(data.train, Tensor)
        self.data, self.scored, self.noise = data, scored, Generator().manual_seed(0)
        self.x, self.labels = data.take("test", slice(DRAWN))
        steps = 200 if len(data.train) < LEARNED else 800
        self.classifier = Classifier.fit(
            data.train[:LEARNED], data.train_context[:LEARNED], steps=steps, generator=self.noise
        )
        self.seen = self.classifier.features(self.x)
        self.accuracy = self.classifier.accuracy(self.x, self.labels).item()

    def __call__(self, model: zoo.GenerativeModel) -> tuple[dict[str, Any], Tensor]:
        """Figures of a model, and its samples for the labels of the test pictures."""
        options = SAMPLING if Ability.EDITING in model.abilities else {}
        samples = training.sample(model, len(self.x), self.labels, Generator().manual_seed(0), **options)
        near = metrics.compare_features(self.classifier.features(samples), self.seen, Generator().manual_seed(0))
        frechet = near["frechet_distance"]
        x, labels = self.data.take("test", slice(self.scored))
        bits = metrics.score(training.log_prob(model, x, labels), self.data.space)
        found = {
            "frechet": frechet.value, "frechet_error": frechet.error, "frechet_floor": frechet.noise,
            "accuracy": self.classifier.accuracy(samples, self.labels).item(),
            "bits": bits.bits, "bits_error": bits.bits_error,
        }  # fmt: skip
        return found, samples


Keep = Callable[[dict[str, Any]], None]


def contest(name: str, minutes: float, seeds: int, keep: Keep, folder: Path | None) -> dict[str, Any]:
    """All systems on one data set; the two that match with several seeds."""
    data = datasets.load(name)
    _, _, scored, settings = PLANS[name]
    judge = Judge(data, scored if minutes > 0.1 else 20)
    page: dict[str, Any] = {"minutes": minutes, "accuracy of test pictures": judge.accuracy, "rows": []}
    print(f"{name}, {60 * minutes:.0f} s of CPU time, one thread; of test pictures {judge.accuracy:.3f} told")
    matching = (OURS, PEER)[: 1 + HAS_PEER]
    first = [(system, 0) for system in (*matching, "glow", "realnvp")]
    for system, seed in [*first, *((system, seed) for seed in range(1, seeds) for system in matching)]:
        config = TrainConfig(
            minutes=minutes, cpu=True, threads=1, tensorboard=False, sample_every=0, seed=seed, **settings
        )
        model, steps = train(system, data, config)
        found, samples = judge(model)
        page["rows"].append({"system": system, "seed": seed, "steps": steps, **found})
        print(line(page["rows"][-1]), flush=True)
        keep(page)
        if folder is not None and (system, seed) == (OURS, 0):
            chosen = torch.cat([(judge.labels == i).nonzero()[:10, 0] for i in range(10)])
            draw_samples(folder / f"images_{name}.png", samples[chosen], None, data.space.levels, columns=10)
    return page


def line(run: dict[str, Any]) -> str:
    """One run in words."""
    return (
        f"  {run['system']:10} seed {run['seed']}, {run['steps']:5} steps: Frechet distance {run['frechet']:7.3f} +- "
        f"{run['frechet_error']:.3f} (test pictures {run['frechet_floor']:.3f}), {run['accuracy']:.3f} as asked, "
        f"{run['bits']:.3f} +- {run['bits_error']:.3f} bits/dim"
    )


def table(plans: dict[str, tuple[float, int]], folder: Path | None) -> None:
    """Data sets, in so many minutes and with so many seeds; folder/images_<data>.json is written after each run."""
    facts = machine()
    for name, (minutes, seeds) in plans.items():

        def keep(page: dict[str, Any], name: str = name) -> None:
            if folder is not None:
                save(folder, f"images_{name}", {"machine": facts, "sampling": SAMPLING, "by": ["system"], **page})

        try:
            page = contest(name, minutes, seeds, keep, folder)
        except FileNotFoundError as missing:
            print(f"{name} left out: {missing}")
            continue
        for figure in ("frechet", "accuracy"):
            means = {
                system: statistics.mean(run[figure] for run in page["rows"] if run["system"] == system)
                for system in {run["system"] for run in page["rows"]}
            }
            print(f"  {figure}: ", ", ".join(f"{system} {mean:.3f}" for system, mean in sorted(means.items())))


def run(minutes: float, folder: Path | None) -> bool:
    """Everything, in `minutes` times the time of its plan; always True."""
    torch.set_num_threads(1)
    table({name: (minutes * plan[0], plan[1]) for name, plan in PLANS.items()}, folder)
    return True


def main() -> int:
    """A part of it, or another time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", choices=list(PLANS), default=list(PLANS))
    parser.add_argument("--minutes", type=float, help="of CPU time for each training; by default those of the plan")
    parser.add_argument("--seeds", type=int, help="of the two that match; by default those of the plan")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    table({name: (given.minutes or PLANS[name][0], given.seeds or PLANS[name][1]) for name in given.data}, given.out)
    results.write(given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
