"""Mean flows: a network learns the average velocity between two times, and draws samples in one evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any

import torch
from torch import Generator, Tensor
from typing_extensions import Unpack

from ..flows import Flow
from ..nets import FlowMap
from ..objectives import FLOW_MAPS, FlowMapMatching
from ..objectives.flow_map import CURRICULA
from ..paths import LogitNormalTimes
from ..shapes import sample_shape, shaped
from ..solvers import METHODS, flow_map, uniform_grid
from ..space import Space
from .blocks import by_network, solving, velocity
from .matching_model import MatchingModel
from .matching_sampling import SAMPLERS, MatchingSampling
from .model import Ability, GenerativeModel, SamplingOptions
from .option import Method, Option, Steps, Tolerance, VelocityOptions, one_of
from .registry import register

JUMPS, DENSITIES = "flow_map", ("auto", "exact", "learned")


@dataclass(frozen=True)
class FlowMapSampling(MatchingSampling):
    """How to get from noise to data: in jumps, or by the velocity, as any flow does."""

    method: Annotated[
        str, one_of("flow_map jumps; or solver of the equation, or sampler", (JUMPS, *METHODS, *SAMPLERS))
    ] = JUMPS
    steps: Steps = 1
    renoise: Annotated[bool, Option("jump to the data in every step, and back with fresh noise")] = False
    density: Annotated[
        str, one_of("of jumps: exact, by a tangent for each element, or learned, where the network tells it", DENSITIES)
    ] = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("renoise", "density"):
            if self.method != JUMPS and getattr(self, name) != getattr(type(self), name):
                raise ValueError(f"{name}: is for method {JUMPS}; got {self.method}")
        if self.method == JUMPS and (self.steps is None or self.grid != "uniform"):
            raise ValueError(f"steps, grid: expected a number of equal jumps, got {self.steps} on a {self.grid} grid")


class FlowMapModel(MatchingModel):
    """A MatchingModel whose field is a :class:`pyflowk.nets.FlowMap`: samples are jumps, and all else its velocity's.

    Of a ``reversible`` map events have densities in a few jumps, too. Where the objective has a ``curriculum``, it goes
    over ``annealing`` steps of a training.

    >>> from pyflowk.nets import FlowMap, MLPField
    >>> from pyflowk.objectives import FlowMapMatching
    >>> from pyflowk.space import Space
    >>> from pyflowk.zoo import FlowMapModel
    >>> FlowMapModel(Space((2,)), FlowMap(MLPField(2, 8, 1, interval=True)), FlowMapMatching()).sample(3, steps=2).shape
    torch.Size([3, 2])
    """

    Sampling = FlowMapSampling
    seen: Tensor

    def __init__(
        self, *arguments: Any, annealing: int = 0, curriculum: Callable[[float], float] | None = None, **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self.annealing, self.curriculum = annealing, curriculum
        if annealing:
            self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    @property
    def abilities(self) -> frozenset[Ability]:
        more = {Ability.QUICK_LIKELIHOOD} if self._parts()[1].field.reversible else set()
        return super().abilities | more

    @property
    def progress(self) -> dict[str, float]:
        """What the objective is told of how far the training has come."""
        if not self.annealing or self.curriculum is None:
            return {}
        return {"step": self.curriculum(min(1.0, int(self.seen) / self.annealing))}

    def after_step(self, step: int) -> None:
        if self.annealing:
            self.seen.fill_(step)

    def chosen(self, options: dict[str, Any]) -> SamplingOptions:
        found: Any = super().chosen(options)
        if found.guidance and (found.method == JUMPS or self.objective.guidance):  # type: ignore[attr-defined]
            raise ValueError(
                "guidance: expected 0 for a map that has learned where to go: train with --set guidance="
                f"{found.guidance:g} instead; got {found.guidance:g}"
            )
        if found.density == "learned" and not self._parts()[1].field.divergence:
            raise ValueError("density: expected exact for a map without a divergence (likelihood=True); got learned")
        return found

    def adopt(self, teacher: GenerativeModel) -> None:
        """Those of a system whose network has learned the velocity of straight lines: every jump then goes by it."""
        path = str(self.objective.path)
        if not isinstance(teacher, MatchingModel) or str(teacher.objective.path) != path:
            raise ValueError(f"{self.name} begins with a system that learns by matching on {path}; got {teacher.name}")
        (at,), net = self._moving, self._parts()[1].field.net
        theirs = teacher.flow.transform.layers()
        field: Any = theirs[at].field
        state = (field.net if isinstance(field, FlowMap) else field).state_dict()
        if self._parts()[1].field.divergence:
            state |= _beside(state, net.state_dict(), self.flow.base.shape[0])
        missing = [key for key in net.state_dict() if key not in state and "gap" not in key]
        unknown = [key for key in state if key not in net.state_dict()]
        if missing or unknown:
            raise ValueError(
                f"{self.name} begins with a network of the same layers, which has learned the velocity; {teacher.name} "
                f"has {', '.join(unknown[:3]) or 'none'} more and lacks {', '.join(missing[:3]) or 'none'}"
            )
        for key, mine in net.state_dict().items():
            if key in state and state[key].shape != mine.shape:
                raise ValueError(
                    f"{self.name} begins with a network of the same sizes: expected {key} of {tuple(mine.shape)}, "
                    f"{teacher.name} has {tuple(state[key].shape)}"
                )
        net.load_state_dict(state, strict=False)
        for mine, other in zip(self.flow.transform.layers(), theirs, strict=True):
            if mine is not self._parts()[1]:
                mine.load_state_dict(other.state_dict())

    def log_prob(
        self, x: Tensor, context: Tensor | None = None, generator: Generator | None = None, *, steps: int | None = None,
        density: str = "auto",
    ) -> Tensor:  # fmt: skip
        """By the equation of the velocity; of a ``reversible`` map, in so many ``steps``, by jumps back to the noise,
        whose ``density`` is as for samples."""
        if steps is None:
            if density != "auto":
                raise ValueError(f"density: is for jumps, in so many steps; got {density!r} with steps=None")
            return super().log_prob(x, context, generator)
        self.require(Ability.QUICK_LIKELIHOOD)
        chosen: Any = self.chosen({"steps": steps, "density": density})
        x, context = self.flow.enter(*self._enter(x, context))
        front, _, back = self._parts()
        x, log_prob = front(x, context, generator)
        x, moved = self._jumped(x, 1.0, 0.0, context, chosen)
        return log_prob + moved + Flow(self.flow.base, back).log_prob(x, context, generator)

    def sample_and_log_prob(
        self, n: int | Sequence[int], context: Any = None, generator: Generator | None = None, **options: Any
    ) -> tuple[Tensor, Tensor]:
        """Of jumps too: the exact density of what so few of them draw, as long as no two noises come to one sample, by
        as many tangents as events have elements; or as the network has learned it, by none."""
        chosen: Any = self.chosen(options)
        if chosen.method != JUMPS:
            return super().sample_and_log_prob(n, context, generator, **options)
        if chosen.renoise:
            raise ValueError("renoise: expected False, as samples with fresh noise have no density; got True")
        shape, (front, _, back) = sample_shape(n), self._parts()
        context = self.check_context(context, math.prod(shape))
        x, log_prob = Flow(self.flow.base, back).sample_and_log_prob(
            math.prod(shape), context, generator, chosen.temperature
        )
        x, context = self.flow.enter(x, context)
        x, moved = self._jumped(x, 0.0, 1.0, context, chosen)
        x, ladj = front.inverse(x, context, generator)
        return shaped(x, shape), shaped(log_prob - moved - ladj, shape)

    def _jumped(self, x: Tensor, start: float, end: float, context: Any, chosen: Any) -> tuple[Tensor, Tensor]:
        """Where equal jumps between two times lead, and the log-determinant of all of them (B,)."""
        field = self._parts()[1].field
        learned = chosen.density == "learned" or (chosen.density == "auto" and field.divergence)
        jump = field.jump_with_learned_ladj if learned else field.jump_with_ladj
        grid, total = start + (end - start) * uniform_grid(chosen.steps).to(x.dtype), x.new_zeros(x.shape[0])
        for t, then in pairwise(grid):
            x, ladj = jump(t, x, context, end=then)
            total = total + ladj
        return x, total

    def _walked(self, x: Tensor, start: float, context: Any, generator: Generator | None, chosen: Any) -> Tensor:
        if chosen.method != JUMPS:
            return super()._walked(x, start, context, generator, chosen)
        if start == 1:
            return x  # all of it is left: there is no way to go
        grid = start + (1 - start) * uniform_grid(chosen.steps)
        path: Any = self.objective.path
        field = self._parts()[1].field
        return flow_map(field, x, path.schedule, grid, renoise=chosen.renoise, context=context, generator=generator)


def _beside(theirs: dict[str, Tensor], mine: dict[str, Tensor], channels: int) -> dict[str, Tensor]:
    """Weights of the last layer of a velocity in one that also tells a divergence, whose own stay as they are."""
    found = {}
    for key, weight in theirs.items():
        if (
            key in mine
            and mine[key].shape == (2 * weight.shape[0], *weight.shape[1:])
            and weight.shape[0] % channels == 0
        ):
            found[key] = mine[key].clone()
            found[key].unflatten(0, (-1, 2 * channels))[:, :channels] = weight.unflatten(0, (-1, channels))
    return found


def _choose(space: Space, options: dict[str, Any]) -> dict[str, Any]:
    """The network with its sizes, what was published with the objective; ValueError for guidance without dropout."""
    if options["guidance"] and (space.context is None or not options["dropout"]):
        raise ValueError("guidance: expected 0, or a model with a context and with dropout, such as dropout=0.1")
    if options["time"] == "none":
        raise ValueError("time: expected concat or concatsquash, by which layers hear both times, got none")
    found = by_network(space, options)
    if options["late"] and found["architecture"] not in ("unet", "dit"):
        raise ValueError(f"late: expected architecture unet or dit, got {found['architecture']}")
    if options["annealing"] and options["objective"] not in CURRICULA:
        known = ", ".join(CURRICULA)
        raise ValueError(f"annealing: expected 0 unless objective is one of {known}; got {options['annealing']}")
    published = {"fm_fraction": 0.75, "power": 1.0, "annealing": 0, **FLOW_MAPS[options["objective"]]}
    published |= {"annealing": 2000} if options["objective"] == "soflow" else {}
    left = {name: published[name] for name in ("fm_fraction", "power", "annealing") if options[name] is None}
    return {**left, **found}


@register("mean_flow", _choose)
def mean_flow(
    space: Space,
    *,
    objective: Annotated[str, one_of("what the average velocity is held to", FLOW_MAPS)] = "mean_flow",
    prediction: Annotated[str, one_of("what the network tells", ("velocity", "data"))] = "velocity",
    fm_fraction: Annotated[
        float | None, Option("share of events that learn the velocity; None: as published", 0, 1)
    ] = None,
    time_mean: Annotated[float, Option("of the logit of training times, above 0 more of the data's side")] = 0.4,
    time_std: Annotated[float, Option("deviation of the same", above=0)] = 1.0,
    power: Annotated[
        float | None, Option("of an event's error, by which it counts less; None: as fm_fraction", 0, 2)
    ] = None,
    offset: Annotated[float, Option("added to that error", above=0)] = 1e-2,
    guidance: Annotated[float, Option("how much further than the context, learned in training", 0)] = 0.0,
    guidance_mix: Annotated[float, Option("share of its own guided velocity in it", 0, below=1)] = 0.0,
    likelihood: Annotated[
        bool, Option("learn what jumps do to the density, too, and to jump back: likelihoods in a few evaluations")
    ] = False,
    cycle: Annotated[
        float, Option("how much it counts to come back from where a jump leads; above 0 it learns to jump back", 0)
    ] = 0.0,
    annealing: Annotated[
        int | None, Option("training steps in which the interval of a difference shrinks; None: as published", 0)
    ] = None,
    time_scale: Annotated[float, Option("of the waves of time that a unet or dit hears", above=0)] = 1.0,
    late: Annotated[
        bool, Option("the last blocks of a unet or dit hear the end in place of the time: no weight is new")
    ] = False,
    method: Method = "rk4",
    steps: Steps = 20,
    rtol: Tolerance = 1e-5,
    atol: Tolerance = 1e-5,
    **shared: Unpack[VelocityOptions],
) -> FlowMapModel:
    """MeanFlow, which learns average velocities and draws samples in one step (Geng et al., 2025, arXiv:2505.13447).

    The network u(t, s, x) hears two times and jumps from t to s, :math:`x + (s - t) u`; at s = t it is the velocity of
    flow matching on straight lines. ``objective`` says which statement it learns: "mean_flow", "improved_mean_flow"
    (with its own velocity as the tangent), "alpha_flow" and "soflow" (without derivatives), "terminal_velocity" (the
    other end) or "split_mean_flow" (two jumps are one), :class:`pyflowk.objectives.FlowMapMatching` tells them apart.
    In ``annealing`` steps of a training the difference of "alpha_flow" becomes a derivative, its step falling from 1 to
    0, and the step of "soflow" falls from 0.1 to 0.002; None is 2000 for "soflow" and none for "alpha_flow". Samples
    take ``steps`` jumps (1), with ``renoise`` each to the data and back; ``method`` "rk4" or another solves the
    equation of the velocity instead, whose densities, latents and trajectories are those of ``flow_matching``, by the
    options here.

    With ``likelihood`` the network tells the divergence along a jump, too, and jumps back: ``log_prob(x, steps=4)``
    and ``sample_and_log_prob(n, steps=4)`` take four evaluations (F2D2, Ai et al., 2025, arXiv:2512.02636); with
    ``density="exact"``, or without it, a tangent for each element. With a ``cycle`` above 0 it learns to come back from
    where it jumps, so that the exact density of its jumps is that of an invertible map, whose samples have importance
    weights (FALCON, Rehman et al., 2025, arXiv:2512.09914).

    With ``prediction`` "data" the network tells the data, and the loss is that of the velocity. ``guidance`` is learned
    in training, given a context and dropout; samples then take none. ``pyflowk train mean_flow --from RUN`` begins with
    the network of a trained flow, whose weights then mean the same, and are the only ones with ``late`` (Lee et al.,
    2025, arXiv:2510.24474). Networks, scales and errors are those of ``flow_matching``.

    >>> from pyflowk import zoo
    >>> zoo.mean_flow((2,)).sample(3, steps=2).shape
    torch.Size([3, 2])
    """
    told = {"reversible": likelihood or cycle > 0, "divergence": likelihood}
    net = velocity(space, shared, interval=True, late=late, time_scale=time_scale, answers=1 + likelihood)
    settings: dict[str, Any] = {**FLOW_MAPS[objective], "fm_fraction": fm_fraction, "power": power}
    learned = FlowMapMatching(
        times=LogitNormalTimes(time_mean, time_std), dropout=shared["dropout"], offset=offset,
        guidance=guidance, guidance_mix=guidance_mix, cycle=cycle,
        probes=None if shared["divergence"] == "exact" else shared["probes"], **settings,
    )  # fmt: skip
    return FlowMapModel(
        space, FlowMap(net, prediction, **told), learned, flat=shared["architecture"] == "vector",
        solver=solving(shared, method, steps, rtol, atol), annealing=annealing or 0,
        curriculum=CURRICULA.get(objective),
    )  # fmt: skip
