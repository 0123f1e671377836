"""Every density of this package as a torch.distributions.Distribution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from ..distributions import Distribution as Base
from ..flows import Flow
from ..zoo import Ability, GenerativeModel
from ..zoo.flow_model import FlowModel

__all__ = ["Density", "as_distribution"]


def as_distribution(density: GenerativeModel | Flow | Base, context: Tensor | None = None) -> Density:
    r"""A model with a likelihood, a Flow or a base as a torch distribution: ``log_prob``, ``sample``, and ``rsample``
    where samples are differentiable functions of the parameters.

    A context (B, ...) becomes the batch: ``batch_shape`` is (B,), and what is drawn (\*sample_shape, B, \*event);
    without one it is (). The density stays whose it was, so later training changes the distribution, too; a model is to
    be in evaluation mode. Raises TypeError for anything else, NotImplementedError for a model without a likelihood.

    >>> import torch
    >>> from pyflowk import zoo
    >>> from pyflowk.compat import as_distribution
    >>> model = zoo.create("nice", (2,), context_dim=3).eval()
    >>> posterior = as_distribution(model, torch.zeros(4, 3))
    >>> posterior.batch_shape, posterior.event_shape, posterior.log_prob(posterior.sample((5,))).shape
    (torch.Size([4]), torch.Size([2]), torch.Size([5, 4]))
    """
    return Density(density, context)


class Density(Distribution):
    """What :func:`as_distribution` gives."""

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012  torch declares it so

    def __init__(self, density: Any, context: Tensor | None = None) -> None:
        if isinstance(density, GenerativeModel):
            density.require(Ability.LIKELIHOOD)
            if density.training:
                raise ValueError(f"expected a model in evaluation mode: {density.name}.eval()")
            event = density.space.shape
        elif isinstance(density, Base):
            event = density.shape
        elif isinstance(density, Flow):
            with torch.no_grad():
                event = density.sample(1, None if context is None else context[:1]).shape[1:]
        else:
            raise TypeError(f"expected a model of the zoo, a Flow or a Distribution, got {type(density).__name__}")
        self.density, self.context = density, context
        batch = torch.Size() if context is None else context.shape[:1]
        super().__init__(batch, torch.Size(event), validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        density = self.density.flow if isinstance(self.density, FlowModel) else self.density
        levels = isinstance(self.density, FlowModel) and self.density.space.levels is not None
        return not levels and isinstance(density, (Flow, Base)) and density.reparameterised

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, len(self.event_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Nats, of the shape of the samples and the batch."""
        event = len(self.event_shape)
        value = value.expand(torch.broadcast_shapes(value.shape, self.batch_shape + self.event_shape))
        shape = value.shape[: value.dim() - event]
        rows, context = value.reshape(-1, *self.event_shape), self._context(shape)
        return self.density.log_prob(rows, context).reshape(shape)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """(*sample_shape, *batch_shape, *event_shape), by torch's own generator."""
        return self._draw(torch.Size(sample_shape))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """The same, with gradients to the parameters; NotImplementedError where there are none."""
        if not self.has_rsample:
            raise NotImplementedError(f"samples of {type(self.density).__name__} are no differentiable functions")
        return self._draw(torch.Size(sample_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> Density:
        """One condition, or none, for a batch of one axis."""
        batch = torch.Size(batch_shape)
        if self.context is None or len(batch) != 1 or len(self.context) not in (1, batch[0]):
            raise NotImplementedError(
                f"expected a batch of the contexts, {tuple(self.batch_shape)}, got {tuple(batch)}"
            )
        return Density(self.density, self.context.expand(batch[0], *self.context.shape[1:]))

    def _draw(self, shape: torch.Size) -> Tensor:
        whole = shape + self.batch_shape
        drawn: Tensor = self.density.sample(whole.numel(), self._context(whole))
        return drawn.reshape(whole + self.event_shape)

    def _context(self, shape: torch.Size) -> Tensor | None:
        """One row of context for each event of a shape that ends with the batch."""
        if self.context is None:
            return None
        return self.context.expand(*shape, *self.context.shape[1:]).reshape(-1, *self.context.shape[1:])
