"""Rules of adaLN: torch's norms, rows that are hard to centre, tangents by forward-mode AD, and what does not fit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pyflowk.ops import modulated_norm, modulated_norm_with_tangents

B, T, C = 3, 5, 48


def made(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def usual(x: Tensor, scale: Tensor, shift: Tensor, rms: bool, eps: float) -> Tensor:
    normal = F.rms_norm(x, x.shape[-1:], eps=eps) if rms else F.layer_norm(x, x.shape[-1:], eps=eps)
    return normal * (1 + scale[:, None, None]) + shift[:, None, None]


@pytest.mark.parametrize("rms", [False, True], ids=["layer", "rms"])
def test_values_and_tangents_of_torchs_norms(rms: bool) -> None:
    x, scale, shift, dx, dscale, dshift = made((B, 2, T, C), (B, C), (B, C), (B, 3, 2, T, C), (B, 3, C), (B, 3, C))
    eps = 0.3  # that counts
    torch.testing.assert_close(modulated_norm(x, scale, shift, rms=rms, eps=eps), usual(x, scale, shift, rms, eps))
    for moved in ((dscale, dshift), (None, dshift), (None, None)):
        y, dy = modulated_norm_with_tangents(x, scale, shift, dx, *moved, rms=rms, eps=eps)
        torch.testing.assert_close(y, usual(x, scale, shift, rms, eps))
        for k in range(3):
            directions = [torch.zeros_like(scale) if t is None else t[:, k] for t in moved]
            images = torch.func.jvp(
                lambda *inputs: usual(*inputs, rms, eps), (x, scale, shift), (dx[:, k], *directions)
            )[1]
            torch.testing.assert_close(dy[:, k], images)
    y, none = modulated_norm_with_tangents(x, scale, shift, dx[:, :0], rms=rms, eps=eps)
    torch.testing.assert_close(y, usual(x, scale, shift, rms, eps))
    assert none.shape == dx[:, :0].shape


@pytest.mark.parametrize("n", [7, C, 400])
def test_rows_that_are_hard_to_centre(n: int) -> None:
    """Numbers far from 0, and rows whose first guess of the mean is far from it: as good as torch's own norm."""
    x = made((B, 40, n))[0]
    x[0] += 1000.0
    x[1, :, [0, n // 4, n // 2, n - n // 4]] = 300.0
    x[2] = x[2] * 1e-6 + x[2].sign() * (torch.arange(n) == n // 2) * 1e4
    zeros = torch.zeros(B, n)
    exact = F.layer_norm(x.float().double(), (n,), eps=1e-6)
    found = modulated_norm(x.float(), zeros, zeros).double()
    plain = F.layer_norm(x.float(), (n,), eps=1e-6).double()
    for row in range(B):
        error, allowed = ((t[row] - exact[row]).abs().max().item() for t in (found, plain))
        assert error <= 2 * allowed + 4e-7 * exact[row].abs().max().item(), row
    same = torch.full((1, 2, n), 3.3)
    assert modulated_norm(same, zeros[:1], zeros[:1] + 5).sub(5).abs().max() < 1e-3


def test_what_does_not_fit() -> None:
    x, scale, dx = made((B, T, C), (B, C), (B, 2, T, C), dtype=torch.float32)
    for wrong, message in (
        ((x, scale[:2], scale), r"scale must be \(3, 48\); got \(2, 48\)"),
        ((x, scale, scale[:, :4]), r"shift must be \(3, 48\); got \(3, 4\)"),
        ((x[0, 0], scale, scale), r"x must be \(B, \*tokens, C\); got \(48,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            modulated_norm(*wrong)
    with pytest.raises(ValueError, match=r"eps must not be negative; got -1"):
        modulated_norm(x, scale, scale, eps=-1.0)
    with pytest.raises(TypeError, match=r"scale must have x's dtype .* got x float32, scale float64"):
        modulated_norm(x, scale.double(), scale.double())
    with pytest.raises(ValueError, match=r"dx must be \(3, 2, 5, 48\); got \(3, 2, 4, 48\)"):
        modulated_norm_with_tangents(x, scale, scale, dx[:, :, :4])
    with pytest.raises(ValueError, match=r"dscale must be \(3, 2, 48\); got \(3, 1, 48\)"):
        modulated_norm_with_tangents(x, scale, scale, dx, scale[:, None], scale[:, None])
    for dtype in (torch.float64, torch.bfloat16):
        with pytest.raises(TypeError, match="dx must be float32"):
            modulated_norm_with_tangents(x, scale, scale, dx.to(dtype))
