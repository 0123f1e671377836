"""discrete_loss: the entropy and the golden bound, cross-entropy as torch has it, what does not count, bad input."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import pyflowk
from pyflowk.ops import discrete_loss

BACKENDS = ["reference", "cpu"]
every_backend = pytest.mark.parametrize("name", BACKENDS)


def expected_bound(p1: Tensor, masked: bool, power: float) -> float:
    """The bound at the exact posterior, in expectation: over x1, whether x_t is data, and t by Gauss-Legendre."""
    size = len(p1)
    nodes, weights = (torch.from_numpy(a) for a in __import__("numpy").polynomial.legendre.leggauss(400))
    t, weights = (nodes + 1) / 2, weights / 2
    kappa, rate = t**power, power * t ** (power - 1)
    total = torch.zeros(())
    for x_t in range(size + 1 if masked else size):
        noise = torch.tensor(float(x_t == size) if masked else 1 / size)
        joint = p1 * (1 - kappa)[:, None] * noise  # of x1 and this x_t
        if x_t < size:
            joint[:, x_t] += kappa * p1[x_t]
        logits = (joint / joint.sum(1, keepdim=True)).log()
        rows = [torch.full((len(t), size), x_t), torch.arange(size).expand(len(t), size)]
        loss = discrete_loss(logits[:, None].expand(-1, size, -1), *rows, mask=size if masked else None)
        loss = torch.where(joint > 0, loss, 0.0)  # what cannot be, costs infinitely
        total = total + (weights * rate / (1 - kappa) * (joint * loss).sum(1)).sum()
    return total.item()


@every_backend
@pytest.mark.parametrize("power", [1.0, 2.0, 3.0])
def test_the_bound_is_the_entropy_for_a_mask_and_not_for_noise(power: float, name: str) -> None:
    p1 = torch.tensor([0.5, 0.2, 0.2, 0.1], dtype=torch.float64)
    entropy = -(p1 * p1.log()).sum().item()
    with pyflowk.backend(name):
        assert expected_bound(p1, True, power) == pytest.approx(entropy, abs=1e-6)
        assert expected_bound(p1, False, power) == pytest.approx(1.58321, abs=1e-5)


@every_backend
def test_cross_entropy_is_torch_s(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 3, 40, generator=generator, dtype=torch.float64)
    x_t, x1 = (torch.randint(0, 40, (5, 3), generator=generator) for _ in range(2))
    x1[2, 1] = -1
    truth = F.cross_entropy(logits.movedim(-1, 1), x1, ignore_index=-1, reduction="none")
    with pyflowk.backend(name):
        torch.testing.assert_close(discrete_loss(logits, x_t, x1, kind="cross_entropy"), truth)
        still = torch.where(torch.arange(40) == 7, -math.inf, logits)
        masked = discrete_loss(logits, torch.full_like(x1, 7), x1.where(x1 != 7, 8), mask=7)
    truth = F.cross_entropy(still.movedim(-1, 1), x1.where(x1 != 7, 8), ignore_index=-1, reduction="none")
    torch.testing.assert_close(masked, truth)


@every_backend
def test_what_does_not_count_is_not_looked_at(name: str) -> None:
    """Padding, and tokens that are no longer the mask: no loss, and a gradient of 0, even beside NaN."""
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    logits[0, 0] = logits[1, 2] = math.nan
    logits.requires_grad_()
    x_t, x1 = torch.tensor([[5, 5, 1], [5, 5, 4]]), torch.tensor([[-1, 2, 1], [-100, 0, 4]])
    with pyflowk.backend(name):
        loss = discrete_loss(logits, x_t, x1, mask=5)
        loss.sum().backward()
        unmasked = discrete_loss(logits, x_t.clamp(max=4), x1.where(x1 != 4, -1))
    assert (loss == 0).tolist() == [[True, False, True], [True, False, True]]
    gradient = logits.grad
    assert gradient is not None and gradient.isfinite().all()
    assert not gradient[loss == 0].any() and gradient[loss != 0].any(1).all()
    assert unmasked.isfinite().all()


@every_backend
def test_a_right_and_certain_token_costs_nothing(name: str) -> None:
    """1 - p(x_t) by the sum of the others: no rounding of a difference, which the weight near t = 1 would magnify."""
    logits = torch.zeros(1, 1, 1000)
    logits[..., 3] = 30.0
    three = torch.tensor([[3]])
    with pyflowk.backend(name):
        loss = discrete_loss(logits.double(), three, three)
    assert loss.item() == pytest.approx(999 * math.exp(-30), rel=1e-2)


@every_backend
@pytest.mark.parametrize("size, mask, dtype", [(17, None, torch.float64), (300, 9, torch.bfloat16), (2100, None, None)])
def test_the_gradient_may_take_the_place_of_the_logits(
    name: str, size: int, mask: int | None, dtype: torch.dtype | None
) -> None:
    """It is the same; autograd hears of it; second derivatives and leaves keep what they need."""
    leaf = torch.randn(3, 7, size, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    x1 = torch.arange(21).reshape(3, 7) % 8
    x_t = x1.flip(1).clone() if mask is None else torch.full_like(x1, mask)
    x1[1, 3] = -1
    weight = torch.rand(3, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with pyflowk.backend(name):
        alone = torch.autograd.grad((weight * discrete_loss(leaf, x_t, x1, mask=mask)).sum(), leaf)[0]
        logits = leaf * 1
        loss = (weight * discrete_loss(logits, x_t, x1, mask=mask, in_place=True)).sum()
        gradient = torch.autograd.grad(loss, logits, retain_graph=True)[0]
        assert torch.equal(gradient, alone)
        assert gradient.data_ptr() == logits.data_ptr() and not gradient.requires_grad
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            torch.autograd.grad(loss, logits)
        squared = leaf.exp()  # whose gradient needs it
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            discrete_loss(squared, x_t, x1, mask=mask, in_place=True).sum().backward()
        logits = leaf * 1
        loss = discrete_loss(logits, x_t, x1, mask=mask, in_place=True).sum()
        first = torch.autograd.grad(loss, logits, create_graph=True)[0]
        assert first.data_ptr() != logits.data_ptr() and first.requires_grad
        for bad in (leaf, leaf[1:]):
            with pytest.raises(ValueError, match="in_place is for logits that were computed; got a leaf that requires"):
                discrete_loss(bad, x_t[-len(bad) :], x1[-len(bad) :], mask=mask, in_place=True)
        with torch.no_grad():
            assert discrete_loss(leaf, x_t, x1, mask=mask, in_place=True).shape == (3, 7)


@every_backend
def test_bad_input_is_refused(name: str) -> None:
    logits, x = torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.int64)
    with pyflowk.backend(name):
        with pytest.raises(ValueError, match="kind must be one of cross_entropy, elbo; got 'mse'"):
            discrete_loss(logits, x, x, kind="mse")
        with pytest.raises(ValueError, match=r"logits \(B, \*event, K\), x_t and x1 \(B, \*event\); got \(2, 3, 4\)"):
            discrete_loss(logits, x.T, x)
        with pytest.raises(TypeError, match="int64"):
            discrete_loss(logits, x, x.int())
        with pytest.raises(TypeError, match="float"):
            discrete_loss(logits.long(), x, x)
        with pytest.raises(ValueError, match="x1 must hold symbols 0 to 3; got 4"):
            discrete_loss(logits, x, x + 4)
        with pytest.raises(ValueError, match="x_t must hold symbols 0 to 3, or the mask 9; got 8"):
            discrete_loss(logits, x + torch.tensor([0, 8, 9]), x, mask=9)
        for mask in (None, 4):
            with pytest.raises(ValueError, match=r"x_t must hold symbols 0 to 3.*; got -1"):  # where x1 is no padding
                discrete_loss(logits, x + torch.tensor([0, 0, -1]), x, mask=mask)
        assert not discrete_loss(logits, x - 1, x - 1).any()
        with pytest.raises(ValueError, match="x1 must not hold the mask; got 3"):
            discrete_loss(logits, x + 3, x + 3, mask=3)
        with pytest.raises(ValueError, match="mask must be a symbol of at least 0; got -1"):
            discrete_loss(logits, x, x, mask=-1)
        with pytest.raises(ValueError, match="there is no symbol"):
            discrete_loss(logits[..., :0], x - 1, x - 1, mask=0)
        assert discrete_loss(logits[:0], x[:0], x[:0]).shape == (0, 3)
        assert discrete_loss(logits[:, :0], x[:, :0], x[:, :0]).shape == (2, 0)
