"""A system that is one flow: what most of the zoo is made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Generator, Tensor
from torch.func import jvp

from ..distributions import Distribution
from ..flows import Flow
from ..objectives.nll import nll
from ..shapes import number_of, sample_shape
from ..space import Space, check_events
from ..transforms import Compose, InvertibilityReport, MemoryFlat, Transform, check_invertibility
from .blocks import unsquash
from .model import Ability, GenerativeModel, Marginal, SamplingOptions
from .option import Option


@dataclass(frozen=True)
class FlowSampling(SamplingOptions):
    """How the samples of a flow are drawn."""

    temperature: Annotated[float, Option("what multiplies the deviations of the base", above=0)] = 1.0


class FlowModel(GenerativeModel):
    r"""A system that is one Flow, trained by maximum likelihood.

    Where the space has ``levels``, Dequantize, Scale and Logit stand in front of ``transform``: :math:`\log p` is then
    a lower bound on the log-probability of the integers, one draw per call, and ``sample`` gives integers as floats;
    ``dequantize`` "variational" learns the noise, ``front`` are other maps in their place. ``memory_flat`` makes the
    Compose ``transform`` a :class:`MemoryFlat`, with the same state dict.

    Its latents are the base's noise. Where one layer of the transform moves events in time (``moves_in_time``, as
    :class:`Continuous` does) it has a trajectory, with densities unless data are integers. Cost: one pass of the
    transform per call, one solve per time of a trajectory. Raises ValueError or TypeError for events or contexts of the
    wrong shape or kind, and for an unknown kind of noise or one without levels.

    >>> from pyflowk.distributions import DiagonalGaussian
    >>> from pyflowk.space import Space
    >>> from pyflowk.transforms import Compose
    >>> from pyflowk.zoo import FlowModel
    >>> FlowModel(Space((2,), levels=4), DiagonalGaussian((2,)), Compose()).sample(5, temperature=0.5).shape
    torch.Size([5, 2])
    """

    Sampling = FlowSampling

    def __init__(
        self,
        space: Space,
        base: Distribution,
        transform: Transform,
        *,
        dequantize: str = "uniform",
        memory_flat: bool = False,
        front: Sequence[Transform] | None = None,
    ) -> None:
        super().__init__(space)
        if memory_flat:
            transform = MemoryFlat(*(transform if isinstance(transform, Compose) else (transform,)))
        self.flow = Flow(base, Compose(*(unsquash(space, dequantize) if front is None else front), transform))
        self._moving = [i for i, layer in enumerate(self.flow.transform.layers()) if layer.moves_in_time]

    @property
    def abilities(self) -> frozenset[Ability]:
        found = {Ability.LIKELIHOOD, Ability.LATENT}
        if len(self._moving) == 1:
            found |= {Ability.TRAJECTORY} | ({Ability.MARGINAL} if self.space.levels is None else set())
        return frozenset(found)

    @property
    def loss_unit(self) -> str | None:
        return "nats"

    def loss(self, x: Tensor, context: Tensor | None = None, generator: Generator | None = None) -> Tensor:
        return nll(self.flow, *self._enter(x, context), generator=generator)

    def log_prob(self, x: Tensor, context: Tensor | None = None, generator: Generator | None = None) -> Tensor:
        return self.flow.log_prob(*self._enter(x, context), generator)

    def sample_and_log_prob(
        self,
        n: int | Sequence[int],
        context: Any = None,
        generator: Generator | None = None,
        **options: Any,
    ) -> tuple[Tensor, Tensor]:
        chosen: Any = self.chosen(options)
        context = self.check_context(context, math.prod(sample_shape(n)))
        return self._drawn_by(chosen).sample_and_log_prob(n, context, generator, chosen.temperature)

    def _drawn_by(self, chosen: Any) -> Flow:
        """The flow whose samples are the model's, with such options."""
        return self.flow

    def _sample(self, rows: int, context: Any, generator: Generator | None, chosen: Any) -> Tensor:
        return self._drawn_by(chosen).sample(rows, context, generator, chosen.temperature)

    def initialize(self, x: Tensor, context: Tensor | None = None, generator: Generator | None = None) -> None:
        self.flow.initialize(*self._enter(x, context), generator)

    def _enter(self, x: Any, context: Any) -> tuple[Tensor, Tensor | None]:
        return x, self.check_batch(x, context)

    # ---- latents -----------------------------------------------------------------------------------------------------

    def encode(self, x: Tensor, context: Tensor | None = None, generator: Generator | None = None) -> Tensor:
        x, condition = self.flow.enter(*self._enter(x, context))
        z, _ = self.flow.transform(x, condition, generator)
        location = self.flow.base.location(condition)
        return z if location is None else (z - location[0]) * torch.exp(-location[1])

    def decode(self, z: Tensor, context: Tensor | None = None, generator: Generator | None = None) -> Tensor:
        check_events(z, self.flow.base.shape, "z")
        z, condition = self.flow.enter(z, self.check_context(context, z.shape[0]))
        location = self.flow.base.location(condition)
        z = z if location is None else location[0] + torch.exp(location[1]) * z
        return self.flow.transform.to_data(z, condition, generator)

    def round_trip(
        self, x: Tensor, context: Tensor | None = None, generator: Generator | None = None
    ) -> InvertibilityReport:
        return check_invertibility(self.flow.transform, *self.flow.enter(*self._enter(x, context)), generator)

    # ---- the way from noise to data ----------------------------------------------------------------------------------

    def trajectory(
        self, n: int, times: Sequence[float], context: Tensor | None = None, generator: Generator | None = None
    ) -> Tensor:
        self.require(Ability.TRAJECTORY)
        condition = self.check_context(context, number_of(n))
        front, moving, back = self._parts()
        x, states, start = Flow(self.flow.base, back).sample(n, condition, generator), [], 0.0
        for time in map(checked_time, times):
            x, start = moving.move(x, start, time, condition), time
            states.append(front.to_data(x, condition, generator))
        return torch.stack(states) if states else x.new_empty((0, n, *self.space.shape))

    def marginal(
        self, time: float, x: Tensor, context: Tensor | None = None, generator: Generator | None = None
    ) -> Marginal:
        self.require(Ability.MARGINAL)
        x, condition = self.flow.enter(*self._enter(x, context))
        front, moving, back = self._parts()
        state, ladj = front(x, condition, generator)
        noise, moved = moving.transport(state, checked_time(time), 0.0, condition, generator)
        log_prob = Flow(self.flow.base, back).log_prob(noise, condition, generator) + ladj + moved
        speed = moving.velocity(time, state, condition)
        return Marginal(log_prob, jvp(lambda y: front.to_data(y, condition), (state,), (speed,))[1])

    def _parts(self) -> tuple[Transform, Any, Transform]:
        """The layers before the one that moves events in time, that one, and those behind it."""
        layers, (i,) = self.flow.transform.layers(), self._moving
        return Compose(*layers[:i]), layers[i], Compose(*layers[i + 1 :])


def checked_time(time: float) -> float:
    number = float(time)
    if not 0 <= number <= 1:
        raise ValueError(f"time: expected 0 (noise) to 1 (data), got {time}")
    return number
