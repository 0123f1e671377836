"""What holds for every sampler of diffusions: seeds, rows, dtypes, gradients, errors, one step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pyflowk.nets import MLPField, Preconditioned
from pyflowk.paths import VP, CondOT
from pyflowk.solvers import (
    Guided,
    curved_euler,
    ddim,
    diffusion,
    dpmpp_2m,
    edm_heun,
    euler_maruyama,
    overshooting,
    predictor_corrector,
    stochastic,
    uniform_grid,
)
from tests.solvers.gaussian import best, start
from tests.solvers.samplers import ALL, PATHS, PLAIN, D, samplers, seeded


def test_every_exported_sampler_is_here() -> None:
    assert {*diffusion.__all__, *stochastic.__all__} - {"DIFFUSIONS"} <= ALL.keys()


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
    for schedule, got in (("vp", "'vp'"), (CondOT, r"the class CondOT itself: say CondOT\(\)")):
        with pytest.raises(TypeError, match=f"schedule: expected a Schedule, such as .*, got {got}"):
            ALL[name](lambda t, x: x, x, schedule, uniform_grid(2))
    told = Preconditioned(lambda t, x: x, CondOT())
    for telling in (told, Guided(told, 0.0, other=told)):
        with pytest.raises(ValueError, match=r"prediction: expected 'data' of a .* predicts data; got 'velocity'"):
            ALL[name](telling, x, CondOT(), uniform_grid(2))
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
