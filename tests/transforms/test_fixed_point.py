"""The iteration behind the inverse of a Residual: what its rows reach, and how it says that they did not."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from pyflowk.nets import LipschitzMLP
from pyflowk.transforms import InverseDidNotConverge, Residual

from .test_residual import Linear, awake, layer, seeded, worst


@pytest.mark.parametrize("lipschitz", [0.3, 0.9, 0.97, 0.98, 0.995])
@pytest.mark.parametrize("tolerance", [1e-2, 1e-5, 1e-9])
def test_the_error_is_below_the_stated_tolerance(lipschitz: float, tolerance: float) -> None:
    """Peers compare a squared step with the plain tolerance: at 0.98 and "1e-5" they are off by 0.16."""
    matrix = worst(lipschitz)
    residual = Residual(Linear(matrix), lipschitz=lipschitz, tolerance=tolerance).double()
    z = torch.randn(50, 6, generator=seeded(1), dtype=torch.float64)
    exact = torch.linalg.solve(torch.eye(6, dtype=torch.float64) + matrix, z.T).T
    error = (residual.to_data(z) - exact).norm(dim=1).max().item()
    rounding = 4 * torch.finfo(torch.float64).eps * exact.norm(dim=1).max().item() / (1 - lipschitz)
    assert tolerance / 1e3 < error <= tolerance + rounding


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_default_tolerance_is_what_the_dtype_holds(dtype: torch.dtype) -> None:
    matrix = worst(0.98).to(dtype)
    residual = Residual(Linear(matrix), lipschitz=0.98)
    z = torch.randn(2000, 6, generator=seeded(1), dtype=dtype)
    exact = torch.linalg.solve(torch.eye(6, dtype=torch.float64) + matrix.double(), z.double().T).T
    with torch.no_grad():
        error = (residual.to_data(z).double() - exact).norm(dim=1)
    size = exact.norm(dim=1) + z.norm(dim=1)
    assert (error < 5 * torch.finfo(dtype).eps / (0.02 * math.sqrt(1 - 0.98**2)) * size).all() and error.max() > 0


@pytest.mark.parametrize("activation", ["lipswish", "elu", "sin"])
def test_the_default_tolerance_is_reached_by_wide_networks_in_float32(activation: str) -> None:
    torch.manual_seed(0)
    for lipschitz in (0.5, 0.9, 0.98):
        net = awake(LipschitzMLP(20, 256, 3, lipschitz, activation), 0.1)
        residual = Residual(net).eval()
        with torch.no_grad():
            x = 3 * torch.randn(500, 20)
            z = x + net(x)
            error = (residual.to_data(z) - x).norm(dim=1)
        assert (error < 20 * torch.finfo(torch.float32).eps / (1 - lipschitz) * x.norm(dim=1)).all()


def test_a_row_stops_for_itself() -> None:
    """Bitwise: with a branch whose rows are exact whatever stands beside them."""

    class Sine(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 0.9 * torch.sin(x).flip(1)

    residual = Residual(Sine(), lipschitz=0.9, tolerance=1e-4)
    z = torch.randn(20, 3) * torch.logspace(-4, 1, 20)[:, None]
    together = residual.to_data(z)
    for i in range(20):
        assert torch.equal(residual.to_data(z[i : i + 1])[0], together[i])


def test_running_out_of_steps_is_named_with_the_rows() -> None:
    residual = Residual(Linear(worst(0.98)), lipschitz=0.98, tolerance=1e-8, max_iterations=30).double()
    z = torch.randn(5, 6, dtype=torch.float64)
    z[[0, 3]] = 0
    with pytest.raises(InverseDidNotConverge, match=r"3 of 5 rows.*30 iterations") as caught:
        residual.to_data(z)
    assert caught.value.rows == 3 and caught.value.mask.tolist() == [False, True, True, False, True]
    assert caught.value.iterations == 30 and torch.equal(caught.value.x[0], torch.zeros(6, dtype=torch.float64))


@pytest.mark.parametrize("lipschitz", [1.02, 5.0])
def test_a_branch_that_breaks_its_promise_is_found_out(lipschitz: float) -> None:
    residual = Residual(Linear(worst(lipschitz)), lipschitz=0.5).double()
    with pytest.raises(InverseDidNotConverge, match="no contraction"):
        residual.to_data(torch.randn(4, 6, dtype=torch.float64))


def test_overflow_is_no_silent_nan_and_nan_is_no_failure() -> None:
    residual = Residual(Linear(1e200 * worst(1.0)), lipschitz=0.5).double()
    with pytest.raises(InverseDidNotConverge, match="2 of 2"):
        residual.to_data(torch.ones(2, 6, dtype=torch.float64))
    z = torch.randn(3, 4, dtype=torch.float64)
    residual = layer()
    clean = residual.to_data(z)
    z[1, 2] = float("nan")
    x = residual.to_data(z)
    assert x[1].isnan().any() and torch.equal(x[[0, 2]], clean[[0, 2]])
