"""Causal maps: which token is moved by which, their closed forms, and guidance by its golden numbers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyflowk.nets import MLP, CausalNetwork, CausalTransformer
from pyflowk.ops import guide
from pyflowk.ops.guidance import GUIDANCE_RULES as RULES
from pyflowk.transforms import Additive, Affine, Causal, Compose, MemoryFlat


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def causal(tokens: int = 4, features: int = 2, flip: bool = False, std: float = 0.3, **options: Any) -> Causal:
    net = CausalTransformer(features, tokens, width=8, depth=1, heads=2, **options)
    for p in net.parameters():
        nn.init.normal_(p, std=std, generator=seeded(len(p)))
    return Causal(net, flip=flip)


def influence(transform: Any, tokens: int = 4, features: int = 2) -> Tensor:
    """Whether output token i (rows) hears of input token j."""
    x = torch.randn(tokens, features, dtype=torch.float64, generator=seeded())
    slopes = torch.autograd.functional.jacobian(lambda x: transform(x[None])[0][0], x)
    return slopes.abs().sum((1, 3)) > 0


@pytest.mark.parametrize("start", [False, True])
def test_tokens_are_moved_by_those_before_them(start: bool) -> None:
    below = torch.ones(4, 4, dtype=torch.bool).tril()
    assert torch.equal(influence(causal(start=start).double()), below)
    assert torch.equal(influence(causal(start=start, flip=True).double()), below.flip(0))
    assert influence(Compose(causal(flip=True), causal(flip=True)).double()).all()


def test_the_first_token_stays_in_one_map_and_is_moved_by_the_next() -> None:
    first, x = causal(flip=True), torch.randn(3, 4, 2)
    z, _ = first(x)
    assert torch.equal(z[:, -1], x[:, 0]) and not torch.isclose(z[:, :-1].flip(1), x[:, 1:]).any()
    assert not torch.isclose(causal(flip=True)(z)[0].flip(1)[:, -1], x[:, 0]).any()
    assert not torch.isclose(causal(start=True)(x)[0], x).any()


def test_sixty_four_tokens_come_back_through_eight_maps() -> None:
    torch.manual_seed(0)
    stack = Compose(*(causal(64, 3, flip=True, std=0.15) for _ in range(8)))
    x = torch.randn(4, 64, 3)
    z, ladj = stack(x)
    with torch.no_grad():
        back, ladj_back = stack.inverse(z)
    assert not torch.allclose(z, x, atol=0.1)
    torch.testing.assert_close(back, x, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ladj_back, -ladj, rtol=1e-5, atol=1e-4)


class Linear(CausalNetwork):
    """Means that are linear in the tokens before, and log-deviations of their own: what any Gaussian can be."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.weight, self.log_scale = nn.Parameter(torch.zeros(tokens, tokens)), nn.Parameter(torch.zeros(tokens))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        mean = x[..., 0] @ self.weight.tril(-1).T
        return torch.stack((self.log_scale.expand_as(mean), mean), -1)


