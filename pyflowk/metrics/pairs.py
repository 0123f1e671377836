"""Two samples side by side: what is handed in is checked here, and distances come by blocks of rows."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Generator, Tensor

from .._checks import require_counts

BLOCK = 1 << 19
"""Distances that are held at a time, 4 MB. What is kept of a block goes into a tensor made before the first one: small
tensors made in between would keep the memory of all blocks apart."""


def two_samples(x: Tensor, y: Tensor, least: int = 2) -> tuple[Tensor, Tensor]:
    r"""x (N, \*event) and y (M, \*event) as rows (N, D) and (M, D) in float64; ValueError or TypeError otherwise."""
    for name, value in (("x", x), ("y", y)):
        if not isinstance(value, Tensor):
            raise TypeError(f"expected {name} to be a tensor, got {type(value).__name__}")
        if value.dim() == 0 or len(value) < least:
            raise ValueError(f"{name}: expected at least {least} samples, got {tuple(value.shape)}")
        if value.is_complex():
            raise TypeError(f"{name}: expected real numbers, got {value.dtype}")
    if x.shape[1:] != y.shape[1:] or x.device != y.device:
        here, there = (f"{tuple(value.shape)} on {value.device}" for value in (x, y))
        raise ValueError(f"expected samples of one shape on one device, got {here} and {there}")
    first, second = (value[:, None].flatten(1).double() for value in (x, y))
    return first, second


def thinned(x: Tensor, y: Tensor, generator: Generator | None) -> tuple[Tensor, Tensor]:
    """As many rows of both: those of the larger sample are drawn by the generator, nothing is drawn of equal ones."""
    size = min(len(x), len(y))
    device = "cpu" if generator is None else generator.device
    first, second = (
        z if len(z) == size else z[torch.randperm(len(z), generator=generator, device=device)[:size].to(z.device)]
        for z in (x, y)
    )
    return first, second


def finite(x: Tensor, y: Tensor) -> bool:
    """Whether all numbers are: what is sorted or ranked does not pass NaN on by itself."""
    return bool(x.isfinite().all() and y.isfinite().all())


def distance_blocks(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Euclidean distances of some rows of x from all rows of y, and which rows they are.

    Squares of differences are summed, not taken from products: equal rows have distance 0.
    """
    step = max(1, BLOCK // max(1, len(y)))
    for start in range(0, len(x), step):
        rows = slice(start, min(start + step, len(x)))
        yield rows, torch.cdist(x[rows], y, compute_mode="donot_use_mm_for_euclid_dist")


def others_blocks(x: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """The same among the rows of x, infinite from a row to itself."""
    for rows, distances in distance_blocks(x, x):
        distances[torch.arange(len(distances)), torch.arange(rows.start, rows.stop)] = torch.inf
        yield rows, distances


def require_neighbours(neighbours: int, *samples: Tensor) -> None:
    """Raise unless every sample has more rows than the number of neighbours."""
    require_counts("a metric of nearest neighbours", neighbours=neighbours)
    least = min(len(x) for x in samples)
    if neighbours >= least:
        raise ValueError(f"neighbours: expected less than the {least} samples there are, got {neighbours}")
