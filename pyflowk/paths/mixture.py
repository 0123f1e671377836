"""The path of symbols: each is noise or data, and changes from the one to the other once."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from .._checks import require_counts
from ..ops.describe import require_data
from ..ops.draw import draw_integers, draw_uniform
from ..ops.modes import transformed
from ..ops.times import require_times
from .base import PathSample
from .schedules import CondOT, Schedule, require_schedule

SHARES = 1e-6
"""By how much the shares of a schedule may miss 1."""
TINY = 1e-12
"""A share of data that is taken for none."""
CORRECTORS = ("backward", "divergence_free", "eta")
"""Ways back to noise that are made up for by more of the way to data."""


class MixturePath:
    r"""Symbols that are data with probability :math:`\kappa_t`, noise otherwise, each by itself: :math:`p_t(x^i \mid
    x_0, x_1) = (1 - \kappa_t)\, \delta_{x_0^i} + \kappa_t\, \delta_{x_1^i}`.

    Data are integers 0..``symbols`` - 1, (B, \*event). Noise comes from a ``source``: "mask", one symbol more, number
    ``symbols``, which says that there is nothing yet, or "uniform"; or it is handed in, as what belongs to the data (a
    coupling). :math:`\kappa_t` is the share of data of a ``schedule``,
    :class:`CondOT` if none is given, whose shares sum to 1 (:class:`Polynomial` is another); loss and sampler are to
    have the same path. Given data, a symbol of noise becomes that of the data at the rate :math:`\kappa'_t / (1 -
    \kappa_t)`, which is the ``weight`` of a sample, its ``target`` being the data.

    Raises ValueError for another source and for a schedule whose shares do not sum to 1, on the CPU for symbols out of
    range (elsewhere looking would stall the device), a mask among them, and times outside of [0, 1]; TypeError for data
    that are no integers. Cost: a uniform number a symbol, and one of noise. Gat et al., 2024, arXiv:2407.15595;
    Campbell et al., 2024, arXiv:2402.04997.

    >>> import torch
    >>> from pyflowk.paths import MixturePath
    >>> path = MixturePath(symbols=5)
    >>> path.sample(None, torch.tensor([[1, 4]]), 0.0).x_t, path.sample(None, torch.tensor([[1, 4]]), 1.0).x_t
    (tensor([[5, 5]]), tensor([[1, 4]]))
    """

    def __init__(self, symbols: int, source: str = "mask", schedule: Schedule | None = None) -> None:
        require_counts("MixturePath", symbols=symbols)
        self.schedule = CondOT() if schedule is None else schedule
        require_schedule(self.schedule)
        shares = self.schedule.at(torch.linspace(0, 1, 5, dtype=torch.float64, device="cpu"))
        if ((shares.alpha + shares.sigma - 1).abs() > SHARES).any() or shares.alpha[0] > SHARES:
            raise ValueError(
                f"schedule: expected shares of noise and data that sum to 1, from 0 of data on, as those of CondOT and "
                f"Polynomial do; got {self.schedule}"
            )
        if source not in ("mask", "uniform"):
            raise ValueError(f"source: expected mask or uniform, got {source!r}")
        self.symbols, self.source = symbols, source
        self.mask = symbols if source == "mask" else None
        """The symbol that stands for nothing; None, where noise is uniform."""
        self.inputs = symbols + (self.mask is not None)
        """How many symbols there are on the way."""

    def sample(
        self, x0: Tensor | None, x1: Tensor, t: Tensor | float, generator: Generator | None = None
    ) -> PathSample:
        """Symbols at times t, () or (B,), between noise x0, drawn from the source where it is None, and data x1."""
        self.check(x1)
        t = torch.as_tensor(t, device=x1.device)
        t = (t if t.is_floating_point() else t.float()).expand(x1.shape[0])
        require_times("MixturePath", t)
        x0 = self.noise(x1, generator) if x0 is None else x0
        if x0.shape != x1.shape:
            raise ValueError(f"expected x0 and x1 of one shape, got {tuple(x0.shape)} and {tuple(x1.shape)}")
        kappa = self.kappa(t).reshape(-1, *[1] * (x1.dim() - 1))
        arrived = draw_uniform(x1.shape, generator, dtype=torch.float32, device=x1.device) < kappa
        return PathSample(torch.where(arrived, x1.long(), x0.long()), t, x1.long(), self.rate(t))

    def noise(self, like: Tensor, generator: Generator | None = None) -> Tensor:
        """Noise of the shape of symbols (B, \\*event), int64."""
        if self.mask is not None:
            return torch.full(like.shape, self.mask, device=like.device)
        return draw_integers(0, self.symbols, like.shape, generator, device=like.device)

    def kappa(self, t: Tensor) -> Tensor:
        r"""The share of data :math:`\kappa_t`, of the shape of the times."""
        return self.schedule.at(t).alpha

    def rate(self, t: Tensor) -> Tensor:
        r""":math:`\kappa'_t / (1 - \kappa_t)`, at which what is still noise becomes data; infinite at t = 1."""
        at = self.schedule.at(t)
        return at.alpha_rate / at.sigma

    def rates(self, t: Tensor, own: Tensor, corrector: float = 0.0, kind: str = "backward") -> tuple[Tensor, Tensor]:
        r"""At which rates a symbol x is drawn anew, from :math:`p_{1 \mid t}` and from noise, of the shape of ``own``.

        These are r and b of the jumps to :math:`a \neq x` at :math:`r\, p_{1 \mid t}(a) + b\, \pi(a)`, :math:`\pi` the
        law of noise, a mask or uniform; ``own`` is :math:`p_{1 \mid t}(x)`, the chance that x is data already. A masked
        path draws from data where there is a mask, and from noise where there is none: what becomes x again is no
        jump. With a corrector of weight c :math:`r = (1 + c) \kappa' / (1 - \kappa)`, and b is c times, by ``kind``,

        - "backward": the rate of the path run backward, which goes from data to the noise that they came from;
        - "divergence_free": :math:`\kappa' / \kappa` for every symbol, whatever it came from;
        - "eta": such that a symbol is masked at the rate c, or that b is c K own where noise is uniform.

        All of them keep :math:`p_t`. Raises ValueError for another kind. t is () or (B,) and before 1. Campbell et al.,
        2024, arXiv:2402.04997; Gat et al., 2024, arXiv:2407.15595.
        """
        if kind not in CORRECTORS:
            raise ValueError(f"kind: expected one of {', '.join(CORRECTORS)}; got {kind!r}")
        at = self.schedule.at(t.reshape(*t.shape, *[1] * (own.dim() - t.dim())))
        forward, left = at.alpha_rate, at.sigma
        if not corrector:
            return (forward / left).expand_as(own), torch.zeros_like(own)
        some = at.alpha.clamp(min=TINY)  # where there is nothing yet, nothing goes back
        seen = left + self.symbols * at.alpha  # K times how likely a symbol of data is seen as itself
        strength = corrector * forward
        if self.mask is not None:
            strength, back = (corrector * some, corrector) if kind == "eta" else (strength, strength / some)
        elif kind == "divergence_free":
            back = strength / some
        else:
            strength = corrector * seen if kind == "eta" else strength
            back = strength * self.symbols * own / seen
        return ((forward + strength) / left).expand_as(own), (back + torch.zeros_like(own))

    def time(self, kappa: Tensor) -> Tensor:
        """The time at which there is such a share of data."""
        return self.schedule.time(2 * (kappa.log() - torch.log1p(-kappa)))

    def check(self, x: Tensor, mask: bool = False) -> None:
        """Raise TypeError or ValueError unless x are symbols of data; with ``mask`` there may be masks, too."""
        if not isinstance(x, Tensor) or x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
            raise TypeError(f"expected symbols, integers (B, ...), got {getattr(x, 'dtype', type(x).__name__)}")
        require_data("symbols", x)
        most = (self.inputs if mask else self.symbols) - 1
        if x.is_cpu and not transformed() and x.numel() and not 0 <= int(x.min()) <= int(x.max()) <= most:
            what = f"; {self.mask} is the mask, which is no data" if x.max() == self.mask else ""
            raise ValueError(f"expected symbols 0 to {most}, got {x.min()} to {x.max()}{what}")

    def __repr__(self) -> str:
        return f"MixturePath({self.symbols}, {self.source!r}, {self.schedule})"
