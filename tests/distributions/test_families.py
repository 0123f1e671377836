"""What one family alone does, against torch.distributions and by hand."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from pyflowk.distributions import (
    Categorical,
    ClassConditionalGaussian,
    DiagonalGaussian,
    Empirical,
    GaussianMixture,
    Uniform,
    UniformSphere,
    UniformTorus,
    categorical,
    uniform,
)


def awake(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            p += 0.3 * torch.randn(p.shape, generator=generator)
    return module


@pytest.mark.parametrize("learned", [False, True])
def test_gaussian_agrees_with_torch_distributions(learned: bool) -> None:
    base = awake(DiagonalGaussian((2, 3), learned)).double()
    z = torch.randn(5, 2, 3, dtype=torch.float64)
    mean, std = (base.mean, base.log_std.exp()) if learned else torch.tensor([0.0, 1.0], dtype=torch.float64)
    expected = torch.distributions.Normal(mean, 0.7 * std).log_prob(z).sum((1, 2))
    torch.testing.assert_close(base.log_prob(z, temperature=0.7), expected)
    assert bool(list(base.parameters())) == learned and (base.location() is None) != learned


def test_class_conditional_gaussian_agrees_with_torch_distributions() -> None:
    base = awake(ClassConditionalGaussian((3,), 4))
    labels = torch.tensor([0, 3, 3])
    z = torch.randn(3, 3)
    expected = torch.distributions.Normal(base.mean[labels], base.log_std[labels].exp()).log_prob(z).sum(1)
    torch.testing.assert_close(base.log_prob(z, labels), expected)
    with pytest.raises(ValueError, match="labels"):
        base.log_prob(z)
    with pytest.raises(TypeError, match="integer"):
        base.log_prob(z, torch.zeros(3))
    for wrong in (-1, 4):
        with pytest.raises(ValueError, match="context: expected labels 0 to 3, got"):
            base.sample(1, torch.tensor([wrong]))


def test_state_dict_keys_are_those_of_old_checkpoints() -> None:
    assert set(DiagonalGaussian((2,)).state_dict()) == set()
    assert set(DiagonalGaussian((2,), True).state_dict()) == {"mean", "log_std"}
    assert set(ClassConditionalGaussian((2,), 2).state_dict()) == {"mean", "log_std"}
    assert set(GaussianMixture((2,), 2).state_dict()) == {"logits", "mean", "log_std"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniform_draws_lie_in_its_box(dtype: torch.dtype) -> None:
    """Ends that binary numbers do not hold, and a box so small that rounding fills it."""
    for low, high in ((0.1, 0.7), (1.0, 1.0 + 3e-7)):
        base = Uniform((1,), low, high).to(dtype)
        for temperature in (1.0, 0.3):
            z = base.sample(5000, temperature=temperature)
            assert base.log_prob(z, temperature=temperature).isfinite().all()
    base = Uniform((1,), 0.0, 4.0)
    ends = base.log_prob(torch.tensor([[0.9], [1.0], [3.0], [3.1]]), temperature=0.5)
    assert ends.isfinite().tolist() == [False, True, True, False]  # half as wide about the centre
    expected = torch.distributions.Uniform(0.1, 0.7).log_prob(torch.tensor(0.5)).double().item()
    assert Uniform((1,), 0.1, 0.7).log_prob(torch.tensor([[0.5]])).item() == pytest.approx(expected, rel=1e-6)
    for low, high in ((1.0, 1.0), (0.0, math.inf), (math.nan, 1.0), (-3e38, 3e38)):
        with pytest.raises(ValueError, match=r"Uniform expects low < high, at most 1e\+30 apart, got"):
            Uniform((1,), low, high)
    with pytest.raises(TypeError, match="Uniform expects numbers low < high, got 'a'"):
        Uniform((1,), "a")  # type: ignore[arg-type]


def test_the_last_number_below_one_is_still_in_the_box(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its product with the width, added to the low end, may round beyond the high one."""
    monkeypatch.setattr(uniform, "draw_uniform", lambda shape, *_, **__: torch.full(shape, 1 - 2.0**-24))
    for i in range(300):
        base = Uniform((1,), i / 7 - 20, i / 7 - 20 + 0.1 * (i + 1) / 3)
        assert base.log_prob(base.sample(1)).isfinite()


def test_area_of_spheres() -> None:
    """Of the 3-sphere 2 pi^2; points off it have no density."""
    z = torch.tensor([[1.0, 0, 0, 0], [0, 0.5, 0, 0], [0.5, 0.5, -0.5, 0.5]])
    assert UniformSphere((4,)).log_prob(z).tolist() == pytest.approx([-math.log(2 * math.pi**2), -math.inf] * 1 + [
        -math.log(2 * math.pi**2)
    ])  # fmt: skip
    for shape in ((1,), ()):
        with pytest.raises(ValueError, match="at least 2 numbers on the last axis"):
            UniformSphere(shape)


