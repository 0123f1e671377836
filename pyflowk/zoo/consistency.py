"""Consistency models: from anywhere on its way a network tells where noise ends as data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from torch import Generator, Tensor
from typing_extensions import Unpack

from ..distributions import DiagonalGaussian
from ..flows import Flow
from ..nets import Field
from ..objectives import ConsistencyMatching
from ..ops.draw import draw_keys
from ..ops.path_sample import noise_of
from ..paths import Cosine, LogNormalTimes
from ..solvers import Guided, uniform_grid
from ..solvers import consistency as jumps
from ..space import Space
from ..transforms import ActNorm, Compose, Scale, Transform
from .blocks import by_network, centred, flatten, score_of_samples, velocity
from .model import GenerativeModel, SamplingOptions
from .option import NetworkOptions, Option, one_of
from .registry import register


@dataclass(frozen=True)
class ConsistencySampling(SamplingOptions):
    """How often the way from noise to data is gone: once, or again from a little noise."""

    steps: Annotated[int, Option("jumps to the data, and back with fresh noise but for the last", 1, 1000)] = 1
    guidance: Annotated[float, Option("how much further than the context: 0 not at all, -1 samples without it")] = 0.0


class ConsistencyModel(GenerativeModel):
    """A field that learns by :class:`pyflowk.objectives.ConsistencyMatching`: samples in a few steps, nothing else.

    ``warmup`` is over how many steps of a training the tangent comes in, ``halving`` after how many the two times come
    nearer. In evaluation mode the loss is the energy score of samples for each event, as that of training says nothing
    of how good they are. Integers, like real numbers, are brought to unit scale.

    >>> from pyflowk.nets import MLPField
    >>> from pyflowk.objectives import ConsistencyMatching
    >>> from pyflowk.space import Space
    >>> from pyflowk.zoo import ConsistencyModel
    >>> ConsistencyModel(Space((2,)), MLPField(2, 8, 1), ConsistencyMatching()).sample(3, steps=2).shape
    torch.Size([3, 2])
    """

    Sampling = ConsistencySampling
    seen: Tensor

    def __init__(
        self,
        space: Space,
        net: Field,
        objective: ConsistencyMatching,
        *,
        flat: bool = False,
        warmup: int = 1000,
        halving: int = 1000,
    ) -> None:
        super().__init__(space)
        shape = (space.dims,) if flat else space.shape
        scale: Transform = ActNorm(shape[0]).requires_grad_(False) if space.levels is None else Scale(2)
        self.net = net
        self.front = Flow(DiagonalGaussian(shape), Compose(*centred(space), *([flatten(space)] if flat else []), scale))
        self.objective, self.warmup, self.halving = replace(objective, source=self.front.base), warmup, halving
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def loss(self, x: Tensor, context: Tensor | None = None, generator: Generator | None = None) -> Tensor:
        x, condition = self.front.enter(x, self.check_batch(x, context))
        if not self.training:
            return score_of_samples(self, self.front.transform, x, condition, generator)
        x1 = self.front.transform.to_noise(x, condition, generator)
        seen = int(self.seen)
        warmup, ratio = min(1.0, (1 + seen) / self.warmup), 0.5 ** (1 + min(seen // self.halving, 7))
        # as arguments: a dataclass that is made anew while torch.compile watches has no attributes
        return self.objective(self.net, x1, condition, generator=generator, warmup=warmup, ratio=ratio)

    def after_step(self, step: int) -> None:
        self.seen.fill_(step)

    def initialize(self, x: Any, context: Tensor | None = None, generator: Generator | None = None) -> None:
        self.front.initialize(x, self.check_batch(x, context), generator)

    def chosen(self, options: dict[str, Any]) -> SamplingOptions:
        found: Any = super().chosen(options)
        _guided(self.net, found)
        return found

    def check_context(self, context: Any, rows: int) -> Any:
        return None if context is None and self.objective.dropout else super().check_context(context, rows)

    def _sample(self, rows: int, context: Any, generator: Generator | None, chosen: Any) -> Tensor:
        like = self.front.base.anchor.new_zeros(()).expand(rows, *self.front.base.shape)
        x, context = self.front.enter(noise_of(draw_keys(rows, generator, device=like.device), like), context)
        field, path = _guided(self.net, chosen), self.objective.path
        schedule = path.schedule  # type: ignore[attr-defined]
        x = jumps(field, x, schedule, uniform_grid(chosen.steps), context=context, generator=generator)
        return self.front.transform.to_data(x, context, generator)


def _guided(net: Field, chosen: Any) -> Field:
    return Guided(net, chosen.guidance) if chosen.guidance else net


@register("consistency", by_network)
def consistency(
    space: Space,
    *,
    derivative: Annotated[
        str, one_of("of what the network tells along the way: by a tangent, or a later time", ("exact", "difference"))
    ] = "exact",
    noise_mean: Annotated[float, Option("of the logarithm of the noise in training")] = -1.0,
    noise_std: Annotated[float, Option("deviation of the same", above=0)] = 1.4,
    warmup: Annotated[int, Option("steps over which the tangent comes in", 1)] = 1000,
    halving: Annotated[int, Option("steps after which the later time comes nearer, up to 7 times", 1)] = 1000,
    time_scale: Annotated[float, Option("of the waves of time that a unet or dit hears", above=0)] = 1.0,
    **shared: Unpack[NetworkOptions],
) -> ConsistencyModel:
    """Consistency models, whose one evaluation takes noise to data (Song et al., 2023, arXiv:2303.01469).

    On a quarter of a circle between noise and data the network tells the end of the way, the same from everywhere on
    it. It learns so without a teacher: with ``derivative`` "exact" in continuous time (sCM, Lu and Song, 2025,
    arXiv:2410.11081), whose tangents are brought in over ``warmup`` steps and normalised; with "difference" from two
    times that come nearer (ECT, Geng et al., 2025, arXiv:2406.14548). Samples take ``steps`` evaluations (1), each but
    the last followed by fresh noise. There is no density and no latent space. With ``dropout`` samples may have
    ``guidance``. Networks and errors are those of ``flow_matching``.

    >>> from pyflowk import zoo
    >>> zoo.consistency((2,)).sample(3, steps=2).shape
    torch.Size([3, 2])
    """
    net = velocity(space, shared, time_scale=time_scale)
    times = LogNormalTimes(Cosine(), noise_mean, noise_std)
    objective = ConsistencyMatching(times=times, derivative=derivative, dropout=shared["dropout"])
    flat = shared["architecture"] == "vector"
    return ConsistencyModel(space, net, objective, flat=flat, warmup=warmup, halving=halving)
