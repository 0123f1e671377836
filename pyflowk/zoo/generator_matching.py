"""Generator matching: flows, diffusions, jumps and their superposition, all learned by one regression."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from torch import Generator, Tensor
from typing_extensions import Unpack

from ..distributions import DiagonalGaussian
from ..flows import Flow, require_wide
from ..nets import CharacteristicsField
from ..objectives import GeneratorMatching
from ..ops.modes import transformed
from ..paths import Bins, Characteristics, CondOTJumps, JumpPath, MixtureJumps
from ..solvers import GATES, Jumped, jump_euler, power_grid, uniform_grid
from ..space import Space
from ..transforms import ActNorm, Compose
from .blocks import by_network, centred, flatten, velocity
from .model import GenerativeModel, SamplingOptions
from .option import NetworkOptions, Option, one_of
from .registry import register

GRIDS: dict[str, Callable[[int], Tensor]] = {"uniform": uniform_grid, "quadratic": power_grid}
REACH = {True: 1.0, False: 6.0}
"""How far data of levels or of real numbers lie from 0 inside the model, where nobody says."""


@dataclass(frozen=True)
class GeneratorSampling(SamplingOptions):
    """How the process is followed from noise to data."""

    steps: Annotated[int, Option("Euler's steps", 1, 1 << 16)] = 100
    grid: Annotated[str, one_of("how the steps are spaced", GRIDS)] = "uniform"
    share: Annotated[
        float | None, Option("of jumps beside the flow: 0 flow, 1 jumps; None: half, or what there is", 0, 1)
    ] = None
    noise: Annotated[float, Option("of a diffusion in place of the flow, 0 none", 0, 1e6)] = 0.0
    gate: Annotated[str, one_of("how likely a jump is in a step", GATES)] = "integrated"
    last: Annotated[str, one_of("the last step, where there is a flow", ("mean", "draw"))] = "mean"
    guidance: Annotated[float, Option("how much further than the context: 0 not at all, -1 samples without it")] = 0.0


class GeneratorModel(GenerativeModel):
    r"""A process whose net, :class:`pyflowk.nets.CharacteristicsField`, learns by a
    :class:`pyflowk.objectives.GeneratorMatching`.

    Real numbers are brought to unit scale by the first batch, once, that a model in training mode sees; integers get
    even noise and lie in [-1, 1). The net tells of events of the space or, with ``flat``, of the vectors they make.
    ``walk`` is a sample with its statistic. Data beyond where jumps land are learned as if they were there, with a
    warning.

    >>> from pyflowk import zoo
    >>> zoo.generator_matching((2,)).walk(3, steps=4).saturated
    tensor([0., 0., 0.])
    """

    Sampling = GeneratorSampling

    def __init__(
        self, space: Space, net: CharacteristicsField, objective: GeneratorMatching, flat: bool = False
    ) -> None:
        super().__init__(space)
        shape = (space.dims,) if flat else space.shape
        scale = [ActNorm(shape[0]).requires_grad_(False)] if space.levels is None else []
        self.ends = Flow(DiagonalGaussian(shape), Compose(*centred(space), *([flatten(space)] if flat else []), *scale))
        self.net, self.objective = net, objective

    def loss(self, x: Tensor, context: Tensor | None = None, generator: Generator | None = None) -> Tensor:
        x, condition = self.ends.enter(x, self.check_batch(x, context))
        x = self.ends.transform.to_noise(x, condition, generator)
        low, high = self.objective.path.bins.low, self.objective.path.bins.high
        if x.is_cpu and not transformed() and bool(((x < low) | (x > high)).any()):
            warnings.warn("data beyond the reach are learned as if at it: reach=... is too small", stacklevel=2)
        return self.objective(self.net, x.clamp(low, high), condition, generator=generator)

    def initialize(self, x: Tensor, context: Tensor | None = None, generator: Generator | None = None) -> None:
        self.ends.initialize(x, self.check_batch(x, context), generator)

    def walk(self, n: int, context: Any = None, generator: Generator | None = None, **options: Any) -> Jumped:
        """n samples, in the units of the data, and which share of the chances of jumps was saturated in each."""
        return self._walk(n, self.check_context(context, n), generator, self.chosen(options))

    def check_context(self, context: Any, rows: int) -> Any:
        return None if context is None and self.objective.dropout else super().check_context(context, rows)

    def _sample(self, rows: int, context: Any, generator: Generator | None, chosen: Any) -> Tensor:
        return self._walk(rows, context, generator, chosen).x

    def _walk(self, rows: int, context: Any, generator: Generator | None, chosen: Any) -> Jumped:
        require_wide(self.ends.base.anchor)
        x = self.ends.base.sample(rows, None, generator)
        if context is not None:
            x, context = self.ends.enter(x, context)
        net, grid = guided(self.net, chosen.guidance), GRIDS[chosen.grid](chosen.steps)
        found = jump_euler(
            net, x, self.objective.path, grid, gate=chosen.gate, share=chosen.share, noise=chosen.noise,
            last=chosen.last, context=context, generator=generator,
        )  # fmt: skip
        return Jumped(self.ends.transform.to_data(found.x, context, generator), found.saturated)


def guided(net: CharacteristicsField, guidance: float) -> Callable[..., Characteristics]:
    """The net, further than its context: drifts, logarithms of rates and logits are linear in the guidance."""
    if not guidance:
        return net
    net.no_context()  # an error, if it cannot do without

    def further(t: Tensor, x: Tensor, context: Tensor | None = None) -> Characteristics:
        told, without = net(t, x, context), net(t, x, None)
        pairs = zip(told, without)
        return Characteristics(*(None if c is None else c + guidance * (c - u) for c, u in pairs))

    return further


def _choose(space: Space, options: dict[str, Any]) -> dict[str, Any]:
    """The network with its sizes, and how far the data reach."""
    if options["path"] == "mixture" and options["process"] != "jump":
        raise ValueError(f"process: expected jump on the path mixture, which has no flow; got {options['process']}")
    reach = REACH[space.levels is not None] if options["reach"] is None else options["reach"]
    return {"reach": reach, **by_network(space, options)}


@register("generator_matching", _choose)
def generator_matching(
    space: Space,
    *,
    process: Annotated[
        str, one_of("what is learned: a flow, jumps, or both", ("flow", "jump", "superposition"))
    ] = "superposition",
    path: Annotated[str, one_of("from noise to data: on straight lines, or at once", ("condot", "mixture"))] = "condot",
    bins: Annotated[int, Option("places where a coordinate can land", 1, 1 << 12)] = 64,
    reach: Annotated[
        float | None, Option("of the data from 0, at unit scale; None: 1 for levels, else 6", above=0, most=1e6)
    ] = None,
    **shared: Unpack[NetworkOptions],
) -> GeneratorModel:
    """Generator matching: flows, diffusions, jumps, and any mix of them (Holderrieth et al., 2024, arXiv:2410.20587).

    From standard normal noise to data leads a flow, or jumps, in one coordinate at a time, into one of ``bins`` places,
    or both: "superposition" learns both at once, and every sample may say which ``share`` of jumps it takes, and how
    much ``noise`` of a diffusion in place of the flow. The network tells for each coordinate a velocity, the logarithm
    of a rate and logits of places, of all coordinates. On the path "mixture", of jumps alone, coordinates turn from
    noise to data at once. Real numbers are brought to unit scale by the first batch, once, and what lies beyond
    ``reach`` times that is taken for it, with a warning; integers get even noise and lie in [-1, 1). A training step is
    one evaluation of the network; the loss is no likelihood. With ``dropout`` (0.1) samples can be drawn with
    ``guidance``. Samples of jumps alone keep noise of the size of the last step; those with a flow end at the mean of
    the data that it tells.

    Networks are those of ``flow_matching``. Raises ValueError for a flow on the path "mixture", and for a share of what
    was not learned.

    >>> from pyflowk import zoo
    >>> zoo.generator_matching((2,), process="jump").sample(3, steps=4).shape
    torch.Size([3, 2])
    """
    flow, places = process != "jump", 0 if process == "flow" else bins
    net = velocity(space, shared, answers=CharacteristicsField.answers(flow, places))
    way: JumpPath = CondOTJumps.reaching(reach or 1.0, bins)
    if path == "mixture":
        way = MixtureJumps(Bins(-float(reach or 1.0), float(reach or 1.0), bins))
    objective = GeneratorMatching(way, dropout=shared["dropout"])
    return GeneratorModel(
        space, CharacteristicsField(net, flow, places), objective, flat=shared["architecture"] == "vector"
    )
