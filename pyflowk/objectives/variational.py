"""Flows fitted to a density that is known up to a constant, and how good the fit is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.func import functional_call

from ..ops.dtypes import state_dtype
from .nll import Density, reduce

__all__ = ["effective_sample_size", "forward_kl", "importance_sample", "log_evidence", "reverse_kl"]


class Sampler(Density, Protocol):
    """A density that is sampled too, such as a :class:`pyflowk.flows.Flow`."""

    reparameterised: bool

    def sample(self, n: int, context: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor: ...

    def sample_and_log_prob(
        self, n: int, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]: ...


#: x (n, *event) -> log p(x) + any constant, (n,); called as log_density(x, context) where there is a context.
LogDensity = Callable[..., Tensor]


def reverse_kl(
    flow: Sampler,
    log_density: LogDensity,
    n: int,
    context: Tensor | None = None,
    *,
    stick_the_landing: bool = False,
    generator: torch.Generator | None = None,
    reduction: str = "none",
) -> Tensor:
    r"""A loss per sample of the flow itself: :math:`\log q(x) - \log \tilde p(x)`, x ~ q; its mean is minus the ELBO.

    Its expectation is :math:`KL(q \| p) - \log Z`, with :math:`p = \tilde p / Z`. Samples are differentiable functions
    of their noise, so the gradient is that of the expectation. ``stick_the_landing`` leaves out the part of the
    gradient that is zero on average, by evaluating log q under fixed parameters: where q is close to p the gradient's
    noise goes to zero.

    Args:
        log_density: x (n, \*event) -> (n,), differentiable; with a context (as in :meth:`Flow.sample`)
            ``log_density(x, context)``, the context as it was given.

    Returns (n,), or its mean or sum. Raises ValueError for a log-density of another shape, an unknown reduction, and a
    flow whose samples are no differentiable function of its parameters: a GaussianMixture base, Dequantize.
    Cost: one pass in the direction of sampling, and with ``stick_the_landing`` one more in that of densities.
    Rezende, Mohamed, 2015, arXiv:1505.05770; Roeder, Wu, Duvenaud, 2017, arXiv:1703.09194.

    >>> import torch
    >>> from pyflowk.distributions import DiagonalGaussian
    >>> from pyflowk.flows import Flow
    >>> from pyflowk.objectives import reverse_kl
    >>> from pyflowk.transforms import Compose
    >>> normal = Flow(DiagonalGaussian((2,)), Compose())
    >>> reverse_kl(normal, lambda x: -0.5 * x.square().sum(1), 100, reduction="mean")  # - log 2 pi
    tensor(-1.8379)
    """
    if not flow.reparameterised:
        raise ValueError(
            "reverse_kl expects a flow whose samples are differentiable functions of its parameters: neither a "
            "GaussianMixture base nor Dequantize"
        )
    if stick_the_landing:
        x = flow.sample(n, context, generator)
        fixed = {name: p.detach() for name, p in flow.named_parameters()}  # type: ignore[attr-defined]
        log_q = functional_call(flow, fixed, (x, context, generator))  # type: ignore[arg-type]
    else:
        x, log_q = flow.sample_and_log_prob(n, context, generator)
    return reduce(log_q - _evaluated(log_density, x, context), reduction)


def forward_kl(
    flow: Sampler,
    log_density: LogDensity,
    n: int,
    context: Tensor | None = None,
    *,
    proposal: Sampler | None = None,
    generator: torch.Generator | None = None,
    reduction: str = "none",
) -> Tensor:
    r"""A loss per weighted sample: :math:`-n \bar w_i \log q(x_i)`, whose mean estimates :math:`-E_p \log q`.

    That is :math:`KL(p \| q)` but for the entropy of p, a constant. The x are drawn from ``proposal`` (the flow itself
    by default), their weights :math:`\bar w \propto \tilde p(x) / q_0(x)` sum to one; neither is differentiated. Unlike
    the reverse divergence it pays for every region of p that q leaves out, as soon as a sample has found it. The
    estimate is biased by O(1/n); its noise is told by :func:`effective_sample_size`.

    Args, results and errors as :func:`reverse_kl`, any flow will do; ValueError where no sample has a positive density.
    Cost: one pass in the direction of sampling, one in that of densities.
    Müller, McWilliams, Rousselle, Gross, Novák, 2019, arXiv:1808.03856.

    >>> import torch
    >>> from pyflowk.distributions import DiagonalGaussian
    >>> from pyflowk.flows import Flow
    >>> from pyflowk.objectives import forward_kl
    >>> from pyflowk.transforms import Compose
    >>> flow = Flow(DiagonalGaussian((2,), learned=True), Compose())
    >>> forward_kl(flow, lambda x: -0.5 * (x - 1).square().sum(1), 100, reduction="mean").backward()
    >>> bool((flow.base.mean.grad < 0).all())  # towards (1, 1)
    True
    """
    x, log_weights = importance_sample(proposal or flow, log_density, n, context, generator=generator)
    if len(x) == 0 or torch.isneginf(log_weights.max()):
        raise ValueError(f"forward_kl expects samples with a positive density, got none among {len(x)}")
    weights = torch.softmax(log_weights, 0)
    return reduce(-len(x) * weights * flow.log_prob(x, context, generator), reduction)


@torch.no_grad()
def importance_sample(
    flow: Sampler,
    log_density: LogDensity,
    n: int,
    context: Tensor | None = None,
    *,
    generator: torch.Generator | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    r"""Samples x (n, \*event) of the flow and their log-weights :math:`\log \tilde p(x) - \log q(x)`, (n,), in nats.

    An expectation under p is that of the samples with weights ``softmax(log_weights)``. No gradient is recorded. Args
    and errors as :func:`reverse_kl`; a model of the zoo takes the ``options`` of its samples, as ``steps``. Cost: one
    pass in the direction of sampling.

    >>> import torch
    >>> from pyflowk.distributions import DiagonalGaussian
    >>> from pyflowk.flows import Flow
    >>> from pyflowk.objectives import importance_sample
    >>> from pyflowk.transforms import Compose
    >>> x, log_weights = importance_sample(Flow(DiagonalGaussian((2,)), Compose()), lambda x: x.sum(1), 10)
    >>> x.shape, log_weights.shape
    (torch.Size([10, 2]), torch.Size([10]))
    """
    draw: Any = flow.sample_and_log_prob
    x, log_q = draw(n, context, generator, **options)
    return x, _evaluated(log_density, x, context) - log_q


def effective_sample_size(log_weights: Tensor) -> Tensor:
    r"""How many independent samples n weighted ones are worth: :math:`(\sum w)^2 / \sum w^2`, in 1..n.

    ``log_weights`` is (n,), or (n, \*rest) for several sets side by side; the result has no first dimension. A constant
    added to a set changes nothing. A set whose weights are all zero (-inf) has none: 0; one with a NaN or an infinite
    weight gives NaN. Raises ValueError for a number without dimension. Kong, 1992.

    >>> import torch
    >>> from pyflowk.objectives import effective_sample_size
    >>> effective_sample_size(torch.tensor([0.0, 0.0, -torch.inf]))
    tensor(2.)
    """
    weights, _ = _relative(log_weights, "effective_sample_size")
    total = weights.sum(0)
    return (total.square() / weights.square().sum(0)).where(total != 0, 0)


def log_evidence(log_weights: Tensor) -> Tensor:
    r"""The logarithm of the mean weight, an estimate of :math:`\log Z` in nats: :math:`\log \frac 1n \sum w`.

    Shapes and errors as :func:`effective_sample_size`. The mean weight is unbiased, its logarithm too small on average.
    A constant added to the log-weights is added to the result: -inf where all weights are zero, inf where one is
    infinite, NaN where one is NaN.

    >>> import torch
    >>> from pyflowk.objectives import log_evidence
    >>> log_evidence(torch.tensor([1.0, 1.0]))
    tensor(1.)
    """
    weights, largest = _relative(log_weights, "log_evidence")
    return largest + weights.mean(0).log()


def _relative(log_weights: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Weights as multiples of the largest one of their set, and its logarithm (0 unless finite), float32 or better.

    The difference of the logarithms is taken first: it is exact where they are close, however large they are.
    """
    if not isinstance(log_weights, Tensor):
        raise TypeError(f"{name} expects log-weights as a tensor, got {type(log_weights).__name__}")
    if log_weights.dim() == 0 or log_weights.shape[0] == 0:
        raise ValueError(f"{name} expects log-weights (n,) or (n, *rest), n at least 1; got {tuple(log_weights.shape)}")
    log_weights = log_weights.to(state_dtype(log_weights))
    largest = log_weights.detach().amax(0)
    largest = largest.where(largest.isfinite(), 0)
    return torch.exp(log_weights - largest), largest


def _evaluated(log_density: LogDensity, x: Tensor, context: Tensor | None) -> Tensor:
    value = log_density(x) if context is None else log_density(x, context)
    if not isinstance(value, Tensor) or value.shape != x.shape[:1]:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"log_density: expected one number per sample, ({x.shape[0]},); got {got}")
    return value
