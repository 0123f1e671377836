"""From noised events to clean ones, by the score of the noised ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor

__all__ = ["denoise"]


def denoise(
    score: Callable[[Tensor, float], Tensor], z: Tensor, deviations: Sequence[float], clip: float | None = None
) -> Tensor:
    r"""Take noise off events, step by step: :math:`z \leftarrow m + (\sigma' / \sigma) (z - m)`, m = E[x | z].

    The mean is :math:`m = z + \sigma^2\, \nabla \log p_\sigma(z)` (Tweedie), what ``score(z, sigma)`` gives being the
    gradient; with ``clip`` it stays within so much of 0. ``deviations`` fall from that of the noise on z, of any shape
    (B, \*event), to 0. Steps of Euler of the equation along which noise of one deviation becomes noise of another: many
    leave the spread that data have; one, :math:`(\sigma, 0)`, goes to the mean, and leaves less. Cost: one score a
    step. Raises ValueError for deviations that do not fall to 0 or more from above it. Song et al., 2021,
    arXiv:2011.13456; for flows: Chen et al., 2026, arXiv:2604.20041.

    >>> import torch
    >>> from pyflowk.solvers import denoise
    >>> denoise(lambda z, sigma: -z / (1 + sigma**2), torch.tensor([[2.0]]), (1.0, 0.0))  # of N(0, 1)
    tensor([[1.]])
    """
    steps = [float(s) for s in deviations]
    if len(steps) < 2 or not all(a > b >= 0 for a, b in pairwise(steps)):
        raise ValueError(f"deviations: expected two or more that fall, down to 0 at the least, got {steps}")
    for sigma, following in pairwise(steps):
        mean = z + sigma**2 * score(z, sigma)
        mean = mean if clip is None else mean.clamp(-clip, clip)
        z = mean + (following / sigma) * (z - mean)
    return z
