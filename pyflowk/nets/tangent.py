"""A network on a manifold: it sees points, and answers with tangent vectors."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.func import jvp, vmap

from ..manifolds import Manifold
from ..space import Ragged
from .field import Field, as_field


class TangentField(Field):
    r"""The field of tangent vectors that a network's answers mean at points of a manifold.

    The network sees ``manifold.embed`` of the point, (B, embedded), and what it answers, as many numbers, is pulled
    back to the tangent space (``manifold.pull``); it is a :class:`Field`, or a function or module as :func:`as_field`
    takes them. Off the manifold the field is that of the nearest point, constant along normals, so that its Euclidean
    divergence is the Riemannian one; ``with_divergence`` takes one tangent for each of the manifold's dimensions. x is
    (B, \*shape). Cost: the network, and a few passes over the event; tangents too.

    >>> import torch
    >>> from pyflowk.manifolds import Sphere
    >>> from pyflowk.nets import TangentField
    >>> up = torch.tensor([0.0, 0.0, 1.0])
    >>> field = TangentField(lambda t, x: up.expand_as(x), Sphere((3,)))  # div (a - <a, x> x) = -2 <a, x>
    >>> field.with_divergence(torch.tensor(0.0), torch.tensor([[0.6, 0.0, 0.8]]))
    (tensor([[-0.4800,  0.0000,  0.3600]]), tensor([-1.6000]))
    """

    def __init__(self, net: Field | Callable[..., Tensor], manifold: Manifold) -> None:
        super().__init__()
        if not isinstance(manifold, Manifold):
            raise TypeError(f"TangentField expects a manifold of pyflowk.manifolds, got {manifold!r}")
        self.net = as_field(net)
        self.takes_context = self.net.takes_context
        self.manifold = manifold

    def no_context(self) -> Tensor | Ragged:
        return self.net.no_context()

    def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        x = self.manifold.project(x)
        return self.manifold.pull(x, self.net(t, self.manifold.embed(x), context))

    def with_tangents(
        self, t: Tensor, x: Tensor, tangents: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        space = self.manifold
        tangents = _pushed(space.project, (x,), (tangents,))
        x = space.project(x)
        moved = _pushed(space.embed, (x,), (tangents,))
        answer, changed = self.net.with_tangents(t, space.embed(x), moved, context)
        return space.pull(x, answer), _pushed(space.pull, (x, answer), (tangents, changed))

    def has_divergence(self, t: Tensor) -> bool:
        """Always: the manifold has no more dimensions than the space around."""
        return True

    def with_divergence(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self.manifold.project(x)
        frame = self.manifold.frame(x)
        answer, changed = self.net.with_tangents(t, self.manifold.embed(x), frame, context)
        divergence = (frame * changed).flatten(1).sum(1) + self.manifold.bend(x, answer)
        return self.manifold.pull(x, answer), divergence


def _pushed(f: Callable[..., Tensor], points: tuple[Tensor, ...], tangents: tuple[Tensor, ...]) -> Tensor:
    """The derivatives of f at points (B, *event) along tangents (B, K, *event)."""
    points = tuple(point.contiguous() for point in points)  # expanded ones have no dual numbers
    if tangents[0].shape[1] == 1:
        return jvp(f, points, tuple(e[:, 0] for e in tangents))[1].unsqueeze(1)
    return vmap(lambda *e: jvp(f, points, e)[1], in_dims=1, out_dims=1)(*tangents)
