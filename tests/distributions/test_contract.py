"""What holds for every distribution, tested for every distribution of the registry."""

from __future__ import annotations

import copy
import inspect
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pyflowk import distributions

from .registry import CASES, Case

every = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_every_exported_distribution_is_in_the_registry() -> None:
    exported = {value for value in vars(distributions).values() if inspect.isclass(value)}
    assert {type(case.build()) for case in CASES} == exported - {distributions.Distribution}


def moments(z: Tensor, weights: Tensor) -> Tensor:
    """Means of the coordinates and of their products."""
    z = z.flatten(1).double()
    return torch.cat((weights @ z, torch.einsum("n,ni,nj->ij", weights, z, z).flatten()))


@every
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_density_integrates_to_one_and_samples_have_its_moments(case: Case, temperature: float) -> None:
    distribution, context = case.make(), case.context()
    nodes, weights = case.nodes()
    with torch.no_grad():
        mass = weights * distribution.log_prob(nodes, context, temperature).exp()
        assert mass.sum().item() == pytest.approx(1, abs=1e-6)
        n = 20_000
        z = distribution.sample(n, context, seeded(), temperature)
        assert torch.isfinite(distribution.log_prob(z, context, temperature)).all()
    got, expected = moments(z, torch.full((n,), 1 / n).double()), moments(nodes, mass)
    flat = nodes.flatten(1).double()
    products = torch.cat((flat, torch.einsum("ni,nj->nij", flat, flat).flatten(1)), 1)
    spread = ((mass @ products**2) - expected**2).clamp(min=0).sqrt()
    assert ((got - expected).abs() <= 4.5 * spread / math.sqrt(n) + 1e-3).all()


@every
def test_same_generator_same_draws_and_no_other_is_touched(case: Case) -> None:
    distribution, context = case.make(), case.context()
    state = torch.get_rng_state()
    first = distribution.sample(6, context, seeded(1))
    assert torch.equal(distribution.sample(6, context, seeded(1)), first)
    assert not torch.equal(distribution.sample(6, context, seeded(2)), first)
    assert torch.equal(torch.get_rng_state(), state)
    distribution.sample(6, context)
    assert not torch.equal(torch.get_rng_state(), state)


@every
def test_empty_batches(case: Case) -> None:
    distribution, context = case.make(), case.context()
    z = distribution.sample(0, context)
    assert z.shape == (0, *distribution.shape) and distribution.log_prob(z, context).shape == (0,)


@every
def test_one_row_of_context_serves_all_and_any_other_number_is_refused(case: Case) -> None:
    distribution = case.make()
    z = distribution.sample(4, torch.ones(4, dtype=torch.int64), seeded())
    assert torch.equal(distribution.sample(4, torch.tensor(1), seeded()), z)
    rows = distribution.log_prob(z, torch.ones(4, dtype=torch.int64))
    assert torch.equal(distribution.log_prob(z, torch.tensor(1)), rows)
    for call in (lambda c: distribution.sample(4, c), lambda c: distribution.log_prob(z, c)):
        with pytest.raises(ValueError, match=r"4 rows.*got \(3,\)"):
            call(torch.ones(3, dtype=torch.int64))


@every
def test_rows_do_not_depend_on_those_beside_them(case: Case) -> None:
    distribution, context = case.make(), case.context()
    z = distribution.sample(5, context, seeded())
    alone = torch.cat([distribution.log_prob(row[None], context) for row in z])
    torch.testing.assert_close(distribution.log_prob(z, context), alone, rtol=1e-14, atol=1e-14)


@every
def test_dtypes_and_devices(case: Case) -> None:
    wide, context = case.make(), case.context()
    narrow = copy.deepcopy(wide).float()
    z = wide.sample(3, context, seeded())
    symbols = not z.is_floating_point()
    assert z.dtype == (torch.int64 if symbols else torch.float64)
    assert narrow.sample(3, context).dtype == (torch.int64 if symbols else torch.float32)
    assert wide.log_prob(z, context).dtype == torch.float64
    small = z.to(torch.uint8 if symbols else torch.bfloat16)
    assert narrow.log_prob(small, context).dtype == torch.float32
    kept = z if symbols else z.float()
    torch.testing.assert_close(narrow.log_prob(kept, context).double(), wide.log_prob(z, context), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="z: expected cpu, where the distribution is, got a tensor on meta"):
        wide.log_prob(z.to("meta"), context)
    with pytest.raises(TypeError, match=r"z: expected (real numbers|symbols)"):
        wide.log_prob(z.to(torch.complex64), context)
    with pytest.raises(TypeError, match="expected z to be a tensor, got list"):
        wide.log_prob([0.0], context)  # type: ignore[arg-type]
    sizes = ", ".join(map(str, wide.shape))
    with pytest.raises(ValueError, match=rf"expected z \(B, {sizes}\), got \(3, {sizes}, 1\)"):
        wide.log_prob(z[..., None], context)


