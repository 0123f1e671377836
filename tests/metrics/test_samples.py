"""Metrics of samples against closed forms, scipy where it is, and definitions written out."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pyflowk import metrics
from pyflowk.metrics import (
    c2st,
    energy_distance,
    energy_score,
    frechet_distance,
    mmd,
    ngram_distance,
    pairs,
    precision_recall,
    sliced_wasserstein,
    total_variation,
    wasserstein,
)
from pyflowk.space import Ragged


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


#: Every metric of two samples of numbers, as one number, the smaller, or the nearer to its least value, the better.
NUMBERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "energy_distance": energy_distance,
    "mmd": mmd,
    "wasserstein": lambda x, y: wasserstein(x, y, generator=seeded()),
    "sliced_wasserstein": lambda x, y: sliced_wasserstein(x, y, generator=seeded()),
    "c2st": lambda x, y: c2st(x, y, generator=seeded()),
    "frechet_distance": frechet_distance,
    "precision_recall": lambda x, y: -torch.stack(precision_recall(x, y)).mean(),
}
OTHERS = {
    "Classifier", "Measure", "PrecisionRecall", "Score", "bits_per_dim", "bits_per_symbol", "calibration_error",
    "column_distance", "compare", "compare_features", "curvature", "data_copying", "energy_score", "gaussian_level",
    "ngram_distance", "ngram_level", "normalised_path_energy", "path_energy", "path_ratio", "posterior_ranks",
    "score", "straightness", "total_variation", "tree_level", "trivial_level", "with_error",
}  # fmt: skip
every = pytest.mark.parametrize("name", list(NUMBERS))


def test_every_exported_metric_is_tested_here_or_in_its_own_file() -> None:
    assert set(metrics.__all__) == set(NUMBERS) | OTHERS


@every
def test_contract(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number in float64; sizes may differ; no order of rows, no size of blocks and no dtype matters; errors name."""
    metric = NUMBERS[name]
    x, y = normal(60, 2, 3), 0.5 + normal(45, 2, 3, seed=1)
    value = metric(x, y)
    assert value.shape == () and value.dtype == torch.float64
    if name not in ("c2st", "wasserstein"):  # which thin the larger sample
        torch.testing.assert_close(metric(x.flip(0), y), value, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(metric(x.float(), y.float()), value, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(pairs, "BLOCK", 100)
    torch.testing.assert_close(metric(x, y), value, rtol=1e-12, atol=1e-12)
    x[3, 1, 2] = math.nan
    assert metric(x, y).isnan()
    with pytest.raises(ValueError, match=r"one shape on one device, got \(60, 2, 3\) on cpu and \(45, 6\) on cpu"):
        metric(x, y.flatten(1))
    with pytest.raises(ValueError, match="one shape on one device"):
        metric(x, y.to("meta"))
    with pytest.raises(TypeError, match="expected y to be a tensor, got list"):
        metric(x, [1.0])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"x: expected at least \d samples, got \(0, 2, 3\)"):
        metric(x[:0], y)


@every
def test_a_shift_is_seen(name: str) -> None:
    metric = NUMBERS[name]
    x, y = normal(200, 3), normal(200, 3, seed=1)
    assert metric(x, y) < metric(x + 0.7, y) < metric(x + 3, y)


@every
def test_numbers_of_few_values_and_copies_are_no_trouble(name: str) -> None:
    """Ties, columns that do not vary, the same rows on both sides."""
    x = torch.randint(3, (80, 4), generator=seeded()).double()
    x[:, 2] = 1.0
    y = torch.randint(3, (80, 4), generator=seeded(1)).double()
    y[:, 2] = 1.0
    assert metric_is_finite(NUMBERS[name](x, y)) and metric_is_finite(NUMBERS[name](x, x))
    ones = torch.ones(20, 2)
    assert metric_is_finite(NUMBERS[name](ones, ones))


def metric_is_finite(value: Tensor) -> bool:
    return bool(value.isfinite())


def folded(mean: float, std: float) -> float:
    """E|N(mean, std)|."""
    z = mean / std
    return std * math.sqrt(2 / math.pi) * math.exp(-0.5 * z**2) + mean * math.erf(z / math.sqrt(2))


def test_energy_distance_of_gaussians() -> None:
    """Without bias: the mean over many small samples is the closed form."""
    expected = 2 * folded(0.8, math.sqrt(1 + 0.25)) - folded(0, math.sqrt(2)) - folded(0, math.sqrt(0.5))
    x, y = normal(4000, 5, 1), 0.8 + 0.5 * normal(4000, 6, 1, seed=1)
    found = torch.stack([energy_distance(*rows) for rows in zip(x[:2000], y[:2000], strict=True)])
    assert abs(found.mean() - expected) < 4 * found.std() / math.sqrt(len(found))
    assert energy_distance(x.reshape(-1, 1)[:3000], y.reshape(-1, 1)[:3000]).item() == pytest.approx(expected, abs=0.06)


def test_energy_score_is_proper() -> None:
    """Of Gaussians its mean is E|Y - X| - E|Y - Y'| / 2; no other samples have a lower one."""
    x, z = normal(20_000, 1), normal(20_000, 4, 1, seed=1)
    for mean, std in ((0.0, 1.0), (0.8, 0.5)):
        scores = energy_score(x, mean + std * z)
        expected = folded(mean, math.sqrt(1 + std**2)) - folded(0, math.sqrt(2) * std) / 2
        assert abs(scores.mean() - expected) < 4 * scores.std() / math.sqrt(len(x))
    assert energy_score(x, z).mean() < energy_score(x, 0.8 + 0.5 * z).mean()
    assert energy_score(x[:0], z[:0]).shape == (0,)
    with pytest.raises(ValueError, match=r"m > 1; got \(5, 1\) and \(5, 1, 1\)"):
        energy_score(x[:5], z[:5, :1])


def test_wasserstein_of_points_and_of_gaussians() -> None:
    """A permutation and a shift have theirs exactly; on the line it is that of sorted points; of Gaussians nearly."""
    x = normal(300, 3)
    shift = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    assert wasserstein(x, x.flip(0)) == 0
    torch.testing.assert_close(wasserstein(x, x.roll(7, 0) + shift), shift.norm())
    a, b = normal(500, 1), 2 + 0.5 * normal(500, 1, seed=1)
    torch.testing.assert_close(wasserstein(a, b), (a.sort(0).values - b.sort(0).values).square().mean().sqrt())
    assert wasserstein(a, b).item() == pytest.approx(math.sqrt(4 + 0.25), abs=0.15)
    assert wasserstein(x[:1], x[5:6] + 1).item() == pytest.approx((x[0] - x[5] - 1).norm().item())


def test_energy_distance_agrees_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    x, y = normal(30, 1), 0.3 + normal(20, 1, seed=1)
    biased = stats.energy_distance(x[:, 0].numpy(), y[:, 0].numpy()) ** 2
    within = [(z - z.T).abs().mean() / (len(z) - 1) for z in (x, y)]  # what pairs of a row with itself leave out
    assert energy_distance(x, y).item() == pytest.approx(biased - float(sum(within)))


def test_mmd_of_gaussians() -> None:
    """E k of Gaussians is a Gaussian integral; here in two dimensions, variance 1 each, shifted by (1, 0)."""
    width = 1.5

    def kernel(shift: float) -> float:
        return width**2 / (width**2 + 2) * math.exp(-(shift**2) / (2 * (width**2 + 2)))

    expected = 2 * kernel(0) - 2 * kernel(1)
    x, y = normal(1000, 7, 2), normal(1000, 5, 2, seed=1) + torch.tensor([1.0, 0.0])
    found = torch.stack([mmd(*rows, bandwidth=width) for rows in zip(x, y, strict=True)])
    assert abs(found.mean() - expected) < 4 * found.std() / math.sqrt(len(found))
    distances = torch.pdist(torch.cat((x[0], y[0])))
    assert mmd(x[0], y[0]) == mmd(x[0], y[0], bandwidth=distances.median().item())
    for wrong, got in ((0, "0"), ("a", "'a'"), (torch.ones(2), "tensor")):
        with pytest.raises(ValueError, match=f"bandwidth: expected a finite number > 0, got {got}"):
            mmd(x[0], y[0], bandwidth=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("sizes", [(7, 7), (6, 9), (1, 5)])
def test_sliced_wasserstein_of_one_number_is_exact(sizes: tuple[int, int]) -> None:
    stats = pytest.importorskip("scipy.stats")
    x, y = normal(sizes[0], 1), 1 + 2 * normal(sizes[1], 1, seed=1)
    expected = stats.wasserstein_distance(x[:, 0].numpy(), y[:, 0].numpy())
    assert sliced_wasserstein(x, y, order=1).item() == pytest.approx(expected)
    many = math.lcm(*sizes)  # repeated to one size, where it is a sort
    pairs = [z.repeat_interleave(many // len(z), 0).sort(0).values for z in (x, y)]
    assert sliced_wasserstein(x, y).item() == pytest.approx((pairs[0] - pairs[1]).square().mean().sqrt().item())


def test_sliced_wasserstein_of_a_shift() -> None:
    """Every direction moves by its part of the shift: |shift|^2 / D on average."""
    x, shift = normal(20, 4), torch.tensor([3.0, 0.0, 4.0, 0.0])
    found = sliced_wasserstein(x, x + shift, directions=20_000, generator=seeded())
    assert found.item() == pytest.approx(2.5, rel=0.02)
    assert sliced_wasserstein(x, x, generator=seeded()) == 0


def test_c2st_by_hand() -> None:
    """On a line: ties vote, and a tied vote is half right."""
    x, y = torch.tensor([0.0, 1.0, 10.0]), torch.tensor([2.0, 11.0, 12.0])
    assert c2st(x, y, neighbours=1).item() == pytest.approx((1 + 0.5 + 0 + 0 + 0.5 + 1) / 6)
    same = torch.zeros(50)
    assert c2st(same, same, neighbours=1) == 0  # of the others, one less is of one's own sample
    assert c2st(torch.arange(50.0), torch.arange(50.0) + 0.5, neighbours=1) == 0
    assert c2st(normal(400, 1), normal(400, 1, seed=1)).item() == pytest.approx(0.5, abs=0.06)
    with pytest.raises(ValueError, match="neighbours: expected less than the 3 samples"):
        c2st(x, y, neighbours=3)


def test_c2st_thins_the_larger_sample_by_chance() -> None:
    """Not to its first rows: those of a sorted one would be told apart."""
    x, y = torch.arange(400.0), torch.arange(200.0) * 2 + 0.5
    assert c2st(x, y, generator=seeded()) < 0.6 < c2st(x[:200], y)
    assert c2st(x, y, generator=seeded()) == c2st(x, y, generator=seeded()) != c2st(x, y, generator=seeded(1))


def test_frechet_distance_of_given_moments() -> None:
    """Of whitened samples given moments exactly: commuting covariances, then any against scipy's matrix root."""
    white = normal(50, 3)
    white = white - white.mean(0)
    white = white @ torch.linalg.inv(torch.linalg.cholesky(white.T.cov())).T
    a, b = torch.tensor([1.0, 2.0, 0.5]), torch.tensor([3.0, 1.0, 0.0])
    found = frechet_distance(white * a + 1, white * b)
    assert found.item() == pytest.approx(3 + (a - b).square().sum().item())
    linalg = pytest.importorskip("scipy.linalg")
    x, y = white @ normal(3, 3, seed=1).double(), white @ normal(3, 3, seed=2).double()
    s, t = x.T.cov(), y.T.cov()
    expected = s.trace() + t.trace() - 2 * linalg.sqrtm((s @ t).numpy()).trace().real
    assert frechet_distance(x, y).item() == pytest.approx(float(expected), rel=1e-6)


def test_frechet_distance_of_fewer_samples_than_features() -> None:
    x = normal(5, 20)
    assert frechet_distance(x, x).item() == pytest.approx(0, abs=1e-6)


def test_events_of_no_numbers_are_all_alike() -> None:
    """And rows whose squares are no numbers have no covariance."""
    for name in ("energy_distance", "mmd", "sliced_wasserstein", "frechet_distance"):
        assert NUMBERS[name](torch.zeros(9, 0), torch.zeros(7, 0)) == 0
    assert frechet_distance(normal(9, 3) * 1e200, normal(9, 3)).isnan()


def test_precision_and_recall_by_definition() -> None:
    x, y, k = normal(12, 2), 0.3 + normal(9, 2, seed=1), 3

    def reach(z: Tensor, i: int) -> Tensor:
        return torch.stack([(z[i] - z[j]).norm() for j in range(len(z)) if j != i]).sort().values[k - 1]

    in_y = torch.tensor([[(a - b).norm() <= reach(y, j) for j, b in enumerate(y)] for a in x])
    in_x = torch.tensor([[(a - b).norm() <= reach(x, i) for b in y] for i, a in enumerate(x)])
    got = precision_recall(x, y, k)
    assert got.precision == in_y.any(1).double().mean() and got.coverage == in_y.any(0).double().mean()
    assert got.recall == in_x.any(0).double().mean() and got.density == in_y.double().mean() * len(y) / k


def test_rows_on_the_edge_of_a_ball_are_in_it() -> None:
    grid = torch.arange(10.0)
    assert precision_recall(grid, grid, 1).density.item() == pytest.approx((8 * 3 + 2 * 2) / 10)


def test_density_and_coverage_of_one_distribution() -> None:
    """Naeem et al.: density 1, coverage 1 - prod (M - i) / (M + N - i), on average."""
    k, n, m = 3, 30, 40
    found = [precision_recall(x, y, k) for x, y in zip(normal(300, n, 2), normal(300, m, 2, seed=1), strict=True)]
    expected = 1 - math.prod((m - i) / (m + n - i) for i in range(1, k + 1))
    for values, mean in ((torch.stack([one.density for one in found]), 1.0),
                         (torch.stack([one.coverage for one in found]), expected)):  # fmt: skip
        assert abs(values.mean() - mean) < 4 * values.std() / math.sqrt(len(values))


def test_copies_of_few_rows_are_precise_and_cover_little() -> None:
    y = normal(200, 2)
    got = precision_recall(y[:4].repeat(50, 1), y)
    assert got.precision == 1 and got.coverage < 0.15


def test_total_variation_by_hand() -> None:
    x, y = torch.tensor([5, 5, -1, 7]), torch.tensor([5, 7, 7, 7, 9])
    assert total_variation(x, y).item() == pytest.approx((0.3 + 0.25 + 0.35 + 0.2) / 2)
    assert total_variation(x, x.flip(0)) == 0 and total_variation(x, x + 100) == 1
    with pytest.raises(TypeError, match="x: expected integers"):
        total_variation(x.float(), y)
    with pytest.raises(ValueError, match="y: expected values"):
        total_variation(x, y[:0])


def test_ngram_distance_counts_runs_starts_and_ends() -> None:
    x = Ragged(torch.tensor([[0, 1, 9], [1, 9, 9]]), torch.tensor([2, 1]))
    y = Ragged(torch.tensor([[0, 1]]), torch.tensor([2]))
    # of x: ^0 01 1$ ^1 1$, of y: ^0 01 1$
    runs = 2 * (1 / 3 - 1 / 5) + (2 / 5 - 1 / 3) + 1 / 5
    assert ngram_distance(x, y, symbols=10).item() == pytest.approx(runs / 2)
    assert ngram_distance(x, y, symbols=10, order=1).item() == pytest.approx(1 / 3 - 1 / 5)
    assert ngram_distance(x.values[:, :2], x.values[:, :2], 10) == 0
    with pytest.raises(ValueError, match="int64"):
        ngram_distance(x, y, symbols=1 << 20, order=4)
    for wrong in (torch.tensor([[1, 2]]), torch.tensor([[-1, 0]])):
        with pytest.raises(ValueError, match="y: expected symbols 0 to 1, got"):
            ngram_distance(torch.tensor([[0, 1]]), wrong, symbols=2)
    with pytest.raises(TypeError, match=r"x: expected integers, got torch\.float32"):
        ngram_distance(torch.rand(2, 2), torch.tensor([[0, 1]]), symbols=2)
