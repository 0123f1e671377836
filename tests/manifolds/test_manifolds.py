"""What every manifold keeps, and each against its closed forms."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from torch import Tensor
from torch.func import jvp, vmap

from pyflowk import manifolds
from pyflowk.manifolds import SO3, Euclidean, Manifold, Product, Sphere, Torus, factors, manifold

ALL: dict[str, Manifold] = {
    "circle": Sphere((2,)),
    "sphere": Sphere((3,)),
    "spheres": Sphere((2, 3)),
    "sphere-7": Sphere((8,)),
    "torus": Torus((3,)),
    "so3": SO3(),
    "rotations": SO3((2, 3, 3)),
    "euclidean": Euclidean((2, 2)),
    "product": Product((Sphere((3,)), Torus((2,)), SO3(), Euclidean((1,)))),
}
every = pytest.mark.parametrize("name", ALL)
ROWS = 7


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def points(space: Manifold, seed: int, rows: int = ROWS, dtype: torch.dtype = torch.float64) -> Tensor:
    """Around the origin, within reach of each other without a cut locus between."""
    noise = 0.4 * torch.randn(rows, *space.shape, generator=seeded(seed), dtype=torch.float64)
    start = space.origin(torch.float64).expand_as(noise)
    return space.exp(start, space.tangent(start, noise)).to(dtype)


def vectors(space: Manifold, x: Tensor, seed: int, size: float = 1.0) -> Tensor:
    noise = torch.randn(x.shape, generator=seeded(seed), dtype=torch.float64).to(x.dtype)
    return size * space.tangent(x, noise)


def test_every_exported_manifold_is_here() -> None:
    kinds = {kind for kind in vars(manifolds).values() if inspect.isclass(kind)}
    assert kinds - {Manifold} == {type(space) for space in ALL.values()}


@every
def test_projections_are_idempotent_and_nearest(name: str) -> None:
    space = ALL[name]
    x = points(space, 0)
    torch.testing.assert_close(space.project(x), x, rtol=1e-13, atol=1e-13)
    assert (space.off(x) < 1e-13).all() and space.off(space.origin()[None]).item() == 0
    v = torch.randn(x.shape, generator=seeded(1), dtype=torch.float64)
    u = space.tangent(x, v)
    torch.testing.assert_close(space.tangent(x, u), u, rtol=1e-13, atol=1e-13)
    # the derivative of the projection to the manifold is that to the tangent space
    torch.testing.assert_close(jvp(space.project, (x,), (v,))[1], u, rtol=1e-11, atol=1e-11)
    basis = space.basis(x)
    flat = basis.flatten(2)
    unit = torch.eye(space.dim, dtype=torch.float64).expand(ROWS, -1, -1)
    assert basis.shape == (ROWS, space.dim, *space.shape)
    torch.testing.assert_close(flat @ flat.mT, unit, rtol=0, atol=1e-13)
    spanned = torch.einsum("bk,bkd->bd", torch.einsum("bkd,bd->bk", flat, v.flatten(1)), flat)
    torch.testing.assert_close(spanned, u.flatten(1), rtol=1e-12, atol=1e-12)


@every
def test_exponential_and_logarithm_are_inverse(name: str) -> None:
    space = ALL[name]
    x, y = points(space, 0), points(space, 1)
    v = space.log(x, y)
    torch.testing.assert_close(space.tangent(x, v), v, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(space.exp(x, v), y, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(space.distance(x, y), space.distance(y, x), rtol=1e-12, atol=1e-12)
    for size in (1e-12, 1e-5, 0.5):
        u = vectors(space, x, 2, size)
        torch.testing.assert_close(space.log(x, space.exp(x, u)), u, rtol=1e-12, atol=1e-15)
    assert (space.distance(x, x) < 1e-15).all()


@every
def test_geodesics_solve_their_equation(name: str) -> None:
    """The point's derivative is the velocity, whose length stays and whose derivative is normal."""
    space = ALL[name]
    x = points(space, 0)
    v = vectors(space, x, 1)
    times = torch.full((ROWS, *[1] * len(space.shape)), 0.7, dtype=torch.float64)
    (point, velocity), (speed, force) = jvp(lambda s: space.travel(x, v, s), (times,), (torch.ones_like(times),))
    torch.testing.assert_close(speed, velocity, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(space.tangent(point, force), torch.zeros_like(force), rtol=0, atol=1e-12)
    torch.testing.assert_close(space.inner(point, velocity, velocity), space.inner(x, v, v), rtol=1e-12, atol=1e-12)
    assert (space.off(point) < 1e-12).all()
    assert all(map(torch.equal, space.travel(x, v, 0.7), (point, velocity)))


@every
def test_what_networks_see_is_pulled_back(name: str) -> None:
    """Pulling back is the transpose of the derivative of what is seen."""
    space = ALL[name]
    x = points(space, 0)
    v, u = vectors(space, x, 1), torch.randn(ROWS, space.embedded, generator=seeded(2), dtype=torch.float64)
    seen, pushed = jvp(space.embed, (x,), (v,))
    assert seen.shape == (ROWS, space.embedded)
    pulled = space.pull(x, u)
    torch.testing.assert_close((pushed * u).sum(1), (pulled * v).flatten(1).sum(1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(space.tangent(x, pulled), pulled, rtol=1e-12, atol=1e-12)
    basis = space.basis(x)
    frame = torch.stack([jvp(space.embed, (x,), (e,))[1] for e in basis.unbind(1)], 1)
    torch.testing.assert_close(space.frame(x), frame, rtol=1e-12, atol=1e-12)
    turned = torch.stack([jvp(lambda x: space.pull(x, u), (x,), (e,))[1] for e in basis.unbind(1)], 1)
    torch.testing.assert_close(space.bend(x, u), (turned * basis).flatten(1).sum(1), rtol=1e-12, atol=1e-12)


@every
def test_dtypes_rows_and_nan(name: str) -> None:
    space = ALL[name]
    x, y = points(space, 0, dtype=torch.float32), points(space, 1, dtype=torch.float32)

    def answers(x: Tensor, y: Tensor) -> list[Tensor]:
        v = space.log(x, y)
        return [v, *space.travel(x, v, 0.5), space.project(x + v), space.tangent(x, y), space.basis(x),
                space.distance(x, y), space.off(x), space.embed(x), space.pull(x, space.embed(y))]  # fmt: skip

    found = answers(x, y)
    for single, double, alone, none in zip(
        found, answers(x.double(), y.double()), answers(x[:1], y[:1]), answers(x[:0], y[:0]), strict=True
    ):
        assert single.dtype == torch.float32 and single.shape[1:] == none.shape[1:] and len(none) == 0
        torch.testing.assert_close(single.double(), double, rtol=3e-5, atol=3e-6)
        torch.testing.assert_close(single[:1], alone)
    rows = vmap(lambda x, y: tuple(part[0] for part in answers(x[None], y[None])))(x, y)
    for whole, each in zip(found, rows, strict=True):
        torch.testing.assert_close(whole, each)
    x[2].view(-1)[0] = math.nan
    for part in (space.project(x), space.log(x, y), space.log(y, x), space.exp(x, y), space.off(x)[:, None]):
        assert part.flatten(1).isnan().any(1).tolist() == [False, False, True, False, False, False, False]
    space.check(x)


@every
def test_derivatives_of_both_orders(name: str) -> None:
    space = ALL[name]
    x, y = points(space, 0, 2), points(space, 1, 2)
    noise = [0.1 * torch.randn(p.shape, generator=seeded(3), dtype=torch.float64) for p in (x, y)]
    free = [(p + e).requires_grad_() for p, e in zip((x, y), noise, strict=True)]

    def way(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x, y = space.project(x), space.project(y)
        return space.travel(x, space.log(x, y), 0.3)

    assert torch.autograd.gradcheck(way, free, fast_mode=True)
    assert torch.autograd.gradgradcheck(way, free, fast_mode=True)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_gradients_are_finite_where_points_meet_and_where_they_are_opposite(name: str, dtype: torch.dtype) -> None:
    space = ALL[name]
    x = points(space, 0, dtype=dtype)
    if isinstance(space, (SO3, Euclidean, Product)):  # half a turn of the first angle, of the first rotation
        opposite = space.exp(x, math.pi * math.sqrt(2 if isinstance(space, SO3) else 1) * space.basis(x)[:, 0])
    else:
        opposite = -x
    for y in (x, opposite):
        x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
        v = space.log(x, y)
        point, velocity = space.travel(x, v, 0.5)
        grads = torch.autograd.grad((point + velocity).sum(), (x, y))
        assert all(part.isfinite().all() for part in (v, point, velocity, *grads))


def test_opposite_points_of_a_sphere_have_a_way() -> None:
    x = points(ALL["sphere-7"], 0, dtype=torch.float32)
    v = ALL["sphere-7"].log(x, -x)
    torch.testing.assert_close(v.norm(dim=1), torch.full((ROWS,), math.pi))
    torch.testing.assert_close((v * x).sum(1), torch.zeros(ROWS), rtol=0, atol=1e-6)
    torch.testing.assert_close(ALL["sphere-7"].exp(x, v), -x, rtol=0, atol=1e-6)


@pytest.mark.parametrize("angle", [1e-6, 1e-3, 0.7, math.pi / 2, 3.0, math.pi - 1e-3, math.pi - 1e-6, math.pi])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_angles_lose_nothing(angle: float, dtype: torch.dtype) -> None:
    """An arc cosine of the product would lose half of the digits of the small ones and of those near pi."""
    tight = 20 * torch.finfo(dtype).eps
    start, end = torch.tensor([[[1.0, 0.0, 0.0]], [[math.cos(angle), math.sin(angle), 0.0]]], dtype=dtype)
    assert Sphere((3,)).distance(start, end).item() == pytest.approx(angle, rel=tight)
    axis = torch.tensor([2.0, -1.0, 2.0], dtype=torch.float64) / 3
    spin = torch.linalg.cross(axis.expand(3, 3), torch.eye(3, dtype=torch.float64)).T
    turned = torch.linalg.matrix_exp(angle * spin).to(dtype)[None]
    space, one = SO3(), SO3().origin(dtype)[None]
    assert space.distance(one, turned).item() == pytest.approx(angle, rel=tight, abs=tight * 1e-6)
    torch.testing.assert_close(space.exp(one, space.log(one, turned)), turned, rtol=0, atol=tight)
    torch.testing.assert_close(space.travel(one, (angle * spin).to(dtype)[None], 1.0)[0], turned, rtol=0, atol=tight)


def test_a_torus_goes_backwards_from_halfway_round() -> None:
    torus = Torus((5,))
    to = torch.tensor([[math.pi, -math.pi, 3 * math.pi, 1e-9, 2 * math.pi + 0.5]], dtype=torch.float64)
    way = torus.log(torch.zeros_like(to), to)
    expected = torch.tensor([[-math.pi, -math.pi, -math.pi, 1e-9, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(way, expected, rtol=1e-12, atol=1e-15)


def test_the_nearest_rotation_is_that_of_the_singular_values() -> None:
    x = torch.randn(50, 3, 3, generator=seeded(), dtype=torch.float64)
    right = torch.linalg.det(x) > 0
    u, _, v = torch.linalg.svd(x)
    assert 10 < int(right.sum()) < 40
    torch.testing.assert_close(SO3().project(x)[right], (u @ v)[right], rtol=0, atol=1e-9)
    assert SO3().project(x)[~right].isnan().all()
    assert SO3().off(-SO3().origin()[None]).item() == 2


def test_volumes() -> None:
    expected = {"circle": 2 * math.pi, "sphere": 4 * math.pi, "spheres": (4 * math.pi) ** 2, "sphere-7": math.pi**4 / 3,
                "torus": (2 * math.pi) ** 3, "so3": 8 * math.pi**2}  # fmt: skip
    for name, volume in expected.items():
        assert math.exp(ALL[name].log_volume) == pytest.approx(volume)
    product = Product((ALL["sphere"], ALL["torus"]))
    assert product.log_volume == pytest.approx(math.log(4 * math.pi * (2 * math.pi) ** 3))
    assert ALL["product"].log_volume == math.inf
    dims = {name: space.dim for name, space in ALL.items()}
    assert dims == {"circle": 1, "sphere": 2, "spheres": 4, "sphere-7": 7, "torus": 3, "so3": 3, "rotations": 6,
                    "euclidean": 4, "product": 8}  # fmt: skip


def test_names() -> None:
    assert isinstance(manifold("sphere", (2, 3)), Sphere) and isinstance(manifold("so3", (3, 3)), SO3)
    product = manifold("sphere(3) x torus(2) x so3 x euclidean(1)", (15,))
    assert isinstance(product, Product) and [type(part) for part in product.parts] == [Sphere, Torus, SO3, Euclidean]
    assert factors("torus(2) x so3(9)") == ("torus", "so3")


@pytest.mark.parametrize(
    "name, shape, words",
    [
        ("klein", (3,), "expected one of sphere, torus, so3, euclidean, a product such as"),
        ("sphere x torus(2)", (5,), r"expected how many numbers sphere has in .*, such as sphere\(3\)"),
        ("sphere(3) x torus(2)", (4,), r"expected events \(5,\) of .*, got \(4,\)"),
        ("torus(2) x so3(8)", (10,), "expected so3, of 9 numbers, .* got 8"),
        ("sphere", (2, 1), "at least 2 numbers on the last axis"),
        ("so3", (9,), r"matrices \(3, 3\) on the last axes, got \(9,\)"),
    ],
)
def test_what_is_no_manifold(name: str, shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        manifold(name, shape)


def test_what_is_no_point() -> None:
    for space, x, words in (
        (Sphere((3,)), torch.tensor([[0.0, 0.0, 2.0]]), r"x: expected points of Sphere\(\(3,\)\), got one .* off by 1"),
        (SO3(), -torch.eye(3)[None], "off by 2"),
        (Torus((2,)), torch.tensor([[0.0, math.inf]]), "off by inf"),
    ):
        with pytest.raises(ValueError, match=words):
            space.check(x)
    for wrong, words in ((3, "expects the shape of a point"), (("a",), "an integer")):
        with pytest.raises(TypeError, match=words):
            Sphere(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Product expects manifolds, got 'sphere'"):
        Product(("sphere",))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one"):
        Product(())
