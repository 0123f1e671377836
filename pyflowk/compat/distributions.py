"""Every density of this package as a torch.distributions.Distribution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from ..distributions import Distribution as Base
from ..flows import Flow
from ..space import Context, Ragged
from ..zoo import Ability, GenerativeModel
from ..zoo.flow_model import FlowModel

__all__ = ["Density", "as_distribution"]


def as_distribution(density: GenerativeModel | Flow | Base, context: Tensor | Ragged | None = None) -> Density:
    r"""A model with a likelihood, a Flow or a base as a torch distribution: ``log_prob``, ``sample``, and ``rsample``
    where samples are differentiable functions of the parameters.

    Contexts become the batch, and what is drawn is (\*sample_shape, \*batch_shape, \*event_shape); without one the
    batch is (). A model knows what one context is: numbers (\*batch, C), labels (\*batch); of a Flow or a base the
    first axis is the batch. The density stays whose it was, so later training changes the distribution, too; a model
    is to be in evaluation mode. Raises TypeError for anything else, NotImplementedError for a model without a
    likelihood or with events of several lengths, ValueError for a context that it cannot take, or needs and lacks.

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

    def __init__(self, density: Any, context: Tensor | Ragged | None = None) -> None:
        if not isinstance(density, (GenerativeModel, Flow, Base)):
            raise TypeError(f"expected a model of the zoo, a Flow or a Distribution, got {type(density).__name__}")
        if context is not None and not isinstance(context, (Tensor, Ragged)):
            raise TypeError(f"context: expected a tensor or a Ragged, got {type(context).__name__}")
        known = density.space.context if isinstance(density, GenerativeModel) else None
        self.density, self.context = density, context
        self._rows: Any
        self._rows, self._own = _rows(context, known)
        event = self._of_model(density) if isinstance(density, GenerativeModel) else self._probed()
        super().__init__(self._own, torch.Size(event), validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        density = self.density.flow if isinstance(self.density, FlowModel) else self.density
        levels = isinstance(self.density, FlowModel) and self.density.space.levels is not None
        return not levels and isinstance(density, (Flow, Base)) and density.reparameterised

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, len(self.event_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Nats, of the shape of the samples and the batch; ValueError for a value of other events or another batch."""
        event = len(self.event_shape)
        split = value.dim() - event
        if split < 0 or value.shape[split:] != self.event_shape or not _fit(value.shape[:split], self.batch_shape):
            wanted = ", ".join(map(str, ("...", *self.batch_shape, *self.event_shape)))
            raise ValueError(f"value: expected ({wanted}), got {tuple(value.shape)}")
        shape = torch.broadcast_shapes(value.shape[:split], self.batch_shape)
        rows = value.expand(shape + self.event_shape).reshape(-1, *self.event_shape)
        return self.density.log_prob(rows, self._context(shape)).reshape(shape)

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
        """The same with a larger batch; ValueError for one that this batch does not broadcast to."""
        batch = torch.Size(batch_shape)
        if not _fit(self.batch_shape, batch) or torch.broadcast_shapes(self.batch_shape, batch) != batch:
            raise ValueError(f"expected a batch that {tuple(self.batch_shape)} broadcasts to, got {tuple(batch)}")
        new = self._get_checked_instance(Density, _instance)
        new.density, new.context, new._rows, new._own = self.density, self.context, self._rows, self._own
        Distribution.__init__(new, batch, self.event_shape, validate_args=False)
        return new

    @property
    def mean(self) -> Tensor:
        raise _no_formula("mean", "sample((n,)).mean(0)")

    @property
    def mode(self) -> Tensor:
        raise _no_formula("mode", "the sample of the largest log_prob")

    @property
    def variance(self) -> Tensor:
        raise _no_formula("variance", "sample((n,)).var(0)")

    def entropy(self) -> Tensor:
        raise _no_formula("entropy", "-log_prob(sample((n,))).mean(0)")

    def cdf(self, value: Tensor) -> Tensor:
        raise _no_formula("cdf", "(sample((n,)) <= value).all(-1)")

    def icdf(self, value: Tensor) -> Tensor:
        raise _no_formula("icdf", "sample((n,)).quantile(value, 0)")

    def _draw(self, shape: torch.Size) -> Tensor:
        whole = shape + self.batch_shape
        drawn: Tensor = self.density.sample(whole.numel(), self._context(whole))
        return drawn.reshape(whole + self.event_shape)

    def _context(self, shape: torch.Size) -> Any:
        """One row of context for each event of a shape that ends with the batch, or one for all."""
        if self._rows is None or len(self._rows) == 1:
            return self._rows
        return self._rows[torch.arange(len(self._rows)).reshape(self._own).expand(shape).reshape(-1)]

    def _of_model(self, model: GenerativeModel) -> tuple[int, ...]:
        """The shape of its events, or the reason why it is no distribution of tensors."""
        model.require(Ability.LIKELIHOOD)
        if model.training:
            raise ValueError(f"expected a model in evaluation mode: {model.name}.eval()")
        if model.space.variable:
            raise NotImplementedError(f"{model.name}: events of {model.space} have lengths, and are no tensors")
        model.check_context(self._rows, 1 if self._rows is None else len(self._rows))
        return model.space.shape

    @torch.no_grad()
    def _probed(self) -> tuple[int, ...]:
        """The shape of a draw."""
        one = self._rows
        if one is not None:
            one = one[:1] if len(one) or isinstance(one, Ragged) else one.new_zeros(1, *one.shape[1:])
        try:
            return tuple(self.density.sample(1, one).shape[1:])
        except NotImplementedError:
            if not isinstance(self.density, Base):
                raise
            return self.density.shape  # it has a density alone
        except (IndexError, RuntimeError, TypeError, ValueError) as error:
            values = self.context.values if isinstance(self.context, Ragged) else self.context
            got = "no context" if values is None else f"a context {tuple(values.shape)}, whose first axis is the batch"
            raise ValueError(f"{type(self.density).__name__} cannot be sampled with {got}: {error}") from error


def _rows(context: Tensor | Ragged | None, known: Context | None) -> tuple[Tensor | Ragged | None, torch.Size]:
    """Contexts as rows, and the batch that they were; ValueError for others than are known."""
    if context is None or isinstance(context, Ragged):
        return context, torch.Size() if context is None else torch.Size((len(context),))
    batch = context.shape[:1]
    if known is not None and known.kind in ("labels", "numbers"):
        numbers = known.kind == "numbers"
        batch = context.shape[:-1] if numbers else context.shape
        real = context.is_floating_point()
        if context.shape[len(batch) :] != ((known.size,) if numbers else ()) or numbers != real:
            wanted = f"floats (*batch, {known.size})" if numbers else "integer labels (*batch)"
            raise ValueError(f"context: expected {wanted}, got {tuple(context.shape)} {context.dtype}")
    return context.reshape(batch.numel(), *context.shape[len(batch) :]), batch


def _fit(shape: torch.Size, other: torch.Size) -> bool:
    """Whether they broadcast."""
    return all(a in (1, b) or b == 1 for a, b in zip(reversed(shape), reversed(other)))


def _no_formula(what: str, instead: str) -> NotImplementedError:
    return NotImplementedError(f"{what}: a flow has no formula for it; {instead} estimates it")