@every
@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf, "1", True, None, 1e-300, 1e300, 10**400])
def test_temperature_must_be_a_positive_number(case: Case, temperature: Any) -> None:
    distribution, context = case.make(), case.context()
    z = distribution.sample(2, context)
    for call in (
        lambda: distribution.sample(1, context, temperature=temperature),
        lambda: distribution.log_prob(z, context, temperature),
    ):
        with pytest.raises(ValueError, match=r"temperature: expected a (finite )?number .*, got"):
            call()


@every
@pytest.mark.parametrize("temperature", [1e-30, 1e30])
def test_draws_of_any_temperature_have_a_density(case: Case, temperature: float) -> None:
    distribution, context = case.make().float(), case.context()
    with torch.no_grad():
        z = distribution.sample(20, context, seeded(), temperature)
        assert distribution.log_prob(z, context, temperature).isfinite().all()


def test_what_is_no_shape_is_refused() -> None:
    with pytest.raises(TypeError, match=r"DiagonalGaussian expects the shape of an event, such as \(2,\), got 5"):
        distributions.DiagonalGaussian(5)  # type: ignore[arg-type]


@every
def test_nan_in_nan_out(case: Case) -> None:
    distribution, context = case.make(), case.context()
    z = distribution.sample(3, context)
    if z.is_floating_point():
        z[1].flatten()[-1] = math.nan
        assert distribution.log_prob(z, context).isnan().tolist() == [False, True, False]


@every
def test_state_dict_round_trip_and_meta(case: Case) -> None:
    distribution, context = case.make(), case.context()
    z = distribution.sample(3, context, seeded())
    with torch.device("meta"):
        born_empty = case.build()
    for twin, assign in ((case.build().double(), False), (born_empty, True)):
        twin.load_state_dict(distribution.state_dict(), assign=assign)
        if distribution.state_dict():  # else nothing tells a meta module where it is
            assert torch.equal(twin.log_prob(z, context), distribution.log_prob(z, context))
            assert torch.equal(twin.sample(3, context, seeded()), z)


@every
def test_vmap(case: Case) -> None:
    """Values are looked at where they can be: not under a functional transformation."""
    distribution, context = case.make(), case.context()
    z = distribution.sample(4, context, seeded())
    rows = torch.func.vmap(lambda row: distribution.log_prob(row[None], context)[0])(z)
    torch.testing.assert_close(rows, distribution.log_prob(z, context))


@pytest.mark.parametrize("name", ["uniform", "sphere", "categorical-given"])
def test_compiled_for_any_number_of_rows(name: str) -> None:
    """The Gaussians are compiled with every system of the zoo."""
    distribution = next(case for case in CASES if case.name == name).make()
    torch._dynamo.reset()
    log_prob, sample = (
        torch.compile(method, fullgraph=True, dynamic=True, backend="eager")
        for method in (distribution.log_prob, distribution.sample)
    )
    for n in (5, 3):
        z = sample(n)
        torch.testing.assert_close(log_prob(z), distribution.log_prob(z))


@every
def test_gradients(case: Case) -> None:
    """Densities give every parameter one; samples do where the distribution says so."""
    distribution, context = case.make(), case.context()
    z = distribution.sample(8, context, seeded())
    parameters = list(distribution.parameters())
    if parameters:
        distribution.log_prob(z.detach(), context).sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters)
        assert distribution.reparameterised == all(
            g is not None for g in torch.autograd.grad(z.sum(), parameters, allow_unused=True)
        ) if z.requires_grad else not distribution.reparameterised  # fmt: skip
