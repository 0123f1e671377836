"""Guidance of Gaussians: how much further than its context one of them goes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["GUIDANCE_RULES", "Gaussian", "guide"]

Gaussian = tuple[Tensor, Tensor]
"""Log-deviations and means."""


def _by_log_scale(strong: Gaussian, weak: Gaussian, w: float | Tensor) -> Gaussian:
    return strong[0] + w * (strong[0] - weak[0]), strong[1] + w * (strong[1] - weak[1])


def _by_scale(strong: Gaussian, weak: Gaussian, w: float | Tensor) -> Gaussian:
    scale = strong[0].exp() + w * (strong[0].exp() - weak[0].exp())
    return scale.clamp(min=torch.finfo(scale.dtype).tiny).log(), strong[1] + w * (strong[1] - weak[1])


def _by_product(strong: Gaussian, weak: Gaussian, w: float | Tensor) -> Gaussian:
    s = (2 * (strong[0] - weak[0])).exp().clamp(max=1)
    precision = 1 + w - w * s  # that of the product times the strong one's variance
    return strong[0] - 0.5 * precision.log(), strong[1] + w * s / precision * (strong[1] - weak[1])


GUIDANCE_RULES: dict[str, Callable[[Gaussian, Gaussian, float | Tensor], Gaussian]] = {
    "log_scale": _by_log_scale,
    "scale": _by_scale,
    "product": _by_product,
}


def guide(strong: Gaussian, weak: Gaussian, weight: float | Tensor, rule: str = "log_scale") -> Gaussian:
    r"""Make the Gaussian that goes w times further than a strong one, away from a weak one.

    Each is its log-deviations and its means. There are three rules; by the first two means are
    :math:`\mu_c + w (\mu_c - \mu_u)`, and deviations :math:`\sigma`

    - "log_scale": :math:`\log \sigma_c + w (\log \sigma_c - \log \sigma_u)` (TARFlow);
    - "scale": :math:`\sigma_c + w (\sigma_c - \sigma_u)`, the smallest number there is if that is none (iTARFlow);
    - "product": the density :math:`p_c^{1 + w} / p_u^w`, a Gaussian again: with
      :math:`s = \min((\sigma_c / \sigma_u)^2, 1)`, variances :math:`\sigma_c^2 / (1 + w - w s)` and means
      :math:`\mu_c + w s (\mu_c - \mu_u) / (1 + w - w s)` (STARFlow). Where s is cut, that is for deviations that are
      larger with the context than without, variances stay those of the strong one.

    Shapes: any, alike; weights that broadcast to them. Raises ValueError for another rule. Cost: one pass. Zhai et al.,
    2024, arXiv:2412.06329; Gu et al., 2025, arXiv:2506.06276.

    >>> import torch
    >>> from pyflowk.ops import guide
    >>> strong, weak = (torch.tensor(0.5).log(), torch.tensor(1.0)), (torch.tensor(0.0), torch.tensor(0.0))
    >>> log_deviation, mean = guide(strong, weak, 2.0, rule="product")
    >>> log_deviation.exp(), mean
    (tensor(0.3162), tensor(1.2000))
    """
    if rule not in GUIDANCE_RULES:
        raise ValueError(f"rule: expected one of {', '.join(GUIDANCE_RULES)}; got {rule!r}")
    return GUIDANCE_RULES[rule](strong, weak, weight)
