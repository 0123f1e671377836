"""Flow = base distribution + transform: densities and samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .distributions import Distribution
from .nets.context import uncompiled
from .shapes import expand_context, sample_shape, shaped
from .transforms.base import Transform


class Flow(nn.Module):
    r"""A density by change of variables: :math:`\log p(x) = \log p_Z(f(x)) + \log |\det \partial f / \partial x|`.

    ``transform`` maps data x (B, \*event) to noise z, ``base`` is a :class:`Distribution` over z. Densities are in
    nats, sums over the event. Contexts follow one rule: **a context has as many rows as there are events, or
    one row that serves all of them**; labels are (B,) integers (a 0-dim tensor is one row), vectors (B, features). So

    - one context, many samples: ``sample(100, context[:1])``
    - many contexts, one sample each: ``sample(len(context), context)``
    - k samples for each of many: ``sample(k * len(context), context.repeat_interleave(k, 0))``

    Anything else raises ValueError. A shape in place of the number draws as many samples as it has places and shapes
    them: ``sample((5,))`` is ``sample(5)``, ``sample((2, 3))`` is (2, 3, \*event), ``sample(())`` one event.

    x and contexts come in the model's dtype or in one that it holds exactly (integers, half precision; float32 in a
    model that was made ``.double()``); float64 for float32 parameters raises TypeError, another device ValueError. A
    model whose weights are themselves half precision is refused: log-scales need float32, and ``torch.autocast`` runs
    the networks, and only them, in 16 bits.

    Every call that draws random numbers takes ``generator``; for integers (Dequantize) ``log_prob`` is one draw of a
    lower bound. torch.compile cannot trace a generator object: pass none there and call torch.manual_seed. Cost: one
    pass of the transform in the direction named.

    >>> import torch
    >>> from pyflowk.distributions import DiagonalGaussian
    >>> from pyflowk.flows import Flow
    >>> from pyflowk.transforms import Scale
    >>> flow = Flow(DiagonalGaussian((2,)), Scale(0.5))
    >>> flow.log_prob(torch.zeros(1, 2)), flow.sample(3).shape
    (tensor([-3.2242]), torch.Size([3, 2]))
    """

    def __init__(self, base: Distribution, transform: Transform) -> None:
        super().__init__()
        if not isinstance(uncompiled(base), Distribution) or not isinstance(uncompiled(transform), Transform):
            raise TypeError(  # other packages put the transform first
                f"expected Flow(base, transform), got Flow({type(base).__name__}(...), {type(transform).__name__}(...))"
            )
        self.base = base
        self.transform = transform
        self.register_load_state_dict_post_hook(_anchor_again)

    def forward(self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """The same as :meth:`log_prob`."""
        return self.log_prob(x, context, generator)

    def log_prob(self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Log-density (B,) of x (B, *event) in nats; runs ``transform.forward``."""
        x, context = self.enter(x, context)
        z, ladj = self.transform(x, context, generator)
        return self.base.log_prob(z, context) + ladj

    def sample(
        self,
        n: int | Sequence[int],
        context: Tensor | None = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """n samples (n, *event); ``temperature`` scales the base's standard deviation; runs ``transform.to_data``."""
        shape, context, z = self._draw(n, context, generator, temperature)
        return shaped(self.transform.to_data(z, context, generator), shape)

    def sample_and_log_prob(
        self,
        n: int | Sequence[int],
        context: Tensor | None = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """n samples and their log-density under the distribution they were drawn from, each network run once.

        With a Dequantize in the transform the samples are integers and the value is the lower bound at that draw.
        """
        shape, context, z = self._draw(n, context, generator, temperature)
        x, ladj = self.transform.inverse(z, context, generator)
        return shaped(x, shape), shaped(self.base.log_prob(z, context, temperature) - ladj, shape)

    @property
    def reparameterised(self) -> bool:
        """Whether samples are differentiable functions of all parameters."""
        return self.base.reparameterised and not self.transform.stochastic

    def initialize(self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None) -> None:
        """Set every data-dependent layer (ActNorm, Standardize) from one batch x (B, *event)."""
        x, context = self.enter(x, context)
        self.transform.initialize(x, context, generator)

    def _draw(
        self, n: int | Sequence[int], context: Tensor | None, generator: torch.Generator | None, temperature: float
    ) -> tuple[tuple[int, ...], Tensor | None, Tensor]:
        shape = sample_shape(n)
        rows = shape[0] if len(shape) == 1 else math.prod(shape)
        self._require_wide()
        context = expand_context(self._fit("context", context), rows)
        return shape, context, self.base.sample(rows, context, generator, temperature)

    def enter(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """x and context as the transform takes them, or an error that names what does not fit."""
        entered = self._fit("x", x)
        if entered is None or entered.dim() == 0:
            raise ValueError(f"x: expected events (B, *event), got {'none' if x is None else 'a number'}")
        return entered, expand_context(self._fit("context", context), entered.shape[0])

    def _fit(self, name: str, value: Tensor | None) -> Tensor | None:
        if value is None:
            return None
        if not isinstance(value, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(value).__name__}")
        own = self._require_wide()
        if value.device != own.device:
            raise ValueError(f"{name}: expected {own.device}, where the model is, got a tensor on {value.device}")
        if value.dtype == own.dtype or (name == "context" and not value.is_floating_point()):
            return value
        if value.dtype == torch.float64 and next(self.parameters(), None) is None:
            return value  # nothing is stored in another precision
        if value.dtype == torch.float64 or value.is_complex():
            way = "" if value.is_complex() else f": pass {name}.float(), or compute in double precision: model.double()"
            raise TypeError(f"{name}: expected {own.dtype}, the model's dtype, got {value.dtype}{way}")
        return value.to(own.dtype)

    def _require_wide(self) -> Tensor:
        """The tensor that tells device and dtype of the model, once it is wide enough."""
        return require_wide(self.base.anchor)


def require_wide(own: Tensor) -> Tensor:
    """A tensor of a model's; TypeError unless weights like it are wide enough for densities."""
    if own.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"this model's weights are {own.dtype}, too coarse for log-scales and log-determinants: keep it in "
            f"float32 and run its networks in 16 bits by torch.autocast({own.device.type!r}, {own.dtype})"
        )
    return own


def _anchor_again(module: Any, incompatible_keys: Any) -> None:
    module.base.anchor_to(module.parameters())
