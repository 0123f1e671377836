"""Generator matching: Bregman's divergences and their minimiser, the path's divergence, gradients, what it refuses."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pyflowk.nets import CharacteristicsField, MLPField
from pyflowk.objectives import DIVERGENCES, GeneratorMatching, bregman
from pyflowk.paths import Bins, Characteristics, CondOT, CondOTJumps, MixtureJumps
from tests.objectives.test_matching import at, seeded
from tests.paths.oracles import Mixture, jumping

PATH = CondOTJumps.reaching(1.0, 16)


def positive(kind: str, n: int) -> Tensor:
    x = torch.rand(n, 2, 2, dtype=torch.float64, generator=seeded(n)) + 0.2
    return x @ x.mT + 0.1 * torch.eye(2, dtype=torch.float64) if kind == "log_det" else x[:, 0, 0]


@pytest.mark.parametrize("kind", DIVERGENCES)
def test_the_best_is_the_mean_where_the_target_stands_first(kind: str) -> None:
    targets = positive(kind, 200)
    mean = targets.mean(0).requires_grad_()

    def slope(*pair: Tensor) -> float:
        return torch.autograd.grad(bregman(*pair, kind).mean(), mean)[0].abs().max().item()

    assert slope(targets, mean.expand_as(targets)) < 1e-12
    assert bregman(targets, targets, kind).abs().max() < 1e-12 and (bregman(targets, targets.flip(0), kind) >= 0).all()
    if kind != "square":  # which is the same both ways
        assert slope(mean.expand_as(targets), targets) > 1e-2


@pytest.mark.parametrize("kind", DIVERGENCES)
def test_it_is_what_its_convex_function_says(kind: str) -> None:
    phi = {
        "square": lambda a: a.square() / 2, "kl": lambda a: a * a.log() - a, "itakura_saito": lambda a: -a.log(),
        "log_det": lambda a: -torch.logdet(a),
    }[kind]  # fmt: skip
    a, b = positive(kind, 9), positive(kind, 9).flip(0).requires_grad_()
    slope = torch.autograd.grad(phi(b).sum(), b)[0]
    inner = ((a - b) * slope).reshape(9, -1).sum(1)
    torch.testing.assert_close(bregman(a, b, kind), phi(a) - phi(b) - inner)


@pytest.mark.parametrize("divergence", ["kl", "square"])
def test_nothing_is_left_where_there_is_one_datum_and_something_otherwise(divergence: str) -> None:
    """Given x the data are known then: the conditional process is the process; of others the loss is above."""
    x = torch.full((64, 2), 0.6, dtype=torch.float64)
    objective = GeneratorMatching(PATH, divergence=divergence)

    def loss(z: float, **changed: Tensor) -> Tensor:
        told = jumping(Mixture((1.0,), (z,), (0.0,)), PATH)
        return objective(lambda t, x: told(t, x)._replace(**changed), x, generator=seeded())

    assert loss(0.6).abs().max() < 1e-9
    assert (loss(0.3) > 1e-3).all() and loss(0.3).isfinite().all()
    for name in ("intensity", "landing"):
        right, wrong = (jumping(Mixture((1.0,), (z,), (0.0,)), PATH) for z in (0.6, 0.3))

        def other(t: Tensor, y: Tensor, name: str = name, right: Any = right, wrong: Any = wrong) -> Characteristics:
            return right(t, y)._replace(drift=None, **{name: getattr(wrong(t, y), name)})

        changed = objective(other, x, generator=seeded())
        assert changed.min() > -1e-12 and changed.mean() > 1e-2


def test_gradients_are_those_of_the_distance_to_the_posterior_means() -> None:
    """Of one place x at one time: the average over both data, in their shares, is the gradient at what a model says."""
    points, path = Mixture((0.5, 0.5), (-0.7, 0.9), (0.0, 0.0)), CondOTJumps.reaching(1.0, 12)
    t, x = torch.tensor([0.3], dtype=torch.float64), torch.tensor([[-1.4]], dtype=torch.float64)
    right = jumping(points, path)(t, x)
    told = Characteristics(
        torch.full_like(x, 0.2).requires_grad_(), None, torch.full_like(x, -0.4).requires_grad_(),
        torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(1, 1, 12).requires_grad_(),
    )  # fmt: skip
    parts = points._parts(x[:, 0], t, CondOT())[0][0]
    total = torch.zeros((), dtype=torch.float64)

    class Place(CondOTJumps):  # noise that takes each datum through x
        def _sample(self, x0: Tensor, x1: Tensor, t: Tensor, generator: Any) -> Any:
            return super()._sample((x - t * x1) / (1 - t), x1, t, generator)

    for share, z in zip(parts / parts.sum(), (-0.7, 0.9)):
        objective = GeneratorMatching(Place(path.bins), times=at(0.3))
        total = total + share * objective(lambda t, x: told, torch.full_like(x, z), generator=seeded()).sum()
    assert right.drift is not None and right.intensity is not None and right.landing is not None
    assert told.drift is not None and told.intensity is not None and told.landing is not None
    found = torch.autograd.grad(total, [told.drift, told.intensity, told.landing])
    rate, law = right.intensity.exp(), torch.softmax(right.landing, -1)
    expected = (told.drift - right.drift, told.intensity.exp() - rate,
                rate.unsqueeze(-1) * (torch.softmax(told.landing, -1) - law))  # fmt: skip
    for one, other in zip(found, expected):
        torch.testing.assert_close(one, other.detach())


def test_where_nothing_lands_logits_may_be_minus_infinity() -> None:
    path, x = MixtureJumps(Bins(-1, 1, 16)), torch.full((64, 2), 0.6, dtype=torch.float64)
    shift = torch.zeros(64, 2, 16, dtype=torch.float64, requires_grad=True)

    def loss(logits: Callable[[Tensor], Tensor]) -> Tensor:
        def net(t: Tensor, y: Tensor) -> Characteristics:
            true = path.sample(torch.zeros_like(x), x, t)
            return Characteristics(intensity=true.intensity.log(), landing=logits(true.masses) + shift)

        return GeneratorMatching(path)(net, x, generator=seeded())

    right = loss(torch.log)
    assert right.abs().max() < 1e-9 and torch.autograd.grad(right.sum(), shift)[0].abs().max() < 1e-9
    assert loss(lambda masses: torch.log(1 - masses)).isposinf().all()  # never where all of them land


def test_what_does_not_fit_is_named() -> None:
    x, loss = torch.zeros(3, 2), GeneratorMatching(PATH)
    flow = CharacteristicsField(MLPField(2, 4, 1))
    for message, options in {
        "divergence: expected square or kl of rates that may be 0; got 'log_det'": {"divergence": "log_det"},
        "flow to be a finite number": {"flow": math.nan}, "share from 0 to 1, got 2": {"dropout": 2.0},
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=message):
            GeneratorMatching(**options)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="path: expected a JumpPath"):
        GeneratorMatching(Bins(-1, 1, 2))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="kind: expected one of square, kl, itakura_saito, log_det; got 'tv'"):
        bregman(x, x, "tv")
    with pytest.raises(ValueError, match="expected no drift along MixtureJumps"):
        GeneratorMatching(MixtureJumps(Bins(-1, 1, 2)))(flow, x)
    with pytest.raises(TypeError, match=r"expected pyflowk\.paths\.Characteristics; got a tensor"):
        loss(lambda t, x: x, x)
    with pytest.raises(ValueError, match="expected a drift, or jumps, or both; got neither"):
        loss(lambda t, x: Characteristics(), x)
    with pytest.raises(ValueError, match=r"expected landing logits \(3, 2, 16\); got \(3, 2, 4\)"):
        loss(lambda t, x: Characteristics(None, None, x, x.new_zeros(3, 2, 4)), x)
    with pytest.raises(ValueError, match=r"x1: expected data from -1\.61803 to 1\.61803, where jumps land; got 2 to 2"):
        loss(flow, x + 2)
    with pytest.raises(ValueError, match="expects a flow, or bins above 0"):
        CharacteristicsField(MLPField(2), flow=False)
    with pytest.raises(ValueError, match=r"net: expected 4 answers for each of 2 channels of \(3, 2\); got \(3, 2\)"):
        CharacteristicsField(MLPField(2), bins=2)(torch.tensor(0.5), x)
