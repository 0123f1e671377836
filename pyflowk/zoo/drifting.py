"""Drifting: samples in one evaluation of a network that has followed forces between what it made and the data."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Generator, Tensor
from typing_extensions import Unpack

from .._checks import require_counts
from ..distributions import DiagonalGaussian
from ..flows import Flow
from ..nets import Field
from ..objectives import Drifting
from ..ops.draw import draw_keys
from ..ops.drift import KERNELS, NORMALISATIONS
from ..ops.path_sample import noise_of
from ..space import Space
from ..transforms import ActNorm, Compose
from .blocks import by_network, centred, flatten, score_of_samples, velocity
from .flow_model import FlowSampling
from .model import GenerativeModel
from .option import WIDTH, NetworkOptions, Option, one_of
from .registry import register


class DriftingModel(GenerativeModel):
    r"""A network that makes events of noise in one evaluation, by a :class:`pyflowk.objectives.Drifting`.

    Its data are those of :class:`MatchingModel`: integers with even noise in [-1, 1), real numbers at the scale of the
    first batch. In training it keeps the last ``memory`` events and their labels, which are saved with it, and which
    attract beside those of the batch: a label has few events in one. Among processes they are those of the first. What
    it makes is for the labels of the first rows of a batch, ``together`` rows each; 0 is for each row's own label. In
    evaluation the loss is the energy score of eight samples for each event, as the loss of training says nothing of how
    good they are.

    >>> from pyflowk.nets import MLPField
    >>> from pyflowk.objectives import Drifting
    >>> from pyflowk.space import Space
    >>> from pyflowk.zoo.drifting import DriftingModel
    >>> DriftingModel(Space((2,)), MLPField(2, 8, 1), Drifting()).sample(3).shape
    torch.Size([3, 2])
    """

    Sampling = FlowSampling

    def __init__(
        self, space: Space, net: Field, objective: Drifting, *, flat: bool = False, memory: int = 0, together: int = 0
    ) -> None:
        super().__init__(space)
        require_counts("DriftingModel", 0, memory=memory, together=together)
        self.together = together
        shape = (space.dims,) if flat else space.shape
        scale = [ActNorm(shape[0]).requires_grad_(False)] if space.levels is None else []
        front = Compose(*centred(space), *([flatten(space)] if flat else []), *scale)
        self.flow, self.net, self.objective = Flow(DiagonalGaussian(shape), front), net, objective
        self.seen: Tensor
        self.memory: Tensor
        self.labels: Tensor
        self.register_buffer("seen", torch.tensor(0))
        self.register_buffer("memory", torch.zeros(memory, *shape))
        self.register_buffer("labels", torch.zeros(memory if space.classes else 0, dtype=torch.int64))

    def loss(self, x: Tensor, context: Tensor | None = None, generator: Generator | None = None) -> Tensor:
        x, context = self.flow.enter(x, self.check_batch(x, context))
        if not self.training:
            return score_of_samples(self, self.flow.transform, x, context, generator)
        x = self.flow.transform.to_noise(x, context, generator)
        known = min(int(self.seen), len(self.memory))
        more = self.memory[:known], None if context is None else self.labels[:known]
        loss = self.objective(self.net, x, context, more=more, made=self._made(context), generator=generator)
        self._remember(x, context)
        return loss

    def _made(self, context: Tensor | None) -> Tensor | None:
        """Labels of what a batch makes: so few of its own, as they come, that each has ``together`` rows."""
        if context is None or not self.together:
            return context
        rows = context.shape[0]
        few = max(1, rows // self.together)
        return context[:few].repeat_interleave(-(-rows // few), 0)[:rows]

    @torch.no_grad()
    def _remember(self, x: Tensor, context: Tensor | None) -> None:
        """Finite rows take the places of the oldest; another one would spoil every loss until it is forgotten."""
        size, x = len(self.memory), x.to(self.memory)
        if not size:
            return
        finite = x.isfinite().flatten(1).all(1)
        x, context = x[finite], None if context is None else context[finite]
        places = (int(self.seen) + torch.arange(min(len(x), size), device=x.device)) % size
        self.memory[places] = x[-size:]
        if context is not None:
            self.labels[places] = context[-size:].to(self.labels)
        self.seen += len(places)

    def initialize(self, x: Tensor, context: Tensor | None = None, generator: Generator | None = None) -> None:
        self.flow.initialize(x, self.check_batch(x, context), generator)

    def _sample(self, rows: int, context: Any, generator: Generator | None, chosen: Any) -> Tensor:
        like = self.flow.base.anchor.new_zeros(()).expand(rows, *self.flow.base.shape)
        z = chosen.temperature * noise_of(draw_keys(rows, generator, device=like.device), like)  # a row by itself
        z, context = self.flow.enter(z, context)
        return self.flow.transform.to_data(z + self.net(0.0, z, context), context, generator)


@register("drifting", by_network, takes=("real", "levels", "labels"))
def drifting(
    space: Space,
    *,
    normalise: Annotated[str, one_of("of affinities to whom: see ops.drift", NORMALISATIONS)] = "double",
    kernel: Annotated[str, one_of("what affinities fall off by", KERNELS)] = "laplace",
    finest: Annotated[
        float, Option("least of three temperatures, in mean distances; 2.5 and 10 times that", above=0)
    ] = 0.02,
    memory: Annotated[int, Option("events of earlier batches that attract, too", 0, WIDTH)] = 1024,
    together: Annotated[
        int, Option("rows that a batch makes of a label, which are kept apart; 0: as many as it has", 0, WIDTH)
    ] = 16,
    guidance: Annotated[float, Option("how much further from data of other labels, learned in training", 0)] = 0.0,
    **shared: Unpack[NetworkOptions],
) -> DriftingModel:
    """Drifting, a network that makes events in one evaluation (Deng et al., 2026, arXiv:2602.04770).

    In training, what the network makes of noise follows forces towards events of its label and away from what else was
    made for that, of three ranges (:func:`pyflowk.ops.drift`): nothing is integrated, and no other network judges. The
    forces are those between events as they are, so images are compared pixel by pixel. Forces may balance before the
    distributions are equal, so look at the coverage of samples; with ``normalise`` "sinkhorn" and a "gaussian"
    ``kernel`` they may not (He et al., 2026, arXiv:2603.12366), and a step takes longer. Many samples at a time tell
    more: larger batches do better. Of a label a batch makes ``together`` rows, and so of few labels, which are those of
    its first rows. With ``guidance``, which is learned and asks for labels, they keep further from data of the others.
    The network is that of ``flow_matching``; validation is by energy score.

    >>> from pyflowk import zoo
    >>> zoo.drifting((2,)).sample(3).shape
    torch.Size([3, 2])
    """
    net = velocity(space, shared)
    if guidance and space.classes is None:
        raise ValueError(f"guidance: expected 0 without labels, got {guidance}")
    objective = Drifting((finest, 2.5 * finest, 10 * finest), normalise, kernel, guidance)
    return DriftingModel(
        space, net, objective, flat=shared["architecture"] == "vector", memory=memory, together=together
    )
