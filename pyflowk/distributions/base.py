"""The contract of a distribution: what is handed in is checked here, once for all of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Generator, Tensor, nn

from .._checks import require_counts
from ..ops.draw import draw_normal
from ..ops.dtypes import state_dtype
from ..ops.modes import transformed
from ..shapes import expand_context, number_of
from ..space import check_events

COLDEST, HOTTEST = 1e-30, 1e30


class Distribution(nn.Module):
    r"""A distribution over events of one shape: ``log_prob`` in nats, and ``sample`` from the generator handed in.

    A context has one row per event, or one row for all; a distribution that has no use for it ignores it.
    ``temperature`` says how far draws spread: it multiplies the standard deviation of numbers, divides the logits of
    symbols, and changes nothing on a closed manifold; ``log_prob`` at a temperature is the density of those draws.
    Densities come in float32, or float64 where events or parameters are; NaN gives NaN. Raises ValueError for events of
    another shape or device and for a temperature that is no number from 1e-30 to 1e30, TypeError for no tensor.

    A subclass gives ``_log_prob(z, context, temperature)`` and ``_sample(n, context, generator, temperature)``, whose
    arguments are checked. ``reparameterised``: whether samples are differentiable functions of the parameters.
    ``anchor`` tells device and dtype also where nothing is learned; ``_noise(n, generator)`` draws standard normal
    numbers (n, \*shape) there, and ``_sum`` adds up those of an event.

    >>> import torch
    >>> from pyflowk.distributions import DiagonalGaussian, Distribution
    >>> base = DiagonalGaussian((2,))
    >>> base.log_prob(torch.zeros(1, 2)), base.sample(3).shape
    (tensor([-1.8379]), torch.Size([3, 2]))
    >>> class LogNormal(Distribution):  # the exponential of a normal number; a temperature widens that
    ...     def _log_prob(self, z, context, temperature):
    ...         y = z.log()
    ...         return DiagonalGaussian(self.shape).log_prob(y, None, temperature) - self._sum(y)
    ...     def _sample(self, n, context, generator, temperature):
    ...         return (temperature * self._noise(n, generator)).exp()
    >>> LogNormal((2,)).log_prob(torch.ones(1, 2)), LogNormal((2,)).sample(3).shape
    (tensor([-1.8379]), torch.Size([3, 2]))
    """

    reparameterised: bool = True

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        if not isinstance(shape, Iterable):
            raise TypeError(f"{type(self).__name__} expects the shape of an event, such as (2,), got {shape!r}")
        self.shape = tuple(shape)
        require_counts(type(self).__name__, 0, **{f"shape[{i}]": size for i, size in enumerate(self.shape)})
        # Tells device and dtype even where nothing is learned; not part of the state dict.
        self.anchor: Tensor
        self.register_buffer("anchor", torch.zeros(()), persistent=False)
        self.register_load_state_dict_post_hook(_anchor_again)

    @property
    def dims(self) -> int:
        """The number of elements of an event."""
        return math.prod(self.shape)

    def log_prob(self, z: Tensor, context: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """Log-density (B,) in nats, or log-probability, of z (B, *shape)."""
        check_temperature(temperature)
        check_events(z, self.shape, "z")
        if z.device != self.anchor.device:
            where = self.anchor.device
            raise ValueError(f"z: expected {where}, where the distribution is, got a tensor on {z.device}")
        return self._log_prob(self._enter(z), expand_context(context, z.shape[0]), temperature)

    def sample(
        self,
        n: int,
        context: Tensor | None = None,
        generator: Generator | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """n draws (n, *shape)."""
        n = number_of(n)
        check_temperature(temperature)
        return self._sample(n, expand_context(context, n), generator, temperature)

    def location(self, context: Tensor | None = None) -> tuple[Tensor, Tensor] | None:
        """Mean and log standard deviation, each broadcastable to (B, *shape): what walks between events go around.

        None, as here, stands for mean 0 and deviation 1.
        """
        return None

    def anchor_to(self, weights: Iterable[Tensor]) -> None:
        """Take device and dtype from the weights that a meta model was given: they are in no state dict."""
        here = next((p for p in weights if not p.is_meta), None)
        if self.anchor.is_meta and here is not None:
            self.anchor = torch.zeros((), device=here.device, dtype=here.dtype)

    def _log_prob(self, z: Tensor, context: Tensor | None, temperature: float) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no density")

    def _sample(self, n: int, context: Tensor | None, generator: Generator | None, temperature: float) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no sampler")

    def _enter(self, z: Tensor) -> Tensor:
        """z in the dtype of densities."""
        if z.is_complex():
            raise TypeError(f"z: expected real numbers, got {z.dtype}")
        return z.to(state_dtype(z))

    def _noise(self, n: int, generator: Generator | None) -> Tensor:
        """n standard normal draws (n, *shape)."""
        dtype, device = state_dtype(self.anchor), self.anchor.device
        return draw_normal((n, *self.shape), generator, dtype=dtype, device=device)

    def _sum(self, x: Tensor) -> Tensor:
        """(B, *shape) -> (B,)."""
        return x.reshape(x.shape[0], self.dims).sum(1)


def _anchor_again(module: Any, incompatible_keys: Any) -> None:
    module.anchor_to(module.state_dict().values())


def check_temperature(temperature: float) -> None:
    """Raise ValueError unless it is a finite number above 0, of which float32 holds the multiples and the inverse."""
    number = isinstance(temperature, (int, float, Real)) and not isinstance(temperature, bool)
    if not number or not 0 < temperature < math.inf:
        raise ValueError(f"temperature: expected a finite number > 0, got {temperature!r}")
    if not COLDEST <= temperature <= HOTTEST:
        raise ValueError(f"temperature: expected a number from {COLDEST} to {HOTTEST}, got {temperature!r}")


def check_below(name: str, values: Tensor, count: int, what: str) -> None:
    """Raise ValueError for integers beyond 0..count-1, where looking costs nothing: it would stall another device."""
    if values.is_cpu and values.numel() and not transformed():
        low, high = (int(end) for end in values.aminmax())
        if low < 0 or high >= count:
            raise ValueError(f"{name}: expected {what} 0 to {count - 1}, got {low} to {high}")
