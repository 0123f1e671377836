"""The path of symbols: its ends, its errors, and rates that keep it, by Kolmogorov's forward equation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pyflowk.paths import VP, CondOT, MixturePath, Polynomial, Schedule
from pyflowk.paths.mixture import CORRECTORS
from tests.symbols import Law


@pytest.mark.parametrize("source", ["mask", "uniform"])
def test_from_noise_to_data(source: str) -> None:
    path, x1 = MixturePath(3, source, Polynomial(2)), torch.randint(3, (4000, 2), generator=torch.Generator())
    found = path.sample(None, x1, 0.6, torch.Generator().manual_seed(0))
    assert found.x_t.dtype == torch.int64 and torch.equal(found.target, x1)
    torch.testing.assert_close(found.weight, torch.full((4000,), 1.2 / 0.64))
    same = (found.x_t == x1).double().mean().item()
    assert abs(same - (0.36 if source == "mask" else 0.36 + 0.64 / 3)) < 0.02
    assert torch.equal(path.sample(None, x1, torch.ones(4000)).x_t, x1)
    start = path.sample(None, x1, 0.0, torch.Generator().manual_seed(1)).x_t
    assert start.unique().tolist() == ([3] if source == "mask" else [0, 1, 2])
    assert torch.equal(path.sample(x1.flip(0), x1, 0.0).x_t, x1.flip(0))  # a coupling
    assert path.sample(None, x1[:0], 0.5).x_t.shape == (0, 2)
    t = torch.linspace(0, 1, 5)
    torch.testing.assert_close(path.time(path.kappa(t)), t, atol=1e-6, rtol=1e-6)


def test_what_is_no_path_of_symbols() -> None:
    path = MixturePath(3)
    with pytest.raises(ValueError, match=r"schedule: expected shares of noise and data that sum to 1, .* got VP"):
        MixturePath(3, schedule=VP())
    with pytest.raises(ValueError, match="source: expected mask or uniform, got 'masks'"):
        MixturePath(3, "masks")
    with pytest.raises(ValueError, match="MixturePath expects symbols to be an integer of at least 1, got 0"):
        MixturePath(0)
    with pytest.raises(ValueError, match="expected symbols 0 to 2, got 1 to 3; 3 is the mask, which is no data"):
        path.sample(None, torch.tensor([[1, 3]]), 0.5)
    with pytest.raises(ValueError, match=r"expected symbols 0 to 2, got -1 to 1$"):
        path.sample(None, torch.tensor([[1, -1]]), 0.5)
    with pytest.raises(TypeError, match="expected symbols, integers"):
        path.sample(None, torch.tensor([[1.0]]), 0.5)
    with pytest.raises(ValueError, match="kind: expected one of backward, divergence_free, eta; got 'forward'"):
        path.rates(torch.tensor(0.5), torch.ones(1, 1), 1.0, "forward")
    only = MixturePath(1)  # a vocabulary of one
    assert only.sample(None, torch.zeros(2, 3, dtype=torch.int64), 0.0).x_t.unique().tolist() == [1]


def generator_matrix(law: Law, t: Tensor, corrector: float, kind: str) -> Tensor:
    """R (S, S) of the rates at a time: dp/dt = p R."""
    kappa = law.path.kappa(t).item()
    p = law.posterior(kappa, law.states)
    p = torch.nn.functional.pad(p, (0, law.path.inputs - law.path.symbols))
    own = p.gather(2, law.states.unsqueeze(2)).squeeze(2)
    towards, back = law.path.rates(t, own, corrector, kind)
    if law.path.mask is not None:
        masked = law.states == law.path.mask
        towards, back = towards * masked, back * ~masked
    found = torch.zeros(len(law.states), len(law.states), dtype=torch.float64)
    for i in range(law.places):
        others = [j for j in range(law.places) if j != i]
        near = (law.states[:, None, others] == law.states[None, :, others]).all(2)
        rate = towards[:, i, None] * p[:, i] + back[:, i, None] * law.noise  # (S, inputs)
        found += near * rate[:, law.states[:, i]]
    found.fill_diagonal_(0)
    return found - torch.diag(found.sum(1))


@pytest.mark.parametrize("symbols, places", [(3, 2), (4, 1)])
@pytest.mark.parametrize("source", ["mask", "uniform"])
@pytest.mark.parametrize("schedule", [CondOT(), Polynomial(3)], ids=["t", "t^3"])
def test_rates_keep_the_path(symbols: int, places: int, source: str, schedule: Schedule) -> None:
    law = Law(MixturePath(symbols, source, schedule), places)
    cases = [(0.0, "backward"), *((1.7, kind) for kind in CORRECTORS)]
    for time in (0.2, 0.7):
        t = torch.tensor(time, dtype=torch.float64, requires_grad=True)
        kappa = law.path.kappa(t)
        moved = (
            torch.autograd.functional.jacobian(lambda k: law.marginal(k), kappa) * law.path.schedule.at(t).alpha_rate
        )
        for corrector, kind in cases:
            rates = generator_matrix(law, t.detach(), corrector, kind)
            assert (rates - torch.diag(rates.diag())).min() >= 0
            torch.testing.assert_close(law.marginal(kappa.item()) @ rates, moved.detach(), atol=1e-9, rtol=0)
    # and along the way, by exponentials of the rates at the middle of each step
    p, steps = law.marginal(law.path.kappa(torch.tensor(0.1).double()).item()), 200
    for i in range(steps):
        middle = torch.tensor(0.1 + 0.8 * (i + 0.5) / steps, dtype=torch.float64)
        p = p @ torch.linalg.matrix_exp(0.8 / steps * generator_matrix(law, middle, 0.5, "backward"))
    torch.testing.assert_close(p, law.marginal(law.path.kappa(torch.tensor(0.9).double()).item()), atol=1e-4, rtol=0)
