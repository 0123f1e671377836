"""How to call each op: who adds an op adds its probe here; an op without one fails the check."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle, pairwise, product
from typing import Any

import torch
from torch import Tensor

from ..ops.affine_coupling import ADDITIVE, BOUNDS
from ..ops.cnf_trajectory import METHODS, SMOOTH, STAGES
from ..ops.made import MADE_ACTIVATIONS, SPLINE
from ..ops.made_layout import MadeLayout
from ..ops.masks import MASKS, transformed_channels
from ..ops.mlp import MLP_ACTIVATIONS, MOST_HIDDEN
from ..ops.power_series import MOST_FACTORS
from ..ops.rk_control import Status
from ..ops.rk_step import MOST_SLOPES
from ..ops.rq_spline import TAILS, spline_params

__all__ = ["PROBES", "Probe", "each", "noise"]


@dataclass(frozen=True)
class Probe:
    """How to try one op: `configs` are its arguments after the tensors, `inputs(config, rows)` its tensors and lists of
    tensors, the real ones in float64.

    The first config is the one whose speed is measured.
    """

    configs: list[tuple[Any, ...]]
    inputs: Callable[[tuple[Any, ...], int], tuple[Any, ...]]
    precisions: tuple[torch.dtype, ...] = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    #: of a config: how much rounding of the inputs grows on the way to outputs and gradients
    conditioning: Callable[[tuple[Any, ...]], float] = lambda config: 1.0
    #: places of the tensors that are float64 whatever the precision
    double: tuple[int, ...] = ()

    def tensors(self, config: tuple[Any, ...], rows: int, precision: torch.dtype) -> tuple[Any, ...]:
        """`inputs`, the real ones in that precision."""
        inputs = self.inputs(config, rows)
        narrow = each(lambda t: t.to(precision) if t.is_floating_point() else t, inputs)
        return tuple(inputs[i] if i in self.double else t for i, t in enumerate(narrow))


def each(change: Callable[[Tensor], Any], tensors: tuple[Any, ...]) -> tuple[Any, ...]:
    """The tensors, those in lists too, changed."""
    return tuple([change(t) for t in entry] if isinstance(entry, list) else change(entry) for entry in tensors)


def noise(*shape: int) -> Tensor:
    """Standard normal numbers of this shape, always the same."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def _coupling_configs() -> list[tuple[Any, ...]]:
    bounds = (BOUNDS["tanh"], BOUNDS["sigmoid"], BOUNDS["none"], ADDITIVE)
    masks = (MASKS[name] for name in ("half", "alternating", "checkerboard", "all"))
    flags = product(masks, (0, 1), bounds, (False, True), (False, True))
    return [
        (mask + swap, bound, 2.0, interleaved, inverse)
        for mask, swap, bound, interleaved, inverse in flags
        if not (bound == ADDITIVE and interleaved) and not (mask == MASKS["all"] and swap)
    ]


def _coupling_inputs(config: tuple[Any, ...], rows: int) -> tuple[Tensor, ...]:
    names = {code: name for name, code in MASKS.items()}
    mask, swap, bound = names[config[0] & ~1], bool(config[0] & 1), config[1]
    event = {"checkerboard": (3, 6, 8), "alternating": (6, 5, 7)}.get(mask, (64,))
    channels = transformed_channels(event[0], mask, swap) * (1 if bound == ADDITIVE else 2)
    return noise(rows, *event), noise(rows, channels, *event[1:])


def _conv1x1_inputs(config: tuple[Any, ...], rows: int) -> tuple[Tensor, ...]:
    return noise(rows, 12, 4, 6), noise(12, 12), noise(12), noise(12)


def _hutchinson_inputs(config: tuple[Any, ...], rows: int) -> tuple[Tensor, ...]:
    return noise(rows, 3, 130), torch.arange(rows) * 2**40


def _lu_weight_inputs(config: tuple[Any, ...], rows: int) -> tuple[Tensor, ...]:
    permutation = torch.randperm(12, generator=torch.Generator().manual_seed(0)).repeat(rows, 1)
    return noise(rows, 12, 12) / 12, permutation, 1 - 2 * (permutation % 2)


