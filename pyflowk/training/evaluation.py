"""Log-likelihoods of a data set under a model, and samples of it, in batches."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from ..datasets import Dataset
from ..metrics import Score, gaussian_level, score, trivial_level, with_error
from ..zoo import GenerativeModel
from .threads import Threads

BATCH = 512
"""Samples that are scored or drawn at a time."""


def device_of(model: torch.nn.Module) -> torch.device:
    """Where the model's weights are."""
    return next(itertools.chain(model.parameters(), model.buffers())).device


@torch.no_grad()
def log_prob(
    model: GenerativeModel,
    x: Tensor,
    labels: Tensor | None = None,
    *,
    seed: int = 0,
    draws: int = 1,
    batch_size: int = BATCH,
    threads: Threads | None = None,
    watch: Callable[[float], None] | None = None,
) -> Tensor:
    """Log-likelihood (N,) float64 in nats of samples x (N, *shape), on the CPU.

    Integer data is dequantised by seeded noise: the mean over `draws` independent draws is a lower bound on the
    log-probability, the same in expectation for every number of draws. `labels`, (N,) or contexts (N, C), are used by
    conditional models only. The model is evaluated in eval mode and left as it was. `threads` is told of every batch;
    by default the batches choose their own number of threads; `watch` hears of the part that is done. Cost: `draws`
    forward passes.

    >>> import torch
    >>> from pyflowk import zoo
    >>> from pyflowk.training import log_prob
    >>> log_prob(zoo.create("nice", (2,)), torch.zeros(3, 2)).shape
    torch.Size([3])
    """
    device = device_of(model)
    generator = Generator(device).manual_seed(seed)
    training = model.training
    model.eval()
    total = torch.zeros(len(x), dtype=torch.float64)
    try:
        with threads or Threads(device=device) as threads:
            batches = torch.arange(len(x)).split(batch_size) * draws
            for number, rows in enumerate(batches, start=1):
                context = None if not model.conditional or labels is None else labels[rows].to(device)
                with threads.step():
                    total[rows] += model.log_prob(x[rows].to(device), context, generator).double().cpu()
                if watch is not None:
                    watch(number / len(batches))
    finally:
        model.train(training)
    return total / draws


@torch.no_grad()
def sample(
    model: GenerativeModel,
    n: int,
    context: Tensor | None = None,
    generator: Generator | None = None,
    *,
    batch_size: int = BATCH,
    threads: Threads | None = None,
    watch: Callable[[float], None] | None = None,
    **options: Any,
) -> Tensor:
    """Samples (n, *shape) of a model, on the CPU; `context` is (n,) labels or (n, C), or one row for all.

    `options` are the model's own. Samples are drawn in batches, so that the memory of the work does not grow with n; up
    to `batch_size` are what `model.sample` gives. `threads` is told of every batch; by default the batches choose their
    own number of threads; `watch` hears of the part that is done.

    >>> from pyflowk import training, zoo
    >>> training.sample(zoo.create("nice", (2,)), 1000).shape
    torch.Size([1000, 2])
    """
    drawn = []
    context = None if context is None else context.expand(n, *context.shape[1:])
    with threads or Threads(device=device_of(model)) as threads:
        for rows in torch.arange(n).split(batch_size):
            some = None if context is None else context[rows].to(device_of(model))
            with threads.step():
                drawn.append(model.sample(len(rows), some, generator, **options).cpu())
            if watch is not None:
                watch((int(rows[-1]) + 1) / n)
    return torch.cat(drawn)


@dataclass(frozen=True)
class Report:
    """A model's score on the test part beside the levels it has to beat; `model` is None without a likelihood.

    Nats of a table are those of the columns that the model sees, standardised by the training rows, so that they do not
    change with a unit, and are those of the training log; in the table's own units they are lower by `log_scale`.
    """

    data: Dataset
    model: Score | None
    gaussian: Score | None

    def lines(self) -> list[tuple[str, str]]:
        """(what, how much) pairs, to be printed as a table."""
        trivial = trivial_level(self.data.space)
        rows = [("model", str(self.model) if self.model else "has no likelihood")]
        why = "not defined for so few samples" if len(self.data.train) else "no training rows to fit it to"
        rows += [("one full Gaussian", str(self.gaussian) if self.gaussian else why)]
        rows += [("trivial", f"{trivial:.3f} bits/dim")] if trivial is not None else []
        if self.data.entropy is not None and self.model is not None:
            excess = -self.model.nats - self.data.entropy
            rows += [("NLL minus entropy", f"{with_error(excess, self.model.nats_error, 3)} nats")]
        if self.log_scale and self.model is not None:
            own = with_error(self.model.nats - self.log_scale, self.model.nats_error, 2)
            why = f"minus the sum of log std, {self.log_scale:.2f}"
            rows += [("units", f"nats are of standardised columns; in the table's units {own} for the model ({why})")]
        return rows

    @property
    def log_scale(self) -> float:
        """Nats by which a density in the table's units is lower than one of the standardised columns."""
        return 0.0 if self.data.preparation is None else self.data.preparation.log_scale

    def as_dict(self) -> dict[str, Any]:
        """The same numbers for JSON, which has none that are not finite: None stands for them."""
        scores = {"model": self.model, "gaussian": self.gaussian}
        return {
            "data": self.data.name,
            **{name: _finite(asdict(value)) if value else None for name, value in scores.items()},
            "trivial_bits": trivial_level(self.data.space),
            "entropy": self.data.entropy,
            "log_scale": self.log_scale,
        }


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


def evaluate(
    model: GenerativeModel,
    data: Dataset,
    *,
    seed: int = 0,
    draws: int = 1,
    threads: Threads | None = None,
    watch: Callable[[float], None] | None = None,
) -> Report:
    """Score a model on the test part, beside one Gaussian fitted to the training part; options as in `log_prob`."""
    options: dict[str, Any] = {"seed": seed, "draws": draws, "threads": threads, "watch": watch}
    try:
        own = score(log_prob(model, *data.take("test"), **options), data.space)
    except NotImplementedError:
        own = None
    parts = data.train, data.test, data.train_context, data.test_context
    return Report(data, own, gaussian_level(data.space, *parts, seed=seed))
