"""A system whose velocity is learned by matching: what all systems on paths from noise to data are made of."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor

from ..distributions import DiagonalGaussian, uniform_on
from ..flows import Flow
from ..manifolds import Manifold
from ..nets import Field, TangentField, VelocityField
from ..objectives import Matching
from ..ops.dtypes import state_dtype
from ..ops.modes import transformed
from ..paths import AffinePath, GeodesicPath, Given, OptimalTransport, Semidiscrete, independent
from ..solvers import Guided, Operator, flower, masking, uniform_grid
from ..space import Paired, Space, check_events
from ..transforms import ActNorm, Compose, Continuous, Scale
from .blocks import centred, flatten, seen_inside, stepping
from .flow_model import FlowModel, checked_time
from .matching_sampling import MatchingSampling, guided, walk
from .model import Ability, SamplingOptions

FIT, UNEVEN = 3000, 0.1
"""Steps, at most, that the transport of noise to all rows is fitted in, and the chi2 above which this warns."""


class MatchingModel(FlowModel):
    r"""A FlowModel of one Continuous, whose field learns by a :class:`pyflowk.objectives.Matching`.

    Real numbers are brought to unit scale by the first batch, once, that a model in training mode sees, by ``log_prob``
    too (:meth:`GenerativeModel.log_prob` says how to avoid it); integers get even noise and lie in [-1, 1). The
    ``net`` predicts what the objective says, of events of the space or, with ``flat``, of the vectors they make.
    ``solver`` is what :class:`pyflowk.transforms.Continuous` takes beside its field: densities, latents and
    trajectories take its steps, samples are drawn in steps of their own. The source is standard normal. If the
    objective has dropout, which takes a ``droppable`` net, every context may be None. With ``whole`` noise goes to the
    rows that :class:`pyflowk.paths.Semidiscrete` transport takes it to, once ``prepare`` has seen them all: batches
    then say which contexts are learned, and validation pairs as the objective does.

    In a space with a manifold the path is a :class:`pyflowk.paths.GeodesicPath`, the ``net`` that of a
    :class:`pyflowk.nets.TangentField`, the source uniform (standard normal along Euclidean factors), nothing is
    scaled, and densities are those with respect to the manifold's volume. Raises ValueError for another path, for
    events that are no points, and for a temperature where no factor is Euclidean.

    >>> from pyflowk.nets import MLPField
    >>> from pyflowk.objectives import Matching
    >>> from pyflowk.space import Space
    >>> from pyflowk.zoo import MatchingModel
    >>> MatchingModel(Space((2,)), MLPField(2, 8, 1), Matching()).sample(3, method="euler", steps=4).shape
    torch.Size([3, 2])
    """

    Sampling = MatchingSampling

    def __init__(
        self,
        space: Space,
        net: Field,
        objective: Matching,
        *,
        flat: bool = False,
        whole: bool = False,
        solver: dict[str, Any] | None = None,
    ) -> None:
        shape, manifold = (space.dims,) if flat else space.shape, space.geometry
        base = DiagonalGaussian(shape) if manifold is None else uniform_on(manifold)
        moving = Continuous(_velocity(net, objective, manifold), manifold=manifold, **(solver or {}))
        scale = [ActNorm(shape[0]).requires_grad_(False)] if space.levels is None and manifold is None else []
        layers = [*([flatten(space)] if flat else []), *scale, moving, *_wide(objective)]
        super().__init__(space, base, Compose(*layers), front=centred(space))
        self.objective, self.whole = replace(objective, source=base), whole
        self._whole: list[tuple[Tensor, Semidiscrete]] = []  # in a list: no submodule, which would be saved

    @property
    def abilities(self) -> frozenset[Ability]:
        return super().abilities | {Ability.EDITING}

    @property
    def loss_unit(self) -> str | None:
        return None

    def loss(self, x: Tensor | Paired, context: Tensor | None = None, generator: Generator | None = None) -> Tensor:
        """The loss (B,) of events, for each of which noise is drawn, or of pairs of noise and :meth:`ends`."""
        layers, (place,) = self.flow.transform.layers(), self._moving
        if isinstance(x, Paired):
            shape = (len(x), *self.flow.base.shape)
            check_events(x.x1, self.space.shape, "the halves of pairs")
            (x0, x1), condition = (half.reshape(shape) for half in (x.x0, x.x1)), self.check_context(context, len(x))
            x0, condition = self.flow.enter(x0, condition)
            x1, _ = self.flow.enter(x1, None)
            objective = replace(self.objective, pairing=Given(x0, x1))
        else:
            objective, found = self.objective, None
            if self._whole and self.training:  # other events for the contexts of the batch, which its noise finds
                (rows, pairing), found = self._whole[0], self.flow.base.sample(len(x), None, generator)
                x = rows[pairing.partners(found, self.check_batch(x, context)).cpu()].to(x)
            x1, condition = self.flow.enter(*self._enter(x, context))
            for layer in layers[:place]:
                x1 = layer.to_noise(x1, condition, generator)
            if found is not None:
                objective = replace(objective, pairing=Given(found, x1))
            elif isinstance(objective.pairing, OptimalTransport) and not self.training:  # one process alone validates
                objective = replace(objective, pairing=replace(objective.pairing, gather=False))
        moving: Any = layers[place]
        net = moving.field if self.objective.prediction == "velocity" else moving.field.net
        return objective(net, x1, condition, generator=generator, **self.progress)

    @property
    def progress(self) -> dict[str, Any]:
        """What the objective is told of how far a training has come: nothing, usually."""
        return {}

    def ends(self, x0: Tensor, context: Tensor | None = None, **options: Any) -> Tensor:
        r"""Where the velocity takes noise x0 (B, \*shape): what :class:`pyflowk.space.Paired` holds as its x1.

        They are the inside of the model, before scale and levels of the data; ``options`` are those of ``sample``.
        Raises ValueError for noise of another shape.
        """
        check_events(x0, self.space.shape, "x0")
        chosen: Any = self.chosen(options)
        z, condition = self.flow.enter(x0.reshape(-1, *self.flow.base.shape), self.check_context(context, len(x0)))
        moving, (_, _, back) = self._moved(chosen), self._parts()
        return moving.to_data(back.to_data(z, condition), condition).reshape(x0.shape)

    def prepare(
        self,
        x: Any,
        context: Any = None,
        generator: Generator | None = None,
        watch: Callable[[float], None] | None = None,
        found: Mapping[str, Tensor] = {},
    ) -> dict[str, Tensor]:
        """With ``whole`` the transport of all noise to all rows is fitted, unless it was ``found`` before. Raises
        ValueError for contexts that are no labels, and for rows on demand; warns of a pairing that pairs do without."""
        if isinstance(x, Paired) and self.objective.pairing is not independent:
            warnings.warn(
                f"pairs of noise and data are learned as they are: {self.objective.pairing} pairs none of them",
                stacklevel=2,
            )
        if not self.whole or isinstance(x, Paired):
            return {}
        if not isinstance(x, Tensor) or (context is not None and self.space.classes is None):
            raise ValueError("pairing: expected rows in memory, and labels or no context, for semidiscrete transport")
        inside, _ = self.flow.enter(x.to(self.flow.base.anchor.device), None)
        labels = None if context is None else context.to(inside.device)
        for layer in self.flow.transform.layers()[: self._moving[0]]:
            inside, _ = layer(inside, None, generator)
        pairing = Semidiscrete(inside, labels, source=self.flow.base)
        if found:
            pairing.load_state_dict(found)
        else:
            self._fit(pairing, generator, watch)
        self._whole = [(x, pairing)]
        return pairing.state_dict()

    def _fit(self, pairing: Semidiscrete, generator: Generator | None, watch: Callable[[float], None] | None) -> None:
        with warnings.catch_warnings():  # of a chi2 that only more steps make smaller, which nobody can ask for here
            warnings.filterwarnings("ignore", "Semidiscrete: the rows' shares", UserWarning)
            chi2 = pairing.fit(FIT, generator=generator, watch=watch).chi2
        if not chi2 <= UNEVEN:
            lost = f"as if {chi2 / (1 + chi2):.0%} of the rows were missing"
            warnings.warn(
                f"pairing: after {FIT} steps the rows' shares of noise have a chi2 of {chi2:.2g}, {lost}; fewer rows "
                "are fitted better, optimal_transport needs no fit",
                stacklevel=3,
            )

    def initialize(self, x: Any, context: Tensor | None = None, generator: Generator | None = None) -> None:
        if not isinstance(x, Paired):  # whose scale is that of the model that has made them
            super().initialize(x, context, generator)

    def _enter(self, x: Any, context: Any) -> tuple[Tensor, Tensor | None]:
        x, context = super()._enter(x, context)
        if (manifold := self.space.geometry) is not None:
            if x.is_cpu and not transformed():  # elsewhere looking would stall the device
                manifold.check(x)
            x = manifold.project(x.to(state_dtype(x)))
        return x, context

    def chosen(self, options: dict[str, Any]) -> SamplingOptions:
        found: Any = super().chosen(options)
        manifold, moving = self.space.geometry, self._parts()[1]
        if manifold is not None and manifold.log_volume < math.inf and found.temperature != 1:
            where = f"the {self.space.manifold}, where noise is even already"
            raise ValueError(f"temperature: expected 1 on {where}, got {found.temperature}")
        guided(moving.field, found)  # an error, before a run has learned in vain, if it cannot do without a context
        return found

    def check_context(self, context: Any, rows: int) -> Any:
        return None if context is None and self.objective.dropout else super().check_context(context, rows)

    def _moved(self, chosen: Any) -> Any:
        """The Continuous, in the steps and with the guidance that are chosen."""
        if not chosen.integrates:
            raise ValueError(
                f"method, grid: expected a solver of the equation on a uniform grid, got {chosen.method} on a "
                f"{chosen.grid} one, which draws samples and nothing else"
            )
        moving: Any = self._parts()[1]
        steps = stepping(chosen.method, chosen.steps, chosen.rtol, chosen.atol)
        return moving.stepped(chosen.method, steps, guided(moving.field, chosen))

    # ---- editing -----------------------------------------------------------------------------------------------------

    def edit(
        self, x: Tensor, time: float, context: Any = None, generator: Generator | None = None, **options: Any
    ) -> Tensor:
        chosen: Any = self.chosen(options)
        x, condition = self.flow.enter(*self._enter(x, context))
        front, start = self._parts()[0], checked_time(time)
        x0 = self.flow.base.sample(len(x), condition, generator, chosen.temperature)
        on_its_way = self.objective.path.sample(x0, front.to_noise(x, condition, generator), start, generator).x_t
        return front.to_data(self._walked(on_its_way, start, condition, generator, chosen), condition, generator)

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
        """By :func:`pyflowk.solvers.flower`."""
        if not isinstance(self.objective.path, AffinePath):
            raise ValueError(f"restore: expected a model of an AffinePath, got one of {self.objective.path}")
        y, condition = self.flow.enter(y, self.check_context(context, len(y)))
        front, moving, back = self._parts()
        x = Flow(self.flow.base, back).sample(len(y), condition, generator)
        inside, unseen = seen_inside(operator, front, x, condition)
        field = Guided(moving.field, guidance) if guidance else moving.field
        z = flower(
            field, x, self.objective.path.schedule, uniform_grid(steps), y - unseen, inside, noise=noise,
            context=condition, generator=generator,
        )  # fmt: skip
        return front.to_data(z, condition, generator)

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
        check_events(y, self.space.shape, "y")
        operator = masking(mask)
        y = operator.forward(y)
        x = self.restore(y, operator, context, generator, noise=noise, steps=steps, guidance=guidance)
        return x if noise else torch.where(mask, y, x)

    # ---- how samples are drawn ---------------------------------------------------------------------------------------

    def _sample(self, rows: int, context: Any, generator: Generator | None, chosen: Any) -> Tensor:
        if chosen.integrates:
            return super()._sample(rows, context, generator, chosen)
        front, _, back = self._parts()
        x, context = self.flow.enter(
            Flow(self.flow.base, back).sample(rows, context, generator, chosen.temperature), context
        )
        return front.to_data(self._walked(x, 0.0, context, generator, chosen), context, generator)

    def _walked(self, x: Tensor, start: float, context: Any, generator: Generator | None, chosen: Any) -> Tensor:
        """Where events inside the model at a time come to as data."""
        if chosen.integrates:
            return self._moved(chosen).move(x, start, 1.0, context)
        return walk(self.objective, self._parts()[1].field, x, start, context, generator, chosen)

    def _drawn_by(self, chosen: Any) -> Flow:
        front, _, back = self._parts()
        return Flow(self.flow.base, Compose(front, self._moved(chosen), back))


def _velocity(net: Field, objective: Matching, manifold: Manifold | None) -> Field:
    """The velocity that the net's predictions mean."""
    if manifold is not None:
        if not isinstance(objective.path, GeodesicPath) or objective.prediction != "velocity":
            asked = f"{objective.prediction} of {objective.path}"
            raise ValueError(f"on {manifold}: expected to learn the velocity of a GeodesicPath, got {asked}")
        return TangentField(net, manifold)
    if objective.prediction == "velocity":
        return net
    if not isinstance(objective.path, AffinePath):
        raise ValueError(f"prediction: expected velocity on a {objective.path}, got {objective.prediction!r}")
    return VelocityField(net, objective.path.schedule, objective.prediction)


def _wide(objective: Matching) -> list[Scale]:
    """The map between noise of unit scale and a path that begins with wider noise."""
    if not isinstance(objective.path, AffinePath):
        return []
    sigma = objective.path.schedule.at(torch.zeros((), dtype=torch.float64, device="cpu")).sigma.item()
    return [Scale(1 / sigma)] if sigma > 1 else []
