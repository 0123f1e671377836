"""How straight, how long and how costly the ways from noise to data are."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops.describe import described


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
    way, shares = _ways(path, times)
    off = (way[-1] - way[0]) - way.diff(dim=0) / shares[:, None, None]
    return (shares[:, None] * off.square().sum(2)).sum(0)


def curvature(path: Tensor, times: Tensor | None = None) -> Tensor:
    r"""Acceleration of B ways (T, B, \*event) along the way, squared: (B,) float64, 0 at even speed on a line.

    .. math:: \int_0^1 |\ddot x_t|^2 dt

    by differences between the middles of the T - 1 steps; arguments and errors are those of :func:`straightness`, with
    at least three points. Cost: one pass. Lee, Kim, Ye, 2023, arXiv:2301.12003.

    >>> import torch
    >>> from pyflowk.metrics import curvature
    >>> curvature(torch.linspace(0, 1, 101)[:, None] ** 2).round(decimals=1)
    tensor([4.], dtype=torch.float64)
    """
    way, shares = _ways(path, times, least=3)
    speed = way.diff(dim=0) / shares[:, None, None]
    apart = (shares[1:] + shares[:-1])[:, None] / 2  # of the middles; both ends lack half a step, which the mean gives
    change = speed.diff(dim=0).square().sum(2) / apart
    return change.sum(0) / apart.sum(0)


def path_ratio(path: Tensor, times: Tensor | None = None) -> Tensor:
    r"""Length of B ways (T, B, \*event) over that of their chords: (B,) float64, 1 for a line at any speed.

    .. math:: \frac{\int_0^1 |\dot x_t|\, dt}{|x_1 - x_0|}

    Arguments and errors are those of :func:`straightness`; a way that ends where it began has an infinite ratio, one
    that does not move NaN. Cost: one pass.

    >>> import torch
    >>> from pyflowk.metrics import path_ratio
    >>> path_ratio(torch.tensor([[[0.0, 0.0]], [[3.0, 0.0]], [[3.0, 4.0]]]))
    tensor([1.4000], dtype=torch.float64)
    """
    way, _ = _ways(path, times)
    return way.diff(dim=0).norm(dim=2).sum(0) / (way[-1] - way[0]).norm(dim=1)


def path_energy(path: Tensor, times: Tensor | None = None) -> Tensor:
    r"""Kinetic energy, without the half, of B ways (T, B, \*event): (B,) float64.

    .. math:: \int_0^1 |\dot x_t|^2 dt

    exactly, for ways in T - 1 Euler steps. Its mean is at least the squared 2-Wasserstein distance from start to end,
    and is that where transport is optimal. Arguments, errors and cost are those of :func:`straightness`.
    Tong et al., 2024, arXiv:2302.00482.

    >>> import torch
    >>> from pyflowk.metrics import path_energy
    >>> path_energy(torch.tensor([[0.0], [1.0], [3.0]]))
    tensor([10.], dtype=torch.float64)
    """
    way, shares = _ways(path, times)
    return (way.diff(dim=0).square().sum(2) / shares[:, None]).sum(0)


def normalised_path_energy(path: Tensor, squared_distance: Tensor | float, times: Tensor | None = None) -> Tensor:
    r"""How far the energy of ways (T, B, \*event) is from that of optimal transport: a number in float64, at best 0.

    .. math:: \frac{\big|\, E \int |\dot x_t|^2 dt - W_2^2(q_0, q_1) \big|}{W_2^2(q_0, q_1)}

    ``squared_distance`` is :math:`W_2^2` between noise and data, ``wasserstein(x0, x1) ** 2`` of two sets of them.
    Raises ValueError for one that is not above 0, and what :func:`straightness` raises. Cost: one pass.
    Tong et al., 2024, arXiv:2307.03672, section 5.

    >>> import torch
    >>> from pyflowk.metrics import normalised_path_energy
    >>> normalised_path_energy(torch.tensor([[0.0], [1.0], [3.0]]), 9.0)
    tensor(0.1111, dtype=torch.float64)
    """
    least = torch.as_tensor(squared_distance, dtype=torch.float64, device=path.device)
    if least.dim() or not bool(least > 0):
        got = described(least) if least.dim() else f"{least.item():g}"
        raise ValueError(f"squared_distance: expected a number above 0, got {got}")
    return (path_energy(path, times).mean() - least).abs() / least


def _ways(path: Tensor, times: Tensor | None, least: int = 2) -> tuple[Tensor, Tensor]:
    """Points (T, B, D) in float64, and the shares (T - 1,) of time between them."""
    if path.dim() < 2 or len(path) < least:
        raise ValueError(f"expected ways (T, B, *event) of at least {least} points, got {tuple(path.shape)}")
    if times is None:
        times = torch.linspace(0, 1, len(path), dtype=torch.float64, device=path.device)
    if times.shape != path.shape[:1]:
        raise ValueError(f"times: expected ({len(path)},), one for each point, got {tuple(times.shape)}")
    steps = times.double().diff()
    if not ((steps > 0).all() or (steps < 0).all()):
        raise ValueError(f"times: expected them to rise or to fall throughout, got {times.tolist()}")
    return path[:, :, None].flatten(2).double(), steps / steps.sum()
