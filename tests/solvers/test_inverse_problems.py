"""Flower against posteriors of Gaussians that are known, its operators, and the solver inside it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Generator, Tensor

from pyflowk.paths import CondOT, Cosine, Schedule
from pyflowk.solvers import NotConverged, Operator, blurring, flower, inpaint, masking, pooling, uniform_grid
from pyflowk.solvers.inverse_problems import _conjugate_gradients


def seeded(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


class Gaussian:
    """The data that a field of N(m, s^2 I) foresees on a path."""

    def __init__(self, mean: float = 0.0, deviation: float = 1.0, schedule: Schedule | None = None) -> None:
        self.mean, self.deviation, self.schedule, self.calls = mean, deviation, schedule or CondOT(), 0

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        self.calls += 1
        alpha, sigma, *_ = self.schedule.at(t).beside(x)
        share = alpha * self.deviation**2 / ((alpha * self.deviation) ** 2 + sigma**2)
        return self.mean + share * (x - alpha * self.mean)


def drawn(n: int, operator: Operator, y: Tensor, noise: float, steps: int, data: Gaussian | None = None) -> Tensor:
    data, y = data or Gaussian(), y.to(torch.float64)
    size = operator.transposed(torch.zeros(1, 2).double())(y[None]).shape[1]
    x = torch.randn(n, size, generator=seeded(1), dtype=torch.float64)
    return flower(
        data, x, data.schedule, uniform_grid(steps), y.expand(n, -1), operator, noise=noise,
        deviation=data.deviation, prediction="data", generator=seeded(2),
    )  # fmt: skip


def matrix(h: Tensor, gram: float | None = None) -> Operator:
    return Operator(lambda x: x @ h.T, lambda y: y @ h, gram)


def posterior(h: Tensor, y: Tensor, noise: float, data: Gaussian) -> tuple[Tensor, Tensor]:
    """Mean and covariance of N(m, s^2 I) given y = H x + noise."""
    eye = torch.eye(h.shape[1], dtype=h.dtype)
    covariance = torch.linalg.inv(h.T @ h / noise**2 + eye / data.deviation**2)
    return covariance @ (h.T @ y / noise**2 + data.mean / data.deviation**2), covariance


@pytest.mark.parametrize("steps", [1, 4, 16, 64])
@pytest.mark.parametrize("gram", [None, 1.0], ids=["gradients", "closed"])
def test_the_posterior_of_a_number_at_any_number_of_steps(steps: int, gram: float | None) -> None:
    """Data N(0, 1), y = 1.2 with noise of deviation 0.5: N(0.96, 0.4472^2)."""
    n = 20000
    data = Gaussian()
    eye = Operator(lambda x: x, lambda y: y, gram)
    x = torch.randn(n, 1, generator=seeded(1))
    found = flower(
        lambda t, x: data(t, x), x, CondOT(), uniform_grid(steps), torch.full((n, 1), 1.2), eye, noise=0.5,
        prediction="data", generator=seeded(steps),
    )  # fmt: skip
    assert data.calls == steps
    assert found.mean().item() == pytest.approx(0.96, abs=4 * 0.4472 / n**0.5)
    assert found.std().item() == pytest.approx(0.4472, abs=4 * 0.4472 / (2 * n) ** 0.5)


@pytest.mark.parametrize(
    "h", [[[1.0, 0.5]], [[1.0, -2.0], [0.3, 1.0]], [[1.0, 0.0], [0.5, 0.5], [2.0, 1.0]]], ids=["1x2", "2x2", "3x2"]
)
@pytest.mark.parametrize("data", [Gaussian(), Gaussian(1.5, 0.4, Cosine())], ids=["standard", "other-scale-and-path"])
def test_the_posterior_in_the_plane(h: list[list[float]], data: Gaussian) -> None:
    n, operator = 20000, torch.tensor(h, dtype=torch.float64)
    y = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)[: len(h)]
    mean, covariance = posterior(operator, y, 0.6, data)
    found = drawn(n, matrix(operator), y, 0.6, 5, data)
    torch.testing.assert_close(found.mean(0), mean, rtol=0, atol=4 * covariance.diagonal().max().sqrt().item() / n**0.5)
    torch.testing.assert_close(found.T.cov(), covariance, rtol=0, atol=5 * covariance.max().item() / n**0.5)


def test_what_is_seen_without_noise_is_kept() -> None:
    h = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    found = drawn(500, matrix(h), torch.tensor([1.5]), 0.0, 4)
    torch.testing.assert_close(found @ h.T, torch.full((500, 1), 1.5).double(), rtol=1e-6, atol=1e-6)
    free = found @ torch.tensor([2.0, -1.0]).double() / 5**0.5  # beside H the data are as they were
    assert free.mean().abs() < 4 / 500**0.5 and free.std() == pytest.approx(1, abs=0.13)


def test_inpainting() -> None:
    y = torch.tensor([[0.3, math.nan], [1.0, -2.0]]).repeat(300, 1)
    mask = torch.tensor([[True, False], [True, True]]).repeat(300, 1)
    data = Gaussian()

    def found(**options: float) -> Tensor:
        return inpaint(lambda t, x: data(t, x), y, mask, prediction="data", generator=seeded(), **options)  # type: ignore[arg-type]

    x = found()
    assert data.calls == 50 and torch.equal(x, found())
    torch.testing.assert_close(x[mask], y[mask])
    assert x[~mask].mean().abs() < 4 / 300**0.5 and x[~mask].std() == pytest.approx(1, abs=0.17)
    assert (found(noise=0.5) - y)[mask].std() > 0.2
    assert inpaint(data, y[:0], mask[:0], prediction="data").shape == (0, 2)
    few = inpaint(data, y, mask, prediction="data", grid=uniform_grid(2), schedule=Cosine())
    torch.testing.assert_close(few[mask], y[mask])


IMAGES = torch.randn(3, 2, 6, 8, dtype=torch.float64, generator=seeded())
OPERATORS = {
    "mask": masking(torch.rand(2, 6, 8, generator=seeded()) < 0.5),
    "pooling": pooling(2),
    "blurring": blurring(torch.rand(3, 5, dtype=torch.float64, generator=seeded())),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_and_their_adjoints(name: str) -> None:
    """The adjoint is that of a backward pass, and what is said of H H^T is so."""
    operator = OPERATORS[name]
    y = operator.forward(IMAGES)
    w = torch.randn(y.shape, dtype=y.dtype, generator=seeded(3))
    assert operator.adjoint is not None
    torch.testing.assert_close(operator.adjoint(w), Operator(operator.forward).transposed(IMAGES)(w))
    if operator.gram is not None:
        torch.testing.assert_close(operator.forward(operator.adjoint(w)), operator.gram * w)


@pytest.mark.parametrize("name", OPERATORS)
def test_the_closed_form_is_what_conjugate_gradients_find(name: str) -> None:
    operator, data = OPERATORS[name], Gaussian()
    y = operator.forward(IMAGES)
    closed, found, alone = (
        flower(
            data, torch.ones_like(x), CondOT(), uniform_grid(3), y[: len(x)], op, noise=0.3, prediction="data",
            generator=[seeded(i) for i in range(len(x))], tolerance=1e-9,
        )
        for op, x in ((operator, IMAGES), (Operator(operator.forward), IMAGES), (operator, IMAGES[:1]))
    )  # fmt: skip
    torch.testing.assert_close(found, closed, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(alone, closed[:1], rtol=1e-6, atol=1e-6)


def test_conjugate_gradients_stop_when_they_are_there() -> None:
    """One product where all eigenvalues are equal, none for 0; a row's answer does not depend on slower ones."""
    eigenvalues, calls = torch.tensor([[2.0, 2.0, 2.0], [1.0, 3.0, 9.0]], dtype=torch.float64), []

    def product(w: Tensor) -> Tensor:
        calls.append(len(w))
        return eigenvalues[: len(w)] * w

    b = torch.randn(2, 3, dtype=torch.float64, generator=seeded())
    both = _conjugate_gradients(product, b, 1e-12, 100)
    torch.testing.assert_close(both, b / eigenvalues)
    assert len(calls) <= 4
    calls.clear()
    assert torch.equal(_conjugate_gradients(product, b[:1], 1e-12, 100), both[:1]) and len(calls) == 1
    calls.clear()
    assert torch.equal(_conjugate_gradients(product, b[:1] * 0, 1e-12, 100), b[:1] * 0) and not calls
    with pytest.raises(NotConverged, match=r"1 of 2 rows have a residual of up to 0\..* after 1 iterations, expected"):
        _conjugate_gradients(product, b, 1e-12, 1)
    b[0, 1] = math.nan
    found = _conjugate_gradients(product, b, 1e-12, 100)
    assert found[0].isnan().any()
    torch.testing.assert_close(found[1], (b / eigenvalues)[1])


