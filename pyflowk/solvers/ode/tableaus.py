"""Explicit Runge-Kutta methods as tables of coefficients, all in the form that ends with a slope at the new state.

A method of s stages has times c, rows a, weights b, weights of the error estimate, and a polynomial for the inside of a
step. The slope at the new state, f(t + h, y1), is appended where the method does not have it as its last stage: the
next step begins with it, and the polynomial needs it. `stages` counts it; `Tableau.fsal` says whether the method itself
has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction as F

__all__ = ["Row", "Tableau", "difference", "explicit", "inside", "through_middle"]

Row = tuple[float, ...]
Sparse = tuple[tuple[int, ...], Row]
"""The places of the weights that are not zero, and those weights."""


@dataclass(frozen=True)
class Tableau:
    """k_i = f(t + c_i h, y + h sum_j a_ij k_j), y1 = y + h sum_i b_i k_i, e = h sum_i error_i k_i.

    Inside the step y(t + theta h) = y + h sum_i k_i sum_p interpolant[i][p] theta^(p + 1).

    >>> from pyflowk.solvers import tableau
    >>> tableau("bosh3")
    Tableau(bosh3, order=3, stages=4)
    """

    name: str
    order: int
    c: Row  # of every stage, the appended one included
    a: tuple[Row, ...]  # a[i] has i entries; the last row is b
    b: Row
    fsal: bool
    interpolant: tuple[Row, ...]
    dense_order: int  # of the interpolant
    error: Row | None = None  # None: no embedded method, fixed steps only
    error_order: int = 0  # what is controlled is O(h^error_order); steps grow with its root
    #: of a second estimate r, of lower order: with it |e|^2 / (|e|^2 + |r / 10|^2)^(1/2) is controlled
    rough: Row | None = None
    extra: tuple[Row, ...] = ()  # further rows of a, whose slopes the interpolant alone needs
    # what follows: the weights that are not zero, with their places, of rows of a, of `extra`, and of the estimates
    rows: tuple[Sparse, ...] = field(init=False, repr=False, compare=False)
    extra_rows: tuple[Sparse, ...] = field(init=False, repr=False, compare=False)
    estimates: tuple[Sparse, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        estimates = [row for row in (self.error, self.rough) if row is not None]
        for name, rows in (("rows", self.a), ("extra_rows", self.extra), ("estimates", estimates)):
            object.__setattr__(self, name, tuple(map(_sparse, rows)))

    def __repr__(self) -> str:
        """One line: no coefficients."""
        return f"Tableau({self.name}, order={self.order}, stages={self.stages})"

    @property
    def stages(self) -> int:
        """How many slopes a step has, that at its end included."""
        return len(self.c)

    @property
    def evaluations(self) -> int:
        """How many evaluations of the field a further step costs."""
        return self.stages - 1

    @property
    def all_c(self) -> Row:
        """The times of all slopes, those of the interpolant alone included."""
        return (*self.c, *map(sum, self.extra))


def explicit(
    name: str, order: int, a: str, b: str, error: str = "", error_order: int = 0, rough: str = "", fsal: bool = False,
    c: str = "", extra: str = "", details: Sequence[Row] = (), interpolant: tuple[Row, ...] = (), dense_order: int = 0,
) -> Tableau:  # fmt: skip
    """A tableau from text: numbers or fractions, rows of a separated by |; where fsal, the last row of a is b.

    The times c are the sums of the rows, if not given. The interpolant is `inside(b, details)`, if not given.
    """
    rows = [_numbers(row) for row in a.split("|")] if a else []
    weights, estimate, second = (_numbers(row) if row else () for row in (b, error, rough))
    times = _numbers(c) if c else (0.0, *(_total(row) for row in a.split("|") if row))
    if not fsal:  # the slope at the new state is appended
        rows, times, weights = [*rows, weights], (*times, 1.0), (*weights, 0.0)
        estimate, second = (row and (*row, 0.0) for row in (estimate, second))
    more = tuple(_numbers(row) for row in extra.split("|")) if extra else ()
    wide = (*weights, *[0.0] * len(more))
    return Tableau(
        name, order, times, ((), *rows), weights, fsal, interpolant or inside(wide, len(weights) - 1, details),
        dense_order or min(order, 3), estimate or None, error_order, second or None, more,
    )  # fmt: skip


def inside(b: Row, last: int, details: Sequence[Row] = ()) -> tuple[Row, ...]:
    """The polynomial through both states and both slopes, of which that at the end is number `last`.

    It is x (F_0 + (1 - x) (F_1 + x (F_2 + (1 - x) (F_3 + ...)))) with F_0 = y1 - y, F_1 = h f_0 - F_0,
    F_2 = 2 F_0 - h (f_0 + f_1), and F_3, ... of weights `details`: a cubic without them (Hairer, Norsett, Wanner II.6).
    """
    rows = []
    for i, w in enumerate(b):
        first, end = float(i == 0), float(i == last)
        polynomial = [0.0]
        for level, weight in enumerate([w, first - w, 2 * w - first - end, *(row[i] for row in details)][::-1]):
            polynomial[0] += weight
            shifted = [0.0, *polynomial]  # times x; or 1 - x
            turn = (level + len(details)) % 2 == 0
            polynomial = shifted if turn else [p - q for p, q in zip([*polynomial, 0.0], shifted)]
        rows.append(tuple(polynomial[1:]))
    return tuple(rows)


def through_middle(b: Row, middle: Row) -> Row:
    """The detail that has the polynomial pass through y + h sum_i middle_i k_i at half the step."""
    last = len(b) - 1
    return tuple(16 * m - 8 * w - 2 * (i == 0) + 2 * (i == last) for i, (w, m) in enumerate(zip(b, middle)))


def difference(b: str, other: str) -> str:
    """Of two rows of weights."""
    return ",".join(str(F(x) - F(y)) for x, y in zip(b.split(","), other.split(",")))


def _numbers(row: str) -> Row:
    return tuple(float(F(w)) for w in row.split(","))


def _total(row: str) -> float:
    return float(sum(F(w) for w in row.split(",")))


def _sparse(row: Row) -> Sparse:
    kept = [(j, w) for j, w in enumerate(row) if w] or [(0, 0.0)]
    return tuple(j for j, _ in kept), tuple(w for _, w in kept)
