"""Semidiscrete transport: closed form, shares of rows, labels, rows on demand, soft draws, cached pairs, bad input."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pyflowk.distributions import DiagonalGaussian
from pyflowk.ops import assignment_of_points
from pyflowk.paths import SeededPairs, Semidiscrete

pytestmark = pytest.mark.filterwarnings("ignore:Semidiscrete")  # fits are short here

POINTS = torch.tensor([[-1.0], [0.0], [2.0]])
#: of N(0, 1), these points of equal weight and half the squared distance: potentials up to a constant, and the cost
GOLDEN, COST = torch.tensor([-0.3333333333, -0.4026060270, 0.7359393604]), 0.24253


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed))


def quantiles(n: int) -> Tensor:
    """Midpoints of n cells of N(0, 1) of the same mass."""
    share = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    return (math.sqrt(2) * torch.erfinv(2 * share - 1)).float()[:, None]


def eight(n: int) -> Tensor:
    angle = torch.randint(0, 8, (n,), generator=generator(1)) * (math.pi / 4)
    return 0.3 * normal(n, 2) + 5 * torch.stack((angle.cos(), angle.sin()), 1)


class OnDemand:
    """Rows that are read in pieces, and never all at once."""

    def __init__(self, rows: Tensor) -> None:
        self.all, self.shape, self.dtype = rows, rows.shape, rows.dtype

    def __len__(self) -> int:
        return len(self.all)

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        return self.all[rows]


def test_the_golden_potentials_share_the_noise_evenly() -> None:
    pairing = Semidiscrete(POINTS)
    pairing.load_state_dict({"potentials": GOLDEN})
    x0 = quantiles(30_000)
    found = pairing(x0, x0)[1]
    assert [(found == point).float().mean().item() for point in POINTS] == pytest.approx([1 / 3] * 3, abs=1e-4)
    assert float((x0 - found).square().mean()) / 2 == pytest.approx(COST, abs=2e-5)


def test_a_fit_finds_the_golden_potentials() -> None:
    heard: list[float] = []
    pairing = Semidiscrete(POINTS)
    fit = pairing.fit(3000, tolerance=1e-5, generator=generator(), watch=heard.append)
    assert fit.chi2 < 1e-4 and fit.steps <= 3000 and heard == sorted(heard) and heard[-1] == 1.0
    torch.testing.assert_close(pairing.potentials, GOLDEN - GOLDEN.mean(), atol=6e-3, rtol=0)
    again = Semidiscrete(POINTS)
    again.fit(3000, tolerance=1e-5, generator=generator())
    assert torch.equal(again.potentials, pairing.potentials)  # the same seed


@pytest.mark.parametrize("demanded", [False, True])
def test_every_row_gets_its_share(demanded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the pairing is optimal: no two noises would do better by swapping their rows."""
    monkeypatch.setattr("pyflowk.paths.semidiscrete._PIECE", 100)
    rows = eight(200)
    pairing = Semidiscrete(OnDemand(rows) if demanded else rows)
    pairing.load_state_dict(pairing.state_dict())  # the potentials of Gaussians, as if they were found
    before = pairing.partners(normal(20_000, 2, seed=3)).bincount(minlength=200).double()
    fit = pairing.fit(1000, 512, tolerance=5e-3, generator=generator())
    x0 = normal(20_000, 2, seed=3)
    index = pairing.partners(x0)
    counts = index.bincount(minlength=200).double()
    chi2 = float((counts * (counts - 1)).sum()) * 200 / (20_000 * 19_999) - 1
    assert chi2 < 0.05 and float((before * (before - 1)).sum()) * 200 / (20_000 * 19_999) - 1 > 1
    assert chi2 == pytest.approx(fit.chi2, abs=5 * (fit.error + math.sqrt(400) / 20_000) + 0.01)
    one, other = index[:10_000], index[10_000:]
    apart = ((x0[:10_000] - x0[10_000:]) * (rows[one] - rows[other])).sum(1)
    assert (apart >= -1e-4).all()


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_noise_of_any_size_is_shared_as_soon(scale: float) -> None:
    """Potentials are as large as the noise is wide, and so must steps towards them be."""
    source = DiagonalGaussian((2,), learned=True).requires_grad_(False)
    source.log_std.fill_(math.log(scale))
    found = Semidiscrete(normal(200, 2), source=source).fit(400, 1024, generator=generator(1))
    assert found.chi2 < 0.02