def test_nan_stays_in_its_row() -> None:
    y, data = torch.ones(3, 1).double(), Gaussian()
    y[1] = math.nan
    for gram in (None, 1.0):
        eye = Operator(lambda x: x, lambda y: y, gram)
        found = flower(
            data, torch.zeros(3, 1).double(), CondOT(), uniform_grid(3), y, eye, noise=0.5, prediction="data",
            generator=seeded(),
        )  # fmt: skip
        assert found[1].isnan().all() and found[[0, 2]].isfinite().all()


def test_it_can_be_differentiated() -> None:
    """Given its draws a sample is a function of what was seen, linear here: its slope is that of the posterior mean."""
    h = torch.tensor([[1.0, 0.5]], dtype=torch.float64)
    y = torch.tensor([[1.0]], dtype=torch.float64, requires_grad=True)
    x = flower(
        Gaussian(), torch.zeros(1, 2).double(), CondOT(), uniform_grid(1), y, matrix(h), noise=0.6, prediction="data",
        generator=seeded(),
    )  # fmt: skip
    slope = torch.stack([torch.autograd.grad(x[0, i], y, retain_graph=True)[0][0, 0] for i in range(2)])
    torch.testing.assert_close(slope, (posterior(h, torch.ones(1).double(), 0.6, Gaussian())[0]))


