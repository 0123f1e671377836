"""jump_bins: golden numbers, the law by quadrature, kernel against formula, the end of the way, NaN, bad input."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import pyflowk
from pyflowk.ops import jump_bins
from pyflowk.ops.dtypes import FLOATING, state_dtype

BACKENDS = ["reference", "cpu"]
every_backend = pytest.mark.parametrize("name", BACKENDS)


def inputs(rows: int, *event: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    x0, x1 = 1.5 * torch.randn(2, rows, *event, generator=generator, dtype=torch.float64)
    t = torch.linspace(0, 1, rows, dtype=torch.float64)
    return x0.to(dtype), x1.to(dtype), t.to(state_dtype(x0.to(dtype)))


def parts(x: Tensor, z: float, t: float) -> Tensor:
    """k of x, whose negative and positive part rate and law are made of."""
    return x * x - (t + 1) * x * z - (1 - t) ** 2 + t * z * z


@every_backend
def test_golden_numbers(name: str) -> None:
    """(z, t, x): k / (1 - t)^3 is the rate; the mass of the whole law is that of max(-k, 0) N, over (1 - t)^2."""
    for z, t, x, rate, total in ((1.0, 0.5, -0.5, 10.0, 0.1499679180), (1.0, 0.5, 0.3, 0.0, 0.1499679180),
                                 (0.2, 0.3, 1.7, 5.7434402332, 0.2394986684)):  # fmt: skip
        s = 1 - t
        e, data, time = (torch.tensor([[v]], dtype=torch.float64) for v in ((x - t * z) / s, z, t))
        ends = [((1 + t) * z + sign * s * math.sqrt(z * z + 4)) / 2 for sign in (-1, 1)]
        with pyflowk.backend(name):
            found, masses = jump_bins(e, data, time[0], low=ends[0], high=ends[1], bins=400)
        assert found.item() / s == pytest.approx(rate, abs=1e-9)
        y = torch.linspace(*ends, 40001, dtype=torch.float64)
        density = -parts(y, z, t) * torch.exp(-(((y - t * z) / s) ** 2) / 2) / (s * math.sqrt(2 * math.pi))
        whole = torch.cumulative_trapezoid(density, y)[99::100]
        assert whole[-1].item() == pytest.approx(total, abs=1e-8)
        torch.testing.assert_close(masses[0, 0].cumsum(0), whole / whole[-1], rtol=0, atol=1e-7)


@pytest.mark.parametrize("dtype", FLOATING)
def test_kernel_formula_and_the_sum_of_the_masses(dtype: torch.dtype) -> None:
    for shape, low, high, bins in (((9, 3, 5), -2.0, 3.0, 33), ((4,), 0.5, 0.75, 1), ((5, 2), -9.0, 9.0, 1300),
                                   ((0, 3), -1.0, 1.0, 4), ((3, 0), -1.0, 1.0, 4)):  # fmt: skip
        x0, x1, t = inputs(*shape, dtype=dtype)
        exact = inputs(*shape)[2].to(t.dtype).double()
        found = []
        for name in BACKENDS:
            with pyflowk.backend(name):
                found.append(jump_bins(x0, x1, t, low=low, high=high, bins=bins))
        with pyflowk.backend("reference"):
            found.append(jump_bins(x0.double(), x1.double(), exact, low=low, high=high, bins=bins))
        for rate, masses in found:
            assert rate.shape == x0.shape and masses.shape == (*x0.shape, bins) and (masses >= 0).all()
            torch.testing.assert_close(masses.sum(-1), torch.ones_like(rate), rtol=0, atol=1e-6)
            torch.testing.assert_close(rate.double(), found[2][0], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(masses.double(), found[2][1], rtol=1e-5, atol=2e-6)
        assert found[1][0].dtype == found[1][1].dtype == t.dtype


@every_backend
def test_at_the_end_jumps_land_on_the_data(name: str) -> None:
    x1 = torch.tensor([[-0.55, 0.1, 5.0, -5.0]])
    with pyflowk.backend(name):
        rate, masses = jump_bins(torch.full_like(x1, 3.0), x1, torch.ones(1), low=-1.0, high=1.0, bins=10)
    assert masses.argmax(-1).tolist() == [[2, 5, 9, 0]]
    torch.testing.assert_close(masses.amax(-1), torch.ones_like(x1))
    assert rate.isfinite().all()


@every_backend
def test_rows_by_themselves_strides_nan(name: str) -> None:
    x0, x1, t = inputs(6, 4, 3, dtype=torch.float32)
    options = {"low": -2.0, "high": 2.0, "bins": 20}
    with pyflowk.backend(name):
        rate, masses = jump_bins(x0, x1, t, **options)
        other = jump_bins(
            x0.mT.contiguous().mT, x1.repeat_interleave(2, 0)[::2], t.repeat_interleave(2)[::2], **options
        )
        alone = jump_bins(x0[2:3], x1[2:3], t[2:3], **options)
        assert torch.equal(rate, other[0]) and torch.equal(masses, other[1])
        assert torch.equal(rate[2:3], alone[0]) and torch.equal(masses[2:3], alone[1])
        x1[1, 2, 0], x0[3, 0, 0], t[5] = math.nan, math.nan, math.nan
        rate, masses = jump_bins(x0, x1, t, **options)
    assert rate.isnan().nonzero().tolist() == [[1, 2, 0], [3, 0, 0]]
    assert masses.isnan().any(-1).flatten(1).any(1).tolist() == [False, True, False, False, False, True]
    assert not jump_bins(x0.requires_grad_(), x1, t, **options)[1].requires_grad


@every_backend
def test_bad_input_is_refused(name: str) -> None:
    x, t = torch.zeros(4, 2), torch.zeros(4)
    with pyflowk.backend(name):
        for low, high, bins in ((1.0, 1.0, 3), (0.0, math.inf, 3), (0.0, 1.0, 0), (0.0, 1.0, 1 << 25)):
            with pytest.raises(ValueError, match=r"jump_bins: expected low < high and 1 to 16777216 bins; got"):
                jump_bins(x, x, t, low=low, high=high, bins=bins)
        with pytest.raises(ValueError, match=r"t must be \(4,\), a number a row; got \(3,\)"):
            jump_bins(x, x, t[:3], low=0, high=1, bins=2)
        with pytest.raises(ValueError, match=r"x1 must have the shape of x0, \(4, 2\); got \(4, 1\)"):
            jump_bins(x, x[:, :1], t, low=0, high=1, bins=2)
        with pytest.raises(TypeError, match=r"t must be (torch\.)?float32; got (torch\.)?float64"):
            jump_bins(x, x, t.double(), low=0, high=1, bins=2)
        with pytest.raises(TypeError, match="float"):
            jump_bins(x.long(), x.long(), t, low=0, high=1, bins=2)