def _trajectory_configs() -> list[tuple[Any, ...]]:
    rest = [(3, 2, activation, METHODS["midpoint"], 2, -0.2, 0.5) for activation in SMOOTH.values()]
    return [(64, 3, SMOOTH["tanh"], METHODS["rk4"], 4, 0.25, 0.5), *rest]


def _trajectory_inputs(config: tuple[Any, ...], rows: int) -> tuple[Tensor, ...]:
    width, depth, _, method, steps = config[:5]
    size, weights = 2, 4 * width + (depth - 1) * width**2
    evaluations = steps * list(STAGES.values())[method]
    tables = [noise(evaluations, depth * width + size) for _ in range(2)]
    return noise(rows, size), noise(rows, 2, size), noise(rows, width), noise(weights) / width**0.5, *tables


def _made_configs() -> list[tuple[Any, ...]]:
    kinds = (((64, 64), False), ((9,), False), ((20, 20, 20), True))
    maps: list[tuple[int, int, tuple[float, ...]]] = [
        (bound, 0, (2.0,)) for bound in (BOUNDS["tanh"], BOUNDS["sigmoid"], BOUNDS["none"], ADDITIVE)
    ]
    maps += [
        (SPLINE + tails, 8, (-3.0, 3.0, 1e-3, 1e-3, 1e-3, clip)) for tails, clip in zip(TAILS.values(), (0.0, 6.9, 0.0))
    ]
    return [
        (hidden, activation, residual, *map)
        for (hidden, residual), activation, map in zip(cycle(kinds), cycle(MADE_ACTIVATIONS.values()), maps)
    ]


