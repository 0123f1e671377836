"""A network that predicts the noise or the data of an affine path, as the velocity that this means."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..paths import PREDICTIONS, Schedule, convert
from ..paths.schedules import require_schedule
from ..space import Ragged
from .field import Field, as_field


class VelocityField(Field):
    r"""The velocity that a network's prediction of "noise", "data" or "score" means on the affine path of a schedule.

    ``net(t, x, context=None)`` is a :class:`Field`, or a function or module as :func:`as_field` takes them; everything
    is (B, \*event). :func:`pyflowk.paths.convert` says it in other words, and what ``least`` is: of data the velocity
    ends as if :math:`\sigma` stayed there, so that errors of the prediction are not multiplied by more than 1 / least.
    Raises ValueError for an unknown prediction. Cost: the network and one pass over the event, tangents too.

    >>> import torch
    >>> from pyflowk.nets import VelocityField
    >>> from pyflowk.paths import CondOT
    >>> VelocityField(lambda t, x: torch.ones_like(x), CondOT(), "data")(torch.tensor(0.5), torch.zeros(1, 2))
    tensor([[2., 2.]])
    """

    predicts = "velocity"

    def __init__(
        self, net: Field | Callable[..., Tensor], schedule: Schedule, prediction: str, least: float = 1e-2
    ) -> None:
        super().__init__()
        require_schedule(schedule)
        self.net = as_field(net)
        self.takes_context = self.net.takes_context
        self.schedule, self.prediction, self.least = schedule, prediction, least
        if prediction not in PREDICTIONS:
            raise ValueError(f"prediction: expected one of {', '.join(PREDICTIONS)}; got {prediction!r}")

    def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self._velocity(self.net(t, x, context), t, x)

    def no_context(self) -> Tensor | Ragged:
        return self.net.no_context()

    def with_tangents(
        self, t: Tensor, x: Tensor, tangents: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        value, images = self.net.with_tangents(t, x, tangents, context)
        return self._velocity(value, t, x), self._velocity(images, t, tangents)

    def _velocity(self, value: Tensor, t: Tensor, x: Tensor) -> Tensor:
        """Linear in both, so that tangents go through as values do."""
        return convert(value, x, t, self.schedule, self.prediction, "velocity", self.least)
