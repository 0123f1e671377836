"""Noise finds its event among all rows of a data set: semidiscrete transport, fitted once, and its pairs kept small."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

from .._checks import require_counts, require_numbers
from ..distributions import Distribution
from ..ops import assignment_of_points, nearest, random_numbers, sinkhorn_draw
from ..ops.describe import described
from ..ops.draw import draw_integers, draw_normal, draw_uniform
from .pairing import equal_rows

__all__ = ["SeededPairs", "Semidiscrete", "SemidiscreteFit"]

_PIECE = 1 << 24  # numbers of rows on demand, and chances, that are looked at together
_SOME = 2048  # noises and rows that a fit begins with, assigned exactly: of fewer the prices are too rough
_FIRST, _LAST, _WINDOW = 1e-2, 1e-5, 8  # lengths of steps beside the spread of <x0, x1>; the average is over 1 / 8


class SemidiscreteFit(NamedTuple):
    """How a fit went: the ``steps`` of all labels together, the worst ``chi2`` of a label with its standard ``error``,
    and whether every label came within the tolerance, ``converged``."""

    steps: int
    chi2: float
    error: float
    converged: bool


class Semidiscrete(nn.Module):
    r"""The pairing by optimal transport from all noise there is to the rows of a data set, each of the same weight.

    .. math:: j(x_0) = \arg\min_j\, |x_0 - x_1^j|^2 / 2 - g_j

    with one number g for each row, which ``fit`` finds once; then noise finds its row by :func:`pyflowk.ops.nearest`,
    with no error of small batches. In a batch x0 keeps its places, and x1 becomes the rows that it finds: the events of
    the batch, of which the rows must be the whole, are put aside. With ``eps`` above 0 the row is drawn, with chances
    :math:`\propto \exp((g_j - |x_0 - x_1^j|^2 / 2) / \varepsilon)`.

    ``rows`` are (N, \*event), a tensor or what is read on demand (with ``len``, ``shape``, ``dtype`` and ``[rows]``),
    as they enter training; ``context`` are their labels (N, ...), each of which has a transport of its own, so that
    noise does not tell of it. ``source`` is the distribution of the noise, standard normal if none is given. The state
    dict holds the numbers g, ``potentials``, and no rows.

    Raises TypeError for rows that give no tensors; ValueError for no rows, NaN and infinity, another number of
    contexts, eps with rows on demand, other events in a batch, and labels that the rows have not; RuntimeError for a
    batch before ``fit``, or the state of one, has found g. Cost: a fit 2 N D flops a noise; memory for the rows of one
    piece, and where rows in memory have labels for a copy of them; a batch the same.
    SD-FM, 2025, arXiv:2509.25519; Genevay et al., 2016, arXiv:1605.08527.

    >>> import torch
    >>> from pyflowk.paths import Semidiscrete
    >>> pairing = Semidiscrete(torch.tensor([[-1.0], [1.0]]))
    >>> pairing.fit(100, generator=torch.Generator().manual_seed(0)).converged
    True
    >>> pairing(torch.tensor([[0.5], [-2.0]]), torch.zeros(2, 1))[1].flatten()
    tensor([ 1., -1.])
    """

    potentials: Tensor
    halves: Tensor  # of the squares of the rows

    def __init__(
        self, rows: Any, context: Tensor | None = None, *, eps: float = 0.0, source: Distribution | None = None
    ) -> None:
        super().__init__()
        require_numbers("Semidiscrete", eps=eps)
        if not isinstance(getattr(rows, "dtype", None), torch.dtype):
            raise TypeError(
                f"rows: expected a tensor (N, *event), or what gives tensors on demand; got {described(rows)}"
            )
        if len(rows) == 0 or (context is not None and len(context) != len(rows)):
            got = "no context" if context is None else f"a context of {len(context)}"
            raise ValueError(f"Semidiscrete expects rows, and a label for each; got {len(rows)} rows and {got}")
        if eps > 0 and not isinstance(rows, Tensor):
            raise ValueError("Semidiscrete expects rows in memory where eps is above 0")
        self.rows, self.context, self.eps = rows, context, float(eps)
        self._source = [source]  # in a list: no submodule, whose weights would enter the state dict
        self.event, self.size = tuple(rows.shape[1:]), math.prod(rows.shape[1:])
        self.labels = [torch.arange(len(rows))] if context is None else [r.cpu() for r in equal_rows(context)]
        self._kept: dict[int, Tensor] = {}  # of each label by its first row: gathering takes longer than finding
        wide = torch.float64 if rows.dtype == torch.float64 else torch.float32
        device = rows.device if isinstance(rows, Tensor) else "cpu"
        self.register_buffer("potentials", torch.zeros(len(rows), dtype=wide, device=device))
        if context is not None and isinstance(rows, Tensor):
            self._kept = {int(numbers[0]): self._points(numbers) for numbers in self.labels}
        squares = [points.square().sum(1) / 2 for _, points in self._pieces(torch.arange(len(rows)))]
        self.register_buffer("halves", torch.cat(squares), persistent=False)
        if not (finite := self.halves.isfinite()).all():
            row = int(finite.logical_not().nonzero()[0])
            raise ValueError(f"rows: expected finite numbers, and squares of them; got others in row {row}")
        for numbers in self.labels:
            start = self._start(numbers)
            self.potentials[numbers] = start - start.mean()
        self._begun: set[int] = set()  # labels by their numbers, of which a fit has begun
        self.register_load_state_dict_post_hook(lambda module, _: module._begun.update(range(len(module.labels))))

    def fit(
        self,
        steps: int = 10_000,
        batch: int = 1024,
        *,
        tolerance: float = 1e-3,
        generator: Generator | None = None,
        watch: Callable[[float], None] | None = None,
    ) -> SemidiscreteFit:
        r"""Find the potentials by stochastic ascent, and say how even the shares of the rows are.

        The potentials start as those of Gaussians as wide as noise and rows; of more than 2048 rows by the prices of an
        exact assignment of 2048 noises to as many of them, which the others join as dear as leaves all these noises
        content. Each of the ``steps`` of a label draws ``batch`` noises and lifts the rows that had less than their
        share, at a rate that falls from 1e-2 to 1e-5 of the deviation of the rows times that of the noise (Adam, with
        averaged iterates). The fit of a label ends when :math:`\chi^2 = \sum_j p_j^2 / b_j - 1`, with p the shares of
        rows and b what they should be, is not above ``tolerance`` by its unbiased estimate plus a standard error. Looks
        at it, with new noise, come at 64, 128, 256 ... steps and cost half as much as the steps. ``watch`` hears of the
        part that is done, 0 to 1. A fit that is interrupted leaves what it has, from which the next one starts; one
        that ends above the tolerance warns of it. Cost: 1.5 steps batch N D products a label.
        """
        require_counts("fit", steps=steps, batch=batch)
        require_numbers("fit", tolerance=tolerance)
        taken, worst, converged = 0, (-math.inf, 0.0), True
        for number, rows in enumerate(self.labels):

            def part(done: float, number: int = number) -> None:
                if watch is not None:
                    watch((number + done) / len(self.labels))

            if number not in self._begun and len(rows) > _SOME:
                self._begin(rows, generator)
            self._begun.add(number)
            count, chi2, error = self._fit_label(rows, steps, batch, tolerance, generator, part)
            taken, converged = taken + count, converged and chi2 + error <= tolerance
            worst = max(worst, (chi2, error))
            part(1.0)
        if not converged:
            uneven = f"{worst[0]:.3g} +- {worst[1]:.3g} after {taken} steps, not within the tolerance of {tolerance:g}"
            told = f"Semidiscrete: the rows' shares of noise have a chi2 of {uneven}; another fit goes on from here"
            warnings.warn(told, stacklevel=2)
        return SemidiscreteFit(taken, *worst, converged)

    @torch.no_grad()
    def _begin(self, rows: Tensor, generator: Generator | None) -> None:
        """Potentials at which some noises are content with the rows that an assignment gave them."""
        g = self.potentials
        order = draw_uniform((len(rows),), generator, dtype=torch.float64, device=g.device).argsort().cpu()
        some = rows[order[:_SOME]]
        noise = self._noise(len(some), rows, generator)
        prices = assignment_of_points(noise, self._points(some)).row_prices.to(g) - noise.square().sum(1)
        value = torch.cat([nearest(points, noise, prices / 2)[1] for _, points in self._pieces(rows)])
        start = self.halves[rows] - value
        self.potentials[rows] = start - start.mean()

    @torch.no_grad()
    def _fit_label(
        self,
        rows: Tensor,
        steps: int,
        batch: int,
        tolerance: float,
        generator: Generator | None,
        part: Callable[[float], None],
    ) -> tuple[int, float, float]:
        """Steps, chi2 and its standard error."""
        g = self.potentials[rows]
        average, first, second = g.clone(), torch.zeros_like(g), torch.zeros_like(g)
        spread = math.sqrt(self._moments(rows)[1] * self._moments_of_noise(rows)[1])
        chi2, error, seen, look = math.inf, 0.0, 0, 64
        try:
            for step in range(1, steps + 1):
                lack = 1 / len(rows) - self._shares(rows, g, batch, generator)[0]
                first = first.lerp(lack, 0.1)
                second = second.lerp(lack.square(), 0.01)
                size = (second / (1 - 0.99**step)).sqrt().clamp(min=1e-12)
                g = g + spread * _FIRST * (_LAST / _FIRST) ** (step / steps) * first / (1 - 0.9**step) / size
                average = average.lerp(g, min(1.0, _WINDOW / (step + _WINDOW - 1)))
                if step in (look, steps):
                    draws = batch * max(1, (step - seen) // 2)
                    _, pairs = self._shares(rows, average, draws, generator)
                    chi2 = float(pairs.double().sum()) * len(rows) - 1
                    error, seen, look = math.sqrt(2 * len(rows)) / draws, step, 2 * look
                    part(step / steps)
                    if chi2 + error <= tolerance:
                        break
        finally:  # interrupted, too
            self.potentials[rows] = average - average.mean()
        return step, chi2, error

    def _shares(self, rows: Tensor, g: Tensor, draws: int, generator: Generator | None) -> tuple[Tensor, Tensor]:
        """The share of noise that each row takes, and an unbiased estimate of its square."""
        total, squares, left = torch.zeros_like(g), torch.zeros_like(g), draws
        most = max(1, _PIECE // len(rows)) if self.eps > 0 else 1 << 16
        while left > 0:
            x0 = self._noise(min(most, left), rows, generator)
            left -= len(x0)
            if self.eps > 0:
                heights = (g - self.halves[rows]) / self.eps
                chances = torch.softmax(torch.addmm(heights, x0, self._points(rows).T, alpha=1 / self.eps), 1)
                total += chances.sum(0)
                squares += chances.square().sum(0)
            else:
                counts = self._find(x0, rows, g).bincount(minlength=len(rows)).to(g.dtype)
                total += counts
                squares += counts
        return total / draws, (total.square() - squares) / (draws * max(1, draws - 1))

    def _noise(self, n: int, rows: Tensor, generator: Generator | None) -> Tensor:
        """(n, D), for the label of some rows."""
        source, like = self._source[0], self.potentials
        if source is None:
            return draw_normal((n, self.size), generator, dtype=like.dtype, device=like.device)
        context = None if self.context is None else self.context[rows[:1]].expand(n, *self.context.shape[1:])
        return source.sample(n, context, generator).to(like).reshape(n, self.size)

    def _moments_of_noise(self, rows: Tensor) -> tuple[Tensor, float]:
        """The same of the noise for a label, by draws that are always the same."""
        like = self.potentials
        if self._source[0] is None:
            return like.new_zeros(self.size), float(self.size)
        noise = self._noise(1024, rows, Generator(like.device).manual_seed(0)).detach()
        return noise.mean(0), float((noise - noise.mean(0)).square().sum(1).mean()) or 1.0

    def _start(self, rows: Tensor) -> Tensor:
        """What the potentials are where noise and rows are Gaussians of their widths, and transport is a scaling."""
        (centre, spread), (middle, width) = self._moments(rows), self._moments_of_noise(rows)
        ratio = math.sqrt(width / spread)
        towards = torch.cat([points @ (ratio * centre - middle) for _, points in self._pieces(rows)])
        return towards + (1 - ratio) * self.halves[rows]

    def _points(self, rows: Tensor) -> Tensor:
        """Some rows, flat, in the dtype of the potentials; all of them without a copy."""
        kept = self._kept.get(int(rows[0]))
        if kept is not None and len(kept) == len(rows):
            return kept.to(self.potentials)
        whole = isinstance(self.rows, Tensor) and len(rows) == len(self.rows)
        return (self.rows if whole else taken(self.rows, rows)).to(self.potentials).reshape(len(rows), self.size)

    def _pieces(self, rows: Tensor) -> Iterator[tuple[int, Tensor]]:
        """(number of the first, points) of consecutive rows: all at once where they are in memory."""
        step = len(rows) if isinstance(self.rows, Tensor) else max(1, _PIECE // max(1, self.size))
        for first in range(0, len(rows), step):
            yield first, self._points(rows[first : first + step])

    def _moments(self, rows: Tensor) -> tuple[Tensor, float]:
        """The centre of some rows, and their mean squared distance from it; 1 where they are all in one place."""
        total, squares = torch.zeros(self.size, dtype=torch.float64, device=self.potentials.device), 0.0
        for _, points in self._pieces(rows):
            total += points.double().sum(0)
            squares += float(points.double().square().sum())
        centre = total / len(rows)
        spread = squares / len(rows) - float(centre.square().sum())
        return centre.to(self.potentials.dtype), spread if spread > 1e-12 * squares / len(rows) else 1.0

    def _find(self, x0: Tensor, rows: Tensor, g: Tensor) -> Tensor:
        """Which of some rows each noise (B, D) finds, by its number among them."""
        heights, best = g - self.halves[rows], g.new_full((len(x0),), -math.inf)
        index = torch.zeros_like(best, dtype=torch.int64)
        for first, points in self._pieces(rows):
            at, value = nearest(x0, points, heights[first : first + len(points)])
            index = torch.where(value > best, at + first, index)
            best = torch.maximum(value, best)
        return index

    @torch.no_grad()
    def partners(self, x0: Tensor, context: Tensor | None = None, generator: Generator | None = None) -> Tensor:
        r"""The number of the row that each noise (B, \*event) finds, (B,) int64, among those of its label."""
        if x0.shape[1:] != self.event or (context is None) != (self.context is None):
            wanted = "no context" if self.context is None else "a context"
            raise ValueError(
                f"expected noise of events {self.event} and {wanted}, got {tuple(x0.shape)} and "
                f"{'none' if context is None else tuple(context.shape)}"
            )
        noise, found = (
            x0.to(self.potentials).reshape(len(x0), self.size),
            torch.zeros(len(x0), dtype=torch.int64),
        )
        groups = [torch.arange(len(x0))] if context is None else [group.cpu() for group in equal_rows(context)]
        for group in groups:
            number = 0 if context is None else self._label(context[group[:1]])
            if number not in self._begun:
                raise RuntimeError(
                    "Semidiscrete: expected fit, or load_state_dict, before noise is paired; got neither"
                )
            rows = self.labels[number]
            at, g = group.to(noise.device), self.potentials[rows]
            if self.eps > 0:  # costs of |x0 - x1|^2 are twice ours
                index = sinkhorn_draw(noise[at], self._points(rows), 2 * g, 2 * self.eps, generator=generator)
            else:
                index = self._find(noise[at], rows, g)
            found[group] = rows[index.cpu()]
        return found.to(x0.device)

    def _label(self, context: Tensor) -> int:
        """The number of a label (1, ...)."""
        assert self.context is not None
        for number, rows in enumerate(self.labels):
            if torch.equal(self.context[rows[:1]].to(context), context):
                return number
        raise ValueError(f"no row has the label {context[0].tolist()}")

    def forward(
        self, x0: Tensor, x1: Tensor, context: Tensor | None = None, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The noise, the rows that it finds in the place of x1, and the context."""
        index = self.partners(x0, context, generator)
        return x0, taken(self.rows, index).to(x1), context

    def cache(self, n: int, generator: Generator | None = None) -> SeededPairs:
        """Find the partners of n noises from standard normal noise without labels, and keep 12 bytes of each pair."""
        require_counts("cache", n=n)
        if self._source[0] is not None or self.context is not None:
            raise ValueError("cache: expected standard normal noise and no labels")
        keys = draw_integers(-(2**63), 2**63 - 1, (n,), generator, device=self.potentials.device)
        index = torch.empty(n, dtype=torch.int32, device=keys.device)
        for first in range(0, n, 1 << 16):
            noise = seeded_noise(keys[first : first + (1 << 16)], self.event)
            index[first : first + len(noise)] = self.partners(noise, None, generator).int()
        return SeededPairs(self.rows, keys, index)


