"""Flows by scikit-learn's calls: `FlowDensity` estimates a density, as KernelDensity and GaussianMixture do."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any, TypeAlias

import numpy as np
import torch
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils.validation import check_is_fitted, check_random_state, validate_data
from torch import Tensor

from ..training import TrainConfig
from ._tables import TableDensity

__all__ = ["FlowDensity"]

RandomState: TypeAlias = "int | np.integer[Any] | np.random.RandomState | np.random.Generator | None"


class FlowDensity(DensityMixin, BaseEstimator):
    """A flow of the zoo as a density of rows X (N, D), or of X given conditions y (N,) or (N, C).

    ``system`` is one with a density, with its ``options``; ``steps`` of the optimiser, ``batch_size``, ``lr`` and
    ``random_state`` are those of the training. Rows are standardised inside, and densities are in the units of X. A
    tenth of them validates. It is cloned, searched over and put behind a pipeline as any estimator; ``score`` is the
    mean log-density a row. After ``fit``: ``density_``, whose ``model`` is the system, and ``n_features_in_``. Each
    ``random_state`` is an integer, a generator of numpy's, which moves on, or None, which is numpy's global one. Raises
    ValueError for fewer than 20 rows, numbers that are not finite, constant columns, and for y where there was none in
    ``fit``, or the other way round; NotFittedError before ``fit``.

    >>> import numpy as np
    >>> from pyflowk.compat.sklearn import FlowDensity
    >>> X = np.random.default_rng(0).normal(5, 2, (200, 2))
    >>> flow = FlowDensity("nice", steps=20, options={"width": 16}).fit(X)
    >>> flow.score_samples(X).shape, flow.sample(3).shape
    ((200,), (3, 2))
    """

    def __init__(
        self,
        system: str = "maf",
        *,
        steps: int = 2000,
        batch_size: int = 256,
        lr: float = 3e-3,
        options: Mapping[str, Any] | None = None,
        random_state: RandomState = 0,
    ) -> None:
        self.system, self.steps, self.batch_size, self.lr = system, steps, batch_size, lr
        self.options, self.random_state = options, random_state

    def fit(self, X: Any, y: Any = None) -> FlowDensity:
        """Train on rows X, given y if there is one."""
        rows = torch.from_numpy(validate_data(self, X, dtype=np.float64))
        config = TrainConfig(
            steps=self.steps, batch_size=min(self.batch_size, len(rows)), lr=self.lr, seed=_seed(self.random_state),
            warmup=min(100, self.steps // 10), validate_every=max(1, self.steps // 20), save_every=self.steps,
            sample_every=0, tensorboard=False, cpu=True,
        )  # fmt: skip
        self.density_ = TableDensity(rows, _conditions(y), self.system, self.options or {}, config)
        return self

    def score_samples(self, X: Any, y: Any = None) -> np.ndarray:
        """Log-densities (N,) of rows in nats, in the units of X."""
        check_is_fitted(self)
        rows = torch.from_numpy(validate_data(self, X, dtype=np.float64, reset=False))
        return self.density_.log_prob(rows, self._given(y)).numpy()

    def score(self, X: Any, y: Any = None) -> float:
        """The mean of :meth:`score_samples`."""
        return float(self.score_samples(X, y).mean())

    def sample(self, n_samples: int = 1, y: Any = None, random_state: RandomState = None) -> np.ndarray:
        """Rows (n_samples, D), for one condition (1, C) or as many."""
        check_is_fitted(self)
        generator = torch.Generator().manual_seed(_seed(random_state))
        given = self._given(y)
        if given is not None and len(given) not in (1, n_samples):
            raise ValueError(f"y: expected 1 condition or {n_samples}, one a sample, got {len(given)}")
        return self.density_.sample(n_samples, given, generator).numpy()

    def _given(self, y: Any) -> Tensor | None:
        """Conditions as there were in ``fit``."""
        given, columns = _conditions(y), len(self.density_.preparation.given)
        if given is None and columns:
            raise ValueError(f"fitted with conditions: pass y, (N,) or (N, C), C = {columns}; got none")
        if given is not None and not columns:
            raise ValueError(f"fitted without conditions: expected no y, got one of shape {np.shape(y)}")
        if given is not None and given.shape[1:] != (columns,):
            raise ValueError(f"y: expected conditions (N, {columns}), as in fit, got shape {np.shape(y)}")
        return given


def _seed(random_state: RandomState) -> int:
    """An integer is its own, and generators draw one; ValueError as scikit-learn has it for anything else."""
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**31 - 1))
    generator = check_random_state(random_state)
    return int(random_state if isinstance(random_state, Integral) else generator.randint(2**31 - 1))


def _conditions(y: Any) -> Tensor | None:
    """Conditions as rows of float64, None for none."""
    if y is None:
        return None
    values = torch.from_numpy(np.asarray(y, dtype=np.float64))
    return values[:, None] if values.dim() == 1 else values