def _made_inputs(config: tuple[Any, ...], rows: int) -> tuple[Tensor, ...]:
    hidden, features = config[0], 33
    degrees = [[j * features // width for j in range(width)] for width in hidden]
    map, bins = config[3:5]
    tails = next((name for name, code in TAILS.items() if SPLINE + code == map), "")
    params = spline_params(bins, tails) if bins else 1 if map == ADDITIVE else 2
    layout = MadeLayout(degrees, range(features)[::-1], params)
    weights = noise(len(layout.source)) / (16 if bins else 8)
    return noise(rows, features), weights, noise(rows, hidden[0]) / 2, layout.plan


def _made_conditioning(config: tuple[Any, ...]) -> float:
    return 32.0 if config[3] >= SPLINE else 1.0  # a bin that is narrow magnifies what its edges lost


_MADE = Probe(_made_configs(), _made_inputs, (torch.float32, torch.float64), _made_conditioning)


def _mlp_inputs(config: tuple[Any, ...], rows: int) -> tuple[Any, ...]:
    widths = (33, *(64,) * (1 + config[0] % MOST_HIDDEN), 20)  # another number of layers for every activation
    layers = [(noise(b, a) / a**0.5, noise(b)) for a, b in pairwise(widths)]
    return noise(rows, widths[0]), noise(rows, widths[1]), [t for layer in layers for t in layer]


def _power_series_inputs(config: tuple[Any, ...], rows: int) -> tuple[Any, ...]:
    widths = (20, *(65,) * (1 + config[0] % (MOST_FACTORS - 1)), 20)
    slopes = [noise(rows, width).tanh() for width in widths[1:-1]]
    weights = [noise(b, a) / (a**0.5 + b**0.5) for a, b in pairwise(widths)]
    return noise(rows, 20), slopes, weights, torch.arange(rows) % (config[0] + 2)


def _spline_configs() -> list[tuple[Any, ...]]:
    flags = product(
        (MASKS["all"], MASKS["half"] + 1, MASKS["checkerboard"]), TAILS.values(), ((8, 0.0), (5, 6.9)), (False, True)
    )
    return [
        (mask, bins, tails, -3.0, 3.0, 1e-3, 1e-3, 1e-3, softclip, interleaved, inverse)
        for (mask, tails, (bins, softclip), interleaved), inverse in product(flags, (False, True))
    ]


def _spline_inputs(config: tuple[Any, ...], rows: int) -> tuple[Tensor, ...]:
    names = {code: name for name, code in MASKS.items()}
    mask, swap = names[config[0] & ~1], bool(config[0] & 1)
    per_element = spline_params(config[1], {code: name for name, code in TAILS.items()}[config[2]])
    event = (2, 6, 8) if mask == "checkerboard" else (64,)
    channels = transformed_channels(event[0], mask, swap) * per_element
    return 2 * noise(rows, *event), 0.3 * noise(rows, channels, *event[1:])  # bins of tame widths: no errors grow


_WEIGHTS = (0.3, -0.7, 1.1, 0.05, -0.4, 0.9, -1.3, 0.6, 0.2)


def _rk_probe(states: int, *tolerances: float) -> Probe:
    """Of an op that takes that many states before its steps and slopes."""

    def inputs(config: tuple[Any, ...], rows: int) -> tuple[Any, ...]:
        tensors = noise(states + len(config[0]), rows, 64).unbind(0)
        return *tensors[:states], noise(rows).abs(), [*tensors[states:]]

    counts = range(MOST_SLOPES, 0, -1)
    return Probe([(_WEIGHTS[:n], *tolerances) for n in counts], inputs, (torch.float32, torch.float64))


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


def _control_inputs(config: tuple[Any, ...], rows: int) -> tuple[Any, ...]:
    weights = config[0]
    kinds = torch.tensor(_STEPS, dtype=torch.float64)[torch.arange(rows) % len(_STEPS)]
    error, step, lengths, status, attempts = kinds.unbind(1)
    t, last, older, none = torch.full_like(step, 0.25), 0.1 + noise(rows).abs(), noise(rows).abs(), 0 * step
    end = torch.where(step == 0, t, t + lengths * step)
    clock = torch.stack([t, step, end, last, older + 0.3, status, attempts, none, step, none], 1)
    states = noise(4 + len(weights), rows, 64)
    size = error / torch.where(step == 0, 1, 2 * math.hypot(*weights) * step.abs())
    return *states[:4].unbind(0), clock, [*(size[:, None] * states[4:]).unbind(0)]


def _directions_inputs(config: tuple[Any, ...], rows: int) -> tuple[Tensor, ...]:
    return (torch.arange(rows) * 2**40,)


PROBES: dict[str, Probe] = {
    "affine_coupling": Probe(_coupling_configs(), _coupling_inputs),
    "conv1x1": Probe([()], _conv1x1_inputs, (torch.float32, torch.float64)),
    "hutchinson": Probe([(0,), (1,)], _hutchinson_inputs, (torch.float32, torch.bfloat16, torch.float16)),
    # keys have no precision; a radius near zero magnifies what its logarithm lost
    "hutchinson_directions": Probe(
        [(3, 130, kind, wide) for kind, wide in product((0, 1), (False, True))],
        _directions_inputs,
        (torch.float32,),
        lambda config: 4.0,
    ),
    "lipswish": Probe(
        [()],
        lambda config, rows: (3 * noise(rows, 65), noise(1).abs()),
        (torch.float32, torch.float64),
        lambda config: 16.0,
    ),
    "lu_weight": Probe([(False,), (True,)], _lu_weight_inputs),
    # In float64 the formula is its own truth; sums over a whole path, and a spline's narrow bins, round more than is
    # allowed then.
    "cnf_trajectory": Probe(_trajectory_configs(), _trajectory_inputs, (torch.float32,)),
    "made_forward": _MADE,
    "made_inverse": _MADE,
    "rq_spline": Probe(
        _spline_configs(), _spline_inputs, (torch.float32, torch.bfloat16, torch.float16), lambda config: 64.0
    ),
    # in float64 the formula is its own truth: sums of 64 products a layer or factor, in another order
    "mlp": Probe(
        [(code, True) for code in MLP_ACTIVATIONS.values()],
        _mlp_inputs,
        (torch.float32, torch.float64),
        lambda config: 4.0,
    ),
    "power_series": Probe(
        [(10, 1, 1.0), (8, 1, 1.0), (9, 2, 0.6), (11, 1, 0.8)],
        _power_series_inputs,
        (torch.float32, torch.float64),
        lambda config: 16.0,
    ),
    "rk_combine": _rk_probe(1),
    "rk_error": _rk_probe(2, 0.3, 0.2),
    "rk_control": Probe(
        [(_WEIGHTS[:n], _CONTROLLER, (0.0, 0.3, 1.0)) for n in range(MOST_SLOPES, 0, -1)], _control_inputs, double=(4,)
    ),
}
