"""Masked autoregressive maps against D passes of the network, values and gradients; packing, caching, bad input."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

from pyflowk.nets import MADE
from pyflowk.ops import made_forward
from pyflowk.transforms import (
    Additive,
    Affine,
    BatchNorm,
    Elementwise,
    Invert,
    MaskedAutoregressive,
    RationalQuadratic,
)

from .registry import sinh_asinh


def build(features: int, map: nn.Module | None = None, seed: int = 0, **options: object) -> MaskedAutoregressive:
    torch.manual_seed(seed)
    map = map or Affine()
    made = MADE(features, map.params_per_element, **{"hidden": (20, 20), "activation": "tanh", **options})  # type: ignore[arg-type]
    for p in made.last.parameters():
        nn.init.normal_(p, std=0.2)
    return MaskedAutoregressive(made, map).double()


def passes(maf: MaskedAutoregressive, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The inverse as every package has it: D passes of the whole network, each of which settles one more coordinate."""
    x = torch.zeros_like(z)
    for feature in maf.made.order:
        whole = maf.map(z, maf.made(x, context), mask="all", swap=False, inverse=True)[0]
        x = torch.where(torch.arange(z.shape[1]) == feature, whole, x)
    return x, maf.map(z, maf.made(x, context), mask="all", swap=False, inverse=True)[1]


