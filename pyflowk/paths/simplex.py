"""The path of symbols as corners of a simplex under Gaussian noise: what is seen of one, and when."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._checks import require_counts

__all__ = ["SimplexPath"]

NODES, STEPS = 2001, 4096
"""Nodes of the integral over the noise, and pieces of the map from times to signals."""
LAST = 1e-4
"""What may be missing, at time 1, from a symbol that can be told from all others."""


class SimplexPath:
    r"""Symbols 0..V - 1 as corners of a simplex that rise out of normal noise: :math:`x_t = c\, e_{x_1} + (1 - c)\, n`.

    A signal :math:`u = c / (1 - c)` stands above noise of deviation 1. By the greatest of its V numbers a symbol is
    told with the chance :math:`q(u) = \int \varphi(z)\, \Phi(z + u)^{V - 1} dz`, and times are such that what is beyond
    guessing, :math:`\alpha = (V q - 1) / (V - 1)`, grows evenly in t up to 1 - 1e-4: there is as much to be learned at
    every time, for any V. The map is one of 4096 straight pieces, whose slope :meth:`signal` gives, too. Raises
    ValueError for fewer than two symbols. Lee et al., 2026, arXiv:2602.16813 (flow-based language models).

    >>> import torch
    >>> from pyflowk.paths import SimplexPath
    >>> path = SimplexPath(8)
    >>> round(path.told(torch.tensor([0.45 / 0.55])).item(), 6)
    0.327609
    """

    def __init__(self, symbols: int) -> None:
        require_counts("SimplexPath", 2, symbols=symbols)
        self.symbols = symbols
        ends = math.sqrt(2 * math.log(symbols)) + 8.0
        u = torch.linspace(0, ends, STEPS + 1, dtype=torch.float64, device="cpu")
        beyond = (symbols * self.told(u) - 1) / (symbols - 1)
        beyond[0] = 0.0  # but for rounding
        last = int((beyond < 1 - LAST).sum()) + 1
        self.signals, self.times = u[:last], beyond[:last] / beyond[last - 1]

    def told(self, u: Tensor) -> Tensor:
        """The chance q (N,) float64 that the greatest number is that of the symbol, at signals u (N,)."""
        z = torch.linspace(-9, 9, NODES, dtype=torch.float64, device=u.device)
        density = torch.exp(-z.square() / 2) * (z[1] - z[0]) / math.sqrt(2 * math.pi)
        below = torch.special.log_ndtr(z + u.double().unsqueeze(1)) * (self.symbols - 1)
        return below.exp() @ density

    def signal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The signal u at times t of any shape in [0, 1], and its rate du / dt, float64."""
        times, signals = self.times.to(t.device), self.signals.to(t.device)
        piece = torch.searchsorted(times, t.double().contiguous(), right=True).clamp(1, len(times) - 1)
        rate = (signals[piece] - signals[piece - 1]) / (times[piece] - times[piece - 1])
        return signals[piece - 1] + rate * (t.double() - times[piece - 1]), rate

    def shares(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The shares c of the symbol and 1 - c of the noise, at times t, float64."""
        u = self.signal(t)[0]
        return u / (1 + u), 1 / (1 + u)

    def __repr__(self) -> str:
        return f"SimplexPath({self.symbols})"
