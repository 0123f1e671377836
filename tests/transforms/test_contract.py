"""What holds for every transform, tested for every transform of the registry."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor

from pyflowk import transforms as T
from pyflowk.transforms import Transform

from .registry import CASES, Case

every = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def noise() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def forward(case: Case, transform: Transform, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
    return transform(x, context, noise())


def certain(transform: Transform, outputs: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """What is no random estimate: (z, ladj), or z alone."""
    return outputs[:1] if transform.estimates_ladj else outputs


def log_det(function, x: Tensor, *context: Tensor) -> Tensor:
    """log |det| of the Jacobian of x -> function(x) row by row, by reverse mode under vmap."""

    def row(x: Tensor, *context: Tensor) -> Tensor:
        return function(x[None], *(c[None] for c in context))[0].flatten()

    jacobian = torch.func.vmap(torch.func.jacrev(row))(x, *context)
    return torch.linalg.slogdet(jacobian.reshape(len(x), x[0].numel(), x[0].numel())).logabsdet


@every
def test_log_det_is_that_of_the_autograd_jacobian(case: Case) -> None:
    transform = case.make().double()
    if transform.estimates_ladj:
        pytest.skip("its log-determinant is right on average: test_residual.py")
    x, context = case.data(3), case.contexts(3)
    extra = () if context is None else (context,)
    z, ladj = forward(case, transform, x, context)
    if not transform.stochastic:  # a generator cannot be used under vmap
        torch.testing.assert_close(log_det(lambda *a: transform(*a)[0], x, *extra), ladj, rtol=1e-9, atol=1e-10)
    if case.smooth_inverse:
        _, back = transform.inverse(z, context)
        torch.testing.assert_close(
            log_det(lambda *a: transform.inverse(*a)[0], z.detach(), *extra), back, rtol=1e-9, atol=1e-10
        )
        torch.testing.assert_close(ladj, -back, rtol=1e-9, atol=1e-10)


@every
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-11), (torch.float32, 2e-5)])
def test_round_trip(case: Case, dtype: torch.dtype, tolerance: float) -> None:
    transform = case.make().to(dtype)
    x, context = case.data(20, dtype=dtype), case.contexts(20, dtype=dtype)
    z, _ = forward(case, transform, x, context)
    torch.testing.assert_close(transform.inverse(z, context)[0], x, rtol=tolerance, atol=tolerance)


@every
@pytest.mark.parametrize("rows", [0, 1, 3])
def test_shapes_and_dtypes(case: Case, rows: int) -> None:
    for dtype in (torch.float32, torch.float64):
        transform = case.make().to(dtype)
        x, context = case.data(rows, dtype=dtype), case.contexts(rows, dtype=dtype)
        z, ladj = forward(case, transform, x, context)
        back, ladj_back = transform.inverse(z, context)
        assert z.shape[0] == rows and z.numel() == x.numel() and back.shape == x.shape
        assert z.dtype == back.dtype == dtype
        for value in (ladj, ladj_back):
            assert value.shape == (rows,) and value.dtype == dtype and value.device == x.device


@pytest.mark.parametrize("case", [c for c in CASES if not c.networks], ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_input_has_float32_log_det(case: Case, dtype: torch.dtype) -> None:
    transform = case.make()
    z, ladj = forward(case, transform, case.data(3, dtype=dtype), None)
    assert ladj.dtype == torch.float32 and transform.inverse(z)[1].dtype == torch.float32


@every
def test_a_row_does_not_depend_on_its_mates(case: Case) -> None:
    transform = case.make().double()
    x, context = case.data(6), case.contexts(6)
    whole_forward = forward(case, transform, x, context)
    z = whole_forward[0]
    whole_back = transform.inverse(z, context)
    for i in (0, 5):
        row, c = slice(i, i + 1), None if context is None else context[i : i + 1]
        if not transform.stochastic:
            alone_forward = transform(x[row], c)
            for whole, alone in zip(certain(transform, whole_forward), certain(transform, alone_forward), strict=True):
                torch.testing.assert_close(alone, whole[row], rtol=1e-13, atol=1e-13)
        alone_back = transform.inverse(z[row], c)
        for whole, alone in zip(certain(transform, whole_back), certain(transform, alone_back), strict=True):
            torch.testing.assert_close(alone, whole[row], rtol=1e-13, atol=1e-13)


@every
def test_nan_in_gives_nan_out_in_that_row_alone(case: Case) -> None:
    transform = case.make().double()
    x, context = case.data(3), case.contexts(3)
    clean, _ = forward(case, transform, x, context)
    x[1].view(-1)[0] = float("nan")
    z, _ = forward(case, transform, x, context)
    assert z[1].isnan().any()
    torch.testing.assert_close(z[[0, 2]], clean[[0, 2]], rtol=1e-13, atol=1e-13)
    assert transform.inverse(z, context)[0][1].isnan().any()


@every
def test_every_transform_accepts_a_context(case: Case) -> None:
    transform = case.make().double()
    x = case.data(4)
    if case.context == "none":
        z, ladj = forward(case, transform, x, torch.randn(4, 7))
        same, same_ladj = forward(case, transform, x, None)
        assert torch.equal(z, same) and torch.equal(ladj, same_ladj)
        assert torch.equal(transform.inverse(z, torch.randn(4, 7))[0], transform.inverse(z)[0])
    else:
        context = case.contexts(4)
        other = (context + 1) % 3 if case.context == "labels" else context + 1
        assert not torch.allclose(forward(case, transform, x, context)[0], forward(case, transform, x, other)[0])


@pytest.mark.parametrize("case", [c for c in CASES if c.context != "none"], ids=lambda case: case.name)
def test_one_row_of_context_stands_for_all(case: Case) -> None:
    transform = case.make().double()
    x, one = case.data(4), case.contexts(1)
    assert one is not None
    rows = one.expand(4, *one.shape[1:])
    for direction in (transform, transform.inverse):
        for a, b in zip(direction(x, one, noise()), direction(x, rows, noise()), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
        with pytest.raises(ValueError, match=r"expected a context of 4 rows \(one per event\) or of 1 row"):
            direction(x, rows[:3])


@every
def test_every_transform_accepts_a_generator(case: Case) -> None:
    """Nobody asks who draws: the same seed gives the same value, and who draws nothing leaves the generator alone."""
    transform = case.make()
    x, context, start = case.data(4, dtype=torch.float32), case.contexts(4, dtype=torch.float32), noise().get_state()
    z, _ = transform(x, context, noise())
    for direction, given, draws in (
        (transform, x, transform.stochastic or transform.estimates_ladj),
        (transform.inverse, z, transform.estimates_ladj),
    ):
        first, second = noise(), noise()
        for a, b in zip(direction(given, context, first), direction(given, context, second), strict=True):
            assert torch.equal(a, b)
        assert draws or torch.equal(first.get_state(), start)


@every
def test_to_noise_is_forward_without_its_log_determinant(case: Case) -> None:
    transform, x, context = case.make(), case.data(4), case.contexts(4)
    transform = transform.to(x.dtype)
    assert torch.equal(transform.to_noise(x, context, noise()), forward(case, transform, x, context)[0])


def test_a_forward_of_its_own_is_what_to_noise_runs() -> None:
    class Halved(T.ActNorm):
        def forward(self, x: Tensor, context: object = None, generator: object = None) -> tuple[Tensor, Tensor]:
            return x / 2, x.new_zeros(len(x))

    class Mixin:
        forward = Halved.forward

    for kind in (Halved, type("Again", (Halved,), {}), type("Mixed", (Mixin, T.ActNorm), {})):
        transform = kind(2)
        assert torch.equal(transform.to_noise(torch.ones(1, 2)), torch.full((1, 2), 0.5))


def test_a_signature_that_misses_the_generator_is_refused_where_it_is_defined() -> None:
    """In whichever class it stands; so is one that would take the generator for the context."""

    class Mixin:
        def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
            return z, z.sum(1)

    def swapped(self: Transform, x: Tensor, generator: object = None, context: object = None) -> Tensor:
        return x

    for own, parents, got in (
        (dict(vars(Mixin)), (Transform,), r"inverse: .*, got \(self, z: "),
        ({}, (Mixin, Transform), r"inverse: .*, got \(self, z: "),
        ({"to_data": lambda self, z: z}, (T.Flip,), r"to_data: .*, got \(self, z\)"),
        ({"initialize": swapped}, (T.Flip,), r"initialize: .*, got \(self.*, generator: .*, context: "),
    ):
        with pytest.raises(TypeError, match=r"Old\." + got):
            type("Old", parents, own)


def test_what_another_class_gives_to_a_transform_counts_as_its_own() -> None:
    class Halves:
        def forward(self, x: Tensor, context: object = None, generator: object = None) -> tuple[Tensor, Tensor]:
            return x / 2, x.new_zeros(len(x))

        def inverse(self, x: Tensor, context: object = None, generator: object = None) -> tuple[Tensor, Tensor]:
            return x * 2, x.new_zeros(len(x))

    made = type("Made", (Halves, Transform), {})
    assert made.has_inverse and not made.starts_from_output
    assert T.Scale.starts_from_output and not type("Scaled", (Halves, T.Scale), {}).starts_from_output


def test_no_transform_and_no_map_that_is_exported_is_missing_from_the_registry() -> None:
    exported = {found for name in T.__all__ if isinstance(found := getattr(T, name), type)}
    exported = {found for found in exported if issubclass(found, torch.nn.Module)} - {Transform, T.Map}
    assert T.Coupling in exported and exported <= {type(m) for case in CASES for m in case.build().modules()}


@every
def test_state_dict_and_copies(case: Case) -> None:
    transform, other = case.make(0), case.make(1)
    x, context = case.data(4, dtype=torch.float32), case.contexts(4, dtype=torch.float32)
    expected = forward(case, transform, x, context)
    other.load_state_dict(transform.state_dict())
    for twin in (other, copy.deepcopy(transform), pickle.loads(pickle.dumps(transform))):
        for a, b in zip(expected, forward(case, twin, x, context), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("case", [c for c in CASES if c.traces], ids=lambda case: case.name)
def test_traces_in_one_graph(case: Case) -> None:
    transform = case.make()
    x, context = case.data(3, dtype=torch.float32), case.contexts(3, dtype=torch.float32)
    torch._dynamo.reset()
    inverse = torch.compile(transform.inverse, fullgraph=True, backend="eager")
    z, _ = forward(case, transform, x, context)
    for a, b in zip(
        certain(transform, inverse(z, context)), certain(transform, transform.inverse(z, context)), strict=True
    ):
        torch.testing.assert_close(a, b)
    compiled = torch.compile(transform, fullgraph=True, backend="eager")
    traced = compiled(x, context)
    if not transform.stochastic:
        for a, b in zip(certain(transform, traced), certain(transform, transform(x, context)), strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    "case",
    [c for c in CASES if not (c.build().stochastic or c.build().estimates_ladj)],
    ids=lambda case: case.name,
)
def test_forward_mode_agrees_with_reverse_mode(case: Case) -> None:
    transform = case.make().double()
    x, context = case.data(2), case.contexts(2)
    function = lambda x: transform(x, context)  # noqa: E731
    for a, b in zip(torch.func.jacfwd(function)(x), torch.func.jacrev(function)(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("case", [c for c in CASES if c.networks], ids=lambda case: case.name)
def test_networks_in_bfloat16_leave_the_state_in_float32(case: Case) -> None:
    transform = case.make()
    x, context = case.data(8, dtype=torch.float32), case.contexts(8, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        z, ladj = transform(x, context)
        back, _ = transform.inverse(z, context)
    exact, exact_ladj = transform(x, context)
    assert z.dtype == ladj.dtype == back.dtype == torch.float32
    torch.testing.assert_close(z, exact, rtol=0.05, atol=0.05)
    if not transform.estimates_ladj:
        torch.testing.assert_close(ladj, exact_ladj, rtol=0.05, atol=0.05)
    # an integrator's inverse is as exact as the field it sees on another path, here of 8 bits
    tolerance = 5e-3 if case.name == "continuous-image" else 1e-3
    torch.testing.assert_close(back, x, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("case", [c for c in CASES if list(c.build().parameters())], ids=lambda case: case.name)
def test_gradients_reach_every_parameter(case: Case) -> None:
    transform = case.make()
    x, context = case.data(6, dtype=torch.float32), case.contexts(6, dtype=torch.float32)
    z, ladj = forward(case, transform, x, context)
    (z.square().sum() - ladj.sum()).backward()
    for name, p in transform.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), name
