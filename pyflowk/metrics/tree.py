"""The level of tables of symbols: columns by themselves, or each given one other."""

from __future__ import annotations

import torch
from torch import Tensor

from ..space import Space
from .levels import Score, score

MOST = 2**24
"""Pairs of values of two columns that are counted, at most."""


def tree_level(space: Space, train: Tensor, test: Tensor, *, independent: bool = False) -> Score | None:
    r"""Test score, in bits a row, of the best tree of columns: each given one other, counted in the training rows.

    .. math:: p(x) = \prod_i \frac{c(x_i, x_{\pi(i)}) + s_i^{-1}}{c(x_{\pi(i)}) + 1}

    The tree :math:`\pi` is the one that the training rows are likeliest by: it spans the columns with the most mutual
    information. c counts rows, s is the number of values of a column; the root, or with ``independent`` every column,
    stands alone: :math:`(c(x_i) + s_i^{-1}) / (N + 1)`. None for a space without columns, for no rows, and for more
    pairs of values than 2^24. Cost: one count of each pair of columns. Chow and Liu, 1968, "Approximating discrete
    probability distributions with dependence trees".

    >>> import torch
    >>> from pyflowk.columns import Column
    >>> from pyflowk.metrics import tree_level
    >>> from pyflowk.space import Space
    >>> twice = torch.randint(2, (1000, 1), generator=torch.Generator().manual_seed(0)).expand(-1, 2)
    >>> space = Space((2,), symbols=2, columns=(Column("a", ("x", "y")), Column("b", ("x", "y"))))
    >>> [round(tree_level(space, twice, twice, independent=alone).bits, 2) for alone in (True, False)]
    [2.0, 1.0]
    """
    sizes = space.sizes
    if sizes is None or not len(train) or not len(test) or max(sizes) ** 2 > MOST:
        return None
    parents = [-1] * len(sizes) if independent else _tree(train, sizes)
    log_prob = torch.zeros(len(test), dtype=torch.float64)
    for i, parent in enumerate(parents):
        alone = parent < 0
        counts = _counts(train, (i, i if alone else parent), sizes)
        counts = counts.diagonal().unsqueeze(1) if alone else counts
        chances = (counts + 1 / sizes[i]) / (counts.sum(0) + 1)
        log_prob += chances[test[:, i].long(), 0 if alone else test[:, parent].long()].log()
    return score(log_prob, space)


def _counts(x: Tensor, pair: tuple[int, int], sizes: tuple[int, ...]) -> Tensor:
    """How often each pair of values of two columns comes, (s_i, s_j) float64."""
    i, j = pair
    codes = x[:, i].long() * sizes[j] + x[:, j].long()
    return codes.bincount(minlength=sizes[i] * sizes[j]).reshape(sizes[i], sizes[j]).double()


def _information(x: Tensor, pair: tuple[int, int], sizes: tuple[int, ...]) -> float:
    p = _counts(x, pair, sizes) / len(x)
    return float((p * (p / (p.sum(0) * p.sum(1, keepdim=True))).log().nan_to_num()).nan_to_num().sum())


def _tree(x: Tensor, sizes: tuple[int, ...]) -> list[int]:
    """The parent of each column, -1 of the first: the tree of the most information, grown by one column at a time."""
    best = {j: (_information(x, (j, 0), sizes), 0) for j in range(1, len(sizes))}
    parents = [-1] * len(sizes)
    while best:
        new = max(best, key=lambda j: best[j][0])
        parents[new] = best.pop(new)[1]
        best = {j: max(old, (_information(x, (j, new), sizes), new)) for j, old in best.items()}
    return parents
