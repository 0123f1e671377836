"""Samplers of diffusions on Gaussian data: every step is a line that is known, so are their moments and orders."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from pyflowk.nets import MLPField
from pyflowk.paths import EDM, VE, VP, CondOT, Cosine, LinearVP, Schedule, SubVP
from pyflowk.solvers import (
    DIFFUSIONS,
    Fixed,
    curved_euler,
    ddim,
    ddpm,
    diffusion,
    dpmpp_2m,
    edm_heun,
    euler_maruyama,
    karras_grid,
    odeint,
    overshooting,
    power_grid,
    predictor_corrector,
    stochastic,
    stochastic_heun,
    uniform_grid,
)
from tests.solvers.gaussian import Line, M, S, best, probed, start

D = torch.float64
PATHS: list[Schedule] = [CondOT(), Cosine(), LinearVP(), VP(), SubVP(), VE(), VE(clean=True), EDM()]
schedules = pytest.mark.parametrize("schedule", PATHS, ids=str)
#: every sampler as users call it
ALL: dict[str, Callable[..., Tensor]] = {
    "ddim": ddim, "ddim-noisy": lambda *a, **k: ddim(*a, eta=0.5, **k), "ddpm": ddpm,
    "curved_euler": lambda *a, **k: curved_euler(*a, refresh=0.3, **k), "overshooting": overshooting,
    "dpmpp_2m": dpmpp_2m,
    "edm_heun": lambda *a, **k: edm_heun(*a, churn=2.0, **k), "euler_maruyama": euler_maruyama,
    "stochastic_heun": stochastic_heun,
    "predictor_corrector": lambda *a, **k: predictor_corrector(*a, norms="expected", **k),
}  # fmt: skip
samplers = pytest.mark.parametrize("name", ALL)
PLAIN = {"dpmpp_2m", "ddim"}


def test_every_exported_sampler_is_here() -> None:
    assert {*diffusion.__all__, *stochastic.__all__} - {"DIFFUSIONS"} <= ALL.keys()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- the steps, from the formulas of the papers ----------------------------------------------------------------------


class Says:
    """What is known at a time: shares of data and noise as lines (slope, offset) of x."""

    def __init__(self, schedule: Schedule, t: Tensor) -> None:
        self.t, self.c = t, schedule.at(t)
        self.alpha, self.sigma = self.c.alpha, self.c.sigma
        variance = (self.alpha * S) ** 2 + self.sigma**2
        self.data = self.line(M, self.alpha * S**2 / variance)
        self.noise = self.line(0.0, self.sigma / variance)
        slope = (self.alpha * self.c.alpha_rate * S**2 + self.sigma * self.c.sigma_rate) / variance
        self.velocity = self.line(self.c.alpha_rate * M, slope)
        self.score = self.line(0.0, -1 / variance)

    def line(self, offset: Tensor | float, slope: Tensor) -> Tensor:
        """offset + slope (x - alpha m)."""
        return torch.stack((slope, offset - slope * self.alpha * M))


def step_of_ddim(a: Says, b: Says, eta: float) -> Line:
    fresh = eta**2 * b.sigma**2 * (1 - (a.alpha * b.sigma / (b.alpha * a.sigma)) ** 2)
    slope, offset = b.alpha * a.data + (b.sigma**2 - fresh).sqrt() * a.noise
    return Line(slope, offset, fresh.sqrt()[None])


def composed(schedule: Schedule, grid: Tensor, step: Callable[[Says, Says], Line]) -> Line:
    points = [Says(schedule, t) for t in grid]
    lines = [step(a, b) for a, b in pairwise(points)]
    whole = lines[0]
    for line in lines[1:]:
        whole = line.after(whole)
    return whole


def check(found: Line, known: Line, schedule: Schedule, grid: Tensor) -> None:
    torch.testing.assert_close((found.slope, found.offset), (known.slope, known.offset), rtol=1e-8, atol=1e-8)
    both = [line.moments(*start(schedule, grid[0])) for line in (found, known)]
    torch.testing.assert_close(*both, rtol=1e-8, atol=1e-8)


@schedules
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("prediction", ["data", "velocity"])
def test_ddim(monkeypatch: pytest.MonkeyPatch, schedule: Schedule, eta: float, prediction: str) -> None:
    for grid in (uniform_grid(1), power_grid(7), torch.tensor([0.2, 0.5, 0.9], dtype=D)):
        found = probed(monkeypatch, ddim, schedule, grid, prediction, eta=eta)
        check(found, composed(schedule, grid, lambda a, b: step_of_ddim(a, b, eta)), schedule, grid)
        assert len(found.noise) == (len(grid) - 1 if eta else 0)
        if eta == 1:
            check(probed(monkeypatch, ddpm, schedule, grid, prediction), found, schedule, grid)


@schedules
def test_noise_that_is_drawn_again(monkeypatch: pytest.MonkeyPatch, schedule: Schedule) -> None:
    def refreshed(a: Says, b: Says) -> Line:
        slope, offset = b.alpha * a.data + b.sigma * 0.7**0.5 * a.noise
        return Line(slope, offset, (0.3**0.5 * b.sigma)[None])

    def overshot(a: Says, b: Says) -> Line:
        far = Says(schedule, (b.t + 1.5 * (b.t - a.t) * (1 - b.t)).clamp(max=1))
        back = b.alpha / far.alpha
        slope, offset = back * (far.alpha * a.data + far.sigma * a.noise)
        return Line(slope, offset, (b.sigma**2 - (back * far.sigma) ** 2).clamp(min=0).sqrt()[None])

    grid = uniform_grid(6)
    found = probed(monkeypatch, curved_euler, schedule, grid, "data", refresh=0.3)
    check(found, composed(schedule, grid, refreshed), schedule, grid)
    found = probed(monkeypatch, overshooting, schedule, grid, "data", overshoot=1.5)
    check(found, composed(schedule, grid, overshot), schedule, grid)
    plain = probed(monkeypatch, ddim, schedule, grid, "data")
    check(probed(monkeypatch, curved_euler, schedule, grid, "data"), plain, schedule, grid)
    check(probed(monkeypatch, overshooting, schedule, grid, "data", overshoot=0.0), plain, schedule, grid)


HALF_SQUARES: dict[str, Callable[[Says], Tensor]] = {
    "sde": lambda a: a.sigma * (a.c.alpha_rate * a.sigma / a.alpha - a.c.sigma_rate),
    "sigma": lambda a: a.sigma,
    "constant": lambda a: torch.ones_like(a.t),
    "linear": lambda a: 1 - a.t,
    "decreasing": lambda a: (torch.cos(torch.pi * a.t) + 1) ** 2 / 4,
    "increasing_decreasing": lambda a: torch.sin(torch.pi * a.t) ** 2,
}


@schedules
@pytest.mark.parametrize("diffusion", DIFFUSIONS)
def test_euler_maruyama_and_heun(monkeypatch: pytest.MonkeyPatch, schedule: Schedule, diffusion: str) -> None:
    """Mean and variance of both equal those of the recursion, not those of the data."""
    first = 0.1 if diffusion == "sde" and schedule.at(torch.zeros(())).alpha == 0 else 0.0
    grid, still = uniform_grid(5, first), torch.tensor([1.0, 0.0], dtype=D)

    def w(a: Says) -> Tensor:
        return 0.6 * HALF_SQUARES[diffusion](a)

    def drift(a: Says) -> Tensor:
        return a.velocity + w(a) * a.score

    def euler(a: Says, b: Says) -> Line:
        last, h = b.t == 1, b.t - a.t
        slope, offset = still + h * drift(a)
        return Line(slope, offset, (torch.zeros(1, dtype=D) if last else (2 * w(a) * h).sqrt()[None]))

    def heun(a: Says, b: Says) -> Line:
        if b.t == 1:
            return euler(a, b)
        h, (p, q), (r, s) = b.t - a.t, drift(a), drift(b)
        before, after = ((2 * w(end) * h).sqrt() for end in (a, b))
        slope, offset = 1 + h / 2 * (p + r * (1 + h * p)), h / 2 * (q + r * h * q + s)
        return Line(slope, offset, (h / 2 * r * before + (before + after) / 2)[None])

    chosen = {"diffusion": diffusion, "scale": 0.6}
    for sampler, step in ((euler_maruyama, euler), (stochastic_heun, heun)):
        found = probed(monkeypatch, sampler, schedule, grid, "data", **chosen)
        check(found, composed(schedule, grid, step), schedule, grid)


@pytest.mark.parametrize("sampler", [euler_maruyama, stochastic_heun])
@pytest.mark.parametrize("schedule", [CondOT(), VP()], ids=str)
def test_the_last_step(monkeypatch: pytest.MonkeyPatch, schedule: Schedule, sampler: Callable[..., Tensor]) -> None:
    grid = uniform_grid(4)
    before = Says(schedule, grid[3])
    h, until = grid[4] - grid[3], probed(monkeypatch, sampler, schedule, grid[:4], "data", last="noise")
    still = torch.tensor([1.0, 0.0], dtype=D)
    mean = still + h * (before.velocity + before.sigma * before.score)
    ends = {
        "mean": (mean, 0.0), "noise": (mean, (2 * before.sigma * h).sqrt().item()), "denoise": (before.data, 0.0),
        "euler": (still + h * before.velocity, 0.0),
    }  # fmt: skip
    for last, ((slope, offset), fresh) in ends.items():
        if sampler is euler_maruyama:
            known = Line(slope, offset, torch.tensor([fresh], dtype=D)).after(until)
            check(probed(monkeypatch, sampler, schedule, grid, "data", last=last), known, schedule, grid)
        else:  # its step before looks at this one's beginning
            whole = probed(monkeypatch, sampler, schedule, grid, "data", last=last)
            assert torch.allclose(whole.noise[-1:], torch.tensor([fresh], dtype=D))


def test_the_posterior_of_ddpm() -> None:
    """Its mean in both of its forms, and its variance, at the steps of a chain of betas."""
    schedule, grid = VP(), uniform_grid(10)[[2, 3]]
    alpha, sigma, *_ = schedule.at(grid)
    before, after = alpha.square()
    beta = 1 - before / after
    x = torch.tensor([[0.4], [-1.0]], dtype=D)
    noise, data = (best(schedule, q)(grid[0], x) for q in ("noise", "data"))
    mean = after.sqrt() * beta / (1 - before) * data + (1 - beta).sqrt() * (1 - after) / (1 - before) * x
    torch.testing.assert_close(mean, (x - beta / sigma[0] * noise) / (1 - beta).sqrt(), rtol=1e-12, atol=0)
    drawn = torch.randn(2, 1, dtype=D, generator=seeded())
    known = mean + (beta * (1 - after) / (1 - before)).sqrt() * drawn
    for prediction in ("noise", "score"):
        found = ddpm(best(schedule, prediction), x, schedule, grid, prediction=prediction, generator=seeded())
        torch.testing.assert_close(found, known, rtol=1e-10, atol=0)


@pytest.mark.parametrize("churn", [0.0, 4.0, 100.0])
def test_the_sampler_of_edm_is_its_algorithm(monkeypatch: pytest.MonkeyPatch, churn: float) -> None:
    """In terms of sigma, as the paper writes it; on straight lines too, where x is scaled."""
    sigmas = EDM().at(karras_grid(6, EDM())).sigma

    def denoised(sigma: Tensor) -> tuple[Tensor, Tensor]:
        kept = S**2 / (S**2 + sigma**2)
        return kept, (1 - kept) * M

    def step(i: int) -> Line:
        sigma, following = sigmas[i], sigmas[i + 1]
        more = min(churn / 6, 2**0.5 - 1) if 0.05 <= sigma <= 70 else 0.0
        high = sigma * (1 + more)
        fresh = 1.003 * (high**2 - sigma**2).sqrt()
        kept, gained = denoised(high)
        p, q = (1 - kept) / high, -gained / high
        slope, offset = 1 + (following - high) * p, (following - high) * q
        if following > 0:
            kept, gained = denoised(following)
            p2, q2 = (1 - kept) / following, -gained / following
            slope, offset = (
                1 + (following - high) / 2 * (p + p2 * slope),
                (following - high) / 2 * (q + q2 + p2 * offset),
            )
        return Line(slope, offset, (slope * fresh)[None])

    known = step(0)
    for i in range(1, 6):
        known = step(i).after(known)
    chosen = {"churn": churn, "churn_noise": 1.003, "churn_min": 0.05, "churn_max": 70.0}
    found = probed(monkeypatch, edm_heun, EDM(), karras_grid(6, EDM()), "data", **chosen)
    check(found, known, EDM(), torch.zeros(1, dtype=D))
    straight = CondOT().time(-2 * sigmas.log())
    found = probed(monkeypatch, edm_heun, CondOT(), straight, "velocity", **chosen)
    scaled = Line(found.slope / 81, found.offset, found.noise)  # which starts at x / (1 + 80)
    check(scaled, known, EDM(), torch.zeros(1, dtype=D))


def test_churn_goes_not_past_the_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    for schedule in (EDM(), VE(), VP(), CondOT()):
        grid = uniform_grid(8)
        line = probed(monkeypatch, edm_heun, schedule, grid, "data", churn=100.0)
        assert line.noise[0] == 0 and (line.noise[1:-1].abs() > 0).all()


@schedules
def test_corrected_steps(monkeypatch: pytest.MonkeyPatch, schedule: Schedule) -> None:
    def step(a: Says, b: Says) -> Line:
        size = 2 * (0.2 * a.alpha / b.alpha * a.sigma) ** 2
        slope, offset = torch.tensor([1.0, 0.0], dtype=D) + size * a.score
        return step_of_ddim(a, b, 1.0).after(Line(slope, offset, (2 * size).sqrt()[None]))

    grid, chosen = uniform_grid(6), {"norms": "expected", "snr": 0.2}
    found = probed(monkeypatch, predictor_corrector, schedule, grid, "data", **chosen)
    check(found, composed(schedule, grid, step), schedule, grid)


@pytest.mark.parametrize("norms", ["rows", "batch", "expected"])
def test_the_corrector(norms: str) -> None:
    schedule, grid = VP(), torch.tensor([0.5, 0.6], dtype=D)
    a, b = (Says(schedule, t) for t in grid)
    x, noise = torch.tensor([[0.4], [-1.0]], dtype=D), torch.randn(3, 2, 1, dtype=D, generator=seeded())
    known = x
    for drawn in noise[:2]:
        score = a.score[0] * known + a.score[1]
        ratio = {"rows": drawn.abs() / score.abs(), "batch": drawn.abs().mean() / score.abs().mean(),
                 "expected": a.sigma}[norms]  # fmt: skip
        step = 2 * (a.alpha / b.alpha) ** 2 * (0.3 * torch.minimum(torch.as_tensor(ratio), 10 * a.sigma)) ** 2
        known = known + step * score + (2 * step).sqrt() * drawn
    line = step_of_ddim(a, b, 1.0)
    known = line.slope * known + line.offset + line.noise * noise[2]
    found = predictor_corrector(
        best(schedule, "velocity"), x, schedule, grid, corrections=2, snr=0.3, norms=norms, generator=seeded()
    )
    torch.testing.assert_close(found, known, rtol=1e-9, atol=0)
    still = predictor_corrector(lambda t, x: 0 * x, 0 * x, EDM(), uniform_grid(50), prediction="data", norms=norms)
    assert still.isfinite().all()  # where the score is 0
    if norms == "batch":
        return
    wide = x.expand(2, 5) * torch.linspace(0.5, 2, 5, dtype=D)  # norms are those of rows, not of the batch
    field = lambda t, x: -x  # noqa: E731
    both, first = (
        predictor_corrector(
            field,
            rows,
            schedule,
            grid,
            prediction="score",
            norms=norms,
            generator=[seeded(i) for i in range(len(rows))],
        )
        for rows in (wide, wide[:1])
    )
    torch.testing.assert_close(both[:1], first)


# ---- what many samples, or many steps, come to -----------------------------------------------------------------------


@samplers
@pytest.mark.parametrize("schedule", [VP(), CondOT(), EDM()], ids=str)
def test_moments_of_many_samples(monkeypatch: pytest.MonkeyPatch, name: str, schedule: Schedule) -> None:
    """Those of the line that the sampler is."""
    n, grid = 40_000, uniform_grid(12)
    mean, variance = start(schedule, grid[0])
    x = mean + variance.sqrt() * torch.randn(n, 1, dtype=D, generator=seeded(1))
    y = ALL[name](best(schedule, "data"), x, schedule, grid, prediction="data", generator=seeded(2))
    known = probed(monkeypatch, ALL[name], schedule, grid, "data").moments(mean, variance)
    assert y.mean().item() == pytest.approx(known[0].item(), abs=4 * (known[1].item() / n) ** 0.5)
    assert y.var().item() == pytest.approx(known[1].item(), rel=4 * (2 / n) ** 0.5)


ORDERS: list[tuple[str, dict[str, Any], float]] = [
    ("ddim", {}, 1), ("ddpm", {}, 1), ("dpmpp_2m", {}, 2), ("edm_heun", {"churn": 0.0}, 2),
    ("euler_maruyama", {"diffusion": "linear", "last": "noise"}, 1),
    ("stochastic_heun", {"diffusion": "linear", "last": "noise"}, 2),
]  # fmt: skip
PLAINLY: dict[str, Callable[..., Tensor]] = {**ALL, "edm_heun": edm_heun}


@pytest.mark.parametrize("name, chosen, order", ORDERS, ids=lambda value: value if isinstance(value, str) else "")
@pytest.mark.parametrize("schedule", [CondOT(), Cosine()], ids=str)
def test_orders(
    monkeypatch: pytest.MonkeyPatch, name: str, chosen: dict[str, Any], order: float, schedule: Schedule
) -> None:
    """Mean and variance after N steps against those of the path, at inner times."""
    errors = []
    for steps in (40, 80, 160):
        grid = uniform_grid(steps, 0.3, 0.9)
        line = probed(monkeypatch, PLAINLY[name], schedule, grid, "velocity", **chosen)
        found, known = line.moments(*start(schedule, grid[0])), start(schedule, grid[-1])
        errors.append([abs((a - b).item()) for a, b in zip(found, known)])
    for coarse, fine in pairwise(errors):
        rates = [torch.tensor(a / b).log2().item() for a, b in zip(coarse, fine) if a > 1e-12]
        assert min(rates) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize(
    "name, schedule",
    [
        (n, p)
        for n in ALL
        for p in PATHS
        if n != "curved_euler" and not (n in ("euler_maruyama", "stochastic_heun") and isinstance(p, (VE, EDM)))
    ],
    ids=str,
)  # one share drawn anew at every step is wrong the more steps there are; equations of noise of 50 need far more
def test_many_steps_reach_the_data(monkeypatch: pytest.MonkeyPatch, name: str, schedule: Schedule) -> None:
    grid = karras_grid(100, schedule)
    if name in ("euler_maruyama", "stochastic_heun"):
        grid = uniform_grid(100)
    mean, variance = probed(monkeypatch, ALL[name], schedule, grid, "data").moments(*start(schedule, grid[0]))
    assert mean.item() == pytest.approx(M, abs=0.02)
    assert variance.item() == pytest.approx(S**2 + (1e-4 if schedule == VE() else 0), rel=0.12)


def test_on_straight_lines_ddim_is_eulers_method_and_it_leads_back() -> None:
    field, x = best(CondOT(), "velocity"), torch.tensor([[0.4], [-1.0]], dtype=D)
    known = odeint(field, x, [0.0, 1.0], method="euler", stepping=Fixed(7))[-1]
    torch.testing.assert_close(ddim(field, x, CondOT(), uniform_grid(7)), known)
    there = ddim(field, x, CondOT(), uniform_grid(400))
    torch.testing.assert_close(ddim(field, there, CondOT(), uniform_grid(400, 1, 0)), x, rtol=0, atol=1e-2)


# ---- what holds for all ----------------------------------------------------------------------------------------------


def fields() -> MLPField:
    field = MLPField(3, 8, 1, context_dim=1)
    for p in field.parameters():
        torch.nn.init.normal_(p, std=0.3, generator=seeded(p.numel()))
    return field


@samplers
def test_seeds_rows_dtypes_and_contexts(name: str) -> None:
    field, x, c = fields(), torch.randn(4, 3, generator=seeded()), torch.randn(4, 1, generator=seeded(1))

    def sample(rows: slice = slice(None), **chosen: Any) -> Tensor:
        chosen = {"generator": seeded(5), "context": c[rows], **chosen}
        return ALL[name](field, x[rows], CondOT(), uniform_grid(3), **chosen)

    found = sample()
    assert found.shape == x.shape and torch.equal(found, sample())
    assert not torch.allclose(found, sample(context=c + 1))
    assert torch.equal(found, sample(generator=seeded(6))) == (name in PLAIN)
    own = sample(generator=[seeded(i) for i in range(4)])
    torch.testing.assert_close(sample(slice(2, 3), generator=[seeded(2)]), own[2:3])
    assert sample(slice(0, 0)).shape == (0, 3)
    half = ALL[name](field, x.bfloat16(), CondOT(), uniform_grid(3), context=c, generator=seeded(5))
    assert half.dtype == torch.float32
    bad = x.clone()
    bad[1] = float("nan")
    y = ALL[name](field, bad, CondOT(), uniform_grid(3), context=c, generator=seeded(5))
    assert y.isnan().any(1).tolist() == [False, True, False, False]
    turned = x.repeat(2, 1)[::2]
    straight = ALL[name](field, turned.clone(), CondOT(), uniform_grid(3), context=c, generator=seeded(5))
    torch.testing.assert_close(
        ALL[name](field, turned, CondOT(), uniform_grid(3), context=c, generator=seeded(5)), straight
    )
    if name not in PLAIN:
        with pytest.raises(ValueError, match="expected one for each of 4 rows; got 1"):
            sample(generator=[seeded()])
    with pytest.raises(TypeError, match=r"generator: expected a torch\.Generator, or one a row; got an? int"):
        sample(generator=3)


@samplers
def test_one_step_is_finite_and_all_predictions_agree(name: str) -> None:
    for schedule in PATHS:
        x = start(schedule, torch.zeros((), dtype=D))[1].sqrt() * torch.ones(2, 1, dtype=D)
        for grid in (uniform_grid(1), uniform_grid(3)):
            chosen = {"generator": seeded()}
            known = ALL[name](best(schedule, "data"), x, schedule, grid, prediction="data", **chosen)
            assert known.isfinite().all()
            for prediction in ("velocity", "noise", "score"):
                if prediction != "velocity" and schedule.at(torch.zeros(())).alpha == 0:
                    continue
                chosen = {"generator": seeded()}
                found = ALL[name](best(schedule, prediction), x, schedule, grid, prediction=prediction, **chosen)
                torch.testing.assert_close(found, known, rtol=1e-6, atol=1e-6)


@samplers
def test_gradients_pass_through(name: str) -> None:
    field = fields().double()
    x, c = torch.randn(2, 3, dtype=D, generator=seeded()).requires_grad_(), torch.ones(1, 1, dtype=D)

    def sample(x: Tensor) -> Tensor:
        return ALL[name](field, x, VP(), uniform_grid(2), context=c, generator=seeded())

    assert torch.autograd.gradcheck(sample, (x,))
    torch.testing.assert_close(
        torch.func.jvp(sample, (x,), (torch.ones_like(x),))[1],
        torch.autograd.functional.jvp(sample, (x,), (torch.ones_like(x),))[1],
    )


@samplers
def test_no_step_reads_a_number_back(name: str) -> None:
    """Tensors without values have nothing to be read: what a CUDA graph can hold."""
    with FakeTensorMode():
        field = MLPField(3, 8, 1)
        grid = torch.linspace(0, 1, 5, dtype=D)
        assert ALL[name](field, torch.randn(4, 3), VP(), grid).shape == (4, 3)


@pytest.mark.parametrize("name", ["ddim", "edm_heun"])
def test_compiled_as_one_graph(name: str) -> None:
    field, x = MLPField(3, 8, 1), torch.randn(4, 3, generator=seeded())

    def sample(x: Tensor) -> Tensor:
        torch.manual_seed(0)
        return ALL[name](field, x, VP(), uniform_grid(3))

    with torch.no_grad():
        known = sample(x)
        torch._dynamo.reset()
        inside = torch.compile(lambda x: ALL[name](field, x, VP(), uniform_grid(3)), backend="eager", fullgraph=True)
        torch.manual_seed(0)
        torch.testing.assert_close(inside(x), known)


@samplers
def test_what_does_not_fit(name: str) -> None:
    x, field = torch.zeros(2, 3), lambda t, x: x

    def sample(grid: Any = None, x: Any = x, **chosen: Any) -> Tensor:
        return ALL[name](field, x, CondOT(), uniform_grid(2) if grid is None else grid, **chosen)

    with pytest.raises(ValueError, match=r"grid: expected times that rise, or that fall, got 0, 0\.5, 0\.5, 1"):
        sample(torch.tensor([0.0, 0.5, 0.5, 1.0]))
    with pytest.raises(ValueError, match=r"grid: expected times from 0 \(noise\) to 1 \(data\), got 0, 1\.5"):
        sample(torch.tensor([0.0, 1.5]))
    with pytest.raises(ValueError, match=r"grid: expected the N \+ 1 times"):
        sample(torch.tensor([0.0]))
    with pytest.raises(TypeError, match="grid: expected a floating-point tensor of times"):
        sample([0.0, 1.0])
    with pytest.raises(TypeError, match=r"x: expected a floating-point tensor \(B, \*event\)"):
        sample(x=torch.zeros(2, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="prediction: expected one of velocity"):
        sample(prediction="speed")
    with pytest.raises(ValueError, match="prediction: noise says nothing of the data"):
        sample(prediction="noise")
    with pytest.raises(ValueError, match=r"field: expected the state's shape \(2, 3\); got \(2, 1\)"):
        ALL[name](lambda t, x: x[:, :1], x, CondOT(), uniform_grid(2))
    if name not in PLAIN:
        with pytest.raises(ValueError, match="grid: expected times that rise, from noise to data, for"):
            sample(uniform_grid(2, 1, 0))


def test_a_way_back_begins_where_noise_can_be_told() -> None:
    x, back = torch.ones(2, 3), uniform_grid(4, 1.0, 0.0)
    for prediction in ("data", "score"):
        with pytest.raises(ValueError, match=f"prediction: {prediction} says nothing of the noise at a time without"):
            ddim(lambda t, x: x, x, CondOT(), back, prediction=prediction)
    with pytest.raises(
        ValueError, match="grid: expected noise at its first time for dpmpp_2m, got none at 1; see ddim"
    ):
        dpmpp_2m(lambda t, x: x, x, CondOT(), back)
    for sampler in (ddim, dpmpp_2m):  # constant data: straight back along x = 0.9 * 2 + 0.1 * noise
        found = sampler(lambda t, x: 0 * x + 2, 1.8 + 0.1 * x, CondOT(), uniform_grid(4, 0.9, 0.0), prediction="data")
        torch.testing.assert_close(found, x)


def test_settings_that_there_are_not() -> None:
    x, grid = torch.zeros(2, 3), uniform_grid(2)
    for call, message in (
        (lambda f: ddim(f, x, CondOT(), grid, eta=1.5), "ddim expects eta from 0 to 1, got 1.5"),
        (lambda f: curved_euler(f, x, CondOT(), grid, refresh=2), "curved_euler expects refresh from 0 to 1, got 2"),
        (lambda f: overshooting(f, x, CondOT(), grid, overshoot=-1), "overshooting expects overshoot to be a finite"),
        (lambda f: edm_heun(f, x, CondOT(), grid, churn=-1), "edm_heun expects churn to be a finite"),
        (lambda f: predictor_corrector(f, x, CondOT(), grid, corrections=-1), "corrections to be an integer of at"),
        (lambda f: euler_maruyama(f, x, CondOT(), grid, diffusion="none"), "diffusion: expected one of sde, sigma"),
        (lambda f: euler_maruyama(f, x, CondOT(), grid, diffusion="sde"), "diffusion: expected finite numbers"),
        (lambda f: euler_maruyama(f, x, CondOT(), grid, last="none"), "last: expected one of mean, denoise, euler"),
    ):
        with pytest.raises(ValueError, match=message):
            call(lambda t, x: x)
    own = euler_maruyama(lambda t, x: x, x + 1, CondOT(), grid, diffusion=lambda t: 0 * t)
    torch.testing.assert_close(own, ddim(lambda t, x: x, x + 1, CondOT(), grid))
