"""A system whose velocity is learned by matching: what all systems on paths from noise to data are made of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Generator, Tensor

from ..distributions import DiagonalGaussian
from ..flows import Flow
from ..nets import Field, VelocityField
from ..objectives import Matching
from ..paths import AffinePath
from ..space import Space
from ..transforms import ActNorm, Compose, Continuous
from .blocks import centred, flatten, stepping
from .flow_model import FlowModel, FlowSampling
from .option import Method, Steps, Tolerance


@dataclass(frozen=True)
class MatchingSampling(FlowSampling):
    """How the equation is solved from noise to data."""

    method: Method = "rk4"
    steps: Steps = 20
    rtol: Tolerance = 1e-5
    atol: Tolerance = 1e-5


class MatchingModel(FlowModel):
    r"""A FlowModel of one Continuous, whose field learns by a :class:`pyflowk.objectives.Matching`.

    Real numbers are brought to unit scale by the first batch, once; integers get even noise and lie in [-1, 1). The
    ``net`` predicts what the objective says, of events of the space or, with ``flat``, of the vectors they make.
    ``solver`` is what :class:`pyflowk.transforms.Continuous` takes beside its field: densities, latents and
    trajectories take its steps, samples are drawn in steps of their own. The source is standard normal.

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
        solver: dict[str, Any] | None = None,
    ) -> None:
        shape = (space.dims,) if flat else space.shape
        field = net
        if objective.prediction != "velocity":
            if not isinstance(objective.path, AffinePath):
                raise ValueError(f"prediction: expected velocity on a {objective.path}, got {objective.prediction!r}")
            field = VelocityField(net, objective.path.schedule, objective.prediction)
        scale = [ActNorm(shape[0]).requires_grad_(False)] if space.levels is None else []
        transform = Compose(*([flatten(space)] if flat else []), *scale, Continuous(field, **(solver or {})))
        super().__init__(space, DiagonalGaussian(shape), transform, front=centred(space))
        self.objective = objective

    @property
    def loss_unit(self) -> str | None:
        return None

    def loss(self, x: Tensor, context: Tensor | None = None, generator: Generator | None = None) -> Tensor:
        x, condition = self.flow.enter(*self._enter(x, context))
        layers, (place,) = self.flow.transform.layers(), self._moving
        for layer in layers[:place]:
            x, _ = layer(x, condition, generator)
        moving: Any = layers[place]
        net = moving.field if self.objective.prediction == "velocity" else moving.field.net
        return replace(self.objective, source=self.flow.base)(net, x, condition, generator=generator)

    def _sample(self, rows: int, context: Any, generator: Generator | None, chosen: Any) -> Tensor:
        front, moving, back = self._parts()
        moving = moving.stepped(chosen.method, stepping(chosen.method, chosen.steps, chosen.rtol, chosen.atol))
        flow = Flow(self.flow.base, Compose(front, moving, back))
        return flow.sample(rows, context, generator, chosen.temperature)
