"""Noise on the data in training, for a density that can be denoised."""

from __future__ import annotations

import torch
from torch import Tensor

from .._checks import require_numbers
from ..ops.draw import draw_normal
from ..ops.dtypes import state_dtype
from .base import Transform, zero_ladj


class GaussianNoise(Transform):
    r"""Add noise in training: :math:`z = x + \sigma\, \epsilon`, log-determinant 0; in evaluation, and back, z = x.

    What is behind it learns the density :math:`p_\sigma` of noised events, which is smooth, and tells of how to denoise
    them: :math:`E[x \mid z] = z + \sigma^2\, \nabla \log p_\sigma(z)` (Tweedie). Shapes: any. Cost: one draw. Raises
    ValueError for a sigma below 0. Zhai et al., 2024, arXiv:2412.06329, sections 2.4 and 2.6.

    >>> import torch
    >>> from pyflowk.transforms import GaussianNoise
    >>> noise = GaussianNoise(0.1)
    >>> noise(torch.zeros(1000, 1))[0].std().round(decimals=2), noise.eval()(torch.zeros(1, 1))[0]
    (tensor(0.1000), tensor([[0.]]))
    """

    stochastic = True

    def __init__(self, sigma: float) -> None:
        super().__init__()
        require_numbers("GaussianNoise", sigma=sigma)
        self.sigma = float(sigma)

    def forward(
        self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        if self.training and self.sigma:
            noise = draw_normal(x.shape, generator, dtype=state_dtype(x), device=x.device)
            x = (x + self.sigma * noise).to(x.dtype)
        return x, zero_ladj(x)

    def inverse(
        self, z: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        return z, zero_ladj(z)

    def extra_repr(self) -> str:
        return f"sigma={self.sigma:g}"