def test_a_linear_map_is_the_cholesky_factor_of_a_gaussian() -> None:
    factor = torch.randn(5, 5, dtype=torch.float64, generator=seeded()).tril()
    covariance = factor @ factor.T + torch.eye(5, dtype=torch.float64)
    lower = torch.linalg.cholesky(covariance)
    net = Linear(5).double()
    with torch.no_grad():  # x_i = L_ii z_i + sum_{j<i} L_ij z_j, the z_j being a triangular function of x_<i
        net.log_scale.copy_(lower.diagonal().log())
        net.weight.copy_(torch.eye(5) - torch.diag(lower.diagonal()) @ torch.linalg.inv(lower))
    transform = Causal(net)
    z = torch.randn(7, 5, 1, dtype=torch.float64, generator=seeded(1))
    x, ladj = transform.inverse(z)
    torch.testing.assert_close(x[..., 0], z[..., 0] @ lower.T)
    torch.testing.assert_close(ladj, lower.diagonal().log().sum().expand(7))
    # maximum likelihood finds it: the mean loss at the optimum is the entropy, here of the covariance of the sample
    rows = torch.randn(4000, 5, dtype=torch.float64, generator=seeded(2)) @ lower.T
    rows = rows - rows.mean(0)
    fitted = Causal(Linear(5).double())
    optimizer = torch.optim.LBFGS(fitted.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        z, ladj = fitted(rows[..., None])
        value = (0.5 * z.square().sum((1, 2)) - ladj).mean()
        value.backward()
        return value

    optimizer.step(loss)
    sample = rows.T @ rows / len(rows)
    assert loss().item() == pytest.approx((0.5 * torch.logdet(sample) + 2.5).item(), abs=1e-6)


def test_a_stack_in_flat_memory_has_the_same_gradients() -> None:
    torch.manual_seed(0)
    layers = [causal(flip=True) for _ in range(3)]
    x, gradients = torch.randn(5, 4, 2), []
    for stack in (Compose(*layers), MemoryFlat(*layers)):
        z, ladj = stack(x)
        gradients.append(torch.autograd.grad(z.square().sum() - ladj.sum(), list(stack.parameters())))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)
    assert len(MemoryFlat(*layers).checkpointed) == 3  # tokens in front of each are kept, and nothing of a network


