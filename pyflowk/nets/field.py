"""What every vector field can be asked for, and the border where a plain function becomes one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import jvp

from ..ops.describe import described
from ..ops.divergence import as_slope, exact_divergence, push_forward
from ..ops.times import as_time
from .context import Network, uncompiled

__all__ = ["Field", "FunctionField", "FusedParameters", "as_field"]


class FusedParameters(NamedTuple):
    """A field as :func:`pyflowk.ops.cnf_trajectory` takes it."""

    weights: Tensor  # (sum of H_out H_in,)
    gates: Tensor | None  # (T, sum of H_out)
    shifts: Tensor  # (T, sum of H_out)
    bias: Tensor | None  # (B, H)
    width: int
    depth: int
    activation: str


class Field(Network):
    r"""A vector field :math:`f(t, x, c)`, t = 0 noise and t = 1 data: what solvers integrate.

    A subclass gives ``forward(t, x, context=None)``: t is () or one time a row, (B,); x is (B, \*event), and so is the
    answer. Rows must not depend on each other. Everything else has a default that holds for any field, at the cost
    named, and is overridden where a field knows better. What wraps a field (guidance, another clock) is one. A field
    may say what it ``predicts``, one of :data:`pyflowk.paths.PREDICTIONS`: samplers refuse to take it for another. One
    of an ``interval`` takes one argument more, ``end``, the time to which it looks ahead (:class:`FlowMap`); without it
    that is t itself. Symbols, (B, \*event) integers or a :class:`pyflowk.space.Ragged`, are answered by logits (B,
    \*event, K); where ``takes_time`` is False answers do not hear the time, and samplers of symbols ask less often, and
    where ``needs_answer`` is False its gradient does not ask for its answer again, whose memory a loss may then take.

    >>> import torch
    >>> from pyflowk.nets import Field
    >>> class Decay(Field):
    ...     def forward(self, t, x, context=None):
    ...         return -x if context is None else -x * context
    >>> Decay().with_divergence(torch.tensor(0.0), torch.ones(1, 2), torch.tensor([[3.0]]))
    (tensor([[-3., -3.]]), tensor([-6.]))
    """

    predicts: str | None = None
    hears_end: bool = False
    takes_time: bool = True
    needs_answer: bool = True

    def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def with_tangents(
        self, t: Tensor, x: Tensor, tangents: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        r"""f and :math:`\partial f / \partial x\, e` for tangents e (B, K, \*event), by forward-mode AD.

        By hand, layer by layer, it takes a half to a third of that.
        """
        return push_forward(lambda x: self(t, x, context), x, tangents)

    def derivative(
        self,
        t: Tensor | float,
        x: Tensor,
        tangent: Tensor,
        context: Tensor | None = None,
        end: Tensor | float | None = None,
        *,
        rate: float = 0.0,
        end_rate: float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        r"""f and :math:`\dot x \cdot \nabla f + \dot t\, \partial_t f + \dot s\, \partial_s f`, where x moves along a
        ``tangent`` (B, \*event), t at a ``rate`` and, of a field of an interval, its end s at an ``end_rate``.

        By forward-mode AD; by hand, layer by layer, it takes a third of that.
        """
        start, last = as_time(t, x), None if end is None else as_time(end, x)

        def moved(x: Tensor, way: Tensor) -> Tensor:
            times: tuple[Any, ...] = (start + rate * way, x, context)
            return as_slope(self(*times) if last is None else self(*times, last + end_rate * way), x)

        one = torch.zeros((), dtype=start.dtype, device=x.device)
        # expanded tensors have no dual numbers
        value, derivative = jvp(moved, (x.contiguous(), one), (tangent, torch.ones_like(one)))[:2]
        return value, derivative

    def has_divergence(self, t: Tensor) -> bool:
        """Whether ``with_divergence`` is cheaper than D tangents for such times, () or (B,)."""
        return False

    def with_divergence(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """f and its exact divergence (B,), by D tangents."""
        return exact_divergence(
            lambda x: self(t, x, context), x, tangents=lambda x, e: self.with_tangents(t, x, e, context)
        )[:2]

    def fused(self, times: Tensor, context: Tensor | None = None) -> FusedParameters | None:
        """What :func:`pyflowk.ops.cnf_trajectory` needs to evaluate it at ``times`` (T,), the context (if any) with one
        row per event; None, where that op does not know the field."""
        return None


class FunctionField(Field):
    """A plain function at the border: ``f(t, x)``, and ``f(t, x, context)`` where there is a context and it wants it.

    >>> import torch
    >>> from pyflowk.nets import FunctionField
    >>> FunctionField(lambda t, x: -x, conditional=False)(torch.tensor(0.0), torch.ones(1, 2), torch.zeros(1))
    tensor([[-1., -1.]])
    """

    def __init__(self, function: Callable[..., Tensor], conditional: bool = True) -> None:
        super().__init__()
        if not callable(function):
            raise TypeError(f"field: expected a function of (t, x) or (t, x, context); got {described(function)}")
        self.function, self.takes_context = function, conditional

    def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        asked = (t, x) if context is None or not self.takes_context else (t, x, context)
        try:
            return self.function(*asked)
        except TypeError as error:
            if "positional argument" not in str(error):
                raise
            how = "(t, x)" if len(asked) == 2 else "(t, x, context) where a context is given: if it takes none, "
            how += "" if len(asked) == 2 else "leave the context out, or say conditional=False of a nets.FunctionField"
            raise TypeError(f"{error}; a field is called with {how}") from error


class _CompiledField(FunctionField):
    """A field behind torch.compile: its values are the compiled ones, everything else is asked of the field itself."""

    def __init__(self, compiled: Any, field: Field) -> None:
        super().__init__(compiled, field.takes_context)
        for name in (
            "with_tangents", "derivative", "hears_end", "has_divergence", "with_divergence", "fused", "no_context",
            "needs_answer", "predicts", "takes_time",
        ):  # fmt: skip
            setattr(self, name, getattr(field, name))


def as_field(function: Callable[..., Tensor], conditional: bool | None = None) -> Field:
    """A Field as it is; a plain function, or a module that is no Field, as one.

    Such a function is called ``f(t, x)`` where there is no context and ``f(t, x, context)`` where there is one;
    ``conditional=False`` says that it takes none. Raises TypeError for what cannot be called.
    """
    if isinstance(function, Field):
        return function
    if isinstance(field := uncompiled(function), Field):
        return _CompiledField(function, field)
    return FunctionField(function, conditional is not False)
