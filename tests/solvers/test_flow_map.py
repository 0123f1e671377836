"""Jumps along the exact map of Gaussian data: any number of them is one, and fresh noise leaves the law of samples."""

from __future__ import annotations

import pytest
import torch

from pyflowk.nets import FlowMap, MLPField
from pyflowk.paths import CondOT
from pyflowk.solvers import flow_map, uniform_grid
from tests.solvers.gaussian import ExactMap, M, S

FIELD, D = FlowMap(ExactMap()), torch.float64


def test_any_number_of_jumps_is_one() -> None:
    x = torch.linspace(-2, 2, 5, dtype=D)[:, None]
    for grid in (uniform_grid(1), uniform_grid(4), torch.tensor([0.0, 0.1, 1.0], dtype=D)):
        torch.testing.assert_close(flow_map(FIELD, x, CondOT(), grid), M + S * x)
    back = flow_map(FIELD, x, CondOT(), torch.tensor([0.0, 0.3], dtype=D))
    torch.testing.assert_close(flow_map(FIELD, back, CondOT(), torch.tensor([0.3, 1.0], dtype=D)), M + S * x)


def test_fresh_noise_by_the_row() -> None:
    x = torch.randn(20_000, 1, dtype=D, generator=torch.Generator().manual_seed(0))
    drawn = flow_map(FIELD, x, CondOT(), uniform_grid(3), renoise=True, generator=torch.Generator().manual_seed(1))
    assert abs(drawn.mean() - M) < 0.02 and abs(drawn.std() - S) < 0.02
    assert abs(torch.corrcoef(torch.cat((x, drawn), 1).T)[0, 1]) < 0.5  # not where the flow takes x
    rows = [torch.Generator().manual_seed(i) for i in range(3)]
    three = flow_map(FIELD, x[:3], CondOT(), uniform_grid(3), renoise=True, generator=rows)
    one = torch.Generator().manual_seed(1)
    torch.testing.assert_close(
        flow_map(FIELD, x[1:2], CondOT(), uniform_grid(3), renoise=True, generator=one), three[1:2]
    )


def test_what_is_no_walk() -> None:
    x = torch.zeros(2, 2)
    with pytest.raises(TypeError, match=r"field: expected a pyflowk\.nets\.FlowMap, which jumps, got"):
        flow_map(MLPField(2, 4, 1), x, CondOT(), uniform_grid(1))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="field: expected"):
        flow_map(lambda t, x: x, x, CondOT(), uniform_grid(1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="times that rise, from noise to data, for flow_map"):
        flow_map(FIELD, x, CondOT(), uniform_grid(2).flip(0))
    with pytest.raises(ValueError, match="steps"):
        flow_map(FIELD, x, CondOT(), uniform_grid(0))
    assert flow_map(FIELD, x[:0], CondOT(), uniform_grid(2)).shape == (0, 2)
    assert flow_map(FIELD, x * torch.nan, CondOT(), uniform_grid(2)).isnan().all()
