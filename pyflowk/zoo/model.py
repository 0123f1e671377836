"""What every system of the zoo can do; trainer and command line know this and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any, ClassVar, NamedTuple

from torch import Generator, Tensor, nn

from ..distributions import Distribution
from ..ops.modes import transformed
from ..shapes import expand_context, number_of, sample_shape, shaped
from ..solvers import Operator
from ..space import TEXTS, Ragged, Space
from ..transforms import InvertibilityReport
from .option import Option, checked, declared


class Ability(str, Enum):
    """What a system may do beside its loss and its samples: asked of ``abilities``, never guessed from the class."""

    LIKELIHOOD = "likelihood"
    """``log_prob`` and ``sample_and_log_prob``."""
    QUICK_LIKELIHOOD = "likelihood in a few steps"
    """``log_prob`` takes ``steps``."""
    LATENT = "latent space"
    """``encode``, ``decode`` and ``round_trip``."""
    TRAJECTORY = "trajectory"
    """``trajectory``."""
    MARGINAL = "density along a trajectory"
    """``marginal``."""
    EDITING = "editing of events"
    """``edit``, ``restore`` and ``inpaint``."""
    RECONSTRUCTION = "codes"
    """``reconstruct``."""

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class SamplingOptions:
    """What ``sample`` takes beside its own arguments: nothing. Systems that take more declare a subclass.

    It is a frozen dataclass too, whose fields all have defaults, JSON values and, in their annotation, an ``Option``.
    """


class Marginal(NamedTuple):
    """A trajectory at one time: log-density (B,) in nats, and the velocity (B, *shape) with which events move."""

    log_prob: Tensor
    velocity: Tensor


class GenerativeModel(nn.Module):
    r"""Base of every system: ``loss`` and ``sample``, and what its ``abilities`` name; all else raises by name.

    A subclass gives ``loss`` and ``_sample(rows, context, generator, chosen)``, whose arguments are checked, ``chosen``
    being one of its ``Sampling``. Contexts follow the rule of :class:`pyflowk.flows.Flow`; events are (B, \*shape),
    or a :class:`pyflowk.space.Ragged` in a space of several lengths: a subclass says which it takes.

    Attributes:
        space: what one event is and what comes with it.
        config: JSON values; the name, the space and all options, enough to build the model again.
        Sampling: the options of ``sample``; ``sampling_options`` says what each means and takes.
        abilities: what the model can do beside losses and samples.
        loss_unit: "nats" where the loss is a negative log-likelihood (or a bound), which is told in bits per dimension
            for integer data; None for every other loss. It may differ between training and evaluation mode.
        targets: names of submodules that ``after_step`` moves, such as averages: saved, not trained by the optimiser,
            not averaged.
        teachers: names of submodules that are frozen: neither trained, averaged nor saved. Whoever builds the model
            from its config puts them there.

    Calling the model computes the loss, so that wrappers such as DistributedDataParallel work.

    >>> import torch
    >>> from pyflowk.space import Space
    >>> from pyflowk.zoo import GenerativeModel
    >>> class Cloud(GenerativeModel):
    ...     def loss(self, x, context=None, generator=None):
    ...         self.check_batch(x, context)
    ...         return x.square().flatten(1).sum(1)
    ...     def _sample(self, rows, context, generator, chosen):
    ...         return torch.randn(rows, *self.space.shape, generator=generator)
    >>> Cloud(Space((2,))).sample((3, 4)).shape
    torch.Size([3, 4, 2])
    """

    Sampling: ClassVar[type[SamplingOptions]] = SamplingOptions
    sampling_options: ClassVar[dict[str, Option]] = {}
    _usual: ClassVar[SamplingOptions] = SamplingOptions()

    config: dict[str, Any]
    targets: tuple[str, ...] = ()
    teachers: tuple[str, ...] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "Sampling" in vars(cls):
            _check_sampling(cls.__name__, cls.Sampling)
            cls.sampling_options = declared(cls.Sampling)
            cls._usual = cls.Sampling()

    def __init__(self, space: Space) -> None:
        super().__init__()
        if not isinstance(space, Space):
            raise TypeError(f"{type(self).__name__} expects a Space, got {space!r}")
        self.space, self.config = space, {}
        self.register_load_state_dict_post_hook(_anchor_again)

    @property
    def name(self) -> str:
        """The system's name, or that of the class for a model that is not of the zoo."""
        return self.config.get("name", type(self).__name__)

    @property
    def abilities(self) -> frozenset[Ability]:
        """What the model can do beside losses and samples."""
        return frozenset()

    @property
    def loss_unit(self) -> str | None:
        """The unit of the loss, "nats" or None."""
        return None

    @property
    def conditional(self) -> bool:
        """Whether it needs a context."""
        return self.space.context is not None

    # ---- what every system does --------------------------------------------------------------------------------------

    def forward(self, x: Any, context: Any = None, generator: Generator | None = None) -> Tensor:
        """The same as :meth:`loss`."""
        return self.loss(x, context, generator)

    def loss(self, x: Any, context: Any = None, generator: Generator | None = None) -> Tensor:
        """The training loss per event, (B,)."""
        raise NotImplementedError(f"{self.name} has no loss")

    def sample(
        self,
        n: int | Sequence[int],
        context: Any = None,
        generator: Generator | None = None,
        **options: Any,
    ) -> Any:
        """n events (n, *shape), in the units of the data; a shape in place of n as in :meth:`Flow.sample`.

        ``options`` are fields of ``Sampling``: TypeError for others, either error for a value that one cannot take.
        """
        chosen = self.chosen(options) if options else self._usual
        shape = (number_of(n),) if self.space.variable else sample_shape(n)  # type: ignore[arg-type]
        rows = shape[0] if len(shape) == 1 else math.prod(shape)
        x = self._sample(rows, self.check_context(context, rows), generator, chosen)
        return x if len(shape) == 1 else shaped(x, shape)

    def chosen(self, options: dict[str, Any]) -> SamplingOptions:
        """The options of ``sample``, checked: TypeError for one that there is not, listing those that there are."""
        return self.Sampling(**checked(self.name, "sampling option", self.sampling_options, options))

    def _sample(self, rows: int, context: Any, generator: Generator | None, chosen: Any) -> Any:
        raise NotImplementedError(f"{self.name} has no sampler")

    def adopt(self, teacher: GenerativeModel) -> None:
        """Begin with the weights of another model, whose network has the same layers; ValueError where it has not, and
        for a system that begins with none."""
        raise ValueError(f"{self.name} begins with no other model's weights; got those of {teacher.name}")

    def initialize(self, x: Any, context: Any = None, generator: Generator | None = None) -> None:
        """Set data-dependent layers from one batch; nothing to do for a system that has none."""

    def prepare(
        self,
        x: Any,
        context: Any = None,
        generator: Generator | None = None,
        watch: Callable[[float], None] | None = None,
        found: Mapping[str, Tensor] = {},
    ) -> dict[str, Tensor]:
        """Find what must be known of all training rows x, a tensor or rows that are read on demand, before the first
        step: nothing, usually. ``watch`` hears of the part that is done. What it gives is kept with the checkpoint, and
        ``found`` when a run goes on, by the same generator."""
        return {}

    def after_step(self, step: int) -> None:
        """What follows step number ``step`` of the optimiser, such as moving the ``targets``; nothing, usually."""

    # ---- what some can do --------------------------------------------------------------------------------------------

    def require(self, ability: Ability) -> None:
        """Raise NotImplementedError, naming the system, where it does not have an ability."""
        if ability not in self.abilities:
            raise NotImplementedError(f"{self.name} has no {ability}")

    def log_prob(self, x: Any, context: Any = None, generator: Generator | None = None) -> Tensor:
        """Log-likelihood (B,) in nats per event.

        In training mode the first batch that a model sees, here too, sets what it learns from data before any step, as
        the scale of real numbers: ``initialize`` it with training data, or score in ``eval()`` mode.
        """
        raise self._lacks(Ability.LIKELIHOOD)

    def sample_and_log_prob(
        self, n: int | Sequence[int], context: Any = None, generator: Generator | None = None, **options: Any
    ) -> tuple[Any, Tensor]:
        """n samples as of :meth:`sample`, and the log-density, (n,) in nats, of the distribution they are drawn from.

        Integers have the bound that belongs to the draw, an estimated log-determinant the estimate of one solve.
        """
        raise self._lacks(Ability.LIKELIHOOD)

    def encode(self, x: Any, context: Any = None, generator: Generator | None = None) -> Tensor:
        """Latents (B, *latent) of events, about zero, in deviations of their distribution."""
        raise self._lacks(Ability.LATENT)

    def decode(self, z: Tensor, context: Any = None, generator: Generator | None = None) -> Any:
        """Events of latents (B, *latent)."""
        raise self._lacks(Ability.LATENT)

    def round_trip(self, x: Any, context: Any = None, generator: Generator | None = None) -> InvertibilityReport:
        """How well events come back from their latents, layer by layer, in evaluation mode."""
        raise self._lacks(Ability.LATENT)

    def trajectory(
        self, n: int, times: Sequence[float], context: Any = None, generator: Generator | None = None
    ) -> Tensor:
        """n samples at ``times`` of their way from noise, 0, to data, 1: (T, n, *shape), in the units of the data."""
        raise self._lacks(Ability.TRAJECTORY)

    def marginal(
        self, time: float, x: Tensor, context: Tensor | None = None, generator: Generator | None = None
    ) -> Marginal:
        """Density and velocity of the trajectory at a time, at x (B, *shape)."""
        raise self._lacks(Ability.MARGINAL)

    def edit(
        self, x: Tensor, time: float, context: Any = None, generator: Generator | None = None, **options: Any
    ) -> Tensor:
        """Events drawn near x: taken back to a time of their way from noise, 0, to data, 1, and sampled from there.

        The context may be another one; ``options`` are those of :meth:`sample`. At time 0 nothing is left of x, at 1
        all of it. Meng et al., 2022, arXiv:2108.01073.
        """
        raise self._lacks(Ability.EDITING)

    def restore(
        self,
        y: Tensor,
        operator: Operator,
        context: Any = None,
        generator: Generator | None = None,
        *,
        noise: float = 0.0,
        steps: int = 50,
        guidance: float = 0.0,
    ) -> Tensor:
        """Events drawn given y, (B, *seen): what an operator, linear on events in the units of the data, showed of
        them, up to ``noise``, its deviation."""
        raise self._lacks(Ability.EDITING)

    def inpaint(
        self,
        y: Tensor,
        mask: Tensor,
        context: Any = None,
        generator: Generator | None = None,
        *,
        noise: float = 0.0,
        steps: int = 50,
        guidance: float = 0.0,
    ) -> Tensor:
        """Events that are y, (B, *shape), where the mask is true, up to ``noise``, and drawn elsewhere.

        The mask broadcasts with y; what y is where it is false, NaN for example, is not looked at.
        """
        raise self._lacks(Ability.EDITING)

    def reconstruct(self, x: Any) -> Any:
        """What comes back of events from their codes, which keep less than all of them."""
        raise self._lacks(Ability.RECONSTRUCTION)

    def _lacks(self, ability: Ability) -> NotImplementedError:
        claimed = ", though it claims one: its class does not define it" if ability in self.abilities else ""
        return NotImplementedError(f"{self.name} has no {ability}{claimed}")

    # ---- checks ------------------------------------------------------------------------------------------------------

    def check_batch(self, x: Any, context: Any) -> Any:
        """The context with one row per event, once the events are of the space; ValueError or TypeError otherwise."""
        self.space.check(x)
        rows = len(x) if self.space.variable else x.shape[0]  # the length of a tensor is a constant to torch.export
        return self.check_context(context, rows)

    def check_context(self, context: Any, rows: int) -> Any:
        """One row of context per event, or ValueError/TypeError; labels are range-checked where that is free."""
        known = self.space.context
        if context is None:
            if known is not None:
                raise ValueError(f"this model is conditional: expected {known}, got no context")
            return None
        if known is None:
            raise ValueError(
                "this model is unconditional (create it with classes=, context_dim= or a Space that has a context),"
                " but got a context"
            )
        if isinstance(context, Ragged) != (known.kind in TEXTS):
            wanted = "a Ragged" if known.kind in TEXTS else "a tensor"
            raise TypeError(f"context: expected {wanted}, as it is {known}, got {type(context).__name__}")
        context = expand_context(context, rows)
        free = known.kind == "labels" and context.is_cpu and context.numel() > 0 and not transformed()
        if free and not 0 <= int(context.min()) <= int(context.max()) < known.size:
            raise ValueError(f"expected labels in 0..{known.size - 1}, got {context.min()}..{context.max()}")
        return context


def _check_sampling(owner: str, found: Any) -> None:
    """The options of ``sample`` are a dataclass of their own, whose names ``sample`` does not take itself."""
    if not (isinstance(found, type) and issubclass(found, SamplingOptions) and "__dataclass_fields__" in vars(found)):
        raise TypeError(f"{owner}.Sampling: expected a subclass of SamplingOptions under @dataclass(frozen=True)")
    taken = {"n", "context", "generator"}.intersection(field.name for field in fields(found))
    if taken:
        raise TypeError(f"{owner}.Sampling: expected other names than {', '.join(sorted(taken))}, which sample takes")


def _anchor_again(model: GenerativeModel, incompatible_keys: Any) -> None:
    """Distributions that learn nothing have no weights: on the meta device they wait for those of others."""
    for module in model.modules():
        if isinstance(module, Distribution):
            module.anchor_to(model.parameters())
