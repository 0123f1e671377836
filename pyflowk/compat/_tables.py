"""A density of rows, fitted by the trainer: what the estimators of other packages' habits stand on."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from .. import zoo
from ..datasets import Dataset, Preparation, Table
from ..datasets.base import table_space
from ..datasets.tables import check
from ..training import TrainConfig, Trainer, load_model
from ..zoo import Ability


class TableDensity:
    """log p(x | c) of rows x (N, D) given rows c (N, C), or without any, in their own units; all float64.

    Columns are standardised; a tenth of the rows validates, and the weights that are best there are kept. Raises
    ValueError for fewer than 20 rows, numbers that are not finite, constant columns, and for a system without density.
    """

    def __init__(
        self, x: Tensor, given: Tensor | None, system: str, options: Mapping[str, Any], config: TrainConfig
    ) -> None:
        rows = _beside(x, given)
        check(Table("rows", rows))
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(config.seed))
        train, valid = rows[order[len(rows) // 10 :]], rows[order[: len(rows) // 10]]
        self.preparation = Preparation.fit(train)
        if given is not None:
            self.preparation = self.preparation.conditioned([*range(x.shape[1], rows.shape[1])])
        (z, c), (z_valid, c_valid) = self.preparation.apply(train), self.preparation.apply(valid)
        space = table_space(self.preparation)
        data = Dataset("rows", space, z, z_valid, z[:0], c, c_valid, preparation=self.preparation)
        with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as out:
            torch.manual_seed(config.seed)
            model = zoo.create(system, space, **options)
            model.require(Ability.LIKELIHOOD)
            Trainer(model, data, config, out=out, console=Console(quiet=True)).run()
            self.model = load_model(out)[0]

    def log_prob(self, x: Tensor, given: Tensor | None = None) -> Tensor:
        """(N,) nats in the units of the rows."""
        z, context = self.preparation.apply(_beside(x, given))
        with torch.no_grad():
            return self.model.log_prob(z, context).double() - self.preparation.log_scale

    def sample(self, n: int, given: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """(n, D), for n conditions or one for all."""
        context = None if given is None else self.preparation.context_of(given)
        with torch.no_grad():
            return self.preparation.undo(self.model.sample(n, context, generator))


def _beside(x: Tensor, given: Tensor | None) -> Tensor:
    """Rows of what is modelled and of what is given, float64."""
    for name, rows in (("rows", x), ("conditions", given)):
        if rows is not None and (rows.dim() != 2 or len(rows) != len(x)):
            raise ValueError(f"expected {name} of numbers (N, D), N = {len(x)}; got shape {tuple(rows.shape)}")
    return x.double() if given is None else torch.cat((x.double(), given.double()), 1)
