"""Guidance against closed forms of Gaussians: its directions, when it is there, its derivatives, and its cost."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from pyflowk.nets import Field, MLPField, VelocityField
from pyflowk.ops.divergence import exact_divergence, push_forward
from pyflowk.paths import PREDICTIONS, Cosine, convert
from pyflowk.solvers import Fixed, Guided, difference, projected, zero_star
from pyflowk.space import Ragged
from pyflowk.transforms import Continuous
from tests.paths.oracles import Mixture

LABELS = (Mixture((1.0,), (-1.0,), (0.3,)), Mixture((1.0,), (1.5,), (0.5,)))
ANY = Mixture((0.3, 0.7), (-1.0, 1.5), (0.3, 0.5))
DIRECTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "difference": difference, "zero_star": zero_star, "projected": projected(), "cut": projected(0.3, radius=0.15),
}  # fmt: skip


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Exact(Field):
    """What is known of two Gaussians by their labels and, label 2, of both: on the line; it counts its rows."""

    def __init__(self, prediction: str = "velocity") -> None:
        super().__init__()
        self.prediction, self.rows = prediction, list[int]()

    def no_context(self) -> Tensor:
        return torch.tensor([2])

    def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        assert context is not None
        self.rows.append(len(x))
        each = [m.predictions(x[:, 0], t.expand(len(x)), Cosine())[self.prediction] for m in (*LABELS, ANY)]
        return torch.stack(each, 1).gather(1, context.expand(len(x))[:, None])


def network(**options: Any) -> MLPField:
    torch.manual_seed(0)
    field = MLPField(3, 8, 2, classes=4, droppable=True, **options).double()
    for p in field.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return field


X, T, LABEL = torch.randn(5, 3, generator=seeded()).double(), torch.tensor(0.4).double(), torch.tensor([0, 1, 2, 3, 3])


def test_two_gaussians_of_which_the_result_is_known() -> None:
    """Scores of N(.2, .8^2) and N(-.4, 1.1^2) at weight 1.5: that of N(.4789346247, .6123823206^2)."""
    field = Guided(_Scores({0: (0.2, 0.8), 1: (-0.4, 1.1)}), weight=1.5)
    x = torch.tensor([[0.4789346247], [0.0]], dtype=torch.float64)
    score = field(torch.tensor(1.0), x, torch.tensor([0])).squeeze(1)
    assert score[0].abs() < 1e-9 and score[1].item() == pytest.approx(0.4789346247 / 0.6123823206**2, rel=1e-9)


class _Scores(Field):
    def __init__(self, gaussians: dict[int, tuple[float, float]]) -> None:
        super().__init__()
        self.gaussians = gaussians

    def no_context(self) -> Tensor:
        return torch.tensor([1])

    def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        assert context is not None
        mean, deviation = torch.tensor(list(self.gaussians.values()), dtype=x.dtype)[context].unbind(1)
        return -(x - mean[:, None]) / deviation[:, None] ** 2


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_whatever_is_predicted_scores_add_up(prediction: str) -> None:
    """score_w = (1 + w) score_c - w score_u, whether guidance stands before or behind the change to velocities."""
    w, n, t = 1.5, 20, torch.tensor(0.45, dtype=torch.float64)
    x, label = torch.linspace(-2, 2, n, dtype=torch.float64)[:, None], torch.arange(n) % 2
    score = Exact("score")
    wanted = (1 + w) * score(t, x, label) - w * score(t, x, torch.full((n,), 2))
    inside = VelocityField(Guided(Exact(prediction), w), Cosine(), prediction)
    outside = Guided(VelocityField(Exact(prediction), Cosine(), prediction), w)
    for field in (inside, outside):
        found = convert(field(t, x, label), x, t, Cosine(), "velocity", "score")
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_weight_zero_is_the_conditional_field_bit_by_bit() -> None:
    field = network()
    assert torch.equal(Guided(field, 0.0, still=0.5, rescale=1.0)(T, X, LABEL), field(T, X, LABEL))
    torch.testing.assert_close(Guided(field, -1.0)(T, X, LABEL), field(T, X, None))


def test_both_halves_are_one_evaluation() -> None:
    field = Exact()
    x, t = torch.randn(6, 1, dtype=torch.float64), torch.linspace(0, 1, 6, dtype=torch.float64)
    for context in (torch.tensor([1]), torch.tensor(1), torch.ones(6, dtype=torch.int64)):
        assert Guided(field, 2.0)(t, x, context).shape == (6, 1)
    assert field.rows == [12] * 3


def test_an_interval_of_times() -> None:
    field = Exact()
    guided, full = Guided(field, 2.0, interval=(0.25, 0.75)), Guided(Exact(), 2.0)
    x, label = torch.randn(4, 1, dtype=torch.float64, generator=seeded()), torch.tensor([0, 1, 0, 1])
    for time, rows in ((0.2, 4), (0.25, 8), (0.75, 8), (0.8, 4)):
        field.rows.clear()
        t = torch.tensor(time, dtype=torch.float64)
        found = guided(t, x, label)
        assert field.rows == [rows]
        torch.testing.assert_close(found, (full if rows == 8 else field)(t, x, label), rtol=1e-12, atol=0)
    t = torch.tensor([0.1, 0.3, 0.7, 0.9], dtype=torch.float64)
    wanted = torch.cat([guided(t[i], x[i : i + 1], label[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(guided(t, x, label), wanted, rtol=1e-12, atol=1e-15)


def test_zero_star_goes_away_from_the_nearest_multiple() -> None:
    """s makes v_c - s v_u orthogonal to v_u; so long the velocity stands still at the start."""
    field = network()
    strong, weak = field(T, X, LABEL), field(T, X, None)
    moved = zero_star(strong, weak)
    torch.testing.assert_close((moved * weak).sum(1), torch.zeros(5).double(), rtol=0, atol=1e-12)
    s = (strong * weak).sum(1, keepdim=True) / weak.square().sum(1, keepdim=True)
    guided = Guided(field, 1.5, direction=zero_star, still=0.04)
    torch.testing.assert_close(guided(T, X, LABEL), s * weak + 2.5 * (strong - s * weak))
    assert guided(T * 0.07, X, LABEL).eq(0).all() and guided(T * 0.1, X, LABEL).ne(0).all()
    torch.testing.assert_close(zero_star(strong, torch.zeros_like(weak)), strong)


def test_a_projected_difference() -> None:
    field = network()
    strong, weak = field(T, X, LABEL), field(T, X, None)
    torch.testing.assert_close(projected(1.0)(strong, weak), strong - weak)
    sideways = projected()(strong, weak)
    torch.testing.assert_close((sideways * strong).sum(1), torch.zeros(5).double(), rtol=0, atol=1e-12)
    cut, lengths = projected(1.0, radius=0.15)(strong, weak), (strong - weak).norm(dim=1)
    assert lengths.min() < 0.15 < lengths.max()
    torch.testing.assert_close(cut.norm(dim=1), lengths.clamp(max=0.15))
    torch.testing.assert_close(torch.nn.functional.cosine_similarity(cut, strong - weak), torch.ones(5).double())


def test_a_result_of_the_old_deviation() -> None:
    field = network()
    strong, plain = field(T, X, LABEL), Guided(field, 3.0)(T, X, LABEL)
    full, half = (Guided(field, 3.0, rescale=share)(T, X, LABEL) for share in (1.0, 0.5))
    torch.testing.assert_close(full.std(1), strong.std(1))
    torch.testing.assert_close(half, (full + plain) / 2)
    line = Exact()
    x = torch.ones(1, 1).double()  # one element has no deviation
    torch.testing.assert_close(
        Guided(line, 3.0, rescale=1.0)(T, x, LABEL[:1]), Guided(line, 3.0)(T, x, LABEL[:1]), rtol=0, atol=0
    )


class Words(Field):
    """A velocity that counts its words."""

    def no_context(self) -> Ragged:
        return Ragged(torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))

    def forward(self, t: Tensor, x: Tensor, context: Any = None) -> Tensor:
        return x * context.mask.sum(1, keepdim=True)


def test_tokens_as_context() -> None:
    words = Ragged(torch.arange(10).reshape(5, 2), torch.tensor([0, 1, 2, 2, 1]))
    field: Any = Guided(Words(), 1.5)
    torch.testing.assert_close(field(T, X, words), 2.5 * X * words.lengths[:, None])
    torch.testing.assert_close(field(T, X, words[2:3]), 5 * X)  # one row for all


def test_guidance_of_some_channels() -> None:
    field = network()
    some = Guided(field, 3.0, channels=2)(T, X, LABEL)
    torch.testing.assert_close(some[:, :2], Guided(field, 3.0)(T, X, LABEL)[:, :2])
    assert torch.equal(some[:, 2:], field(T, torch.cat((X, X)), torch.cat((LABEL, LABEL)))[:5, 2:])


def test_a_weaker_field_as_the_other() -> None:
    """It sees the same context, and nobody needs to have been trained without one."""
    strong, weak = network(), network(activation="sin")
    found = Guided(strong, 0.7, other=weak)(T, X, LABEL)
    torch.testing.assert_close(found, strong(T, X, LABEL) + 0.7 * (strong(T, X, LABEL) - weak(T, X, LABEL)))
    plain = Guided(lambda t, x: -x, 0.5, other=lambda t, x: 0 * x)  # type: ignore[arg-type]
    torch.testing.assert_close(plain(T, X), -1.5 * X)


OPTIONS: dict[str, dict[str, Any]] = {
    **{name: {"direction": direction} for name, direction in DIRECTIONS.items()},
    "rescale": {"rescale": 0.7}, "interval": {"interval": (0.3, 0.6)}, "channels": {"channels": 1},
    "other": {"other": MLPField(3, 4, 1, classes=4).double()}, "still": {"still": 0.2, "direction": zero_star},
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_tangents_go_through_every_rule(name: str) -> None:
    guided = Guided(network(), 1.5, **OPTIONS[name])
    tangents = torch.randn(5, 2, 3, generator=seeded(1)).double()
    for t in (T, torch.tensor([0.1, 0.3, 0.4, 0.7, 0.2]).double()):
        known = push_forward(lambda x, t=t: guided(t, x, LABEL), X, tangents)  # type: ignore[misc]
        torch.testing.assert_close(guided.with_tangents(t, X, tangents, LABEL), known, rtol=1e-9, atol=1e-11)
    known = exact_divergence(lambda x: guided(T, x, LABEL), X, "reverse")[:2]
    torch.testing.assert_close(guided.with_divergence(T, X, LABEL), known, rtol=1e-9, atol=1e-11)
    if name in ("cut", "rescale"):
        assert gradcheck(lambda x: guided.with_divergence(T, x, LABEL[:2]), X[:2].clone().requires_grad_())


def test_the_density_of_what_is_drawn_with_guidance() -> None:
    """The flow of a guided field is one: its log-determinant is that of its Jacobian."""
    flow = Continuous(Guided(network(), 1.5), method="rk4", stepping=Fixed(8))
    y, ladj = flow.inverse(X[:2], LABEL[:2])
    jacobian = torch.autograd.functional.jacobian(lambda x: flow.to_data(x, LABEL[:2]), X[:2])
    known = torch.stack([jacobian[i, :, i].slogdet()[1] for i in range(2)])
    torch.testing.assert_close(ladj, known, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(flow(y, LABEL[:2])[0], X[:2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", OPTIONS)
def test_rows_by_themselves_none_and_nan(name: str) -> None:
    guided = Guided(network(), 1.5, **OPTIONS[name])
    whole = guided(T, X, LABEL)
    torch.testing.assert_close(guided(T, X[1:2], LABEL[1:2]), whole[1:2])
    assert guided(T, X[:0], LABEL[:0]).shape == (0, 3)
    bad = X.clone()
    bad[0] = math.nan
    found = guided(T, bad, LABEL)
    assert found[0].isnan().all()
    torch.testing.assert_close(found[1:], whole[1:])
    narrow = Guided(network().float(), 1.5, **{**OPTIONS[name], "other": None})
    if name != "other":
        torch.testing.assert_close(narrow(T.float(), X.float(), LABEL).double(), whole, rtol=1e-4, atol=1e-4)


def test_under_the_compiler() -> None:
    guided = Guided(network(), 1.5, direction=projected(0.2, radius=1.0), interval=(0.1, 0.6), rescale=0.5)
    found = torch.compile(guided, backend="eager", fullgraph=True)(T, X, LABEL)
    torch.testing.assert_close(found, guided(T, X, LABEL))


def test_what_cannot_be_guided() -> None:
    with pytest.raises(
        ValueError, match=r"expected a network that can do without its context.*dropout above 0; this one was not"
    ):
        Guided(MLPField(3, 8, classes=4), 1.0)
    with pytest.raises(ValueError, match=r"hears labels or numbers given; this MLPField"):
        Guided(MLPField(3, 8), 1.0)
    with pytest.raises(ValueError, match=r"can do without its context.*; this FunctionField was not"):
        Guided(lambda t, x: x, 1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="guidance: expected a context, from which to go further; got none"):
        Guided(network(), 1.0)(T, X)
    with pytest.raises(ValueError, match=r"a context of 5 rows .* got \(2,\)"):
        Guided(network(), 1.0)(T, X, LABEL[:2])
    with pytest.raises(TypeError, match=r"a context of one kind, got .*Ragged"):
        Guided(network(), 1.0)(T, X, Ragged(torch.zeros(5, 1), torch.ones(5, dtype=torch.int64)))  # type: ignore[arg-type]
    for options, said in (
        ({"weight": math.inf}, "weight: expected a finite number, got inf"),
        ({"weight": 1.0, "interval": (0.7, 0.2)}, r"interval: expected two times .* in order; got \(0.7, 0.2\)"),
        ({"weight": 1.0, "still": 2.0}, "still and rescale from 0 to 1, got 2.0 and 0.0"),
        ({"weight": 1.0, "rescale": -1.0}, "rescale to be a finite number of at least 0, got -1.0"),
        ({"weight": 1.0, "channels": 0}, "channels to be an integer of at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=said):
            Guided(network(), **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="radius to be above 0, got 0"):
        projected(radius=0)
    with pytest.raises(ValueError, match="parallel to be a finite number of at least 0, got -1"):
        projected(-1)
