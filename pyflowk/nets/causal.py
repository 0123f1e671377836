"""What every network of tokens that looks back alone can be asked for: all parameters at once, or token by token."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .context import Network

__all__ = ["Away", "CausalNetwork", "CausalWalk"]


class Away(NamedTuple):
    """How tokens are guided: how far each of T goes, (T,), by which of ``ops.guide``'s rules, and away from a network
    without its context whose attention has that temperature."""

    weights: Tensor
    rule: str
    temperature: float


class CausalWalk(Protocol):
    """A network token by token."""

    def first(self) -> Tensor | None:
        """The parameters (B, 1, k D) of the first token; None where it has none. Called once, before all others."""
        ...

    def after(self, tokens: Tensor) -> Tensor:
        """Those (B, n, k D) of the tokens that follow each of n more ones (B, n, D)."""
        ...

    def back(self, tokens: int) -> None:
        """Forget the last so many tokens."""
        ...


class CausalNetwork(Network):
    r"""A network on tokens whose parameters of each are a function of those before it: :math:`\theta_i(x_{<i})`.

    ``net(x, context=None)``: (B, T, D) -> (B, P, k D), k = ``params_per_element`` numbers for each element, side by
    side, of the last P tokens: all T, or all but the first, which then has no parameters. A subclass gives ``forward``;
    ``walk`` has a default that holds for any, a pass over all tokens for each of them, and is overridden where what
    earlier tokens have said can be kept. Both take a ``temperature`` where there are attention's logits to divide.

    >>> import torch
    >>> from pyflowk.nets import CausalNetwork
    >>> class Before(CausalNetwork):
    ...     params_per_element = 1
    ...     def forward(self, x, context=None):
    ...         return x[:, :-1]
    >>> walk = Before().walk(torch.zeros(1, 3, 1))
    >>> walk.first(), walk.after(torch.full((1, 1, 1), 5.0))
    (None, tensor([[[5.]]]))
    """

    params_per_element: int = 2

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def walk(self, like: Tensor, context: Tensor | None = None, **options: float) -> CausalWalk:
        """The network token by token, on as many rows of as many tokens as there are in ``like``."""
        return _Whole(self, like, context, options)

    def decode(
        self, z: Tensor, context: Tensor | None = None, *, bound: str, limit: float = 1.0, away: Away | None = None
    ) -> tuple[Tensor, Tensor] | None:
        """All tokens that noise z (B, T, D) becomes by the map of a bound, or "additive", and the sums (B,) of its
        log-scales, in one call and without derivatives; None where there is none."""
        return None


def check_step(tokens: Tensor, rows: int, features: int) -> None:
    """ValueError for tokens of a walk that are of another number of events than those before, or of another size."""
    if tokens.dim() != 3 or tokens.shape[0] != rows or tokens.shape[2] != features:
        got = tuple(tokens.shape)
        raise ValueError(
            f"expected tokens ({rows}, n, {features}), of as many events as the walk began with, got {got}"
        )


class _Whole:
    """Every step a pass over all tokens, those that are not known yet being 0."""

    def __init__(self, net: CausalNetwork, like: Tensor, context: Tensor | None, options: dict[str, float]) -> None:
        self.net, self.x, self.context, self.options, self.known = net, torch.zeros_like(like), context, options, 0

    def first(self) -> Tensor | None:
        found = self.net(self.x, self.context, **self.options)
        return found[:, :1] if found.shape[1] == self.x.shape[1] else None

    def after(self, tokens: Tensor) -> Tensor:
        check_step(tokens, self.x.shape[0], self.x.shape[2])
        start, self.known = self.known, self.known + tokens.shape[1]
        if self.known > self.x.shape[1]:
            raise ValueError(f"expected {self.x.shape[1]} tokens at most, got {self.known}")
        self.x = torch.cat((self.x[:, :start], tokens, self.x[:, self.known :]), 1)
        found = self.net(self.x, self.context, **self.options)
        ahead = found.shape[1] - self.x.shape[1] + 1
        return found[:, start + ahead : self.known + ahead]

    def back(self, tokens: int) -> None:
        self.known -= tokens
