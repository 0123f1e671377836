"""One conditional model of digits, and all that can be asked of it, half a minute on one core.

It is trained once, by flow matching, on some rows without their labels. Then it draws digits of a label, more clearly
with guidance; the right half given the left one; digits given a picture of half the resolution; and what a digit would
look like as the next one. A classifier that is trained on the same labels says what it takes the results for. Nothing
is trained again for a task, and the same calls take any model whose ``abilities`` hold ``Ability.EDITING``.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import matplotlib
import torch
from torch import Tensor

from pyflowk import datasets, zoo
from pyflowk.datasets import Dataset
from pyflowk.metrics import Classifier
from pyflowk.solvers import pooling
from pyflowk.training import TrainConfig, Trainer
from pyflowk.training.pictures import image_grid
from pyflowk.zoo import GenerativeModel

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # the back end is chosen first


def train(data: Dataset, steps: int) -> GenerativeModel:
    """A model that hears the label of nine rows in ten, as guidance asks for."""
    torch.manual_seed(0)
    model = zoo.create("flow_matching", data.space, architecture="vector", width=256, depth=3, dropout=0.1)
    config = TrainConfig(
        steps=steps, lr=2e-3, ema=0.99, tensorboard=False, sample_every=0, validate_every=500, threads=1
    )
    with tempfile.TemporaryDirectory() as out:
        trainer = Trainer(model, data, config, out=out)
        trainer.run()
    return trainer.averaged.eval()


def picture(path: Path, rows: dict[str, Tensor], levels: int) -> None:
    """A row of pictures for each name."""
    figure, axes = plt.subplots(len(rows), 1, figsize=(6, 0.75 * len(rows)))
    for axis, (name, x) in zip(axes, rows.items(), strict=True):
        axis.imshow(image_grid(x, levels, columns=len(x)))
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_ylabel(name, rotation=0, ha="right", va="center")
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


@torch.no_grad()
def main(steps: int = 4000, out: Path = Path("inpainting.png"), draws: int = 16) -> dict[str, float]:
    """Train, ask, draw the picture and print the table; its figures by name, those of distances in levels of 0..16."""
    data = datasets.load("digits")
    with torch.enable_grad():
        model = train(data, steps)
    x, label = data.take("test")
    following = (label + 1) % 10
    generator = torch.Generator().manual_seed(0)
    judge = Classifier.fit(data.train, data.train_context, generator=torch.Generator().manual_seed(0))

    samples = {w: model.sample(len(x), label, generator, guidance=w) for w in (0.0, 2.0)}

    left = torch.arange(8) < 4  # the mask of what is seen; it broadcasts with the pictures
    halves = torch.stack([model.inpaint(x, left, label, generator) for _ in range(draws)])
    blind = model.inpaint(x, left, None, generator)  # the model may do without labels, too

    half = pooling(2)
    coarse = half.forward(x)
    fine = torch.stack([model.restore(coarse, half, label, generator, noise=0.3) for _ in range(draws)])
    wide = coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)

    edited = model.edit(x, 0.4, following, generator, guidance=1.0)  # back to t = 0.4, and on with another label
    swapped = model.decode(model.encode(x, label, generator), following, generator)  # the same noise, another label

    def error(guess: Tensor, seen: Tensor = left) -> float:
        return (guess - x)[..., ~seen].square().mean().sqrt().item()

    nothing = torch.zeros(8, dtype=torch.bool)
    found = {
        "accuracy, data": judge.accuracy(x, label).item(),
        **{f"accuracy, guidance {w:g}": judge.accuracy(s, label).item() for w, s in samples.items()},
        "accuracy, inpainted": judge.accuracy(halves[0], label).item(),
        "accuracy, inpainted without labels": judge.accuracy(blind, label).item(),
        "accuracy, edited": judge.accuracy(edited, following).item(),
        "accuracy, other label": judge.accuracy(swapped, following).item(),
        "RMSE, right half, mean of the data": error(data.train.mean(0)),
        "RMSE, right half, one draw": error(halves[0]),
        f"RMSE, right half, mean of {draws}": error(halves.mean(0)),
        "RMSE, wide pixels": error(wide, nothing),
        "RMSE, restored, one draw": error(fine[0], nothing),
        f"RMSE, restored, mean of {draws}": error(fine.mean(0), nothing),
    }
    one = torch.stack([(label == digit).nonzero()[0, 0] for digit in range(10)])  # of each
    rows = {
        "data": x, "guidance 0": samples[0.0], "guidance 2": samples[2.0], "left half": torch.where(left, x, 8.0),
        "right half": halves[0], "half size": wide, "restored": fine[0], "edited": edited, "other label": swapped,
    }  # fmt: skip
    picture(out, {name: events[one] for name, events in rows.items()}, 17)
    for name, value in found.items():
        print(f"{name:36} {value:6.3f}")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--out", type=Path, default=Path("inpainting.png"))
    options = parser.parse_args()
    main(options.steps, options.out)
