"""Flows by scikit-learn's calls: `FlowDensity` estimates a density, as KernelDensity and GaussianMixture do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from ..training import TrainConfig
from ._tables import TableDensity

__all__ = ["FlowDensity"]


class FlowDensity(DensityMixin, BaseEstimator):
    """A flow of the zoo as a density of rows X (N, D), or of X given conditions y (N,) or (N, C).

    ``system`` is one with a density, with its ``options``; ``steps`` of the optimiser, ``batch_size``, ``lr`` and
    ``random_state`` are those of the training. Rows are standardised inside, and densities are in the units of X. A
    tenth of them validates. It is cloned, searched over and put behind a pipeline as any estimator; ``score`` is the
    mean log-density a row. After ``fit``: ``density_``, whose ``model`` is the system, and ``n_features_in_``. Raises
    ValueError for fewer than 20 rows, numbers that are not finite, and constant columns; NotFittedError before ``fit``.

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
        random_state: int = 0,
    ) -> None:
        self.system, self.steps, self.batch_size, self.lr = system, steps, batch_size, lr
        self.options, self.random_state = options, random_state

    def fit(self, X: Any, y: Any = None) -> FlowDensity:
        """Train on rows X, given y if there is one."""
        rows = torch.from_numpy(validate_data(self, X, dtype=np.float64))
        config = TrainConfig(
            steps=self.steps, batch_size=min(self.batch_size, len(rows)), lr=self.lr, seed=self.random_state,
            warmup=min(100, self.steps // 10), validate_every=max(1, self.steps // 20), save_every=self.steps,
            sample_every=0, tensorboard=False, cpu=True,
        )  # fmt: skip
        self.density_ = TableDensity(rows, _conditions(y), self.system, self.options or {}, config)
        return self

    def score_samples(self, X: Any, y: Any = None) -> np.ndarray:
        """Log-densities (N,) of rows in nats, in the units of X."""
        check_is_fitted(self)
        rows = torch.from_numpy(validate_data(self, X, dtype=np.float64, reset=False))
        return self.density_.log_prob(rows, _conditions(y)).numpy()

    def score(self, X: Any, y: Any = None) -> float:
        """The mean of :meth:`score_samples`."""
        return float(self.score_samples(X, y).mean())

    def sample(self, n_samples: int = 1, y: Any = None, random_state: int | None = None) -> np.ndarray:
        """Rows (n_samples, D), for one condition (1, C) or as many."""
        check_is_fitted(self)
        generator = None if random_state is None else torch.Generator().manual_seed(random_state)
        return self.density_.sample(n_samples, _conditions(y), generator).numpy()


def _conditions(y: Any) -> Tensor | None:
    """Conditions as rows of float64, None for none."""
    if y is None:
        return None
    values = torch.from_numpy(np.asarray(y, dtype=np.float64))
    return values[:, None] if values.dim() == 1 else values