@pytest.mark.parametrize("rule", RULES)
def test_guidance_of_nothing_is_none(rule: str) -> None:
    plain, x = causal(classes=3, droppable=True), torch.randn(2, 4, 2)
    context = torch.tensor([0, 2])
    assert plain.guided(0.0, rule) is plain
    for z, other in zip(plain.inverse(x, context), plain.guided(1e-6, rule).inverse(x, context), strict=True):
        torch.testing.assert_close(z, other, rtol=1e-4, atol=1e-4)
    same = causal()
    for z, other in zip(same.inverse(x), same.guided(2.0, rule, temperature=1 + 1e-6).inverse(x), strict=True):
        torch.testing.assert_close(z, other, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(same.inverse(x)[0], same.guided(2.0, rule, temperature=0.3).inverse(x)[0], rtol=1e-3)


@pytest.mark.parametrize("start", [False, True])
def test_guidance_by_hand_token_by_token(start: bool) -> None:
    transform, context, w = causal(classes=3, droppable=True, start=start), torch.tensor([1]), 1.5
    z, x = torch.randn(1, 4, 2), torch.zeros(1, 4, 2)
    for i in range(4):  # each row of parameters depends on what is known by then
        strong, weak = (transform.net(x, c).unflatten(-1, (2, 2)) for c in (context, None))
        at = i if start else i - 1
        if at < 0:
            x[:, i] = z[:, i]
            continue
        (a, m), (a_u, m_u) = strong[0, at].T, weak[0, at].T
        g = w * i / 3
        x[:, i] = z[:, i] * torch.exp(a + g * (a - a_u)) + m + g * (m - m_u)
    found, ladj = transform.guided(w, rising=True).inverse(z, context)
    torch.testing.assert_close(found, x)
    back, ladj_back = transform.guided(w, rising=True)(found, context)
    torch.testing.assert_close(back, z, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ladj_back, -ladj)


@pytest.mark.parametrize(
    "mu_c, sigma_c, mu_u, sigma_u, w, mean, deviation",
    [(1.0, 0.5, 0.0, 1.0, 2.0, 1.2, 0.316227766), (0.2, 0.8, -0.4, 1.1, 1.5, 0.4789346237, 0.6123823206)],
)
def test_the_product_of_gaussians(
    mu_c: float, sigma_c: float, mu_u: float, sigma_u: float, w: float, mean: float, deviation: float
) -> None:
    """Golden numbers, and the density p_c^(1 + w) / p_u^w on a grid."""
    strong, weak = (
        (torch.tensor(math.log(s), dtype=torch.float64), torch.tensor(m, dtype=torch.float64))
        for m, s in ((mu_c, sigma_c), (mu_u, sigma_u))
    )
    log_scale, mu = guide(strong, weak, w, "product")
    assert (mu.item(), log_scale.exp().item()) == (pytest.approx(mean, abs=1e-9), pytest.approx(deviation, abs=1e-9))
    x = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    log_p = (1 + w) * (-0.5 * ((x - mu_c) / sigma_c) ** 2) + 0.5 * w * ((x - mu_u) / sigma_u) ** 2
    p = torch.softmax(log_p, 0)
    assert (p @ x).item() == pytest.approx(mean, abs=1e-6)
    assert (p @ (x - mean) ** 2).sqrt().item() == pytest.approx(deviation, abs=1e-6)


def test_rules_where_they_meet_and_where_they_end() -> None:
    strong, weak = (torch.tensor([0.2, -1.0]), torch.tensor([1.0, 2.0])), (torch.tensor([0.2, 1.0]), torch.zeros(2))
    at_one = {rule: guide(strong, weak, 2.0, rule) for rule in RULES}
    for log_scale, mean in at_one.values():  # alike deviations: all rules go the same way in the mean
        assert log_scale[0].item() == pytest.approx(0.2) and mean[0].item() == pytest.approx(3.0)
    wider = guide((torch.ones(()), torch.ones(())), (torch.zeros(()), torch.zeros(())), 3.0, "product")
    assert wider[0].item() == pytest.approx(1.0) and wider[1].item() == pytest.approx(4.0)  # the ratio is cut at 1
    assert at_one["scale"][0][1].isfinite()  # the deviation would be below 0
    for rule in RULES:
        for a, b in zip(guide(strong, weak, 0.0, rule), strong, strict=True):
            torch.testing.assert_close(a, b)
        assert torch.equal(guide(strong, weak, torch.tensor([0.0, 2.0]), rule)[1], torch.stack((
            strong[1][0], guide(strong, weak, 2.0, rule)[1][1],
        )))  # fmt: skip


def test_what_does_not_fit() -> None:
    with pytest.raises(TypeError, match="Causal expects a CausalNetwork, got MLP"):
        Causal(MLP(2, 4))  # type: ignore[arg-type]
    net = CausalTransformer(2, 4, width=8, depth=1)
    with pytest.raises(ValueError, match="a network of 1 parameters an element for this map, got one of 2"):
        Causal(net, Additive())
    with pytest.raises(ValueError, match="parameters of each element side by side: interleaved=True"):
        Causal(net, Affine("none"))
    with pytest.raises(TypeError, match="Causal expects a Map"):
        Causal(net, nn.Linear(1, 1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"Causal expects tokens \(B, T, D\), got \(3, 8\)"):
        Causal(net)(torch.zeros(3, 8))

    class Wrong(CausalNetwork):
        def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
            return x

    with pytest.raises(ValueError, match=r"parameters \(3, 4 or 3, 4\) for x \(3, 4, 2\), got \(3, 4, 2\)"):
        Causal(Wrong())(torch.zeros(3, 4, 2))
    with pytest.raises(ValueError, match="rule: expected one of log_scale, scale, product; got 'sum'"):
        Causal(net).guided(1.0, "sum")
    with pytest.raises(ValueError, match="rule: expected one of log_scale, scale, product; got 'sum'"):
        guide((torch.zeros(()),) * 2, (torch.zeros(()),) * 2, 1.0, "sum")
    with pytest.raises(ValueError, match="weight: expected a finite number, got nan"):
        Causal(net).guided(float("nan"))
    with pytest.raises(ValueError, match="guidance expects a context, or another temperature than 1"):
        Causal(net).guided(1.0)
    with pytest.raises(ValueError, match=r"can do without its context.*droppable=True"):
        causal(classes=3).guided(1.0)
    with pytest.raises(ValueError, match="guidance expects an Affine map"):
        Causal(CausalTransformer(2, 4, 1, 8, 1), Additive()).guided(1.0, temperature=0.5)
