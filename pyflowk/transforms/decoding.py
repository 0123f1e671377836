"""How the tokens of a causal map are found from their noise: one after the other, or many at once until they agree."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .._checks import require_counts
from ..nets.causal import CausalWalk
from .base import zero_ladj

__all__ = ["DECODINGS", "GUESSES", "Decoding", "Solved", "solve"]

DECODINGS = ("auto", "sequential", "jacobi", "gauss-seidel")
GUESSES = ("noise", "zeros")
DIVERGED = 1e6
"""A guess of this size will not come back."""
ROUNDING = 8
"""Units in the last place by which a round may move what has settled: rounding never ends."""

Move = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Noise (B, n, D) and its parameters -> tokens, and the log-determinants (B,)."""


@dataclass(frozen=True)
class Decoding:
    r"""How :class:`Causal` finds tokens :math:`x_i = f(z_i; \theta(x_{<i}))` from their noise z.

    Attributes:
        method: "sequential", token after token; "jacobi", all at once from a guess, in rounds
            :math:`x^{k+1}_i = f(z_i; \theta(x^k_{<i}))` until they agree; "gauss-seidel", in segments one after the
            other, with rounds inside of each, what a segment has left in keys and values staying for the next; "auto",
            the network's own ``decode`` where it has one (a compiled loop on a CPU, which is faster than any rounds
            were there), "gauss-seidel" elsewhere.
        segment: how many tokens those have.
        tolerance: an event has settled when a round moves its segment by no more than this share of its size. 0 is the
            exact mode: by no more than rounding does.
        guess: what a segment starts from, its "noise" or "zeros".

    After k rounds the first k tokens of a segment are exact, whatever the guess was, so that no more rounds are needed
    than it has tokens; where a guess grows beyond 1e6 the rest of the segment is found token after token. An event that
    has settled stays as it is, whatever the others beside it do. Raises ValueError for an unknown method or guess, a
    segment without tokens, and a tolerance below 0.

    Song, Meng, Liao, Ermon, 2021, arXiv:2002.03629; causal flows: Gu et al., 2025, arXiv:2506.06276; Liu, Qin, 2025,
    arXiv:2505.12849.

    >>> from pyflowk.transforms import Decoding
    >>> Decoding("gauss-seidel", segment=8).tolerance
    0.0
    """

    method: str = "auto"
    segment: int = 16
    tolerance: float = 0.0
    guess: str = "noise"

    def __post_init__(self) -> None:
        if self.method not in DECODINGS:
            raise ValueError(f"method: expected one of {', '.join(DECODINGS)}; got {self.method!r}")
        if self.guess not in GUESSES:
            raise ValueError(f"guess: expected one of {', '.join(GUESSES)}; got {self.guess!r}")
        require_counts("Decoding", segment=self.segment)
        if not 0 <= self.tolerance < math.inf:
            raise ValueError(f"tolerance: expected a number of at least 0, got {self.tolerance!r}")

    def length(self, tokens: int) -> int:
        """How many tokens are found together."""
        return {"jacobi": tokens, "sequential": 1}.get(self.method, self.segment)


class Solved(NamedTuple):
    """Tokens (B, T, D), log-determinants (B,), and how they were found: ``rounds`` of each segment; its ``changes``,
    the largest share of its size by which a round moved an event, one number a round; and how many tokens were found
    one after the other because the guesses had grown too large."""

    x: Tensor
    ladj: Tensor
    rounds: tuple[int, ...]
    changes: tuple[Tensor, ...]
    fallen: int


def solve(walk: CausalWalk, move: Move, noise: Tensor, how: Decoding) -> Solved:
    """The tokens that noise (B, T, D) becomes, by a walk that has not begun. One number is read back a round."""
    tokens, length, total = noise.shape[1], how.length(noise.shape[1]), zero_ladj(noise)
    token, params = noise[:, :1], walk.first()
    if params is not None:
        token, total = move(token, params)
    found, rounds, changes, fallen = [token], [], [], 0
    for place in range(1, tokens, length):
        segment = _Segment(walk, move, noise[:, place : place + length], found[-1][:, -1:], how)
        x, ladj = segment.solve()
        total = total + ladj
        found.append(x)
        rounds.append(segment.rounds)
        changes.append(torch.stack(segment.changes) if segment.changes else noise.new_zeros(0))
        fallen += segment.fallen
    return Solved(torch.cat(found, 1), total, tuple(rounds), tuple(changes), fallen)


class _Segment:
    """Tokens that are found together, behind the last one that is known."""

    def __init__(self, walk: CausalWalk, move: Move, noise: Tensor, last: Tensor, how: Decoding) -> None:
        self.walk, self.move, self.noise, self.last, self.how = walk, move, noise, last, how
        self.rounds, self.fallen, self.changes = 0, 0, list[Tensor]()

    def solve(self) -> tuple[Tensor, Tensor]:
        n, sound = self.noise.shape[1], _finite(self.noise) & _finite(self.last)  # what is NaN stays so: no divergence
        guess = self.noise if self.how.guess == "noise" else torch.zeros_like(self.noise)
        while True:
            new, ladj = self.move(self.noise, self.walk.after(torch.cat((self.last, guess[:, :-1]), 1)))
            self.rounds += 1
            k = self.rounds
            if k == n:  # by now all are exact
                return torch.cat((guess[:, :-1], new[:, -1:]), 1), ladj
            settled = self._settled(new[:, :-1], guess[:, :-1])
            if settled.all():  # keys and values, parameters and log-determinants are those of the guess
                return torch.cat((guess[:, :-1], new[:, -1:]), 1), ladj
            self.walk.back(n)
            if (sound & ~settled & ~(new.abs() <= DIVERGED).flatten(1).all(1)).any():
                return self._one_by_one(new[:, :k])
            behind = torch.where(new[:, k:].isfinite(), new[:, k:], 0)  # a NaN would reach those in front of it, too
            guess = torch.where(settled[:, None, None], guess, torch.cat((new[:, :k], behind), 1))

    def _settled(self, new: Tensor, old: Tensor) -> Tensor:
        """Which events (B,) a round has left as they were."""
        size = torch.linalg.vector_norm(new.flatten(1), dim=1)
        moved = torch.linalg.vector_norm((new - old).flatten(1), dim=1)
        share = moved / size.clamp(min=torch.finfo(size.dtype).tiny)
        self.changes.append(share.max() if len(share) else share.new_zeros(()))
        return share <= max(self.how.tolerance, ROUNDING * torch.finfo(share.dtype).eps)

    def _one_by_one(self, known: Tensor) -> tuple[Tensor, Tensor]:
        """The segment from the tokens that are exact already."""
        k, n = known.shape[1], self.noise.shape[1]
        x, total = self.move(self.noise[:, : k + 1], self.walk.after(torch.cat((self.last, known), 1)))
        for i in range(k + 1, n):
            token, ladj = self.move(self.noise[:, i : i + 1], self.walk.after(x[:, -1:]))
            x, total = torch.cat((x, token), 1), total + ladj
        self.fallen = n - k
        return x, total


def _finite(x: Tensor) -> Tensor:
    return x.isfinite().flatten(1).all(1)
