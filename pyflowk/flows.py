"""Flow = base distribution + transform: densities and samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from ._checks import require_counts
from .nets.context import check_labels
from .ops.draw import draw_normal, draw_uniform
from .ops.dtypes import state_dtype
from .shapes import expand_context, number_of, sample_shape, shaped
from .transforms.base import Transform, sum_event

LOG_2PI = math.log(2 * math.pi)


class Base(nn.Module):
    """A base distribution over events of one shape: a mean and a log standard deviation per context.

    Subclasses give ``_location(context) -> (mean, log_std)``, each broadcastable to (B, *shape), or None for the
    standard normal. ``reparameterised``: whether samples are differentiable functions of the parameters.
    """

    reparameterised: bool = True

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)
        require_counts(type(self).__name__, 0, **{f"shape[{i}]": size for i, size in enumerate(self.shape)})
        # Tells device and dtype even where nothing is learned; not part of the state dict.
        self.anchor: Tensor
        self.register_buffer("anchor", torch.zeros(()), persistent=False)

    def _location(self, context: Tensor | None) -> tuple[Tensor, Tensor] | None:
        raise NotImplementedError

    def _state(self, z: Tensor) -> Tensor:
        """z (B, *shape) in the dtype of densities, or ValueError."""
        if tuple(z.shape[1:]) != self.shape:
            raise ValueError(f"the base expects (B, {', '.join(map(str, self.shape))}), got {tuple(z.shape)}")
        return z.to(state_dtype(z))

    def _noise(self, n: int, generator: torch.Generator | None) -> Tensor:
        """n standard normal draws (n, *shape)."""
        dtype, device = state_dtype(self.anchor), self.anchor.device
        return draw_normal((n, *self.shape), generator, dtype=dtype, device=device)

    def log_prob(self, z: Tensor, context: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """Log-density (B,) in nats of z (B, *shape), with every standard deviation multiplied by ``temperature``."""
        check_temperature(temperature)
        z = self._state(z)
        constant = math.prod(self.shape) * (0.5 * LOG_2PI + math.log(temperature))
        location = self._location(context)
        if location is None:
            return sum_event(z.square()) * (-0.5 / temperature**2) - constant
        mean, log_std = location
        scaled = (z - mean) * torch.exp(-log_std.to(z.dtype)) / temperature
        return sum_event(-0.5 * scaled.square() - log_std) - constant

    def sample(
        self,
        n: int,
        context: Tensor | None = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """n draws (n, *shape); context as in :meth:`Flow.sample`."""
        n = number_of(n)
        check_temperature(temperature)
        noise = self._noise(n, generator)
        location = self._location(expand_context(context, n))
        if location is None:
            return noise if temperature == 1 else temperature * noise
        mean, log_std = location
        return mean + temperature * torch.exp(log_std) * noise


class DiagonalGaussian(Base):
    r"""Independent Gaussians, :math:`z_i \sim N(\mu_i, \sigma_i^2)`: standard normal, or learned from there.

    ``learned=True`` makes the mean and the log standard deviation parameters of the given shape. A context is accepted
    and ignored.

    >>> import torch
    >>> from pyflowk.flows import DiagonalGaussian
    >>> DiagonalGaussian((2,)).log_prob(torch.zeros(1, 2))
    tensor([-1.8379])
    """

    def __init__(self, shape: Sequence[int], learned: bool = False) -> None:
        super().__init__(shape)
        self.learned = learned
        if learned:
            self.mean = nn.Parameter(torch.zeros(self.shape))
            self.log_std = nn.Parameter(torch.zeros(self.shape))

    def _location(self, context: Tensor | None) -> tuple[Tensor, Tensor] | None:
        return (self.mean, self.log_std) if self.learned else None


class ClassConditionalGaussian(Base):
    r"""One learned diagonal Gaussian per class, :math:`z \sim N(\mu_c, \sigma_c^2)`, standard normal at the start.

    The context holds the labels (B,), an integer dtype, 0..classes-1; ValueError or TypeError for anything else.

    >>> import torch
    >>> from pyflowk.flows import ClassConditionalGaussian
    >>> base = ClassConditionalGaussian((2,), classes=10)
    >>> base.log_prob(torch.zeros(3, 2), torch.tensor([0, 1, 9])).shape
    torch.Size([3])
    """

    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__(shape)
        require_counts("ClassConditionalGaussian", classes=classes)
        self.classes = classes
        self.mean = nn.Parameter(torch.zeros(classes, *self.shape))
        self.log_std = nn.Parameter(torch.zeros(classes, *self.shape))

    def _location(self, context: Tensor | None) -> tuple[Tensor, Tensor]:
        if context is None:
            raise ValueError("ClassConditionalGaussian expects class labels (B,) as context, got none")
        labels = check_labels(context)
        return self.mean[labels], self.log_std[labels]


class GaussianMixture(Base):
    r"""A learned mixture of diagonal Gaussians, :math:`p(z) = \sum_k w_k N(z; \mu_k, \sigma_k^2)`.

    Means start at standard normal draws (torch's global generator), scales at 1 and weights equal. A context is
    accepted and ignored. ``temperature`` multiplies every standard deviation. Raises ValueError for less than one
    component. Cost: K densities. Papamakarios, Pavlakou, Murray, 2017, arXiv:1705.07057, section 3.2 (MAF MoG).

    >>> import torch
    >>> from pyflowk.flows import GaussianMixture
    >>> base = GaussianMixture((2,), components=3)
    >>> base.log_prob(torch.zeros(5, 2)).shape, base.sample(4).shape
    (torch.Size([5]), torch.Size([4, 2]))
    """

    reparameterised = False  # not by the weights: which component it is, is a choice

    def __init__(self, shape: Sequence[int], components: int) -> None:
        super().__init__(shape)
        require_counts("GaussianMixture", components=components)
        self.logits = nn.Parameter(torch.zeros(components))
        self.mean = nn.Parameter(torch.randn(components, *self.shape))
        self.log_std = nn.Parameter(torch.zeros(components, *self.shape))

    def _location(self, context: Tensor | None) -> None:
        """A mixture has none: it is spread about the origin."""

    def log_prob(self, z: Tensor, context: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        check_temperature(temperature)
        z = self._state(z)
        log_std = (self.log_std + math.log(temperature)).to(z.dtype)
        scaled = (z[:, None] - self.mean) * torch.exp(-log_std)
        of_components = (-0.5 * scaled.square() - log_std).flatten(2).sum(2) - 0.5 * LOG_2PI * math.prod(self.shape)
        return torch.logsumexp(of_components + torch.log_softmax(self.logits.to(z.dtype), 0), 1)

    def sample(
        self,
        n: int,
        context: Tensor | None = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        n = number_of(n)
        check_temperature(temperature)
        # by the inverse of the distribution function: multinomial would need replacement and refuses n = 0
        uniform = draw_uniform((n,), generator, dtype=state_dtype(self.anchor), device=self.anchor.device)
        last = len(self.logits) - 1
        which = torch.searchsorted(self.logits.softmax(0).cumsum(0).to(uniform), uniform).clamp(max=last)
        noise = self._noise(n, generator)
        return self.mean[which] + temperature * torch.exp(self.log_std[which]) * noise


class Flow(nn.Module):
    r"""A density by change of variables: :math:`\log p(x) = \log p_Z(f(x)) + \log |\det \partial f / \partial x|`.

    ``transform`` maps data x (B, \*event) to noise z, ``base`` is a :class:`Base` over z. Densities are in nats, sums
    over the event. Contexts follow one rule: **a context has as many rows as there are events, or one row that serves
    all of them**; labels are (B,) integers (a 0-dim tensor is one row), vectors (B, features). So

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
    >>> from pyflowk.flows import DiagonalGaussian, Flow
    >>> from pyflowk.transforms import Scale
    >>> flow = Flow(DiagonalGaussian((2,)), Scale(0.5))
    >>> flow.log_prob(torch.zeros(1, 2)), flow.sample(3).shape
    (tensor([-3.2242]), torch.Size([3, 2]))
    """

    def __init__(self, base: Base, transform: Transform) -> None:
        super().__init__()
        if isinstance(base, Transform) or isinstance(transform, Base):  # other packages put the transform first
            raise TypeError(
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
        x, context = self._enter(x, context)
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
        x, context = self._enter(x, context)
        self.transform.initialize(x, context, generator)

    def _draw(
        self, n: int | Sequence[int], context: Tensor | None, generator: torch.Generator | None, temperature: float
    ) -> tuple[tuple[int, ...], Tensor | None, Tensor]:
        shape = sample_shape(n)
        check_temperature(temperature)
        rows = shape[0] if len(shape) == 1 else math.prod(shape)
        self._require_wide()
        context = expand_context(self._fit("context", context), rows)
        return shape, context, self.base.sample(rows, context, generator, temperature)

    def _enter(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """x and context as the transform takes them, or an error that names what does not fit."""
        entered = self._fit("x", x)
        if entered is None or entered.dim() == 0:
            raise ValueError(f"x: expected events (B, *event), got {'none' if x is None else 'a number'}")
        return entered, expand_context(self._fit("context", context), entered.shape[0])

    def _fit(self, name: str, value: Tensor | None) -> Tensor | None:
        if value is None:
            return None
        own = self.base.anchor
        if not isinstance(value, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(value).__name__}")
        self._require_wide()
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

    def _require_wide(self) -> None:
        dtype, device = self.base.anchor.dtype, self.base.anchor.device.type
        if dtype not in (torch.float32, torch.float64):
            raise TypeError(
                f"this model's weights are {dtype}, too coarse for log-scales and log-determinants: keep it in float32 "
                f"and run its networks in 16 bits by torch.autocast({device!r}, {dtype})"
            )


def _anchor_again(module: Any, incompatible_keys: Any) -> None:
    """After load_state_dict(assign=True) on a meta model: what tells device and dtype is in no state dict."""
    here = next((p for p in module.parameters() if not p.is_meta), None)
    if module.base.anchor.is_meta and here is not None:
        module.base.anchor = torch.zeros((), device=here.device, dtype=here.dtype)


def check_temperature(temperature: float) -> None:
    """Raise ValueError unless it is a finite number above 0."""
    number = isinstance(temperature, (int, float, Real)) and not isinstance(temperature, bool)
    if not number or not 0 < temperature < math.inf:
        raise ValueError(f"temperature: expected a finite number > 0, got {temperature!r}")