class SeededPairs:
    r"""The pairing with pairs that were found before: a seed makes the noise again, an index is the row that it found.

    Of ``keys`` (M,) int64 and ``index`` (M,) int32 as many are drawn as a batch has events, whatever these are. Cost: a
    gather, and the noise by counter (:func:`pyflowk.ops.random_numbers`).

    >>> import torch
    >>> from pyflowk.paths import SeededPairs
    >>> pairs = SeededPairs(torch.tensor([[5.0], [6.0]]), torch.tensor([1]), torch.tensor([1], dtype=torch.int32))
    >>> pairs(torch.zeros(2, 1), torch.zeros(2, 1))[1].flatten()
    tensor([6., 6.])
    """

    def __init__(self, rows: Any, keys: Tensor, index: Tensor) -> None:
        if keys.shape != index.shape or keys.ndim != 1 or len(keys) == 0:
            raise ValueError(f"expected keys and index (M,), M > 0; got {tuple(keys.shape)} and {tuple(index.shape)}")
        self.rows, self.keys, self.index = rows, keys, index

    def __call__(
        self, x0: Tensor, x1: Tensor, context: Tensor | None = None, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        if context is not None:
            raise ValueError("SeededPairs have no context")
        chosen = draw_integers(0, len(self.keys), (len(x1),), generator, device=self.keys.device)
        noise = seeded_noise(self.keys[chosen], tuple(x1.shape[1:]))
        return noise.to(x0), taken(self.rows, self.index[chosen].long()).to(x1), None


def seeded_noise(keys: Tensor, event: tuple[int, ...]) -> Tensor:
    r"""The standard normal noise (B, \*event) of seeds (B,), float32."""
    return random_numbers(keys, 1, math.prod(event)).reshape(len(keys), *event)


def taken(rows: Any, index: Tensor) -> Tensor:
    """Rows by their numbers, in memory or on demand."""
    return rows[index.to(rows.device)] if isinstance(rows, Tensor) else rows[index.cpu()]
