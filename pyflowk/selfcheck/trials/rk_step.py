"""How `rk_combine`, `rk_error` and `rk_control` is tried."""

from __future__ import annotations

import math
from typing import Any

import torch

from ...ops.rk_control import Status
from ...ops.rk_step import MOST_SLOPES
from ..trial import Large, Trial, noise

__all__ = ["TRIALS"]


_WEIGHTS = (0.3, -0.7, 1.1, 0.05, -0.4, 0.9, -1.3, 0.6, 0.2)


def _trial(states: int, *tolerances: float) -> Trial:
    """Make the trial of an op that takes that many states before its steps and slopes."""

    def inputs(config: tuple[Any, ...], rows: int, size: int = 64) -> tuple[Any, ...]:
        tensors = noise(states + len(config[0]), rows, size).unbind(0)
        return *tensors[:states], noise(rows).abs(), [*tensors[states:]]

    counts = range(MOST_SLOPES, 0, -1)
    large = (_WEIGHTS[:6], *tolerances)
    return Trial(
        [(_WEIGHTS[:n], *tolerances) for n in counts],
        inputs,
        (torch.float32, torch.float64),
        lambda config: 4.0,
        large=Large(large, lambda rows: inputs(large, rows, 12288), 17),
    )


#: rtol, atol, safety, shrink, grow, three exponents, smallest and largest step, most steps
_CONTROLLER = (0.3, 0.2, 0.9, 0.5, 5.0, -0.14, 0.08, -0.02, 1e-3, 2.0, 9.0)
#: steps whose error is far from where they would be judged otherwise: error, length, lengths to the end, status, tried
_STEPS = (
    (0.2, 0.5, 3, Status.RUNNING, 0),
    (0.0, -0.5, 3, Status.RUNNING, 1),
    (9.0, 0.5, 3, Status.RUNNING, 2),
    (400.0, -0.5, 3, Status.RUNNING, 3),
    (float("nan"), 0.5, 3, Status.RUNNING, 4),
    (0.2, -0.5, 1, Status.RUNNING, 5),  # reaches the end
    (0.2, 0.0, 3, Status.EVENT, 6),
    (9.0, 0.5, 3, Status.RUNNING, 8),  # the last that may be tried
    (9.0, 1e-3, 3, Status.RUNNING, 1),  # as short as steps may be
)


def _control_inputs(config: tuple[Any, ...], rows: int, size: int = 64) -> tuple[Any, ...]:
    weights = config[0]
    kinds = torch.tensor(_STEPS, dtype=torch.float64)[torch.arange(rows) % len(_STEPS)]
    error, step, lengths, status, attempts = kinds.unbind(1)
    t, last, older, none = torch.full_like(step, 0.25), 0.1 + noise(rows).abs(), noise(rows).abs(), 0 * step
    end = torch.where(step == 0, t, t + lengths * step)
    clock = torch.stack([t, step, end, last, older + 0.3, status, attempts, none, step, none], 1)
    states = noise(4 + len(weights), rows, size)
    scale = error / torch.where(step == 0, 1, 2 * math.hypot(*weights) * step.abs())
    return *states[:4].unbind(0), clock, [*(scale[:, None] * states[4:]).unbind(0)]


_GRIDS = (_CONTROLLER, (0.0, 0.3, 1.0))
_LARGE = (_WEIGHTS[:6], *_GRIDS)

TRIALS = {
    "rk_combine": _trial(1),
    "rk_error": _trial(2, 0.3, 0.2),
    "rk_control": Trial(
        [(_WEIGHTS[:n], *_GRIDS) for n in range(MOST_SLOPES, 0, -1)],
        _control_inputs,
        double=(4,),
        large=Large(_LARGE, lambda rows: _control_inputs(_LARGE, rows, 12288), 17),
        others=(Large(_LARGE, lambda rows: _control_inputs(_LARGE, rows, 63), 9),),
    ),
}
