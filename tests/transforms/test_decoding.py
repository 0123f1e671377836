"""Decoding of causal maps: every method finds what the D-pass inverse finds, in rounds that are counted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyflowk.nets import CausalNetwork, CausalTransformer
from pyflowk.transforms import Additive, Affine, Causal, Decoding

TOKENS = 11
HOWS = [
    Decoding("jacobi"), Decoding("jacobi", guess="zeros"), Decoding("gauss-seidel", 4), Decoding("gauss-seidel", 1),
    Decoding("auto", 5),
]  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "start": {"start": True, "positions": "rotary", "norm": "rms", "gated": True, "qk_norm": True, "kv_heads": 1},
    "prefix": {"prefix": 2, "classes": 3, "droppable": True},
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def transformer(kind: str = "plain", std: float = 0.25) -> CausalTransformer:
    net = CausalTransformer(2, TOKENS, width=8, depth=2, heads=2, **KINDS[kind])
    for p in net.parameters():
        nn.init.normal_(p, std=std, generator=seeded(len(p)))
    return net


class Before(CausalNetwork):
    """A mean of ``slope`` times the token before: x_i = z_i + slope x_{i-1}."""

    params_per_element = 1

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.slope * x[:, :-1]


def by_passes(layer: Causal, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
    """The inverse by a pass over all tokens for each of them."""
    noise = z.flip(1) if layer.flip else z
    x = torch.zeros_like(z)
    for i in range(TOKENS):
        params = layer.net(x, context)
        moved = TOKENS - params.shape[1]
        found, ladj = layer._mapped(noise[:, moved:], params, inverse=False)
        x = torch.cat((noise[:, :moved], found), 1)[:, : i + 1]
        x = torch.cat((x, torch.zeros_like(z[:, i + 1 :])), 1)
    return x, ladj


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("kind", KINDS)
def test_every_method_finds_what_the_passes_find(kind: str, dtype: torch.dtype, tolerance: float) -> None:
    context = torch.tensor([0, 2, 1]) if kind == "prefix" else None
    z = torch.randn(3, TOKENS, 2, dtype=dtype, generator=seeded())
    for layer in (Causal(transformer(kind).to(dtype), Affine("tanh", 3.0, interleaved=True), flip=True),):
        guided = [layer.guided(1.5, "product", True)] if context is not None else [layer.guided(1.5, temperature=0.5)]
        for each in [layer, *guided]:
            right = by_passes(each, z, context)
            for how in [Decoding("sequential"), *HOWS]:
                with torch.no_grad():
                    found = each.decoded(how).inverse(z, context)
                for a, b in zip(found, right, strict=True):
                    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_no_more_rounds_than_tokens_and_fewer_where_little_is_heard() -> None:
    z = torch.randn(4, TOKENS, 2, generator=seeded())
    for std, most in ((0.05, 6), (1.0, TOKENS - 1)):
        found = Causal(transformer(std=std), decoding=Decoding("jacobi")).solve(z)
        assert len(found.rounds) == 1 and 2 <= found.rounds[0] <= most and found.fallen == 0
    parts = Causal(transformer(std=0.05), decoding=Decoding("gauss-seidel", 4)).solve(z)
    assert len(parts.rounds) == 3 and all(r <= n for r, n in zip(parts.rounds, (4, 4, 2), strict=True))
    assert [len(c) for c in parts.changes] == [min(r, n - 1) for r, n in zip(parts.rounds, (4, 4, 2), strict=True)]


def test_rounds_shrink_the_error_as_the_network_contracts() -> None:
    z = torch.randn(2, 60, 1, dtype=torch.float64, generator=seeded())
    found = Causal(Before(0.5), Additive(), decoding=Decoding("jacobi", tolerance=1e-6)).solve(z)
    ratios = found.changes[0][1:15] / found.changes[0][:14]
    assert ((ratios > 0.4) & (ratios < 0.6)).all() and found.rounds[0] < 30
    far = Causal(Before(0.5), Additive(), decoding=Decoding("jacobi", tolerance=1e-6)).solve(1e4 * z)
    assert far.rounds == found.rounds  # a tolerance is a share
    torch.testing.assert_close(far.x, 1e4 * found.x)


def test_a_guess_that_runs_away_is_given_up() -> None:
    z = torch.randn(3, TOKENS, 1, dtype=torch.float64, generator=seeded())
    steep = Causal(Before(300.0), Additive())
    found = steep.decoded(Decoding("jacobi")).solve(z)
    assert 0 < found.fallen < TOKENS - 1 and found.rounds[0] + found.fallen == TOKENS - 1
    torch.testing.assert_close(found.x, steep.decoded(Decoding("sequential")).inverse(z)[0])


def test_events_settle_by_themselves() -> None:
    """Within a tolerance that matters, what is beside an event does not; NaN stays where it is."""
    z = torch.randn(4, TOKENS, 2, generator=seeded())
    z[0] *= 1e-3
    layer = Causal(transformer(std=0.3), decoding=Decoding("jacobi", tolerance=0.05))
    whole, right = layer.solve(z), layer.decoded(Decoding("sequential")).inverse(z)[0]
    assert 1e-3 < (whole.x - right).abs().max() < 0.5
    for i in range(4):
        alone = layer.solve(z[i : i + 1])
        torch.testing.assert_close((alone.x[0], alone.ladj[0]), (whole.x[i], whole.ladj[i]), rtol=1e-5, atol=1e-5)
    z[2, 3, 0] = float("nan")
    for how in HOWS:
        found = layer.decoded(how).solve(z)
        assert found.x[2, 4:].isnan().all() and found.ladj[2].isnan() and found.fallen == 0
        torch.testing.assert_close(found.x[[0, 1, 3]], right[[0, 1, 3]].detach(), rtol=1e-4, atol=1e-4)
    assert layer.solve(z[:0]).x.shape == (0, TOKENS, 2)


def test_derivatives_go_through_the_steps() -> None:
    layer, z = Causal(transformer()), torch.randn(2, TOKENS, 2, generator=seeded())
    slopes = []
    for how in (Decoding("sequential"), Decoding("jacobi", tolerance=0.5)):
        noise = z.clone().requires_grad_()
        slopes.append(torch.autograd.grad(layer.decoded(how).inverse(noise)[0].square().sum(), noise)[0])
    assert torch.equal(*slopes)


def test_the_better_guess_is_told() -> None:
    z = torch.randn(400, TOKENS, 1, generator=seeded()) + 2
    errors = Causal(Before(0.1), Additive()).guess_errors(z)
    assert set(errors) == {"noise", "zeros"} and errors["noise"] < 0.3 * errors["zeros"]
    # one round from zero leaves out slope x_{i-1}, from the noise slope (x_{i-1} - z_{i-1})
    x = Causal(Before(0.1), Additive()).inverse(z)[0].mean(0)[:-1, 0]
    assert errors["zeros"] == pytest.approx(0.1 * x.norm().item(), rel=1e-3)


def test_maps_that_move_more_rank_higher() -> None:
    """By the norms written out; a map whose last layer is twice as large is expected to take longer."""
    torch.manual_seed(0)
    x, net = torch.randn(50, TOKENS, 2, generator=seeded()), transformer().double()
    layer = Causal(net)
    ranks = []
    for _ in range(2):
        params = net(x.double())
        scaled = (x[:, TOKENS - params.shape[1] :] * torch.exp(-params[..., 0::2])).mean(0)
        weight = net.last.weight
        norms = [torch.linalg.svdvals(part)[0] for part in (scaled, weight[0::2], weight[1::2])]
        assert layer.convergence_rank(x.double()) == pytest.approx((norms[0] * norms[1] + norms[2]).item())
        ranks.append(layer.convergence_rank(x.double()))
        with torch.no_grad():
            weight *= 2
    assert ranks[1] > ranks[0]
    with pytest.raises(TypeError, match="convergence_rank expects a CausalTransformer and an Affine map"):
        Causal(Before(0.1), Additive()).convergence_rank(x)


def test_what_does_not_fit() -> None:
    for given, message in (
        (("newton",), "method: expected one of auto, sequential, jacobi, gauss-seidel; got 'newton'"),
        (("jacobi", 0), "Decoding expects segment to be an integer of at least 1, got 0"),
        (("jacobi", 4, -1.0), "tolerance: expected a number of at least 0, got -1.0"),
        (("jacobi", 4, 0.0, "ones"), "guess: expected one of noise, zeros; got 'ones'"),
    ):
        with pytest.raises(ValueError, match=message):
            Decoding(*given)  # type: ignore[arg-type]
