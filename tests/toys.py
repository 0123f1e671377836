"""Two toy systems that are nothing like a flow: trainer and command line must need no line for them.

`registered` makes them known, and the data set "tokens"; `python -m tests.toys train ...` is a command line with them.
"""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
import torch
from torch import Generator, Tensor, nn

from pyflowk import datasets, zoo
from pyflowk.cli import main
from pyflowk.space import Ragged, Space
from pyflowk.zoo import Ability, GenerativeModel, Option, SamplingOptions
from tests.tokens import token_data


class Unigrams(GenerativeModel):
    """A categorical distribution of the length and one of the symbol at each position, all independent, by class."""

    loss_unit = "nats"
    abilities = frozenset({Ability.LIKELIHOOD})

    def __init__(self, space: Space) -> None:
        super().__init__(space)
        (longest,), classes = space.shape, space.classes or 1
        self.lengths = nn.Parameter(torch.zeros(classes, longest + 1))
        self.symbols = nn.Parameter(torch.zeros(classes, longest, space.symbols or 1))

    def log_prob(self, x: Any, context: Any = None, generator: Generator | None = None) -> Tensor:
        self.space.check(x)
        lengths, symbols = (p[self._rows(context, len(x))] for p in (self.lengths, self.symbols))
        ids = x.values.where(x.mask, 0)  # what lies beyond means nothing
        nats = symbols[:, : ids.shape[1]].log_softmax(2).gather(2, ids[..., None]).squeeze(2)
        return (nats * x.mask).sum(1) + lengths.log_softmax(1).gather(1, x.lengths[:, None]).squeeze(1)

    def loss(self, x: Any, context: Any = None, generator: Generator | None = None) -> Tensor:
        return -self.log_prob(x, context, generator)

    def _sample(self, rows: int, context: Any, generator: Generator | None, chosen: SamplingOptions) -> Ragged:
        which = self._rows(context, rows)
        lengths = torch.multinomial(self.lengths[which].softmax(1), 1, generator=generator).flatten()
        flat = self.symbols[which].softmax(2).flatten(0, 1)
        return Ragged(torch.multinomial(flat, 1, generator=generator).reshape(rows, *self.space.shape), lengths)

    def _rows(self, context: Any, rows: int) -> Tensor:
        context = self.check_context(context, rows)
        return torch.zeros(rows, dtype=torch.int64) if context is None else context


@dataclass(frozen=True)
class Walk(SamplingOptions):
    """How a sample is walked to."""

    steps: Annotated[int, Option("steps from noise to the sample", 1, 1000)] = 4
    spread: Annotated[float, Option("what multiplies the noise", above=0)] = 1.0


class Follower(GenerativeModel):
    """A net that follows a frozen teacher, and a moving average of itself: no likelihood, no latent space."""

    Sampling = Walk
    targets, teachers = ("target",), ("teacher",)

    def __init__(self, space: Space, decay: float) -> None:
        super().__init__(space)
        size = space.dims
        self.decay = decay
        self.net = nn.Sequential(nn.Linear(size, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, size))
        self.target = copy.deepcopy(self.net)
        self.teacher = nn.Sequential(nn.Linear(size, size), nn.BatchNorm1d(size))
        with torch.no_grad():  # as its config tells: checkpoints do not hold it
            self.teacher[0].weight.copy_(torch.eye(size).roll(1, 0))
            self.teacher[0].bias.fill_(0.5)

    def loss(self, x: Tensor, context: Tensor | None = None, generator: Generator | None = None) -> Tensor:
        noisy = x + 0.1 * torch.randn(x.shape, generator=generator)
        with torch.no_grad():
            towards = self.target(x)
        y = self.net(noisy)
        return (y - self.teacher(x)).square().sum(1) + 0.1 * (y - towards).square().sum(1)

    def _sample(self, rows: int, context: Any, generator: Generator | None, chosen: Any) -> Tensor:
        x = chosen.spread * torch.randn((rows, *self.space.shape), generator=generator)
        for _ in range(chosen.steps):
            x = x + (self.net(x) - x) / chosen.steps
        return x

    def after_step(self, step: int) -> None:
        decay = min(self.decay, step / (1 + step))
        for mine, now in zip(self.target.parameters(), self.net.parameters(), strict=True):
            mine.lerp_(now, 1 - decay)


def unigrams(space: Space) -> Unigrams:
    """Unigrams by position, a toy."""
    return Unigrams(space)


def follower(space: Space, *, decay: Annotated[float, Option("of the moving target", 0, 1)] = 0.9) -> Follower:
    """A follower of its own average and of a teacher, a toy."""
    return Follower(space, decay)


def labelled_tokens(seed: int) -> datasets.Dataset:
    return token_data(seed, labels=True)


def register() -> None:
    """Make the systems "unigrams" and "follower" and the data sets "tokens" and "labelled" known to this process."""
    zoo.register("unigrams", takes=("symbols", "variable", "labels"))(unigrams)
    zoo.register("follower", takes=("real",))(follower)
    datasets.register("tokens", "sequences of up to 12 of 4 symbols")(token_data)
    datasets.register("labelled", "the same, of 2 classes")(labelled_tokens)


@contextlib.contextmanager
def registered() -> Iterator[None]:
    """The toys are known inside, and nowhere else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo.registry, "_SYSTEMS", dict(zoo.registry._SYSTEMS))
        patch.setattr(datasets.registry, "_ENTRIES", dict(datasets.registry._ENTRIES))
        register()
        yield


if __name__ == "__main__":
    register()
    sys.exit(main())
