"""The sliced Wasserstein distance: transport along lines, where it is a sort."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from .._checks import require_counts
from ..ops.draw import draw_normal
from .pairs import two_samples


def sliced_wasserstein(
    x: Tensor, y: Tensor, *, directions: int = 128, order: int = 2, generator: Generator | None = None
) -> Tensor:
    r"""Sliced Wasserstein distance of samples x (N, \*event) and y (M, \*event): a number in float64.

    .. math:: \Big(E_\theta \int_0^1 |F^{-1}_{\theta \cdot x}(q) - F^{-1}_{\theta \cdot y}(q)|^p\,dq\Big)^{1/p}

    over ``directions`` theta drawn uniformly from the sphere; p is ``order``, 1 or 2 as a rule. Along a line the
    optimal transport joins quantiles, for any two sizes; for events of one number the distance is the exact Wasserstein
    distance. It is in the units of the data, and above 0 for finite samples of one distribution. Raises ValueError for
    no samples or different shapes. Cost: a sort of both samples for each direction, (N + M) ``directions`` numbers.
    Rabin, Peyre, Delon, Bernot, 2011; Bonneel, Rabin, Peyre, Pfister, 2015, "Sliced and Radon Wasserstein barycenters".

    >>> import torch
    >>> from pyflowk.metrics import sliced_wasserstein
    >>> sliced_wasserstein(torch.tensor([[0.0], [1.0]]), torch.tensor([[4.0], [3.0], [3.0], [4.0]]))
    tensor(3., dtype=torch.float64)
    """
    x, y = two_samples(x, y, least=1)
    require_counts("sliced_wasserstein", directions=directions, order=order)
    if x.shape[1] != 1:
        lines = draw_normal((x.shape[1], directions), generator, dtype=torch.float64, device=x.device)
        lines = lines / lines.norm(dim=0)
        x, y = x @ lines, y @ lines
    x, y = x.sort(0).values, y.sort(0).values
    n, m = len(x), len(y)  # quantiles in steps of 1 / (n m): both functions are constant between the cuts
    cuts = torch.cat([torch.arange(n + 1) * m, torch.arange(m) * n]).unique().to(x.device)
    widths, starts = cuts.diff().double() / (n * m), cuts[:-1]
    gaps = (x[starts // m] - y[starts // n]).abs() ** order
    return (widths @ gaps).mean() ** (1 / order)
