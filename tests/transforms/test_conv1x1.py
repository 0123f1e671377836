"""Invertible 1x1 convolutions: what they start as, what they keep of their parameters, what they refuse."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pyflowk import transforms as T
from pyflowk.transforms import ActNorm, InvertibleConv1x1, LULinear, SingularTransformError
from pyflowk.transforms.conv1x1 import PARAMETRISATIONS

kinds = pytest.mark.parametrize("kind", PARAMETRISATIONS)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def moved(layer: InvertibleConv1x1) -> InvertibleConv1x1:
    with torch.no_grad():
        for p in layer.parameters():
            p += 0.1 * torch.randn(p.shape, generator=seeded(3), dtype=torch.float64).to(p.dtype)
    return layer


@kinds
def test_starts_as_a_rotation(kind: str) -> None:
    layer = InvertibleConv1x1(7, kind, generator=seeded()).double()
    weight = layer.matrix()
    torch.testing.assert_close(weight @ weight.mT, torch.eye(7, dtype=torch.float64), rtol=1e-5, atol=1e-5)
    assert bool((layer(torch.randn(2, 7, 3, 3, dtype=torch.float64))[1].abs() < 1e-5).all())
    assert torch.equal(weight, InvertibleConv1x1(7, kind, generator=seeded()).double().matrix())


@kinds
def test_is_torchs_convolution_and_its_inverse_torchs(kind: str) -> None:
    layer, x = moved(InvertibleConv1x1(6, kind)).double(), torch.randn(3, 6, 4, 5, dtype=torch.float64)
    weight = layer.matrix()
    z, ladj = layer(x)
    torch.testing.assert_close(z, torch.nn.functional.conv2d(x, weight[:, :, None, None]))
    torch.testing.assert_close(ladj, 20 * torch.linalg.slogdet(weight).logabsdet.expand(3), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(layer.matrix(inverse=True), torch.linalg.inv(weight))
    assert layer.condition() == pytest.approx(float(torch.linalg.cond(weight.detach(), 1)), rel=1e-9)


def test_reflections_are_a_product_of_householder_matrices() -> None:
    layer = InvertibleConv1x1(5, "householder").double()
    product = torch.eye(5, dtype=torch.float64)
    for v in layer.reflections.detach():
        product = product @ (torch.eye(5, dtype=torch.float64) - 2 * torch.outer(v, v) / v.dot(v))
    torch.testing.assert_close(layer.matrix(), product)


@kinds
def test_a_folded_norm_is_the_norm_before(kind: str) -> None:
    norm = ActNorm(4).double()
    x = 3 * torch.randn(8, 4, 2, 3, dtype=torch.float64) + 1
    apart = T.Compose(norm, InvertibleConv1x1(4, kind, generator=seeded()).double())
    folded = InvertibleConv1x1(4, kind, norm=copy.deepcopy(norm), generator=seeded()).double()
    for stack in (apart, folded):
        stack(x)  # in training mode: sets the norm
    z, ladj = folded(x)
    for a, b in zip((z, ladj), apart(x), strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(folded.inverse(z)[0], x)

    def gradients(stack: T.Transform) -> list[Tensor]:
        z, ladj = stack(x)
        return list(
            torch.autograd.grad(z.sin().sum() + ladj.sum(), [stack_norm(stack).log_scale, stack_norm(stack).bias])
        )

    def stack_norm(stack: T.Transform) -> ActNorm:
        return stack[0] if isinstance(stack, T.Compose) else stack.norm  # type: ignore[return-value]

    for a, b in zip(gradients(folded), gradients(apart), strict=True):
        torch.testing.assert_close(a, b)


# ---- what is kept ----------------------------------------------------------------------------------------------------


def step(layer: InvertibleConv1x1) -> InvertibleConv1x1:
    x = torch.randn(4, layer.channels, dtype=next(layer.parameters()).dtype)
    optimiser = torch.optim.SGD(layer.parameters(), 0.1)
    z, ladj = layer(x)
    (z.square().sum() - ladj.sum()).backward()
    optimiser.step()
    return layer


def load(layer: InvertibleConv1x1) -> InvertibleConv1x1:
    layer.load_state_dict(moved(copy.deepcopy(layer)).state_dict())
    return layer


def load_by_assignment(layer: InvertibleConv1x1) -> InvertibleConv1x1:
    layer.load_state_dict(moved(copy.deepcopy(layer)).state_dict(), assign=True)
    return layer


def there_and_back(layer: InvertibleConv1x1) -> InvertibleConv1x1:
    return moved(layer.double()).float()


CHANGES: dict[str, Callable[[InvertibleConv1x1], InvertibleConv1x1]] = {
    "in place": moved,
    "optimiser step": step,
    "load_state_dict": load,
    "load_state_dict, assign": load_by_assignment,
    "to float64": lambda layer: layer.double(),
    "to float64, changed, and back": there_and_back,
    "copied, then changed": lambda layer: moved(copy.deepcopy(layer)),
    "pickled, then changed": lambda layer: moved(pickle.loads(pickle.dumps(layer))),
    "training mode": lambda layer: layer.train(),
    "through data": lambda layer: (layer.lu.data.mul_(0.5), layer)[-1],
    "a buffer": lambda layer: (layer.permutation.copy_(layer.permutation.flip(0)), layer)[-1],
}


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_kept_matrices_follow_every_change_of_the_parameters(change: str) -> None:
    layer = InvertibleConv1x1(5, generator=seeded()).eval()
    with torch.no_grad():
        layer(torch.randn(2, 5)), layer.inverse(torch.randn(2, 5))  # now both are kept
    layer = CHANGES[change](layer)
    x = torch.randn(3, 5, dtype=layer.lu.dtype)
    fresh = InvertibleConv1x1(5).to(layer.lu.dtype)
    fresh.load_state_dict(layer.state_dict())
    with torch.no_grad():
        for a, b in zip((*layer(x), *layer.inverse(x)), (*fresh(x), *fresh.inverse(x)), strict=True):
            assert torch.equal(a, b)


def test_kept_matrices_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, made = InvertibleConv1x1(4), []
    original = layer._folded
    monkeypatch.setattr(layer, "_folded", lambda inverse: made.append(inverse) or original(inverse))
    x = torch.randn(2, 4)
    for mode in (True, False):
        layer.train(mode)
        with torch.no_grad():
            layer(x), layer.inverse(x), layer(x), layer.inverse(x)
        with torch.inference_mode():
            layer(x), layer.inverse(x)
    assert made == [False, True]
    layer(x)  # with gradient: made anew, for the graph
    assert made == [False, True, False]
    for p in layer.parameters():
        p.requires_grad_(False)
    leaf = x.clone().requires_grad_()
    layer(leaf)[0].sum().backward()  # what inference mode kept can be saved for a backward
    assert made == [False, True, False] and leaf.grad is not None


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_a_singular_matrix_is_refused_when_it_is_loaded() -> None:
    plu, dense, reflections = (InvertibleConv1x1(3, kind) for kind in PARAMETRISATIONS)
    state = plu.state_dict()
    state["lu"][1, 1] = -torch.inf
    with pytest.raises(SingularTransformError, match=r"\(3, 3\) is singular: pivot 1 is 0"):
        InvertibleConv1x1(3).load_state_dict(state)
    state = dense.state_dict() | {"weight": torch.ones(3, 3)}
    with pytest.raises(SingularTransformError, match=r"\(3, 3\) is singular: pivot 1 is 0"):
        InvertibleConv1x1(3, "dense").load_state_dict(state)
    state = reflections.state_dict()
    state["reflections"][2] = 0
    with pytest.raises(SingularTransformError, match="vector 2 has length 0"):
        InvertibleConv1x1(3, "householder").load_state_dict(state)
    state = InvertibleConv1x1(3).state_dict() | {"permutation": torch.tensor([0, 0, 5])}
    with pytest.raises(ValueError, match=r"each of 0..2 once, got \[0, 0, 5\]"):
        InvertibleConv1x1(3).load_state_dict(state)


def test_a_matrix_that_became_singular_is_refused() -> None:
    dense = InvertibleConv1x1(2, "dense")
    with torch.no_grad():
        dense.weight.copy_(torch.tensor([[1.0, 2.0], [2.0, 4.0]]))
    for call in (dense.forward, dense.inverse):
        with pytest.raises(SingularTransformError, match="pivot 1"):
            call(torch.randn(3, 2))
    plu = InvertibleConv1x1(2)
    with torch.no_grad():
        plu.lu[0, 0] = -200.0  # e^-200 is 0 in float32, and its inverse no number
        with pytest.raises(SingularTransformError, match="pivot 0"):
            plu.inverse(torch.randn(3, 2))


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: InvertibleConv1x1(3)(torch.randn(2, 4, 5, 5)), r"expects \(B, 3, \*rest\), got \(2, 4, 5, 5\)"),
        (lambda: InvertibleConv1x1(3).inverse(torch.randn(3)), r"expects \(B, 3, \*rest\), got \(3,\)"),
        (lambda: LULinear(3)(torch.zeros(2, 3, dtype=torch.int64)), "LULinear expects a floating-point x, got"),
        (lambda: InvertibleConv1x1(0), "at least one channel, got 0"),
        (lambda: InvertibleConv1x1(3, "qr"), "expected one of plu, dense, householder; got 'qr'"),
        (lambda: InvertibleConv1x1(3, norm=ActNorm(4)), "expected an ActNorm of 3 channels, got one of 4"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_words(call: Callable[[], object], words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        call()


@kinds
def test_autocast_changes_nothing(kind: str) -> None:
    layer = moved(InvertibleConv1x1(5, kind, norm=ActNorm(5), generator=seeded()))
    x = torch.randn(4, 5, 3, 3, generator=seeded(1))
    layer.initialize(x)
    for move in (layer, layer.inverse):
        plain = move(x)
        with torch.autocast("cpu", torch.bfloat16):
            narrowed = move(x)
        for a, b in zip(plain, narrowed, strict=True):
            assert torch.equal(a, b)
