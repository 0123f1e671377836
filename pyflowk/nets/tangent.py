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
        x, tangents = _pushed(self.manifold.project, x.contiguous(), tangents)
        return self._along(t, x, tangents, context)

    def has_divergence(self, t: Tensor) -> bool:
        """Always: the manifold has no more dimensions than the space around."""
        return True

    def with_divergence(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self.manifold.project(x.contiguous())
        basis = self.manifold.basis(x)
        value, images = self._along(t, x, basis, context)
        return value, (images * basis).flatten(1).sum(1)

    def _along(self, t: Tensor, x: Tensor, tangents: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """The field at points, and its derivatives along vectors that are tangent there."""
        seen, moved = _pushed(self.manifold.embed, x, tangents)
        answer, changed = self.net.with_tangents(t, seen, moved, context)
        answer = answer.contiguous()  # an expanded one has no dual numbers

        def derivative(e: Tensor, u: Tensor) -> Tensor:
            return jvp(self.manifold.pull, (x, answer), (e, u))[1]

        return self.manifold.pull(x, answer), vmap(derivative, in_dims=1, out_dims=1)(tangents, changed)


def _pushed(f: Callable[[Tensor], Tensor], x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
    """f(x), and df/dx e for tangents e (B, K, *event)."""
    return f(x), vmap(lambda e: jvp(f, (x,), (e,))[1], in_dims=1, out_dims=1)(tangents)
