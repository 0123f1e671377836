"""Samples of any space beside data, by a few metrics, each with its error: the one call that an evaluation makes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ..space import Events, Ragged, Space
from ..transforms.base import varying
from .c2st import c2st
from .energy import energy_distance
from .frechet import frechet_distance
from .levels import with_error
from .pairs import two_samples
from .precision_recall import precision_recall
from .sliced import sliced_wasserstein
from .symbols import column_distance, ngram_distance, total_variation
from .wasserstein import wasserstein

MOST = 2000
"""Rows of either kind that are compared."""
GROUPS = 10
"""Parts into which they are dealt, for a standard error."""
LEAST = 20
"""Rows that a part has at least."""


@dataclass(frozen=True)
class Measure:
    """What a metric says of samples: its mean over parts of the rows, and the standard error of that mean.

    ``noise`` is the mean of the same metric between parts of the data alone, of the same size: what a perfect sampler
    would reach. Of too few rows for two parts there is neither error nor noise: None.

    >>> from pyflowk.metrics import Measure
    >>> str(Measure(value=0.7, error=0.03, noise=0.49))
    '0.700 +- 0.030 (data among themselves 0.490)'
    """

    value: float
    error: float | None = None
    noise: float | None = None

    def __str__(self) -> str:
        return with_error(self.value, self.error, 3) + (
            "" if self.noise is None else f" (data among themselves {self.noise:.3f})"
        )


@torch.no_grad()
def compare(samples: Events, reference: Events, space: Space, generator: Generator | None = None) -> dict[str, Measure]:
    r"""How far samples (N, \*shape) are from reference data (M, \*shape), by name; either may be :class:`Ragged`.

    - Numbers and ordered levels: ``energy_distance``, ``wasserstein``, ``sliced_wasserstein``, ``c2st`` (0.5 where
      neighbours cannot tell), ``precision`` and ``coverage`` (of 5 neighbours). Real columns are divided by the
      deviation they have in the reference, levels by the largest one; points of a manifold are compared as networks see
      them, without a seam.
    - Symbols: ``unigrams`` and ``bigrams``, total variation between their frequencies, from 0 to 1; ``lengths``, the
      same of lengths, where they vary. Of the columns of a table ``columns`` and ``pairs_of_columns``, the same of the
      values of a column and of two together, on average.

    As many rows of both, 2000 at most, are drawn by the generator and dealt into up to 10 parts. Each part of the
    samples is compared with one of the reference; the mean and its standard error over these are a :class:`Measure`,
    beside which stands the same between parts of the reference: metrics that few rows inflate are inflated there, too.
    A difference well beyond the error is none of chance. Nothing can be said of fewer than 20 rows and of numbers of
    variable length: the result is empty. Raises ValueError or TypeError for rows that are not of the space. Cost: 2000
    rows of 64 numbers take some 0.6 s of one core, in proportion to the numbers.

    >>> import torch
    >>> from pyflowk.metrics import compare
    >>> from pyflowk.space import Space
    >>> x = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
    >>> found = compare(x[:500] + 1, x[500:], Space((2,)), torch.Generator().manual_seed(0))
    >>> found["c2st"].value > found["c2st"].noise + 5 * found["c2st"].error
    True
    """
    if not isinstance(space, Space):
        raise TypeError(f"space: expected a Space, such as Space((2,)), got {space!r}")
    for x in (samples, reference):
        space.check(x)
    if space.variable and space.kind != "symbols":
        return {}
    if space.kind != "symbols":
        samples, reference = _scaled(samples, reference, space)  # type: ignore[arg-type]
    return _compared(samples, reference, GROUPS, lambda x, y: _measured(x, y, space, generator), generator)


@torch.no_grad()
def compare_features(samples: Tensor, reference: Tensor, generator: Generator | None = None) -> dict[str, Measure]:
    r"""How far the features (N, F) of samples are from those of data (M, F), by name: what is compared of pictures.

    ``frechet_distance``, ``precision`` and ``coverage`` of the features that a network sees, such as those of a
    :class:`Classifier`; dealt into two parts, with their errors and what data among themselves give, as in
    :func:`compare`, which also says what is raised. A Frechet distance of few rows is too large: its noise says by how
    much. Cost: some 0.2 s for 2000 rows of 64 features.

    >>> import torch
    >>> from pyflowk.metrics import compare_features
    >>> x = torch.randn(1000, 4, generator=torch.Generator().manual_seed(0))
    >>> found = compare_features(x[:500] + 1, x[500:], torch.Generator().manual_seed(0))
    >>> found["frechet_distance"].value > 3 and found["frechet_distance"].noise < 0.5
    True
    """

    def measured(x: Events, y: Events) -> dict[str, float]:
        assert isinstance(x, Tensor) and isinstance(y, Tensor)
        shares = precision_recall(x, y)
        found = (frechet_distance(x, y), shares.precision, shares.coverage)
        return dict(zip(("frechet_distance", "precision", "coverage"), map(float, found)))

    return _compared(*two_samples(samples, reference), 2, measured, generator)


def _compared(
    samples: Events,
    reference: Events,
    groups: int,
    measured: Callable[[Events, Events], dict[str, float]],
    generator: Generator | None,
) -> dict[str, Measure]:
    """As many rows of both, dealt into parts that are compared one by one; nothing of too few rows."""
    size = min(len(samples), len(reference), MOST)
    if size < LEAST:
        return {}
    parts = max(1, min(groups, size // LEAST))
    ours, data = (_dealt(x, size, parts, generator) for x in (samples, reference))
    found = [measured(x, y) for x, y in zip(ours, data, strict=True)]
    others = [measured(x, y) for x, y in zip(data, data[1:] + data[:1])] if parts > 1 else []
    return {name: _measure([one[name] for one in found], [one[name] for one in others]) for name in found[0]}


def _measure(values: list[float], noise: list[float]) -> Measure:
    if len(values) == 1:
        return Measure(values[0])
    spread = torch.tensor(values, dtype=torch.float64)
    error = spread.std().item() / math.sqrt(len(values))
    return Measure(spread.mean().item(), error if math.isfinite(error) else None, sum(noise) / len(noise))


def _measured(x: Events, y: Events, space: Space, generator: Generator | None) -> dict[str, float]:
    """All metrics of one pair of parts."""
    if space.columns is not None:
        assert isinstance(x, Tensor) and isinstance(y, Tensor)
        found = {name: column_distance(x, y, order) for order, name in ((1, "columns"), (2, "pairs_of_columns"))}
    elif space.symbols is not None:
        found = {name: ngram_distance(x, y, space.symbols, order) for order, name in ((1, "unigrams"), (2, "bigrams"))}
        if isinstance(x, Ragged) and isinstance(y, Ragged):
            found["lengths"] = total_variation(x.lengths, y.lengths)
    else:
        assert isinstance(x, Tensor) and isinstance(y, Tensor)
        shares = precision_recall(x, y)
        found = {
            "energy_distance": energy_distance(x, y),
            "wasserstein": wasserstein(x, y),
            "sliced_wasserstein": sliced_wasserstein(x, y, generator=generator),
            "c2st": c2st(x, y),
            "precision": shares.precision,
            "coverage": shares.coverage,
        }
    return {name: float(value) for name, value in found.items()}


def _dealt(x: Events, size: int, parts: int, generator: Generator | None) -> list[Events]:
    """``parts`` equal parts of ``size`` rows drawn without replacement; what is left over is left out."""
    rows = torch.randperm(len(x), generator=generator)[: size // parts * parts]
    return [x[chosen] for chosen in rows.chunk(parts)]


def _scaled(samples: Tensor, reference: Tensor, space: Space) -> tuple[Tensor, Tensor]:
    """Rows in float64 whose numbers count alike."""
    x, y = samples.flatten(1).double(), reference.flatten(1).double()
    if space.levels is not None:
        return x / (space.levels - 1), y / (space.levels - 1)
    if (geometry := space.geometry) is not None:
        return geometry.embed(x.reshape(len(x), *space.shape)), geometry.embed(y.reshape(len(y), *space.shape))
    std = y.std(0)
    std = torch.where(varying(y.mean(0), std), std, 1.0)
    return x / std, y / std
