"""How straight the ways from noise to data are."""

from __future__ import annotations

import torch
from torch import Tensor


def straightness(path: Tensor, times: Tensor | None = None) -> Tensor:
    r"""Deviation of B ways (T, B, \*event) from even motion along their chords: (B,) float64, 0 for a straight one.

    .. math:: S = \int_0^1 |(x_1 - x_0) - \dot x_t|^2 dt

    for ways that are straight between their T points; 0 says that one Euler step makes the whole way. ``times`` (T,),
    evenly spaced by default, are those of the points, rising or falling, and the whole way counts as time 1. Raises
    ValueError for less than two points, other shapes, or times that do not rise or fall throughout. Cost: one pass.
    Liu, Gong, Liu, 2023, arXiv:2209.03003, section 2.

    >>> import torch
    >>> from pyflowk.metrics import straightness
    >>> straightness(torch.tensor([[0.0, 0.0], [1.0, 2.0], [2.0, 2.0]]))
    tensor([0., 4.], dtype=torch.float64)
    """
    if path.dim() < 2 or len(path) < 2:
        raise ValueError(f"expected ways (T, B, *event) of at least 2 points, got {tuple(path.shape)}")
    if times is None:
        times = torch.linspace(0, 1, len(path), dtype=torch.float64, device=path.device)
    if times.shape != path.shape[:1]:
        raise ValueError(f"times: expected ({len(path)},), one for each point, got {tuple(times.shape)}")
    steps = times.double().diff()
    if not ((steps > 0).all() or (steps < 0).all()):
        raise ValueError(f"times: expected them to rise or to fall throughout, got {times.tolist()}")
    shares = steps / steps.sum()
    way = path[:, :, None].flatten(2).double()
    off = (way[-1] - way[0]) - way.diff(dim=0) / shares[:, None, None]
    return (shares[:, None] * off.square().sum(2)).sum(0)
