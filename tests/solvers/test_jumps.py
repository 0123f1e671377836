"""Samplers of jumps against the laws that they must keep: one point, two, replaced noise; gates, seeds, errors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pyflowk.paths import Bins, Characteristics, CondOT, CondOTJumps, MixtureJumps
from pyflowk.solvers import GATES, jump_euler, jump_thinning, power_grid, uniform_grid
from tests.paths.oracles import TWO, Mixture, jumping

PATH = CondOTJumps.reaching(1.0, 64)
ONE = Mixture((1.0,), (0.8,), (0.0,))
N = 4000


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def start(n: int = N, seed: int = 0, columns: int = 1) -> Tensor:
    return torch.randn(n, columns, generator=seeded(seed))


def distance(x: Tensor, points: Mixture, t: float) -> float:
    """Of Kolmogorov and Smirnov, from the path at a time; 1.63 / sqrt(N) is passed by chance once in a hundred."""
    law = torch.distributions.Normal(t * torch.tensor(points.means), 1 - t)
    cdf = (law.cdf(x.sort().values[:, None]) * torch.tensor(points.weights)).sum(1)
    steps = torch.arange(len(x) + 1) / len(x)
    return torch.maximum((cdf - steps[:-1]).abs().max(), (cdf - steps[1:]).abs().max()).item()


def told_of(points: Mixture, jumps: bool = False) -> Any:
    process = jumping(points, PATH)
    return lambda t, x: process(t, x)._replace(**({"drift": None} if jumps else {}))


def test_thinning_is_exact() -> None:
    found = jump_thinning(told_of(ONE), start(), PATH, uniform_grid(8, 0.0, 0.9), headroom=1.2, generator=seeded(1))
    assert distance(found.x[:, 0], ONE, 0.9) < 1.63 / math.sqrt(N)
    assert found.saturated.mean() < 1e-3


@pytest.mark.parametrize("gate", GATES)
def test_every_gate_keeps_the_law_of_one_point(gate: str) -> None:
    found = jump_euler(
        told_of(ONE, jumps=True), start(), PATH, uniform_grid(100, 0.0, 0.9), gate=gate, generator=seeded(1)
    )
    assert distance(found.x[:, 0], ONE, 0.9) < 0.025 + 1.63 / math.sqrt(N)  # steps of 1 / 100 are that far off


def test_shares_of_jumps_noise_and_flow_have_equal_laws() -> None:
    """Of two points, whose rates depend on the place; one coordinate more must not matter."""
    grid, x = uniform_grid(50, 0.0, 0.9), start(N // 2, columns=2)
    for share, noise in ((0.0, 0.0), (0.0, 1.0), (0.5, 0.0), (0.5, 1.0), (1.0, 0.0)):
        y = jump_euler(told_of(TWO), x, PATH, grid, share=share, noise=noise, generator=seeded(1)).x
        for column in y.T:
            assert distance(column, TWO, 0.9) < 0.03 + 1.63 / math.sqrt(len(y)), (share, noise)
        assert y.T.corrcoef()[0, 1].abs() < 5 / math.sqrt(len(y))


def test_the_last_step_arrives() -> None:
    """At the mean that a flow tells, the data; or near them, by a draw that is as wide as the step."""
    for last, away in (("mean", 1e-5), ("draw", 0.1)):
        y = jump_euler(told_of(TWO), start(300), PATH, uniform_grid(40), last=last, generator=seeded(1)).x
        off = (y - torch.tensor(TWO.means)).abs().amin(1)
        assert off.max() < away and (y[:, 0] > 0).float().mean().item() == pytest.approx(0.6, abs=0.08)
    y = jump_thinning(
        told_of(TWO, jumps=True), start(100).double(), PATH, power_grid(10), headroom=2.0, generator=seeded(1)
    ).x
    assert (y - torch.tensor(TWO.means)).abs().amin(1).mean() < 0.02


def test_replaced_noise_is_replaced_in_time() -> None:
    path = MixtureJumps(Bins(-1.0, 1.0, 2))

    def told(t: Tensor, x: Tensor) -> Characteristics:  # three quarters of the data are above 0
        return Characteristics(None, None, torch.zeros_like(x), torch.tensor([0.25, 0.75]).log().expand(*x.shape, 2))

    x = start(N) + 5
    for s, gate in ((0.3, "integrated"), (1.0, "naive")):
        y = jump_euler(told, x, path, uniform_grid(4, 0.0, s), gate=gate, generator=seeded(1)).x
        jumped = y != x
        assert jumped.float().mean().item() == pytest.approx(
            s if s < 1 else 1 - 0.75 * 2 / 3 * 0.5 * math.exp(-1), abs=0.02
        )
        assert (y[jumped] > 0).float().mean().item() == pytest.approx(0.75, abs=0.03)
    assert jump_euler(told, x, path, uniform_grid(4, 0.0, 0.9), gate="naive").saturated.max() == 0


def test_seeds_rows_nan_and_saturation() -> None:
    grid, x, told = uniform_grid(5, 0.0, 0.9), start(4, columns=3), told_of(TWO)
    one, other = (jump_euler(told, x, PATH, grid, noise=0.5, generator=seeded(3)).x for _ in range(2))
    assert torch.equal(one, other)
    rows = jump_euler(told, x, PATH, grid, noise=0.5, generator=[seeded(i) for i in range(4)]).x
    alone = jump_euler(told, x[2:3], PATH, grid, noise=0.5, generator=[seeded(2)]).x
    assert torch.equal(rows[2:3], alone)
    far = jump_euler(told, 9 * torch.ones(2, 3), PATH, grid, gate="naive", share=1.0)
    assert 0 < far.saturated.min() <= 1 and far.x.isfinite().all()
    assert jump_euler(told, far.x, PATH, grid, gate="integrated").saturated.max() == 0
    assert jump_euler(told, x[:0], PATH, grid).x.shape == (0, 3)
    x[1] = math.nan
    for y in (jump_euler(told, x, PATH, grid).x, jump_thinning(told, x[:, :1], PATH, grid).x):
        assert y.isnan().flatten(1).any(1).tolist() == [False, True, False, False]


def test_what_does_not_fit_is_named() -> None:
    grid, x, told = uniform_grid(2, 0.0, 0.9), torch.zeros(2, 1), told_of(TWO)
    cases: list[tuple[type[Exception], str, Any, dict[str, Any]]] = [
        (ValueError, "gate: expected one of naive, safe, integrated; got 'open'", told, {"gate": "open"}),
        (ValueError, "last: expected one of mean, draw; got 'mode'", told, {"last": "mode"}),
        (ValueError, "share: expected a number from 0 to 1, got 2", told, {"share": 2.0}),
        (ValueError, "share: expected 1 of what has jumps alone", told_of(TWO, True), {"share": 0.5}),
        (ValueError, "share: expected 0 of what has a drift alone", lambda t, x: Characteristics(x), {"share": 0.5}),
        (ValueError, "expects a process with a drift", told_of(TWO, True), {"noise": 1.0}),
        (TypeError, r"net: expected pyflowk.paths.Characteristics; got a tensor", lambda t, x: x, {}),
        (ValueError, "got another part", lambda t, x: Characteristics(intensity=x), {}),
        (ValueError, r"expected logits \(2, 1, 64\) of landing; got", lambda t, x: Characteristics(x, x, x, x), {}),
    ]
    for kind, message, net, options in cases:
        with pytest.raises(kind, match=message):
            jump_euler(net, x, PATH, grid, **options)
    with pytest.raises(ValueError, match="times that rise"):
        jump_euler(told, x, PATH, grid.flip(0))
    with pytest.raises(TypeError, match="a JumpPath"):
        jump_euler(told, x, CondOT(), grid)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="headroom to be at least 1"):
        jump_thinning(told, x, PATH, grid, headroom=0.5)
    with pytest.raises(ValueError, match="expected jumps; got a drift alone"):
        jump_thinning(lambda t, x: Characteristics(x), x, PATH, grid)


def test_thinning_ends() -> None:
    """At an infinite rate, at one of too many candidates, and at a time that is 1 in float32 alone."""
    x = start(3)
    for rate, kind, message in (
        (math.inf, ValueError, "expected finite rates"),
        (20.0, RuntimeError, r"more than 100000 candidates .* at the rate 9.70\d*e\+08"),
    ):
        told = Characteristics(None, None, torch.full_like(x, rate), x.new_zeros(*x.shape, 64))
        with pytest.raises(kind, match=message):
            jump_thinning(lambda t, x, told=told: told, x, PATH, uniform_grid(1, 0.0, 0.5))  # type: ignore[misc]
    near = torch.cat([uniform_grid(5, 0.0, 0.9), torch.tensor([1 - 1e-9], dtype=torch.float64)])
    assert jump_thinning(told_of(TWO), x, PATH, near, generator=seeded()).x.isfinite().all()
