"""Activations with tangents beyond the generic tests: torch's own functions, far numbers, and what does not fit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pyflowk.ops import activation_with_tangents

X = torch.cat((torch.linspace(-12, 12, 997, dtype=torch.float64), torch.tensor([-1e30, -40.0, 40.0, 1e30]))).view(
    7, 143
)


@pytest.mark.parametrize("name, f", [("silu", F.silu), ("gelu_tanh", lambda x: F.gelu(x, approximate="tanh")),
                                     ("softplus", F.softplus)])  # fmt: skip
def test_values_and_slopes_of_torchs_functions(name: str, f: torch.nn.Module) -> None:
    x = X.float().double()  # the numbers that both see
    value, slope = torch.func.jvp(f, (x.clamp(-50, 50),), (torch.ones_like(x),))
    value = torch.where(x > 50, x, value)
    for dtype, tolerance in ((torch.float64, 1e-14), (torch.float32, 1e-6)):
        dx = torch.tensor([1.0, -2.0], dtype=dtype).view(1, 2, 1).expand(7, 2, 143)
        y, dy = activation_with_tangents(x.to(dtype), dx, name)
        torch.testing.assert_close(y.double(), value, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(dy.double(), torch.stack((slope, -2 * slope), 1), rtol=tolerance, atol=tolerance)


def test_what_does_not_fit() -> None:
    x, dx = torch.ones(2, 3), torch.ones(2, 4, 3)
    with pytest.raises(ValueError, match=r"activation: expected one of elu, .*; got 'swish'"):
        activation_with_tangents(x, dx, "swish")
    for wrong in (dx[:1], dx[:, 0], dx[..., :2]):
        with pytest.raises(ValueError, match=r"x must be \(B, \*event\) and dx \(B, K, \*event\); got \(2, 3\) and"):
            activation_with_tangents(x, wrong, "silu")
    with pytest.raises(TypeError, match="dx must be float32; got float64"):
        activation_with_tangents(x, dx.double(), "silu")
