"""Velocity, noise, data and score say the same of an event: all twelve ways, at golden numbers and at both ends."""

from __future__ import annotations

import itertools

import pytest
import torch

from pyflowk.paths import EDM, PREDICTIONS, VE, VP, CondOT, Cosine, LinearVP, Schedule, convert
from tests.paths.oracles import GAUSSIAN, PAIR
from tests.paths.test_schedules import schedules

#: of N(1, 0.25) at t = 0.3, x = 0.4: velocity, score, data, noise
GOLDEN: list[tuple[Schedule, tuple[float, float, float, float]]] = [
    (CondOT(), (0.8780487805, -0.1951219512, 1.0146341463, 0.1365853659)),
    (Cosine(), (1.4300234148, 0.0638623804, 0.9927517715, -0.0569017976)),
    (LinearVP(), (0.9758713137, -0.1072386059, 1.0080428954, 0.1022991101)),
    (VP(), (0.5798534106, -0.3173409251, 1.0066921307, 0.3162099128)),
]
WAYS = list(itertools.permutations(PREDICTIONS, 2))


@pytest.mark.parametrize(
    "schedule, numbers", GOLDEN, ids=lambda value: str(value) if isinstance(value, Schedule) else ""
)
def test_golden_numbers(schedule: Schedule, numbers: tuple[float, float, float, float]) -> None:
    x, t = torch.tensor([0.4], dtype=torch.float64), torch.tensor([0.3], dtype=torch.float64)
    known = dict(zip(("velocity", "score", "data", "noise"), (torch.tensor([v], dtype=x.dtype) for v in numbers)))
    torch.testing.assert_close(GAUSSIAN.predictions(x, t, schedule), known, rtol=0, atol=1e-9)
    for source, target in WAYS:
        found = convert(known[source], x, t, schedule, source, target)
        torch.testing.assert_close(found, known[target], rtol=0, atol=1e-8)


@schedules
def test_every_way_between_the_averages_of_a_mixture(schedule: Schedule) -> None:
    late = 0.85 if isinstance(schedule, EDM) else 0.99  # where there still is noise that can be told
    t = torch.linspace(0.1, late, 30, dtype=torch.float64)
    x = torch.linspace(-2, 2, 30, dtype=torch.float64).flip(0)
    known = PAIR.predictions(x, t, schedule)
    assert all(torch.equal(convert(known[name], x, t, schedule, name, name), known[name]) for name in PREDICTIONS)
    for source, target in WAYS:
        found = convert(known[source], x, t, schedule, source, target, least=0.0)
        torch.testing.assert_close(found, known[target], rtol=1e-7, atol=1e-7)
        rows = known[source].unsqueeze(1).expand(-1, 3), x.unsqueeze(1).expand(-1, 3)
        wide = convert(*rows, t, schedule, source, target, least=0.0)  # one time a row beside several elements
        torch.testing.assert_close(wide, found.unsqueeze(1).expand(-1, 3))


@schedules
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_ends_are_finite_and_what_is_known_there_is_exact(schedule: Schedule, dtype: torch.dtype) -> None:
    x, value = torch.tensor([[0.4, -3.0]], dtype=dtype), torch.tensor([[1.3, -0.2]], dtype=dtype)
    for time in (0.0, 1e-7, 1 - 1e-7, 1.0):
        for source, target in WAYS:
            assert convert(value, x, time, schedule, source, target).isfinite().all()
    at = schedule.at(torch.tensor([0.0, 1.0], dtype=dtype))
    moves = at.determinant > 1e-3  # a schedule may stand still at an end, where velocities then say nothing
    if at.alpha[0] == 0 and moves[0]:
        torch.testing.assert_close(convert(value, x, 0.0, schedule, "velocity", "noise"), x)
        torch.testing.assert_close(convert(value, x, 0.0, schedule, "velocity", "score"), -x)
    if at.sigma[1] == 0:
        torch.testing.assert_close(convert(value, x, 1.0, schedule, "score", "data"), x)
        if moves[1]:
            torch.testing.assert_close(convert(value, x, 1.0, schedule, "velocity", "data"), x)


def test_velocities_are_those_of_the_diffusions() -> None:
    """Backwards in time dx/dt = beta (x + score) / 2 and sigma^2 log(sigma_max / sigma_min) score."""
    t = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    x, score = torch.sin(9 * t), torch.cos(7 * t)
    beta = 0.1 + (1 - t) * 19.9
    torch.testing.assert_close(convert(score, x, t, VP(), "score", "velocity"), beta * (x + score) / 2)
    growth = VE().at(t).sigma ** 2 * torch.tensor(5000.0, dtype=torch.float64).log()
    torch.testing.assert_close(convert(score, x, t, VE(), "score", "velocity"), growth * score)


def test_names_that_are_no_prediction() -> None:
    x = torch.zeros(1, 2)
    for names in (("speed", "data"), ("data", "speed"), ("speed", "speed")):
        with pytest.raises(ValueError, match="expected one of velocity, noise, data, score; got 'speed'"):
            convert(x, x, 0.5, CondOT(), *names)
