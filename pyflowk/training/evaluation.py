"""How good a model is on a data set: its likelihood where it has one, its samples always, in batches."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor

from ..datasets import Dataset
from ..datasets.rows import in_place
from ..metrics import (
    Measure,
    Score,
    compare,
    gaussian_level,
    ngram_level,
    score,
    tree_level,
    trivial_level,
    with_error,
)
from ..metrics.levels import lengths_of, unit_of
from ..space import Events, Paired, Space, cat
from ..zoo import Ability, GenerativeModel
from .judging import BEST, judge
from .spaces import check_fit
from .threads import Threads

BATCH = 512
"""Samples that are scored or drawn at a time."""
QUICK = 4
"""Steps, at least, of a likelihood in a few steps."""
COMPARED = 1000
"""Samples, at most, that are compared with as many test rows."""
NGRAMS = {"unigrams": 1, "bigrams": 2, "trigrams": 3}
"""The levels of symbols, and how many symbols they count together."""
TREES = {"independent columns": True, "tree of columns": False}
"""The levels of the columns of a table, and whether each stands alone."""


def device_of(model: torch.nn.Module) -> torch.device:
    """Where the model's weights are; one without any is on the CPU."""
    first = next(itertools.chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if first is None else first.device


@contextlib.contextmanager
def evaluating(model: GenerativeModel) -> Iterator[GenerativeModel]:
    """The model in evaluation mode; afterwards every part of it is in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield model.eval()
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def log_prob(
    model: GenerativeModel,
    x: Any,
    context: Any = None,
    *,
    seed: int = 0,
    draws: int = 1,
    batch_size: int = BATCH,
    threads: Threads | None = None,
    watch: Callable[[float], None] | None = None,
    **options: Any,
) -> Tensor:
    r"""Log-likelihood (N,) float64 in nats of events x, (N, \*shape) or other rows, on the CPU.

    Integer data is dequantised by seeded noise: the mean over `draws` independent draws is a lower bound on the
    log-probability, the same in expectation for every number of draws. `context`, N rows too, is used by conditional
    models only. The model is evaluated in eval mode and left as it was. `threads` is told of every batch; by default
    the batches choose their own number of threads; `watch` hears of the part that is done. `options` are what the
    model's `log_prob` takes beside, as `steps` where that is an ability. Raises NotImplementedError for a model without
    a likelihood. Cost: `draws` forward passes.

    >>> import torch
    >>> from pyflowk import zoo
    >>> from pyflowk.training import log_prob
    >>> log_prob(zoo.create("nice", (2,)), torch.zeros(3, 2)).shape
    torch.Size([3])
    """
    model.require(Ability.LIKELIHOOD)
    device = device_of(model)
    generator = Generator(device).manual_seed(seed)
    total = torch.zeros(len(x), dtype=torch.float64)
    with evaluating(model), threads or Threads(device=device) as threads:
        batches = torch.arange(len(x)).split(batch_size) * draws
        for number, rows in enumerate(batches, start=1):
            given = None if model.space.context is None or context is None else context[rows].to(device)
            with threads.step():
                total[rows] += model.log_prob(x[rows].to(device), given, generator, **options).double().cpu()
            if watch is not None:
                watch(number / len(batches))
    return total / draws


@torch.no_grad()
def sample(
    model: GenerativeModel,
    n: int,
    context: Events | None = None,
    generator: Generator | None = None,
    *,
    batch_size: int = BATCH,
    threads: Threads | None = None,
    watch: Callable[[float], None] | None = None,
    **options: Any,
) -> Any:
    r"""Samples (n, \*shape) of a model, on the CPU; `context` has n rows, or one for all.

    `options` are the model's own. Samples are drawn in batches, so that the memory of the work does not grow with n; up
    to `batch_size` are what `model.sample` gives in evaluation mode. `threads` is told of every batch; by default the
    batches choose their own number of threads; `watch` hears of the part that is done. Raises ValueError or TypeError
    where what the model draws are no events of its space.

    >>> from pyflowk import training, zoo
    >>> training.sample(zoo.create("nice", (2,)), 1000).shape
    torch.Size([1000, 2])
    """
    drawn = []
    if context is not None and len(context) == 1:
        context = context[torch.zeros(n, dtype=torch.int64)]
    with evaluating(model), threads or Threads(device=device_of(model)) as threads:
        for rows in torch.arange(n).split(batch_size):
            some = None if context is None else context[rows].to(device_of(model))
            with threads.step():
                x = model.sample(len(rows), some, generator, **options)
            model.space.check(x)  # a system's own mistake is one here, and none in what is made of its samples
            drawn.append(x.to("cpu"))
            if watch is not None:
                watch((int(rows[-1]) + 1) / n)
    return cat(drawn)


@dataclass(frozen=True)
class Quick:
    """The likelihood of the first test rows in a few steps: its mean, and how far from the exact one."""

    steps: int
    rows: int
    nats: float
    excess: float
    off: float

    def __str__(self) -> str:
        apart = f"from the exact one {self.excess:+.3f} on average, {self.off:.3f} a row"
        return f"log-likelihood {self.nats:.3f} nats of the first {self.rows} rows; {apart}"


@dataclass(frozen=True)
class Report:
    """A model's score on the test part beside the levels it has to beat, None without a likelihood; its samples beside
    the test part, by the names of :func:`pyflowk.metrics.compare`; where it has a `quick` likelihood, how good that is.

    The levels are those of one Gaussian for numbers, of n-grams for symbols, of what is uniform on a manifold. Nats of
    a table are those of the columns that the model sees, standardised by the training rows, so that they do not change
    with a unit, and are those of the training log; in the table's own units they are lower by `log_scale`.
    """

    data: Dataset
    model: Score | None
    gaussian: Score | None = None
    ngrams: Mapping[str, Score | None] = field(default_factory=dict)
    samples: Mapping[str, Measure] = field(default_factory=dict)
    quick: Quick | None = None

    def lines(self) -> list[tuple[str, str]]:
        """(what, how much) pairs, to be printed as a table."""
        best = {name: f"; {words}" for name, words in BEST.items()}
        near = [(f"samples: {k.replace('_', ' ')}", f"{v}{best.get(k, '')}") for k, v in self.samples.items()]
        return [
            *self._likelihood(),
            *(near or [("samples", "not compared: too few test rows, or numbers of several lengths")]),
        ]

    def _likelihood(self) -> list[tuple[str, str]]:
        if self.model is None:
            return [("model", "has no likelihood")]
        space, trivial = self.data.space, self.trivial
        rows = [("model", str(self.model))]
        rows += [(f"in {self.quick.steps} steps", str(self.quick))] if self.quick else []
        if space.geometry is not None:
            rows += [("uniform", f"log-likelihood {-space.geometry.log_volume:.2f} nats")]
        elif space.kind == "symbols":
            rows += [(name, str(level) if level else "nothing to count in") for name, level in self.ngrams.items()]
        else:
            why = "not defined for so few samples" if len(self.data.train) else "no training rows to fit it to"
            why = "not defined for rows of several lengths" if space.variable else why
            why = "not fitted to pairs" if isinstance(self.data.train, Paired) else why
            rows += [("one full Gaussian", str(self.gaussian) if self.gaussian else why)]
        rows += [("trivial", f"{trivial:.3f} bits/{unit_of(space)}")] if trivial is not None else []
        if self.data.entropy is not None:
            excess = -self.model.nats - self.data.entropy
            rows += [("NLL minus entropy", f"{with_error(excess, self.model.nats_error, 3)} nats")]
        if self.log_scale:
            own = with_error(self.model.nats - self.log_scale, self.model.nats_error, 2)
            why = f"minus the sum of log std, {self.log_scale:.2f}"
            rows += [("units", f"nats are of standardised columns; in the table's units {own} for the model ({why})")]
        return rows

    @property
    def trivial(self) -> float | None:
        """Bits per symbol or dimension of test rows whose entries and lengths are uniform; None for real numbers."""
        return trivial_level(self.data.space, lengths_of(self.data.test, self.data.space))

    @property
    def log_scale(self) -> float:
        """Nats by which a density in the table's units is lower than one of the standardised columns."""
        return 0.0 if self.data.preparation is None else self.data.preparation.log_scale

    def as_dict(self) -> dict[str, Any]:
        """The same numbers for JSON, which has none that are not finite: None stands for them."""
        levels = {name: self.ngrams.get(name) for name in (*NGRAMS, *TREES)}
        scores = {"model": self.model, "gaussian": self.gaussian, **levels}
        return {
            "data": self.data.name,
            **{name: _finite(asdict(value)) if value else None for name, value in scores.items()},
            "trivial_bits": self.trivial,
            "entropy": self.data.entropy,
            "log_scale": self.log_scale,
            "quick": _finite(asdict(self.quick)) if self.quick else None,
            "samples": {name: _finite(asdict(measure)) for name, measure in self.samples.items()},
        }


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


def evaluate(
    model: GenerativeModel,
    data: Dataset,
    *,
    seed: int = 0,
    draws: int = 1,
    sampling: Mapping[str, Any] | None = None,
    thorough: bool = False,
    rows: int | None = None,
    threads: Threads | None = None,
    watch: Callable[[float], None] | None = None,
) -> Report:
    """Judge a model by the test part; options as in `log_prob`.

    A model with a likelihood is scored beside levels that are fitted to the training part. Samples of every model, 1000
    at most, drawn with the options `sampling` and for the contexts of test rows, are compared with these rows;
    `thorough` also asks what takes longer, :func:`pyflowk.training.judging.judge`; `rows` is how many test rows, evenly
    spread, are scored, by default all. Raises ValueError for data that the model is not for.
    """
    check_fit(model.space, data)
    space, noise = data.space, Generator(device_of(model)).manual_seed(seed)
    count = min(COMPARED, len(data.test))
    x, context = data.take("test", _spread(count, len(data.test)))
    given = None if model.space.context is None else context
    drawing = _half(watch, 0) if Ability.LIKELIHOOD in model.abilities else watch
    drawn = sample(model, count, given, noise, threads=threads, watch=drawing, **(sampling or {}))
    samples = compare(drawn, x, space, Generator().manual_seed(seed))
    if thorough:
        samples |= judge(model, data, drawn, x, given, Generator().manual_seed(seed))
    if Ability.LIKELIHOOD not in model.abilities:
        return Report(data, None, samples=samples)
    test, conditions = data.test, data.test_context
    if rows is not None and rows < len(test):
        test, conditions = data.take("test", _spread(rows, len(test)))
    nats = log_prob(model, test, conditions, seed=seed, draws=draws, threads=threads, watch=_half(watch, 1))
    own, quick = score(nats, space, lengths_of(test, space)), None
    if Ability.QUICK_LIKELIHOOD in model.abilities:
        quick = _quick(model, test, conditions, nats, seed, dict(sampling or {}), threads)
    train, known = data.train, data.train_context
    if isinstance(train, Paired):  # a model's own, inside of it
        train, known = test[:0], None
    if space.kind == "real":  # integers get noise, row by row
        train, known = in_place(train), in_place(known)
    gaussian = gaussian_level(space, train, test, known, conditions, seed=seed)
    return Report(data, own, gaussian, _levels(space, train, test), samples, quick)


def _half(watch: Callable[[float], None] | None, number: int) -> Callable[[float], None] | None:
    """What a half of a work tells to who watches the whole."""
    heard = watch
    return None if heard is None else lambda part: heard((number + part) / 2)


def _levels(space: Space, train: Any, test: Any) -> dict[str, Score | None]:
    """What symbols have to beat: n-grams, or of the columns of a table these by themselves and each given one other."""
    if space.columns is not None:
        return {name: tree_level(space, train, test, independent=alone) for name, alone in TREES.items()}
    if space.kind != "symbols":
        return {}
    return {name: ngram_level(space, train, test, order=order) for name, order in NGRAMS.items()}


def _quick(
    model: GenerativeModel, x: Any, context: Any, exact: Tensor, seed: int, sampling: dict[str, Any],
    threads: Threads | None,
) -> Quick:  # fmt: skip
    """Its likelihood in the steps of samples, if there are several, beside the exact one: of one batch, whose noise is
    the same in both."""
    steps, some = max(QUICK, sampling.get("steps") or 1), None if context is None else context[:BATCH]
    nats = log_prob(model, x[:BATCH], some, seed=seed, threads=threads, steps=steps)
    apart = nats - exact[:BATCH]
    return Quick(steps, len(nats), nats.mean().item(), apart.mean().item(), apart.square().mean().sqrt().item())


def _spread(count: int, rows: int) -> Tensor:
    """Indices of ``count`` of so many rows, in equal distances; in integers, for floats miss rows beyond 2^24."""
    return torch.arange(count) * (rows - 1) // max(1, count - 1)
