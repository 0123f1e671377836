"""torchcfm's classes over the paths and pairings of this package: the same calls, (t, x_t, u_t) of batches x0 and x1.

As there, t = 0 is noise and t = 1 data, and noise of `torch.manual_seed` blurs. Where theirs divides by zero or leaves
events out, it does not: the exact plan of a matcher is a permutation of the batch, labels are paired among themselves,
and times of bridges are held off their ends by 1e-5.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..metrics import wasserstein as _wasserstein
from ..paths import AffinePath, Cosine, Lipman, OptimalTransport, Pairing, Sinkhorn, independent

__all__ = [
    "ConditionalFlowMatcher",
    "ExactOptimalTransportConditionalFlowMatcher",
    "OTPlanSampler",
    "SchrodingerBridgeConditionalFlowMatcher",
    "TargetConditionalFlowMatcher",
    "VariancePreservingConditionalFlowMatcher",
    "wasserstein",
]

END = 1e-5


def pad_t_like_x(t: Tensor | float, x: Tensor) -> Tensor | float:
    """Times (B,) as (B, 1, ..., 1), to be multiplied with x."""
    return t.reshape(-1, *[1] * (x.dim() - 1)) if isinstance(t, Tensor) else t


class ConditionalFlowMatcher:
    """Independent pairs on straight lines, blurred by a constant deviation sigma. Tong et al., 2024, arXiv:2302.00482.

    >>> import torch
    >>> from pyflowk.compat.torchcfm import ConditionalFlowMatcher
    >>> FM = ConditionalFlowMatcher(sigma=0.1)
    >>> t, xt, ut = FM.sample_location_and_conditional_flow(torch.randn(8, 2), torch.ones(8, 2))
    >>> t.shape, xt.shape, ut.shape
    (torch.Size([8]), torch.Size([8, 2]), torch.Size([8, 2]))
    """

    path = AffinePath()
    pairing: Pairing = staticmethod(independent)

    def __init__(self, sigma: float = 0.0) -> None:
        if not sigma >= 0:
            raise ValueError(f"sigma: expected a number >= 0, got {sigma!r}")
        self.sigma = sigma

    def compute_mu_t(self, x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
        """Where the mean of the path is."""
        return self.path.sample(x0, x1, t).x_t

    def compute_sigma_t(self, t: Tensor) -> Tensor | float:
        """Its deviation."""
        return self.sigma

    def sample_xt(self, x0: Tensor, x1: Tensor, t: Tensor, epsilon: Tensor) -> Tensor:
        """The mean and noise of the deviation."""
        return self.compute_mu_t(x0, x1, t) + pad_t_like_x(self.compute_sigma_t(t), x0) * epsilon

    def compute_conditional_flow(self, x0: Tensor, x1: Tensor, t: Tensor, xt: Tensor) -> Tensor:
        """The velocity at xt of the path between these pairs."""
        return self.path.sample(x0, x1, t).target

    def sample_noise_like(self, x: Tensor) -> Tensor:
        return torch.randn_like(x)

    def sample_location_and_conditional_flow(
        self, x0: Tensor, x1: Tensor, t: Tensor | None = None, return_noise: bool = False
    ) -> tuple[Tensor, ...]:
        """(t, xt, ut), and the noise if asked for, of pairs of the batch."""
        x0, x1, _ = self.pairing(x0, x1, None)
        return self._located(x0, x1, t, return_noise)

    def guided_sample_location_and_conditional_flow(
        self,
        x0: Tensor,
        x1: Tensor,
        y0: Tensor | None = None,
        y1: Tensor | None = None,
        t: Tensor | None = None,
        return_noise: bool = False,
    ) -> tuple[Any, ...]:
        """(t, xt, ut, y0, y1), and the noise if asked for; labels of data, y1, are paired among themselves."""
        if y0 is not None:
            raise ValueError("y0: expected None, as noise has no labels here; labels of data are y1")
        x0, x1, y1 = self.pairing(x0, x1, y1)
        t, xt, ut, *noise = self._located(x0, x1, t, return_noise)
        return (t, xt, ut, None, y1, *noise)

    def compute_lambda(self, t: Tensor) -> Tensor | float:
        """2 sigma_t / sigma^2, by which losses of scores are weighted."""
        return 2 * self.compute_sigma_t(t) / (self.sigma**2 + 1e-8)

    def _located(self, x0: Tensor, x1: Tensor, t: Tensor | None, return_noise: bool) -> tuple[Tensor, ...]:
        t = torch.rand(len(x0), dtype=x0.dtype, device=x0.device) if t is None else t
        if t.shape != (len(x0),):
            raise ValueError(f"t: expected ({len(x0)},), one time a pair, got {tuple(t.shape)}")
        epsilon = self.sample_noise_like(x0)
        xt, ut = self._at(x0, x1, t, epsilon)
        return (t, xt, ut, epsilon) if return_noise else (t, xt, ut)

    def _at(self, x0: Tensor, x1: Tensor, t: Tensor, epsilon: Tensor) -> tuple[Tensor, Tensor]:
        """Both by one pass of the path."""
        mean = self.path.sample(x0, x1, t)
        return mean.x_t if self.sigma == 0 else mean.x_t + self.sigma * epsilon, mean.target


class ExactOptimalTransportConditionalFlowMatcher(ConditionalFlowMatcher):
    """The same with the pairs of least squared distance within the batch. Tong et al., 2024, arXiv:2302.00482."""

    pairing = OptimalTransport()


class VariancePreservingConditionalFlowMatcher(ConditionalFlowMatcher):
    """Independent pairs on a quarter of a circle. Albergo, Vanden-Eijnden, 2023, arXiv:2209.15571."""

    path = AffinePath(Cosine())


class TargetConditionalFlowMatcher(ConditionalFlowMatcher):
    """Straight lines from normal noise to data blurred by sigma; x0 is not looked at. Lipman et al., 2023,
    arXiv:2210.02747."""

    def compute_mu_t(self, x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
        return pad_t_like_x(t, x1) * x1

    def compute_sigma_t(self, t: Tensor) -> Tensor | float:
        return 1 - (1 - self.sigma) * t

    def compute_conditional_flow(self, x0: Tensor, x1: Tensor, t: Tensor, xt: Tensor) -> Tensor:
        rate = 1 - self.sigma
        at = pad_t_like_x(t.clamp(max=1 - END) if self.sigma == 0 else t, x1)
        return (x1 - rate * xt) / (1 - rate * at)

    def _at(self, x0: Tensor, x1: Tensor, t: Tensor, epsilon: Tensor) -> tuple[Tensor, Tensor]:
        sample = AffinePath(Lipman(self.sigma)).sample(epsilon, x1, t)
        return sample.x_t, sample.target


class SchrodingerBridgeConditionalFlowMatcher(ConditionalFlowMatcher):
    """Brownian bridges between the pairs of a plan: "exact", or "sinkhorn" by the bridge's 2 sigma^2. Tong et al.,
    2024, arXiv:2307.03672."""

    def __init__(self, sigma: float = 1.0, ot_method: str = "exact") -> None:
        super().__init__(sigma)
        if not sigma > 0:
            raise ValueError(f"sigma: expected a number > 0, got {sigma!r}")
        self.ot_method = ot_method
        self.ot_sampler = OTPlanSampler(ot_method, reg=2 * sigma**2)
        self.pairing = self.ot_sampler._pairing(replace=ot_method != "exact")

    def compute_sigma_t(self, t: Tensor) -> Tensor | float:
        return self.sigma * (t * (1 - t)).sqrt()

    def compute_conditional_flow(self, x0: Tensor, x1: Tensor, t: Tensor, xt: Tensor) -> Tensor:
        at = pad_t_like_x(t.clamp(END, 1 - END), x1)
        return (1 - 2 * at) / (2 * at * (1 - at)) * (xt - self.compute_mu_t(x0, x1, t)) + x1 - x0

    def _at(self, x0: Tensor, x1: Tensor, t: Tensor, epsilon: Tensor) -> tuple[Tensor, Tensor]:
        xt = self.sample_xt(x0, x1, t, epsilon)
        return xt, self.compute_conditional_flow(x0, x1, t, xt)


class OTPlanSampler:
    """Pairs of a transport plan: "exact", "sinkhorn", "unbalanced" or "partial", by kernels of this package.

    ``reg`` is the entropic regularisation, in the unit of squared distances, ``reg_m`` that of the marginals.
    """

    def __init__(self, method: str = "exact", reg: float = 0.05, reg_m: float = 1.0, fraction: float = 0.8) -> None:
        if method not in ("exact", "sinkhorn", "unbalanced", "partial"):
            raise ValueError(f"method: expected exact, sinkhorn, unbalanced or partial, got {method!r}")
        self.method, self.reg, self.reg_m, self.fraction = method, reg, reg_m, fraction

    def sample_plan(self, x0: Tensor, x1: Tensor, replace: bool = True) -> tuple[Tensor, Tensor]:
        """Pairs drawn from the plan with replacement, or each event once."""
        x0, x1, _ = self._pairing(replace)(x0, x1, None)
        return x0, x1

    def sample_plan_with_labels(
        self, x0: Tensor, x1: Tensor, y0: Tensor | None = None, y1: Tensor | None = None, replace: bool = True
    ) -> tuple[Tensor, Tensor, None, Tensor | None]:
        """The same with the labels of data, which are paired among themselves."""
        if y0 is not None:
            raise ValueError("y0: expected None, as noise has no labels here; labels of data are y1")
        x0, x1, y1 = self._pairing(replace)(x0, x1, y1)
        return x0, x1, None, y1

    def _pairing(self, replace: bool) -> Pairing:
        if self.method == "exact":
            return OptimalTransport(draw="pairs" if replace else "permutation")
        if self.method == "sinkhorn":
            return Sinkhorn(self.reg, draw="pairs")
        return (
            Sinkhorn(self.reg, reg_m=self.reg_m)
            if self.method == "unbalanced"
            else Sinkhorn(self.reg, fraction=self.fraction)
        )


def wasserstein(x0: Tensor, x1: Tensor, power: int = 2) -> float:
    """The exact Wasserstein distance of two samples: of squared distances the root for power 2."""
    if power != 2:
        raise ValueError(f"power: expected 2, got {power!r}")
    return float(_wasserstein(x0, x1))
