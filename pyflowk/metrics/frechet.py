"""The Frechet distance between the Gaussians of two samples."""

from __future__ import annotations

import torch
from torch import Tensor

from .pairs import finite, two_samples


def frechet_distance(x: Tensor, y: Tensor) -> Tensor:
    r"""Squared Frechet distance between the Gaussians of samples x (N, \*event) and y (M, \*event), in float64.

    .. math:: |\mu_x - \mu_y|^2 + \mathrm{tr}\big(\Sigma_x + \Sigma_y
              - 2 (\Sigma_x^{1/2} \Sigma_y \Sigma_x^{1/2})^{1/2}\big)

    the squared 2-Wasserstein distance between these Gaussians; of an image network's features it is the FID. Only means
    and covariances are seen, and few samples make it too large: by some D^2 / N. Roots are taken of eigenvalues, so
    that fewer samples than features are no error. NaN for rows that are not finite. Raises ValueError for less than two
    samples or different shapes. Cost: (N + M) D^2 and two eigenvalue problems D x D.
    Dowson, Landau, 1982; Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter, 2017, arXiv:1706.08500.

    >>> import torch
    >>> from pyflowk.metrics import frechet_distance
    >>> frechet_distance(torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0], [7.0]]))
    tensor(18., dtype=torch.float64)
    """
    x, y = two_samples(x, y)
    first, second = (torch.atleast_2d(z.T.cov()) for z in (x, y))
    if not finite(first, second):  # nor are they for rows whose squares are not
        return x.new_full((), torch.nan)
    values, vectors = torch.linalg.eigh(first)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0).sqrt().sum()
    return (x.mean(0) - y.mean(0)).square().sum() + first.trace() + second.trace() - 2 * cross
