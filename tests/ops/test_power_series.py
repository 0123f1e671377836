"""power_series: what the series is, rows that have no, some and too many terms, bad input."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import pyflowk
from pyflowk.ops import power_series

D = torch.float64


def chain(rows: int, widths: tuple[int, ...], dtype: torch.dtype = D) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Probes, slopes and matrices of a contraction."""
    generator = torch.Generator().manual_seed(sum(widths))
    noise = lambda *shape: torch.randn(shape, generator=generator, dtype=D)  # noqa: E731
    slopes = [noise(rows, h).tanh().to(dtype) for h in widths[1:-1]]
    weights = [(0.9 * w / torch.linalg.matrix_norm(w, 2)).to(dtype) for w in map(noise, widths[1:], widths[:-1])]
    return noise(rows, widths[0]).sign().to(dtype), slopes, weights


@pytest.mark.parametrize("name", ["cpu", "reference"])
def test_against_powers_of_the_jacobian(name: str) -> None:
    probe, slopes, weights = chain(6, (3, 5, 4, 3))
    reached = torch.tensor([0, 1, 5, 7, 90, -2])
    with pyflowk.backend(name):
        value, v = power_series(probe, slopes, weights, reached, terms=7, exact_terms=2, survival=0.7)
    for row, n in enumerate([0, 1, 5, 7, 7, 0]):
        jacobian = weights[2] @ torch.diag(slopes[1][row]) @ weights[1] @ torch.diag(slopes[0][row]) @ weights[0]
        e, powers = probe[row], [torch.linalg.matrix_power(jacobian, k) for k in range(8)]
        c = [(-1) ** (k + 1) / 0.7 ** max(0, k - 2) for k in range(8)]
        traces = sum((c[k] / k * e @ powers[k] @ e for k in range(1, n + 1)), torch.zeros((), dtype=D))
        torch.testing.assert_close(value[row], traces)
        torch.testing.assert_close(
            v[row], sum((c[k] * e @ powers[k - 1] for k in range(1, n + 1)), torch.zeros(3, dtype=D))
        )


def test_unit_vectors_give_the_log_determinant() -> None:
    _, slopes, weights = chain(4, (4, 6, 4))
    value, v = power_series(torch.eye(4, dtype=D), [slopes[0][:1].expand(4, 6)], weights, terms=400)
    jacobian = weights[1] @ torch.diag(slopes[0][0]) @ weights[0] + torch.eye(4, dtype=D)
    torch.testing.assert_close(value.sum(), torch.linalg.slogdet(jacobian).logabsdet)
    torch.testing.assert_close(v, torch.linalg.inv(jacobian))


@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_tiles_order_and_threads_leave_a_row_alone(dtype: torch.dtype) -> None:
    """Rows of all numbers of terms, more than all tiles of a launch have room for: each as if it were alone."""
    probe, slopes, weights = chain(3500, (7, 20, 33, 7), dtype)
    reached = (torch.arange(3500) * 7919) % 13 - 1
    options = {"terms": 11, "exact_terms": 3, "survival": 0.5}
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(power_series(probe, slopes, weights, reached, **options))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results))
    for row in (0, 17, 3499):
        one = slice(row, row + 1)
        alone = power_series(probe[one], [s[one] for s in slopes], weights, reached[one], **options)
        assert all(torch.equal(whole[one], part) for whole, part in zip(results[0], alone))
    with pyflowk.backend("reference"):
        for found, expected in zip(results[0], power_series(probe, slopes, weights, reached, **options)):
            torch.testing.assert_close(found, expected)


def test_rows_by_vmap_and_strides() -> None:
    """Numbers of terms that all rows share, mapped, or every second one of a tensor."""
    probe, slopes, weights = chain(6, (3, 5, 4, 3))
    reached = torch.tensor([0, 1, 2, 3, 2, 1])
    expected = power_series(probe, slopes, weights, reached, terms=3)
    spread = torch.stack([reached, -reached], 1)[:, 0]
    assert all(map(torch.equal, power_series(probe, slopes, weights, spread, terms=3), expected))
    one = lambda e, s, t, n: power_series(e[None], [s[None], t[None]], weights, n, terms=3)  # noqa: E731
    mapped = torch.func.vmap(one)(probe, *slopes, reached[:, None])
    assert all(torch.equal(found[:, 0], whole) for found, whole in zip(mapped, expected))
    shared = torch.func.vmap(one, in_dims=(0, 0, 0, None))(probe, *slopes, reached[4:5])
    both = power_series(probe, slopes, weights, terms=2)
    assert all(torch.equal(found[:, 0], whole) for found, whole in zip(shared, both))


def test_only_terms_that_a_row_reaches_cost_anything() -> None:
    """`terms` is a bound, of any size: neither time nor memory goes with it."""
    probe, slopes, weights = chain(4, (3, 5, 3))
    reached = torch.tensor([0, 3, 1, 2])
    few, many = (power_series(probe, slopes, weights, reached, terms=terms) for terms in (3, 2**40))
    assert all(map(torch.equal, few, many))


@pytest.mark.parametrize("name", ["cpu", "reference"])
def test_bad_input_is_refused_in_words(name: str) -> None:
    probe, slopes, weights = chain(4, (3, 5, 3))
    good = {"probe": probe, "slopes": slopes, "weights": weights, "reached": torch.ones(4, dtype=torch.long)}
    for change, error, words in [
        ({"probe": probe.to(torch.bfloat16)}, TypeError, "probe must be float32 or float64; got"),
        ({"probe": probe[0]}, ValueError, r"probe must be \(B, D\); got \(3,\)"),
        ({"probe": probe[:3]}, ValueError, r"slope 0 must be \(3, 5\); got \(4, 5\)"),
        ({"slopes": [slopes[0].float()]}, TypeError, "slope 0 must be .*float64; got"),
        ({"slopes": []}, ValueError, "2 to 5 weights and one slope less; got 2 and 0"),
        ({"weights": [weights[0][:, :2], weights[1]]}, ValueError, r"weight 0 must be \(5, 3\); got \(5, 2\)"),
        ({"weights": [weights[0], weights[1][:2]]}, ValueError, r"weight 1 must be \(3, 5\); got \(2, 5\)"),
        ({"reached": torch.ones(3, dtype=torch.long)}, ValueError, r"reached must be \(4,\); got \(3,\)"),
        ({"reached": torch.ones(4)}, TypeError, "int64"),
        ({"terms": -1}, ValueError, "terms >= 0, exact_terms >= 1 and 0 < survival <= 1; got -1"),
        ({"exact_terms": 0}, ValueError, "exact_terms >= 1"),
        ({"survival": math.nan}, ValueError, "survival"),
    ]:
        with pyflowk.backend(name), pytest.raises(error, match=words):
            power_series(**{**good, "terms": 3, **change})
