"""Rules of attention: torch's own, keys that no query sees, tangents by forward-mode AD, memory, what does not fit."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.memory import peak_bytes
from pyflowk import backend
from pyflowk.ops import attention, attention_with_tangents

B, H, T, S, D, E = 3, 2, 70, 131, 12, 9


def made(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def usual(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    return torch.softmax(q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale), -1) @ v


def test_values_of_torchs_own() -> None:
    q, k, v = made((B, H, T, D), (B, H, S, D), (B, H, S, E))
    mask = torch.rand(B, S) > 0.4
    for scale in (None, 2.0):
        for m in (None, mask):
            shown = None if m is None else m[:, None, None]
            expected = F.scaled_dot_product_attention(q, k, v, shown, scale=scale)
            torch.testing.assert_close(attention(q, k, v, mask=m, scale=scale), expected)
    behind = torch.ones(T, S, dtype=torch.bool).tril(S - T)
    expected = F.scaled_dot_product_attention(q, k, v, behind)
    torch.testing.assert_close(attention(q, k, v, causal=True), expected)
    expected = F.scaled_dot_product_attention(q, k, v, behind & mask[:, None, None])
    torch.testing.assert_close(attention(q, k, v, mask=mask, causal=True), expected)
    torch.testing.assert_close(attention(q[:, 0], k[:, 0], v[:, 0]), usual(q, k, v)[:, 0])
    split = [t.unflatten(1, (1, 2)) for t in (q, k, v)]
    torch.testing.assert_close(attention(*split), usual(*split))
    apart = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in (q, k, v)]  # as a projection leaves them
    assert torch.equal(attention(*apart), attention(q, k, v))


@pytest.mark.parametrize("size", [1e-3, 1.0, 40.0])
def test_scores_of_any_size_in_float32(size: float) -> None:
    """One key may outweigh all others, in any block: as good as the formula with the whole row in sight."""
    q, k, v, dq, dk, dv = (size * t for t in made(*2 * [(B, H, T, D), (B, H, S, D), (B, H, S, E)]))
    k[0, 0, 100] = 3 * q[0, 0, 5]
    inputs = [q, k, v, *(t.unsqueeze(1) for t in (dq, dk, dv))]
    exact = attention_with_tangents(*inputs)
    with backend("reference"):
        plain = attention_with_tangents(*(t.float() for t in inputs))
    for found, formula, truth in zip(attention_with_tangents(*(t.float() for t in inputs)), plain, exact):
        allowed = 2 * (formula - truth).abs().max() + 1e-6 * truth.abs().max()
        assert (found - truth).abs().max() <= allowed


def test_tangents_of_forward_mode_and_of_what_stands_still() -> None:
    values = made((B, H, 5, D), (B, H, 70, D), (B, H, 70, E))
    tangents = made(*[(B, 2, *t.shape[1:]) for t in values])
    y, dy = attention_with_tangents(*values, *tangents)
    for k in range(2):
        expected = torch.func.jvp(usual, tuple(values), tuple(t[:, k] for t in tangents))
        torch.testing.assert_close((y, dy[:, k]), expected)
    for moves in range(1, 8):
        given = [t if moves >> i & 1 else None for i, t in enumerate(tangents)]
        zeroed = [torch.zeros_like(t) if g is None else t for g, t in zip(given, tangents)]
        torch.testing.assert_close(attention_with_tangents(*values, *given), attention_with_tangents(*values, *zeroed))
    image = torch.func.jvp(attention, tuple(values), tuple(t[:, 0] for t in tangents))[1]
    torch.testing.assert_close(image, dy[:, 0])


def test_keys_that_take_no_part() -> None:
    """They may be NaN, get no gradient, and cost nothing: the rows without them have the same bits."""
    q, k, v, dq, dk, dv = made(
        (1, H, T, D), (1, H, S, D), (1, H, S, E), (1, 1, H, T, D), (1, 1, H, S, D), (1, 1, H, S, E)
    )
    mask = torch.arange(S) % 5 < 3
    for padding in (k, v, dk, dv):
        padding[..., ~mask, :] = math.nan
    leaves = [t.requires_grad_() for t in (q, k, v, dq, dk, dv)]
    found = attention_with_tangents(*leaves, mask=mask[None])
    gradients = torch.autograd.grad(found, leaves, [torch.ones_like(t) for t in found])
    short = [t[..., mask, :] if t.shape[-2] == S else t for t in leaves]
    for a, b in zip(found, attention_with_tangents(*short)):
        assert torch.equal(a, b)
    for gradient, leaf in zip(gradients, leaves):
        assert gradient.isfinite().all()
        assert leaf.shape[-2] != S or not gradient[..., ~mask, :].any()
    each = attention(*(t.expand(2, *t.shape[1:]) for t in (q, k, v)), mask=torch.stack([mask, ~mask & False]))
    torch.testing.assert_close(each[:1], found[0])
    assert not each[1].any()


def test_rows_without_keys_are_zero_and_pass_no_gradient() -> None:
    q, k, v = (t.requires_grad_() for t in made((2, H, 3, D), (2, H, 4, D), (2, H, 4, E)))
    mask = torch.tensor([[True, True, False, True], [False] * 4])
    for name in ("cpu", "reference"):
        with backend(name):
            y, dy = attention_with_tangents(q, k, v, *(t.unsqueeze(1) for t in (q, k, v)), mask=mask)
            assert not y[1].any() and not dy[1].any()
            for gradient in torch.autograd.grad((y.sum() + dy.sum()), (q, k, v)):
                assert gradient.isfinite().all() and not gradient[1].any() and gradient[0].any()
            assert not attention(q, k[:, :, :0], v[:, :, :0]).any()
            assert attention(q[:, :, :0], k, v).shape == (2, H, 0, E)


def test_nothing_of_the_size_of_all_scores_is_kept() -> None:
    q, k, v = (t.requires_grad_() for t in made(*3 * [(1, 1, 1024, 16)], dtype=torch.float32))
    moved = [t.detach().unsqueeze(1) for t in (q, k, v)]

    def step() -> object:
        y, dy = attention_with_tangents(q, k, v, *moved)
        return torch.autograd.grad(y.sum() + dy.sum(), (q, k, v))

    assert peak_bytes(step) < 20 * q.nbytes < 1024 * 1024 * 4


def test_what_does_not_fit() -> None:
    q, k, v = made((B, H, T, D), (B, H, S, D), (B, H, S, E), dtype=torch.float32)
    for wrong, message in (
        ((q, k[..., 1:], v), r"k must be \(3, 2, 131, 12\); got \(3, 2, 131, 11\)"),
        ((q, k, v[:, :, 1:]), r"v must be \(3, 2, 131, 9\); got \(3, 2, 130, 9\)"),
        ((q, k[:, :1], v), r"k must be \(3, 2, 131, 12\); got \(3, 1, 131, 12\)"),
        ((q[0, 0], k, v), r"q must be \(B, \*heads, T, d\); got \(70, 12\)"),
    ):
        with pytest.raises(ValueError, match=message):
            attention(*wrong)
    with pytest.raises(ValueError, match=r"mask must be \(3, 131\); got \(3, 70\)"):
        attention(q, k, v, mask=torch.ones(B, T, dtype=torch.bool))
    with pytest.raises(TypeError, match=r"mask must be bool, True where a key takes part; got torch\.float32"):
        attention(q, k, v, mask=torch.ones(B, S))
    for dtype in (torch.float64, torch.bfloat16):
        with pytest.raises(TypeError, match="k must be float32"):
            attention(q, k.to(dtype), v)
    with pytest.raises(ValueError, match="expected one of dq, dk and dv; got none"):
        attention_with_tangents(q, k, v)
    with pytest.raises(ValueError, match=r"dq must be \(3, 1, 2, 70, 12\); got \(3, 1, 2, 69, 12\)"):
        attention_with_tangents(q, k, v, q[:, None, :, 1:])
    with pytest.raises(ValueError, match=r"dq must be \(3, 2, 2, 70, 12\); got \(3, 1, 2, 70, 12\)"):
        attention_with_tangents(q, k, v, q[:, None], k[:, None].expand(-1, 2, -1, -1, -1))
