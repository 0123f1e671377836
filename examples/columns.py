"""Some columns of a table given the others: a STARFlow whose deep transformer has them in front, a minute on one core.

The four columns that are asked for turn around an angle that the two given ones tell, in one of two ways, with a spread
that grows with them: a density that no Gaussian has, and known, so that the score stands beside the best there is. The
given columns are an ordinary context of numbers; `prefix` tells how many tokens they become.
"""

from __future__ import annotations

import argparse
import math

import torch
from torch import Tensor

from pyflowk import zoo
from pyflowk.datasets import split
from pyflowk.metrics import energy_distance
from pyflowk.space import Context, Space
from pyflowk.training import TrainConfig, Trainer

SPACE = Space((4,), context=Context("numbers", 2))


def parts(given: Tensor) -> tuple[Tensor, Tensor]:
    """Means (B, 2, 4) of both ways to turn, and the deviation (B, 1) of each column."""
    angle = 2 * given[:, :1] + math.pi / 2 * torch.arange(4)
    means = torch.stack((torch.sin(angle), torch.sin(-angle)), 1) * (1 + 0.5 * given[:, 1:, None])
    return means, 0.1 + 0.2 * given[:, 1:]


def draw(rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows that are asked for (B, 4), and given ones (B, 2), even in [0, 1]."""
    given = torch.rand(rows, 2, generator=generator)
    means, deviation = parts(given)
    way = torch.randint(0, 2, (rows,), generator=generator)
    return means[torch.arange(rows), way] + deviation * torch.randn(rows, 4, generator=generator), given


def best(x: Tensor, given: Tensor) -> float:
    """The mean log-density of rows under the law that they come from, in nats."""
    means, deviation = parts(given)
    each = torch.distributions.Normal(means, deviation[:, None]).log_prob(x[:, None]).sum(2)
    return (torch.logsumexp(each, 1) - math.log(2)).mean().item()


def main(steps: int = 1200, folder: str | None = None, rows: int = 20_000) -> dict[str, float]:
    """Train and print; the figures by name."""
    generator = torch.Generator().manual_seed(0)
    x, given = draw(rows, generator)
    data = split("columns", SPACE, x, given, seed=0)
    torch.manual_seed(0)
    model = zoo.starflow(SPACE, blocks=3, width=32, deep=2, prefix=2)
    config = TrainConfig(steps=steps, batch_size=256, lr=3e-3, warmup=steps // 10, tensorboard=False, cpu=True)
    Trainer(model, data, config, out=folder).run()
    test, known = data.take("test", slice(None))
    with torch.no_grad():
        nats = model.eval().log_prob(test, known).mean().item()
        one = torch.tensor([[0.7, 0.2]])  # rows like one that was never seen
        drawn = model.sample(1000, one, generator)
    means, deviation = parts(one)
    ways = torch.randint(0, 2, (2, 1000), generator=generator)
    true, more = means[0, ways] + deviation * torch.randn(2, 1000, 4, generator=generator)
    results = {
        "nats of test rows": nats,
        "nats of test rows, at best": best(test, known),
        "energy distance of samples of one row": energy_distance(drawn, true).item(),
        "energy distance of the law's own": energy_distance(more, true).item(),
    }
    print(*(f"{what:40} {value:8.4f}" for what, value in results.items()), sep="\n")
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--folder", help="where the run is kept")
    arguments = parser.parse_args()
    main(arguments.steps, arguments.folder)