def test_each_label_has_a_transport_of_its_own() -> None:
    labels = torch.arange(90) % 3
    rows = normal(90, 2) + 3.0 * labels[:, None]
    pairing = Semidiscrete(rows, labels)
    fit = pairing.fit(150, 256, tolerance=0.05, generator=generator())
    assert fit.steps <= 450 and all(abs(pairing.potentials[labels == label].mean()) < 1e-5 for label in range(3))
    x0, context = normal(3000, 2, seed=5), torch.randint(0, 3, (3000,), generator=generator(6))
    noise, found, kept = pairing(x0, torch.zeros(3000, 2), context)
    assert torch.equal(noise, x0) and kept is context
    assert torch.equal(labels[pairing.partners(x0, context)], context)
    for label in range(3):
        assert (noise[kept == label].mean(0).abs() < 4 / math.sqrt(900)).all()
        assert (found[kept == label].mean(0) - rows[labels == label].mean(0)).abs().max() < 0.2
    with pytest.raises(ValueError, match="no row has the label 7"):
        pairing(x0[:1], x0[:1], torch.tensor([7]))


def test_soft_potentials_and_draws() -> None:
    """With a large eps the rows are drawn whatever the noise; with a small one they are found."""
    pairing = Semidiscrete(POINTS, eps=1e3)
    fit = pairing.fit(50, generator=generator())
    assert fit.converged
    x0 = normal(3000, 1)
    found = pairing(x0, x0, None, generator())[1]
    assert abs(torch.corrcoef(torch.cat((x0, found), 1).T)[0, 1]) < 5 / math.sqrt(3000)
    hard, soft = Semidiscrete(POINTS), Semidiscrete(POINTS, eps=1e-4)
    for both in (hard, soft):
        both.load_state_dict({"potentials": GOLDEN})
    assert (hard.partners(x0) == soft.partners(x0, None, generator())).float().mean() > 0.995
    middle = Semidiscrete(POINTS, eps=0.5)
    assert middle.fit(1500, 256, tolerance=1e-4, generator=generator()).chi2 < 1e-3
    chances = torch.softmax((middle.potentials - (quantiles(4000) - POINTS.T).square() / 2) / 0.5, 1).mean(0)
    torch.testing.assert_close(chances, torch.full((3,), 1 / 3), atol=0.01, rtol=0)


def test_pairs_are_kept_as_seeds_and_places() -> None:
    rows = eight(50).reshape(50, 2, 1)
    pairing = Semidiscrete(rows)
    pairing.fit(100, generator=generator())
    pairs = pairing.cache(500, generator())
    assert pairs.keys.dtype == torch.int64 and pairs.index.dtype == torch.int32
    x0, x1, context = pairs(torch.zeros(64, 2, 1), torch.zeros(64, 2, 1), None, generator(1))
    assert x0.shape == (64, 2, 1) and context is None
    assert torch.equal(rows[pairing.partners(x0)], x1)
    assert torch.equal(pairs(x0, x1, None, generator(1))[0], x0)
    assert abs(float(x0.std()) - 1) < 0.3
    with pytest.raises(ValueError, match="standard normal noise and no labels"):
        Semidiscrete(rows, torch.zeros(50)).cache(3)
    with pytest.raises(ValueError, match="have no context"):
        pairs(x0, x1, torch.zeros(64))
    with pytest.raises(ValueError, match="M > 0"):
        SeededPairs(rows, pairs.keys[:0], pairs.index[:0])


