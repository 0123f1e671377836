r"""Levels of noise between diffusers' schedulers and the grids of this package, and their networks as fields.

A scheduler there holds ratios :math:`\sigma / \alpha`, shares :math:`\sigma / (\alpha + \sigma)` (flow matching) or
steps of training, from noise to data; a grid here holds times of a :class:`~pyflowk.paths.Schedule`. What both have is
the log-SNR, so that any of their grids stands on any of our schedules. diffusers is not imported: a scheduler is asked
for ``sigmas``, ``timesteps``, ``alphas_cumprod`` and ``config``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..ops.describe import described
from ..paths import Schedule
from ..paths.schedules import require_schedule
from ..solvers.grids import check_grid

__all__ = ["denoiser", "grid_of", "set_grid"]

_NEAR = 0.1
"""How far a log-SNR may lie beyond a schedule's: VP() and betas from 0.0001 to 0.02 differ by 0.07 at the noisy end."""
_Network = Callable[[Tensor, Tensor], Tensor]


def grid_of(scheduler: Any, schedule: Schedule) -> Tensor:
    """The times of a schedule at which there is as much noise as at the steps of a scheduler of diffusers: (N + 1,).

    After ``scheduler.set_timesteps(N)``; Heun's doubled levels count once. Of schedulers without ``sigmas``, such as
    DDIM's and DDPM's, the levels are those of their ``timesteps`` and the end is their last step's. float64 on the CPU.

    Raises TypeError for what is no scheduler, ValueError where the schedule lacks such noise, or ends with some that
    theirs does not have: ``Cosine()``, ``CondOT()`` have all there is. Cost: nothing beside a step.

    >>> import pytest
    >>> diffusers = pytest.importorskip("diffusers")
    >>> from pyflowk.paths import CondOT
    >>> scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    >>> scheduler.set_timesteps(sigmas=[1.0, 0.5])
    >>> grid_of(scheduler, CondOT()).tolist()
    [0.0, 0.5, 1.0]
    """
    require_schedule(schedule)
    wanted = torch.unique_consecutive(_levels(scheduler))
    grid = schedule.time(wanted)
    ends = schedule.log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64, device="cpu"))
    if wanted.min() < ends[0] - _NEAR or wanted.max() > ends[1] + _NEAR:
        raise ValueError(
            f"grid_of: expected log-SNRs from {ends[0]:.4g} to {ends[1]:.4g}, which {schedule} has; "
            f"{type(scheduler).__name__} goes from {wanted[0]:.4g} to {wanted[-1]:.4g}"
        )
    return check_grid(grid)


def set_grid(scheduler: Any, grid: Tensor, schedule: Schedule) -> None:
    """A scheduler of diffusers takes the steps of a grid: as ``set_timesteps``, with ``sigmas`` and ``timesteps`` ours.

    For schedulers with one sigma a step: EulerDiscrete, DPMSolverMultistep, FlowMatchEulerDiscrete and their kin. Their
    networks hear steps of training between two of which the level lies, or the nearest where steps are integers.

    Raises TypeError for other schedulers, as DDIM's, whose steps are all of one length (its rule with eta = 0 is
    EulerDiscrete's), and ValueError for a grid that falls or begins with noise alone where sigma is a ratio.

    >>> import pytest
    >>> diffusers = pytest.importorskip("diffusers")
    >>> from pyflowk.paths import CondOT
    >>> from pyflowk.solvers import uniform_grid
    >>> scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    >>> set_grid(scheduler, uniform_grid(2), CondOT())
    >>> scheduler.sigmas.tolist(), scheduler.timesteps.tolist()
    ([1.0, 0.5, 0.0], [1000.0, 500.0])
    """
    require_schedule(schedule)
    times = check_grid(grid).detach().cpu().double()
    if times[0] > times[-1]:
        raise ValueError("set_grid: expected a grid from noise to data, times that rise; got one that falls")
    if not hasattr(scheduler, "sigmas") or _config(scheduler, "invert_sigmas"):
        raise TypeError(f"set_grid: expected a scheduler with sigmas that fall; got {described(scheduler)}")
    log_snr = schedule.log_snr(times)
    if _matches_flows(scheduler):
        sigmas = torch.sigmoid(-log_snr / 2)
        steps = sigmas[:-1] * scheduler.config.num_train_timesteps
    else:
        sigmas, steps = torch.exp(-log_snr / 2), _step_at(_trained(scheduler), log_snr[:-1])
    if not sigmas[0].isfinite():
        raise ValueError(
            f"set_grid: expected a grid that begins with some data, as {type(scheduler).__name__} measures noise in "
            f"its units; got one of noise alone: begin later, as at schedule.time(log_snr)"
        )
    scheduler.set_timesteps(len(sigmas) - 1, **({"mu": 0.0} if _config(scheduler, "use_dynamic_shifting") else {}))
    if len(scheduler.sigmas) != len(sigmas):
        raise TypeError(f"set_grid: expected a scheduler of one sigma a step; got {described(scheduler)}")
    whole = not scheduler.timesteps.is_floating_point()
    scheduler.sigmas = sigmas.to(scheduler.sigmas)
    scheduler.timesteps = (steps.round() if whole else steps).to(scheduler.timesteps)


