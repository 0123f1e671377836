"""Grids and networks of diffusers' schedulers: their own steps give what our samplers give."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from pyflowk.compat.diffusers import denoiser, grid_of, set_grid
from pyflowk.paths import EDM, VE, CondOT, Cosine, Schedule
from pyflowk.solvers import ddim, dpmpp_2m, uniform_grid

D = torch.float64
X = torch.randn(16, 3, dtype=D, generator=torch.Generator().manual_seed(0))
PLAIN = {"prediction_type": "sample", "lower_order_final": False}
BETAS = {"num_train_timesteps": 1000, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
CASES: dict[str, tuple[str, dict[str, Any], Schedule]] = {
    "ddim": ("DDIMScheduler", {**BETAS, "clip_sample": False, "timestep_spacing": "trailing"}, Cosine()),
    "euler": ("EulerDiscreteScheduler", {**BETAS, "use_karras_sigmas": True}, EDM()),
    "euler-v": ("EulerDiscreteScheduler", {**BETAS, "prediction_type": "v_prediction"}, CondOT()),
    "dpm": ("DPMSolverMultistepScheduler", {**BETAS, **PLAIN}, Cosine()),
    "flow": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, CondOT()),
    "flow-vp": ("FlowMatchEulerDiscreteScheduler", {}, Cosine()),
}


def network(x: Tensor, step: Tensor) -> Tensor:
    return torch.tanh(x) - 0.5 + step / 3000


def agree(scheduler: Any, grid: Tensor, schedule: Schedule) -> None:
    """From the same noise, the scheduler's steps lead where our sampler does on the grid."""
    kind = type(scheduler).__name__
    alpha, sigma, *_ = schedule.at(grid[0])
    known, size = X, alpha + sigma if "FlowMatch" in kind else torch.hypot(alpha, sigma)
    if kind.startswith("Euler"):  # there x is data and sigma times noise
        known = scheduler.init_noise_sigma * X
        size = size / torch.hypot(scheduler.sigmas[0].double(), torch.ones(())) * scheduler.init_noise_sigma
    start = size * X
    for step in scheduler.timesteps:
        seen = scheduler.scale_model_input(known, step) if kind.startswith("Euler") else known
        known = scheduler.step(network(seen, step), step, known).prev_sample.double()
    sampler = dpmpp_2m if "DPM" in kind else ddim
    found = sampler(denoiser(network, scheduler, schedule), start, schedule, grid, prediction="data")
    torch.testing.assert_close(found, known, rtol=1e-3, atol=1e-3)  # their sigmas are float32


@pytest.mark.parametrize("name", CASES)
def test_their_steps(name: str) -> None:
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed: its schedulers are the oracle")
    kind, options, schedule = CASES[name]
    scheduler = getattr(diffusers, kind)(**options)
    scheduler.set_timesteps(10)
    grid = grid_of(scheduler, schedule)
    assert grid.shape == (11,) and grid[-1] == 1
    agree(scheduler, grid, schedule)
    if kind == "DDIMScheduler":
        with pytest.raises(TypeError, match="expected a scheduler with sigmas that fall; got a DDIMScheduler"):
            set_grid(scheduler, grid, schedule)
        return
    mine = torch.cat((schedule.time(torch.linspace(-5, 8, 14, dtype=D)), torch.ones(1, dtype=D)))
    set_grid(scheduler, mine, schedule)
    torch.testing.assert_close(grid_of(scheduler, schedule), mine, rtol=1e-5, atol=1e-5)
    agree(scheduler, mine, schedule)


class Scheduler:
    """A scheduler as far as it is asked, of noise sigma beside data of variance one."""

    def __init__(self, **config: Any) -> None:
        self.config = SimpleNamespace(num_train_timesteps=100, prediction_type="epsilon", **config)
        self.alphas_cumprod = torch.linspace(0.99, 0.01, 100)
        self.set_timesteps(4)

    def set_timesteps(self, steps: int) -> None:
        self.sigmas, self.timesteps = torch.linspace(8, 0, steps + 1), torch.arange(steps)


def test_without_diffusers() -> None:
    """A grid goes there and back; the best network of Gaussian data leaves its deviation; what is wrong is told."""
    scheduler, schedule = Scheduler(), EDM()
    start = schedule.time(torch.tensor([-4.0], dtype=D))
    grid = torch.cat((start, 1 - (1 - start) * torch.arange(199, -1, -1) / 200))
    set_grid(scheduler, grid, schedule)
    assert scheduler.timesteps.dtype == torch.int64 and scheduler.timesteps[-1] == 0
    torch.testing.assert_close(grid_of(scheduler, schedule), grid, rtol=1e-5, atol=1e-5)

    def best(x: Tensor, step: Tensor) -> Tensor:
        """The noise in data of deviation 2, at variance a^2 + s^2 = 1."""
        kept = 0.99 - (step[:, None] if step.dim() else step) * 0.98 / 99
        return (1 - kept).sqrt() * x / (4 * kept + 1 - kept)

    field = denoiser(best, scheduler, schedule)
    sigma = schedule.at(grid[0]).sigma
    for times in (torch.tensor(0.5), torch.full((16,), 0.5), torch.full((16, 1), 0.5)):
        noise = schedule.at(torch.tensor(0.5, dtype=D)).sigma
        torch.testing.assert_close(field(times, X), 4 / (4 + noise**2) * X, rtol=1e-2, atol=1e-6)
    drawn = dpmpp_2m(field, (4 + sigma**2).sqrt() * X, schedule, grid, prediction="data")
    torch.testing.assert_close(drawn, 2 * X, rtol=1e-2, atol=1e-6)

    for call, error, words in [
        (lambda: grid_of(X, schedule), TypeError, "expected a scheduler of diffusers; got a tensor"),
        (lambda: grid_of(scheduler, "edm"), TypeError, "schedule: expected a Schedule"),
        (lambda: grid_of(scheduler, VE()), ValueError, "expected log-SNRs from .* Scheduler goes from -4 to inf"),
        (lambda: grid_of(Scheduler(invert_sigmas=True), schedule), ValueError, "invert_sigmas"),
        (lambda: set_grid(scheduler, uniform_grid(4).flip(0), schedule), ValueError, "times that rise"),
        (lambda: set_grid(scheduler, uniform_grid(4), CondOT()), ValueError, "begins with some data"),
        (lambda: denoiser(best, Scheduler(timestep_type="continuous"), schedule), ValueError, "steps of training"),
    ]:
        with pytest.raises(error, match=words):
            call()