NETS = {
    "plain": {},
    "one": {"features": 1, "context_dim": 2},
    "two": {"features": 2},
    "residual-vector": {"residual": True, "hidden": (16, 16, 16, 16, 16), "context_dim": 2, "activation": "silu"},
    "order": {"order": [4, 1, 10, 7, 0, 2, 9, 3, 8, 6, 5], "hidden": (30,), "activation": "elu"},
    "narrow": {"features": 29, "hidden": (5, 9)},
    "degrees": {"features": 3, "hidden": (3, 4), "degrees": [[2, 0, 1], [1, 2, 0, 2]], "context_dim": 2},
}
MAPS = {
    "affine": lambda: Affine("tanh"), "none": lambda: Affine("none"), "additive": Additive,
    "elementwise": lambda: Elementwise(sinh_asinh, 2), "spline": lambda: RationalQuadratic(4, interval=(-1.5, 2.0)),
}  # fmt: skip


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("map", MAPS)
def test_inverse_and_its_gradient_are_those_of_the_passes(net: str, map: str) -> None:
    maf = build(**{"features": 11, "map": MAPS[map](), **NETS[net]})  # type: ignore[arg-type]
    z = torch.randn(4, maf.made.features, dtype=torch.float64, requires_grad=True)
    c = torch.randn(4, 2, dtype=torch.float64, requires_grad=True) if maf.made.takes_context else None
    inputs = [z, *maf.parameters()] + ([] if c is None else [c])
    results = []
    for inverse in (maf.inverse, lambda z, c: passes(maf, z, c)):
        x, ladj = inverse(z, c)
        first = torch.autograd.grad(x.sin().sum() + (ladj * x.detach()[:, 0]).sum(), inputs, create_graph=True,
                                    allow_unused=True, materialize_grads=True)  # fmt: skip
        second = torch.autograd.grad(sum((g**2).sum() for g in first), inputs, allow_unused=True,
                                     materialize_grads=True)  # fmt: skip
        results.append([x, ladj, *first, *second])
    for ours, truth in zip(*results, strict=True):
        torch.testing.assert_close(ours, truth, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_off_the_cpu_the_density_is_products_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pretended device: torch's library takes the matrices as they are, and nothing is packed."""
    maf, x = build(5), torch.randn(2, 5, dtype=torch.float64)
    expected = maf(x)
    monkeypatch.setattr(torch.Tensor, "is_cpu", property(lambda self: False))
    monkeypatch.setattr(maf.made, "_packed_weights", lambda: pytest.fail("packed"))
    torch.testing.assert_close(maf(x), expected)


def test_density_by_the_kernel_is_that_of_the_network() -> None:
    for net, map in itertools.product(NETS, ("affine", "none", "additive", "spline")):
        maf = build(**{"features": 11, "map": MAPS[map](), **NETS[net]})  # type: ignore[arg-type]
        x = torch.randn(4, maf.made.features, dtype=torch.float64)
        c = torch.randn(4, 2, dtype=torch.float64) if maf.made.takes_context else None
        with torch.no_grad():
            kernel, alone = maf(x, c), maf(x[:1], None if c is None else c[:1])
        for ours, one, truth in zip(kernel, alone, maf(x, c), strict=True):
            torch.testing.assert_close(ours, truth, rtol=1e-12, atol=1e-12)
            # alone it has the units in the lanes; what a context adds is torch's product, of other bits for other rows
            assert c is not None or torch.equal(one, ours[:1])


def test_many_rows_train_by_the_kernel_where_the_masks_leave_enough_out(monkeypatch: pytest.MonkeyPatch) -> None:
    maf, x = build(64, hidden=(126, 126)), torch.randn(512, 64, dtype=torch.float64)
    calls: list[int] = []

    def counted(*args: object, **options: object) -> tuple[Tensor, Tensor]:
        calls.append(1)
        return made_forward(*args, **options)  # type: ignore[arg-type]

    def gradients(rows: int) -> list[Tensor]:
        z, ladj = maf(x[:rows])
        return torch.autograd.grad((z[:300].square().sum(1) / 2 - ladj[:300]).sum(), list(maf.parameters()))

    monkeypatch.setattr("pyflowk.transforms.autoregressive.made_forward", counted)
    for ours, truth in zip(gradients(512), gradients(300), strict=True):
        torch.testing.assert_close(ours, truth, rtol=1e-10, atol=1e-10)
    torch.func.jvp(maf, (x,), (x,))
    assert len(calls) == 1
    build(5)(x[:, :5])
    assert len(calls) == 1


def test_wild_splines_neither_break_nor_drift() -> None:
    """Logits of std 6 with 16 bins in float32: all is finite; the way back holds to 1e-4 up to a slope of 20."""
    for tails in ("linear", "bounded", "circular"):
        maf = build(8, RationalQuadratic(16, 3.0, tails=tails), hidden=(32, 32)).float()
        nn.init.normal_(maf.made.last.bias, std=6.0)
        z = 1.2 * torch.randn(2000, 8)
        z.requires_grad_()
        x, ladj = maf.inverse(z)
        gradients = torch.autograd.grad(x.sum() + ladj.sum(), [z, *maf.parameters()])
        assert all(t.isfinite().all() for t in (x, ladj, *gradients))
        with torch.no_grad():
            back, ladj_back = maf(x)
            exact, wide = copy.deepcopy(maf).double(), x.double()
            params = exact.made(wide)
            near = [maf.map(wide + h, params, mask="all", swap=False, inverse=False)[0] for h in (-2e-6, 0, 2e-6)]
        assert back.isfinite().all() and ladj_back.isfinite().all()
        slope = torch.stack(near).diff(dim=0).amax(0) / 2e-6
        assert ((back - z).abs() <= 1e-4 * (slope / 20).clamp(min=1)).all()


def test_memory_of_the_gradient_does_not_grow_with_the_passes() -> None:
    """Saved for the backward of the inverse: its output and the packed weights, once."""
    maf, saved = build(40), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        maf.inverse(torch.randn(8, 40, dtype=torch.float64, requires_grad=True))
    real = [t for t in saved if t.is_floating_point()]
    weights = sum(p.numel() for p in maf.parameters())
    assert sum(t.numel() for t in real) < 2 * weights + 8 * 41


def test_packed_weights_follow_the_parameters() -> None:
    maf = build(6)
    x = torch.randn(3, 6, dtype=torch.float64)
    with torch.no_grad():
        before = maf(x)[0]
        assert maf.made.packed(x)[0] is maf.made.packed(x)[0]
        for change in (
            lambda: maf.made.last.bias.add_(1.0),
            lambda: maf.made.load_state_dict(build(6, seed=1).made.state_dict()),
            lambda: setattr(maf.made.last, "weight", nn.Parameter(torch.zeros_like(maf.made.last.weight))),
            lambda: setattr(maf.made.layers[0].weight, "data", torch.ones_like(maf.made.layers[0].weight)),
        ):
            change()
            torch.testing.assert_close(maf(x)[0], maf.map(x, maf.made(x), mask="all", swap=False, inverse=False)[0])
        assert not torch.equal(maf(x)[0], before)
        twin = copy.deepcopy(maf).float()
        assert twin(x.float())[0].dtype == torch.float32
    with torch.inference_mode():
        maf.inverse(x)
    for p in maf.parameters():
        p.requires_grad_(False)
    z = x.clone().requires_grad_()
    maf.inverse(z)[0].sum().backward()  # a tensor kept from inference mode could not be saved
    assert z.grad is not None


def test_identity_at_the_start() -> None:
    x = torch.randn(3, 5)
    for maf in (MaskedAutoregressive(MADE(5)), Invert(MaskedAutoregressive(MADE(5, order="reversed")))):
        for y, ladj in (maf(x), maf.inverse(x)):
            assert torch.equal(y, x) and not ladj.any()


def test_batch_norm_normalises_in_training_and_inverts_in_evaluation() -> None:
    norm = BatchNorm(3, momentum=1.0).double()
    x = 2 + 3 * torch.randn(50, 3, dtype=torch.float64)
    z, ladj = norm(x)
    torch.testing.assert_close(z.mean(0), torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(z.std(0, correction=0), torch.ones(3, dtype=torch.float64), rtol=1e-5, atol=0)
    torch.testing.assert_close(ladj, -(x.var(0, correction=0) + 1e-5).log().sum().expand(50) / 2)
    torch.testing.assert_close(norm.inverse(z)[0], x)
    norm.eval()
    torch.testing.assert_close(norm(x), (z, ladj))
    assert norm(x[:0])[0].shape == (0, 3)
    norm.train()
    with pytest.raises(ValueError, match="at least 2 rows"):
        norm(x[:1])
    with pytest.raises(ValueError, match=r"\(B, 3\)"):
        norm(x[:, :2])
    with pytest.raises(ValueError, match="momentum"):
        BatchNorm(3, momentum=0.0)


def test_batch_norm_of_a_constant_column_keeps_the_running_variance() -> None:
    norm, x = BatchNorm(2, momentum=0.5), torch.randn(50, 2)
    x[:, 1] = 7.1
    for _ in range(9):
        z = norm(x)[0]
    assert z[:, 1].abs().max() < 1e-5 and norm.running_var[1] == 1
    x[3, 0] = torch.nan
    assert norm(x)[0].isnan().any() and norm.running_mean.isfinite().all()
    norm.initialize(x)
    assert norm.running_var[1] == 1 and abs(norm.running_mean[1] - 7.1) < 1e-5 and norm.eval()(x)[0].isnan().sum() == 1


def test_not_finite_weights_give_not_finite_results() -> None:
    maf = build(5)
    with torch.no_grad():
        maf.made.last.bias[3] = float("nan")  # the raw scale of coordinate 3
        for direction in (maf.forward, maf.inverse):
            y, ladj = direction(torch.randn(2, 5, dtype=torch.float64))
            assert y[:, :3].isfinite().all() and y[:, 3].isnan().all() and ladj.isnan().all()


@pytest.mark.parametrize(
    "options, words",
    [
        ({"features": 0}, "features to be an integer of at least 1, got 0"),
        ({"hidden": (4, 0)}, r"hidden\[1\] to be an integer of at least 1, got 0"),
        ({"order": [0, 1, 1]}, "permutation"),
        ({"order": "backwards"}, "'reversed' or a permutation"),
        ({"order": [0, 1]}, "permutation"),
        ({"hidden": (4, 5, 4), "residual": True}, "1 \\+ 2 k"),
        ({"hidden": (4, 4), "residual": True}, "1 \\+ 2 k"),
        ({"hidden": ()}, "at least one hidden layer"),
        ({"hidden": (2,), "degrees": [[0, 3]]}, "degrees of hidden layer 0 .*0..2"),
        ({"hidden": (2,), "degrees": [[0, -1]]}, "degrees of hidden layer 0"),
        ({"hidden": (2,), "degrees": [[0]]}, "one for every hidden unit"),
        ({"activation": "cos"}, "activation"),
    ],
)
def test_bad_networks_are_refused_in_words(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MADE(**{"features": 3, **options})  # type: ignore[arg-type]


def test_bad_calls_are_refused_in_words() -> None:
    conditional = build(3, context_dim=2)
    x, c = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)
    for direction in (conditional.forward, conditional.inverse):
        for bad, words in ((None, "got none"), (c[:3], "4 rows"), (c[:, :1], r"\(B, 2\)")):
            with pytest.raises(ValueError, match=words):
                direction(x, bad)
        with pytest.raises(ValueError, match=r"expects \(B, 3\), got \(4, 2\)"):
            direction(x[:, :2], c)
    with pytest.raises(ValueError, match="1 parameters an element"):
        MaskedAutoregressive(MADE(3), Additive())
    with pytest.raises(ValueError, match="interleaved"):
        MaskedAutoregressive(MADE(3), Affine(interleaved=True))
    weights, shift, plan, hidden = build(3).made.packed(x)
    assert shift is None
    for change, words in (
        ({"weights": weights[:-1]}, "do not belong together"),
        ({"plan": plan[:-1]}, "plan must be"),
        ({"plan": plan.roll(1)}, "do not belong together"),
        ({"hidden": (20, 21)}, "do not belong together"),
        ({"shift": x}, "shift must be"),
        ({"activation": "gelu"}, "expected one of relu"),
        ({"bound": "wide"}, "bound: expected one of"),
        ({"limit": 0.0}, "limit must be"),
        ({"spline": {"bins": 1}}, r"made_forward: bins must be in 2\.\.64; got 1"),
        ({"spline": {"tails": "flat"}}, "tails: expected one of linear"),
        ({"spline": {"min_width": 0.2}}, r"min_width must be in \(0, 1 / bins\)"),
        ({"spline": {}}, "plan and packed weights do not belong together"),
        ({"residual": True}, "1 \\+ 2 k"),
    ):
        arguments = {"x": x, "weights": weights, "shift": None, "plan": plan, "hidden": hidden, **change}
        with pytest.raises(ValueError, match=words):
            made_forward(**arguments)  # type: ignore[arg-type]
