"""Paths with noise of their own: bridges, whose noise is gone at both ends, and lines with a blur around them."""

from __future__ import annotations

from dataclasses import dataclass, field
from numbers import Real

from torch import Generator, Tensor

from .._checks import require_numbers
from ..ops.draw import draw_normal
from ..ops.dtypes import state_dtype
from .affine import AffinePath
from .base import Path, PathSample, checked_times

__all__ = ["Blurred", "BrownianBridge"]


@dataclass(frozen=True)
class BrownianBridge(Path):
    r"""Brownian motion between two points: :math:`x_t = t x_1 + (1 - t) x_0 + \sigma \sqrt{t (1 - t)}\, \epsilon`.

    Its target is :math:`x_1 - x_0 + \sigma \frac{1 - 2t}{2 \sqrt{t (1 - t)}}\, \epsilon`, all weigh 1. Between pairs
    of the entropic plan with regularisation :math:`2 \sigma^2` of the squared distance it is the Schroedinger bridge.
    The square of the target is not integrable over all times: the loss diverges at both ends, if slowly. There, where
    :math:`t (1 - t)` is below ``least``, the target divides as if it were that: times from ``least`` to 1 - ``least``,
    as presets draw them, never notice. Or weigh by :math:`t (1 - t)`.

    ``with_noise`` gives :math:`\epsilon` beside the sample: the score of x_t between its two points is
    :math:`-\epsilon / (\sigma \sqrt{t (1 - t)})`. Raises ValueError unless sigma > 0: without noise it is an
    :class:`AffinePath`. Cost: one normal number and three passes an element. Tong et al., 2024, arXiv:2307.03672.

    >>> import torch
    >>> from pyflowk.paths import BrownianBridge
    >>> path, generator = BrownianBridge(sigma=0.5), torch.Generator().manual_seed(0)
    >>> path.sample(torch.zeros(20000, 1), torch.ones(20000, 1), 0.5, generator).x_t.std()  # half of sigma
    tensor(0.2512)
    """

    sigma: float = 1.0
    least: float = 1e-3

    def __post_init__(self) -> None:
        if isinstance(self.sigma, Real) and self.sigma <= 0:
            got = f"{self.sigma:g}; an AffinePath has no noise of its own"
            raise ValueError(f"BrownianBridge expects sigma to be above 0, got {got}")
        require_numbers("BrownianBridge", sigma=self.sigma, least=self.least)
        if not 0 < self.least < 0.5:
            raise ValueError(f"BrownianBridge expects least to be above 0 and below 0.5, got {self.least}")

    def with_noise(
        self, x0: Tensor, x1: Tensor, t: Tensor | float, generator: Generator | None = None
    ) -> tuple[PathSample, Tensor]:
        r"""What lies between the rows of x0 and of x1, and the standard normal noise (B, \*event) that is in it."""
        return self._with_noise(x0, x1, checked_times(x0, x1, t), generator)

    def _sample(self, x0: Tensor, x1: Tensor, t: Tensor, generator: Generator | None) -> PathSample:
        return self._with_noise(x0, x1, t, generator)[0]

    def _with_noise(self, x0: Tensor, x1: Tensor, t: Tensor, generator: Generator | None) -> tuple[PathSample, Tensor]:
        x0, x1 = x0.to(state_dtype(x1)), x1.to(state_dtype(x1))
        noise = draw_normal(x1.shape, generator, dtype=x1.dtype, device=x1.device)
        time = t.reshape(-1, *[1] * (x1.dim() - 1))
        spread = (time * (1 - time)).sqrt()
        x_t = time * x1 + (1 - time) * x0 + self.sigma * spread * noise
        pull = (1 - 2 * time) / (2 * spread.clamp(min=(self.least * (1 - self.least)) ** 0.5))
        return PathSample(x_t, t, x1 - x0 + self.sigma * pull * noise), noise


@dataclass(frozen=True)
class Blurred(Path):
    r"""A path with normal noise of one deviation all along: :math:`x_t + \sigma \epsilon`, at the same velocity.

    ``path`` is an :class:`AffinePath` of straight lines, if none is given: with independent pairs and a small sigma it
    is what conditional flow matching was published with. Both ends are blurred too: the velocity leads from a source
    that is wider by :math:`\sigma^2` to data that are. Raises ValueError for a sigma below 0. Cost: that of the path,
    one normal number and one pass an element. Tong et al., 2024, arXiv:2302.00482.

    >>> import torch
    >>> from pyflowk.paths import Blurred
    >>> path, generator = Blurred(sigma=0.1), torch.Generator().manual_seed(0)
    >>> path.sample(torch.zeros(20000, 1), torch.ones(20000, 1), 1.0, generator).x_t.std()
    tensor(0.1005)
    """

    path: Path = field(default_factory=AffinePath)
    sigma: float = 0.1

    def __post_init__(self) -> None:
        require_numbers("Blurred", sigma=self.sigma)

    def _sample(self, x0: Tensor, x1: Tensor, t: Tensor, generator: Generator | None) -> PathSample:
        sample = self.path.sample(x0, x1, t, generator)
        x_t = sample.x_t
        noise = draw_normal(x_t.shape, generator, dtype=x_t.dtype, device=x_t.device)
        return sample._replace(x_t=x_t + self.sigma * noise)
