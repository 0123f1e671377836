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
    """Phi_i: the elementary weight of the tree with its root at stage i, those of the inside alone behind them."""
    rows = (*table.a, *table.extra)
    result = [1.0] * len(rows)
    for subtree in tree:
        inner = stage_weights(subtree, table)
        result = [r * sum(a * w for a, w in zip(row, inner)) for r, row in zip(result, rows)]
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
    """An estimate vanishes up to some order; what is controlled is of the order that the table says.

    |e|^2 / (|e|^2 + |r / 10|^2)^(1/2) is of twice the order of e less that of r.
    """
    table, orders = TABLEAUS[name], []
    for weights in filter(None, (table.error, table.rough)):
        sizes = [max(abs(sum(w * phi for w, phi in zip(weights, stage_weights(tree, table)))) for tree in trees(n))
                 for n in range(1, table.order + 2)]  # fmt: skip
        orders.append(next(n for n, size in enumerate(sizes, 1) if size > 1e-6))
        assert all(size < 1e-13 for size in sizes[: orders[-1] - 1])
    assert table.error_order == (orders[0] if len(orders) == 1 else 2 * orders[0] - orders[1]) >= table.order


@pytest.mark.parametrize("name", TABLEAUS)
def test_rows_add_up(name: str) -> None:
    table = TABLEAUS[name]
    assert [len(row) for row in table.a] == list(range(table.stages))
    assert [len(row) for row in table.extra] == [table.stages + i for i in range(len(table.extra))]
    for row, c in zip((*table.a, *table.extra), table.all_c):
        assert abs(math.fsum(row) - c) < 2e-15
    assert table.a[-1] == table.b[:-1] and table.b[-1] == 0 and table.c[-1] == 1


@pytest.mark.parametrize("name", TABLEAUS)
def test_dense_output(name: str) -> None:
    table = TABLEAUS[name]
    for theta in (0.1, 0.25, 0.5, 0.9, 1.0):
        weights = tuple(sum(c * theta ** (p + 1) for p, c in enumerate(row)) for row in table.interpolant)
        for order in range(1, table.dense_order + 1):
            assert worst(table, weights, order, theta) < 2e-12
    at_end = [sum(row) for row in table.interpolant]
    assert max(abs(w - b) for w, b in zip(at_end, table.b)) < 2e-12


@pytest.mark.parametrize("name", TABLEAUS)
def test_slopes_of_dense_output_at_the_ends(name: str) -> None:
    """Where one step ends and the next begins the solution has one slope."""
    table = TABLEAUS[name]
    start = [row[0] for row in table.interpolant]
    end = [sum((p + 1) * c for p, c in enumerate(row)) for row in table.interpolant]
    assert start == pytest.approx([1.0 * (i == 0) for i in range(len(start))], abs=5e-11)
    assert end == pytest.approx([1.0 * (i == table.stages - 1) for i in range(len(end))], abs=5e-11)