def test_a_period_apart_is_the_same_point() -> None:
    base = UniformTorus((2,), period=3.0)
    z = torch.tensor([[0.5, 1.0], [3.5, -2.0], [0.0, math.inf]])
    assert base.log_prob(z).tolist() == pytest.approx([-2 * math.log(3)] * 2 + [-math.inf])
    assert base.sample(1000).min() >= 0 and base.sample(1000).max() <= 3


def test_categorical_agrees_with_torch_distributions() -> None:
    base = awake(Categorical((4,), 6, learned=True))
    z = torch.randint(6, (9, 4), generator=torch.Generator().manual_seed(0))
    for temperature in (1.0, 0.6):
        expected = torch.distributions.Categorical(logits=base.logits / temperature).log_prob(z).sum(1)
        torch.testing.assert_close(base.log_prob(z, temperature=temperature), expected)


def test_symbols_of_no_weight_never_come() -> None:
    """Not at the first symbol, not at the last one, whatever the temperature: rounding leaves no gap."""
    base = Categorical((1,), 5, [0.0, 0.1, 0.0, 0.2, 0.0])
    for temperature in (0.1, 1.0, 10.0):
        assert set(base.sample(20_000, temperature=temperature).flatten().tolist()) <= {1, 3}
    mask = Categorical((3,), 4, [0.0, 0.0, 0.0, 1.0])
    assert (mask.sample(10) == 3).all() and mask.log_prob(torch.full((1, 3), 3)) == 0
    assert mask.log_prob(torch.tensor([[3, 3, 0]])) == -math.inf


@pytest.mark.parametrize("draw", [0.0, 1 - 2.0**-53])
def test_the_first_and_the_last_number_draw_symbols_that_come(draw: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of probabilities that end below one leave no gap, and an empty start is passed over."""
    monkeypatch.setattr(
        categorical, "draw_uniform", lambda shape, *_, **__: torch.full(shape, draw, dtype=torch.float64)
    )
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        weights = torch.rand(9, generator=generator)
        weights[[0, -1]] = 0.0
        assert 0 < Categorical((1,), 9, weights).sample(1) < 8


def test_probabilities_of_each_place() -> None:
    base = Categorical((2,), 2, torch.tensor([[1.0, 3.0], [1.0, 0.0]]))
    got = base.log_prob(torch.tensor([[0, 0], [1, 0]])).exp()
    torch.testing.assert_close(got, torch.tensor([0.25, 0.75]))


def test_probabilities_are_numbers_alone() -> None:
    """What they were computed from takes no part in a gradient, and they can be copied."""
    noise = Categorical((2,), 2, torch.tensor([0.5, 0.5], requires_grad=True))
    assert not copy.deepcopy(noise).logits.requires_grad


def test_what_is_no_symbol_or_probability_is_refused() -> None:
    base = Categorical((2,), 3)
    with pytest.raises(ValueError, match="symbols 0 to 2, got -1 to 1"):
        base.log_prob(torch.tensor([[-1, 1]]))
    with pytest.raises(TypeError, match=r"symbols of an integer dtype, got torch\.float32"):
        base.log_prob(torch.zeros(1, 2))
    for wrong in ([0.5, -0.1, 0.6], [0.0, 0.0, 0.0], [math.nan, 1.0, 1.0]):
        with pytest.raises(ValueError, match="finite numbers of at least 0"):
            Categorical((2,), 3, wrong)
    with pytest.raises(ValueError, match=r"expected \(3,\) or \(2, 3\), got \(2,\)"):
        Categorical((2,), 3, [0.5, 0.5])


def test_rows_of_data_are_drawn_as_they_are() -> None:
    rows = torch.arange(6.0).reshape(3, 2)
    source = Empirical(rows)
    drawn = source.sample(300, generator=torch.Generator().manual_seed(0))
    assert set(map(tuple, drawn.tolist())) == set(map(tuple, rows.tolist()))
    assert source.state_dict()["rows"].equal(rows) and source.log_prob(torch.full((1, 2), torch.nan)).isnan().all()
    with pytest.raises(ValueError, match=r"at least one row \(N, \*shape\), got \(0, 2\)"):
        Empirical(rows[:0])
    with pytest.raises(TypeError, match="a tensor of rows, got list"):
        Empirical([1.0])  # type: ignore[arg-type]
