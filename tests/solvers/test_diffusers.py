"""Samplers step by step beside the schedulers of diffusers, at the noise levels that those choose."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pyflowk.paths import VP
from pyflowk.solvers import ddim, ddpm, dpmpp_2m
from tests.solvers.gaussian import best

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed: its schedulers are the oracle")

D, PATH = torch.float64, VP()
X = torch.randn(64, 3, dtype=D, generator=torch.Generator().manual_seed(0))
BETAS = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02}
field = best(PATH, "noise")


def theirs(scheduler: Any, grid: Tensor, **chosen: Any) -> Tensor:
    x = X
    for time, step in zip(grid, scheduler.timesteps, strict=False):
        x = scheduler.step(field(time, x), step, x, **chosen).prev_sample
    return x


def grid_of(ratio: Tensor) -> Tensor:
    """The times at which there is so much noise beside the data, and the end."""
    return torch.cat((PATH.time(-2 * ratio.double().log()), torch.ones(1, dtype=D)))


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_and_ddpm(eta: float) -> None:
    scheduler = diffusers.DDIMScheduler(**BETAS, clip_sample=False)
    scheduler.set_timesteps(10)
    share = scheduler.alphas_cumprod.double()[scheduler.timesteps]
    grid = grid_of(((1 - share) / share).sqrt())
    known = theirs(scheduler, grid, eta=eta, generator=torch.Generator().manual_seed(1))
    found = ddim(field, X, PATH, grid, eta=eta, prediction="noise", generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(found, known, rtol=1e-5, atol=1e-5)
    if eta == 1:
        scheduler = diffusers.DDPMScheduler(**BETAS, clip_sample=False)
        scheduler.set_timesteps(10)
        known = theirs(scheduler, grid, generator=torch.Generator().manual_seed(1))
        found = ddpm(field, X, PATH, grid, prediction="noise", generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(found, known, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("karras", [False, True])
def test_dpm_solver(karras: bool) -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **BETAS, algorithm_type="dpmsolver++", solver_order=2, lower_order_final=False, use_karras_sigmas=karras
    )
    scheduler.set_timesteps(10)
    grid = grid_of(scheduler.sigmas[:-1])
    found = dpmpp_2m(field, X, PATH, grid, prediction="noise")
    torch.testing.assert_close(found, theirs(scheduler, grid), rtol=1e-3, atol=3e-4)  # their sigmas are float32