def test_what_does_not_fit() -> None:
    x, grid, data = torch.zeros(2, 3), uniform_grid(2), Gaussian()
    total = Operator(lambda x: x.sum(1, keepdim=True), lambda y: y.expand(-1, 3))
    wrong = Operator(total.forward, lambda y: 2 * y.expand(-1, 3))
    for operator, y, noise, said in (
        (total, torch.ones(2, 2), 0.1, r"y: expected \(2, 1\), as the operator gives, got \(2, 2\)"),
        (
            Operator(total.forward, lambda y: y),
            torch.ones(2, 1),
            0.1,
            r"operator.adjoint: expected \(2, 3\), got \(2, 1\)",
        ),
        (wrong, torch.ones(2, 1), 0.1, r"operator.adjoint: expected <H x, y> = <x, H' y>, got 3 and 6"),
        (total, torch.ones(2, 1), -0.1, "noise to be a finite number of at least 0, got -0.1"),
    ):
        with pytest.raises(ValueError, match=said):
            flower(data, x + 1, CondOT(), grid, y, operator, noise=noise, prediction="data")
    with pytest.raises(ValueError, match="grid: expected times that rise"):
        flower(data, x, CondOT(), grid.flip(0), torch.ones(2, 1), total, noise=0.1, prediction="data")
    with pytest.raises(TypeError, match=r"mask: expected a tensor of bools, .* got"):
        inpaint(data, x, torch.ones(3))
    for shape in ((2,), (4, 2, 3)):
        with pytest.raises(ValueError, match=r"mask: expected one that broadcasts to events \(2, 3\), got \("):
            inpaint(data, x, torch.ones(shape, dtype=torch.bool))
    with pytest.raises(TypeError, match="y: expected a floating-point tensor"):
        inpaint(data, torch.ones(2, 3, dtype=torch.int64), torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"sides that are multiples of 4, got \(3, 2, 6, 8\)"):
        pooling(4).forward(IMAGES)
    with pytest.raises(ValueError, match=r"kernel: expected a tensor \(h, w\) of odd sides"):
        blurring(torch.ones(2, 3))