def denoiser(network: _Network, scheduler: Any, schedule: Schedule) -> Callable[[Tensor, Tensor], Tensor]:
    r"""A network that diffusers' scheduler was made for, as a field of this package: it predicts data, on any schedule.

    ``network(x, step)`` takes x (B, \*event) of variance one, or of :math:`(1 - s) x_1 + s x_0`, and answers by the
    scheduler's ``prediction_type``: "epsilon", "v_prediction", "sample", or for flow matching the noise less the data.
    Its step of training is the one with the log-SNR of the time, between two of them if need be, else the first or
    last. Give the result to a sampler with ``prediction="data"``; t is (), (B,) or (B, 1). Raises ValueError for
    schedulers without known steps of training, or of another prediction. Cost: the network's.

    >>> import pytest, torch
    >>> diffusers = pytest.importorskip("diffusers")
    >>> from pyflowk.paths import CondOT
    >>> from pyflowk.solvers import ddim, uniform_grid
    >>> field = denoiser(lambda x, step: x - 3, diffusers.FlowMatchEulerDiscreteScheduler(), CondOT())
    >>> ddim(field, torch.zeros(1, 2), CondOT(), uniform_grid(8), prediction="data").shape
    torch.Size([1, 2])
    """
    require_schedule(schedule)
    flows = _matches_flows(scheduler)
    kind = "flow_prediction" if flows else _config(scheduler, "prediction_type")
    if kind not in ("flow_prediction", "epsilon", "v_prediction", "sample"):
        raise ValueError(f"denoiser: expected epsilon, v_prediction or sample as prediction_type; got {kind!r}")
    trained = None if flows else _trained(scheduler)

    def field(t: Tensor, x: Tensor) -> Tensor:
        times = t.double().flatten() if t.dim() else t.double()
        alpha, sigma, *_ = schedule.at(times).beside(x)
        size = alpha + sigma if flows else torch.hypot(alpha, sigma)
        a, s = alpha / size, sigma / size
        if trained is None:
            step = scheduler.config.num_train_timesteps * s.reshape(times.shape)
        else:
            step = _step_at(trained.to(times.device), schedule.log_snr(times))
        seen = (x / size).to(x.dtype)
        answer = network(seen, step.to(x.dtype))
        if kind == "flow_prediction":
            answer = seen - s * answer
        elif kind == "epsilon":
            answer = (seen - s * answer) / a
        elif kind == "v_prediction":
            answer = a * seen - s * answer
        return answer.to(x.dtype)

    return field


def _levels(scheduler: Any) -> Tensor:
    """The log-SNR at each step and at the end."""
    if _config(scheduler, "invert_sigmas"):
        raise ValueError("expected a scheduler whose sigmas fall; got invert_sigmas=True")
    if hasattr(scheduler, "sigmas"):
        sigmas = scheduler.sigmas.detach().cpu().double()
        return 2 * (torch.log1p(-sigmas) - sigmas.log()) if _matches_flows(scheduler) else -2 * sigmas.log()
    kept = scheduler.alphas_cumprod.detach().cpu().double()
    end = torch.as_tensor(getattr(scheduler, "final_alpha_cumprod", 1.0)).cpu().double().reshape(1)
    return torch.logit(torch.cat((kept[scheduler.timesteps.cpu()], end)))


def _trained(scheduler: Any) -> Tensor:
    """The log-SNR at each step of training, which falls."""
    if not hasattr(scheduler, "alphas_cumprod") or _config(scheduler, "timestep_type") == "continuous":
        raise ValueError(f"expected a scheduler with steps of training, alphas_cumprod; got {described(scheduler)}")
    return torch.logit(scheduler.alphas_cumprod.detach().cpu().double())


def _step_at(trained: Tensor, log_snr: Tensor) -> Tensor:
    """The step of training with such a log-SNR, between two of them if need be."""
    wanted = log_snr.clamp(trained[-1], trained[0])
    above = torch.searchsorted(-trained, -wanted).clamp(1, len(trained) - 1)
    return above - 1 + (trained[above - 1] - wanted) / (trained[above - 1] - trained[above])


def _matches_flows(scheduler: Any) -> bool:
    """Whether its sigmas are shares of noise."""
    return "FlowMatch" in type(scheduler).__name__ or bool(_config(scheduler, "use_flow_sigmas"))


def _config(scheduler: Any, name: str) -> Any:
    if not hasattr(scheduler, "config") or not hasattr(scheduler, "set_timesteps"):
        raise TypeError(f"expected a scheduler of diffusers; got {described(scheduler)}")
    return getattr(scheduler.config, name, None)
