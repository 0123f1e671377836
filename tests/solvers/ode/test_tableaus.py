"""Every method satisfies the order conditions up to its order, and no more than it should."""

from __future__ import annotations

import itertools
import math

import pytest

from pyflowk.solvers import TABLEAUS, Tableau

Tree = tuple  # of subtrees, sorted


def trees(order: int) -> list[Tree]:
    """Every rooted tree with that many nodes."""
    if order == 1:
        return [()]
    found = set()
    for sizes in partitions(order - 1):
        for subtrees in itertools.product(*(trees(size) for size in sizes)):
            found.add(tuple(sorted(subtrees)))
    return sorted(found)


def partitions(n: int, largest: int | None = None) -> list[list[int]]:
    if n == 0:
        return [[]]
    top = min(n, largest or n)
    return [[first, *rest] for first in range(top, 0, -1) for rest in partitions(n - first, first)]


def density(tree: Tree) -> int:
    return nodes(tree) * math.prod(density(t) for t in tree)


def nodes(tree: Tree) -> int:
    return 1 + sum(nodes(t) for t in tree)


def stage_weights(tree: Tree, table: Tableau) -> list[float]:
    """Phi_i: the elementary weight of the tree with its root at stage i."""
    result = [1.0] * table.stages
    for subtree in tree:
        inner = stage_weights(subtree, table)
        result = [r * sum(a * w for a, w in zip(row, inner)) for r, row in zip(result, table.a)]
    return result


def residual(tree: Tree, table: Tableau, weights: tuple[float, ...], theta: float = 1.0) -> float:
    """Of the condition sum_i b_i Phi_i = theta^n / density."""
    total = sum(b * w for b, w in zip(weights, stage_weights(tree, table)))
    return abs(total - theta ** nodes(tree) / density(tree))


def worst(table: Tableau, weights: tuple[float, ...], order: int, theta: float = 1.0) -> float:
    return max(residual(tree, table, weights, theta) for tree in trees(order))


def test_there_are_as_many_trees_as_there_should_be() -> None:
    assert [len(trees(n)) for n in range(1, 9)] == [1, 1, 2, 4, 9, 20, 48, 115]


@pytest.mark.parametrize("name", TABLEAUS)
def test_order_conditions(name: str) -> None:
    table = TABLEAUS[name]
    for order in range(1, table.order + 1):
        assert worst(table, table.b, order) < 1e-13
    assert worst(table, table.b, table.order + 1) > 1e-6


@pytest.mark.parametrize("name", [name for name, table in TABLEAUS.items() if table.error])
def test_embedded_method(name: str) -> None:
    """The error weights are the difference to a method of one order less."""
    table = TABLEAUS[name]
    other = tuple(b - e for b, e in zip(table.b, table.error))
    for order in range(1, table.error_order):
        assert worst(table, other, order) < 1e-13
    assert worst(table, other, table.error_order) > 1e-6


@pytest.mark.parametrize("name", TABLEAUS)
def test_rows_add_up(name: str) -> None:
    table = TABLEAUS[name]
    assert [len(row) for row in table.a] == list(range(table.stages))
    for row, c in zip(table.a, table.c):
        assert abs(sum(row) - c) < 2e-15
    assert table.a[-1] == table.b[:-1] and table.b[-1] == 0 and table.c[-1] == 1


#: up to which order the polynomial inside the step satisfies the conditions
INSIDE = {"euler": 1, "midpoint": 2, "heun2": 2, "ralston": 2, "fehlberg2": 2, "heun3": 3, "bosh3": 3, "rk4": 3,
          "rk4_classic": 3, "dopri5": 4, "tsit5": 4, "dopri8": 5}  # fmt: skip


@pytest.mark.parametrize("name", TABLEAUS)
def test_dense_output(name: str) -> None:
    table = TABLEAUS[name]
    for theta in (0.1, 0.25, 0.5, 0.9, 1.0):
        weights = tuple(sum(c * theta ** (p + 1) for p, c in enumerate(row)) for row in table.interpolant)
        for order in range(1, INSIDE[name] + 1):
            assert worst(table, weights, order, theta) < 2e-12
    at_end = [sum(row) for row in table.interpolant]
    assert max(abs(w - b) for w, b in zip(at_end, table.b)) < 2e-12


@pytest.mark.parametrize("name", TABLEAUS)
def test_slopes_of_dense_output_at_the_ends(name: str) -> None:
    """Where one step ends and the next begins the solution has one slope."""
    table = TABLEAUS[name]
    start = [row[0] for row in table.interpolant]
    end = [sum((p + 1) * c for p, c in enumerate(row)) for row in table.interpolant]
    assert start == pytest.approx([1.0] + [0.0] * (table.stages - 1), abs=5e-11)
    assert end == pytest.approx([0.0] * (table.stages - 1) + [1.0], abs=5e-11)