def test_a_fit_of_many_rows_begins_with_an_assignment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of some noises to as many rows: every row is then as near as the nearest to one of these noises, and the bound
    on what the transport costs is that of the assignment."""
    monkeypatch.setattr("pyflowk.paths.semidiscrete._SOME", 50)
    rows, labels, begun = eight(100), torch.arange(100) % 2, []
    pairing, noise = Semidiscrete(rows, labels), normal(50, 2, seed=3)
    monkeypatch.setattr(pairing, "_noise", lambda *_: noise)
    for numbers in pairing.labels:
        pairing._begin(numbers, generator())
        costs, g = (noise[:, None] - rows[numbers]).square().sum(2) / 2, pairing.potentials[numbers]
        least = (costs - g).min(1).values
        torch.testing.assert_close((costs - g - least[:, None]).min(0).values, torch.zeros(50), rtol=0, atol=1e-5)
        known = assignment_of_points(noise, rows[numbers]).total / 100
        assert float(least.mean() + g.mean()) == pytest.approx(float(known), abs=1e-5)
    monkeypatch.setattr("pyflowk.paths.semidiscrete._SOME", 49)
    monkeypatch.setattr(Semidiscrete, "_begin", lambda *a: begun.append(len(a[1])))
    with pytest.warns(UserWarning, match=r"shares of noise have a chi2 of .* after 2 steps, not within .* of 0\.001;"):
        pairing.fit(1, 4)
    other = Semidiscrete(rows, labels)
    other.load_state_dict(pairing.state_dict())
    for again in (pairing, other):
        again.fit(1, 4)  # a fit that goes on does not
    assert begun == [50, 50]


def test_an_interrupted_fit_leaves_what_it_has() -> None:
    pairing = Semidiscrete(eight(30))

    def interrupt(done: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pairing.fit(1000, 64, generator=generator(), watch=interrupt)
    assert pairing.potentials.isfinite().all() and pairing.potentials.abs().max() > 0


def test_the_state_is_the_potentials_alone() -> None:
    rows = eight(20)
    one, other = Semidiscrete(rows, source=DiagonalGaussian((2,))), Semidiscrete(rows)
    one.fit(70, 64, generator=generator())
    assert one.state_dict().keys() == {"potentials"}
    other.load_state_dict(one.state_dict())
    x0 = normal(100, 2)
    assert torch.equal(one.partners(x0), other.partners(x0)) and one.fit(1, 1).steps == 1


def test_sizes_and_dtypes() -> None:
    for rows in (torch.zeros(1, 3), torch.zeros(4, 3).double(), torch.zeros(2), normal(5, 2, 2).bfloat16()):
        pairing = Semidiscrete(rows)
        pairing.fit(3, 4, generator=generator())
        noise = torch.zeros(6, *rows.shape[1:], dtype=rows.dtype)
        x0, x1, _ = pairing(noise, noise)
        assert x0 is noise and x1.shape == noise.shape and x1.dtype == rows.dtype
        assert pairing(noise[:0], noise[:0])[1].shape == noise[:0].shape


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="expects rows, and a label for each; got 0 rows"):
        Semidiscrete(torch.zeros(0, 2))
    with pytest.raises(ValueError, match="got 3 rows and a context of 2"):
        Semidiscrete(POINTS, torch.zeros(2))
    with pytest.raises(ValueError, match="rows in memory where eps is above 0"):
        Semidiscrete(OnDemand(POINTS), eps=0.1)
    with pytest.raises(ValueError, match="eps to be a finite number of at least 0"):
        Semidiscrete(POINTS, eps=-1.0)
    for rows, got in ((POINTS.numpy(), r"a numpy array \(3, 1\)"), (POINTS.tolist(), "a list of")):
        with pytest.raises(TypeError, match=f"rows: expected a tensor .*; got {got}"):
            Semidiscrete(rows)
    for spoilt in (math.nan, math.inf):
        with pytest.raises(ValueError, match=r"rows: expected finite numbers, .*; got others in row 1"):
            Semidiscrete(torch.tensor([[0.0], [spoilt], [1.0]]))
    labelled = Semidiscrete(POINTS, torch.arange(3))
    for pairing, label in ((Semidiscrete(POINTS), None), (labelled, torch.tensor([1]))):
        with pytest.raises(RuntimeError, match="expected fit, or load_state_dict, before noise is paired"):
            pairing(torch.zeros(1, 1), torch.zeros(1, 1), label)
    pairing = Semidiscrete(POINTS)
    with pytest.raises(ValueError, match=r"noise of events \(1,\) and no context, got \(2, 2\) and none"):
        pairing(torch.zeros(2, 2), torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"no context, got \(2, 1\) and \(2,\)"):
        pairing(torch.zeros(2, 1), torch.zeros(2, 1), torch.zeros(2))
    for settings in ({"steps": 0}, {"batch": 0}, {"tolerance": -1.0}):
        with pytest.raises(ValueError, match="fit expects"):
            pairing.fit(**settings)  # type: ignore[arg-type]
