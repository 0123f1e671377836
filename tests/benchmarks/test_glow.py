"""Plain torch's Glow computes what ours does, so that their times may be compared."""

from __future__ import annotations

import torch

from benchmarks.bench_glow import steps
from benchmarks.peers.glow import Net, PlainGlow, PlainStep


def test_a_step_by_hand_is_a_step_of_ours() -> None:
    torch.manual_seed(0)
    net = Net(3, 6, 8)
    by_hand, (mix, coupling) = PlainStep(6, net), steps(6, [net])
    norm, plain_mix, _ = by_hand.parts
    with torch.no_grad():
        for p in (*norm.parameters(), plain_mix.log_diagonal):
            p += 0.3 * torch.randn_like(p)
        mix.norm.log_scale.copy_(norm.log_scale.flatten())
        mix.norm.bias.copy_(norm.bias.flatten())
        mix.lu.copy_(plain_mix.lower + plain_mix.upper + plain_mix.log_diagonal.diag())
        mix.permutation.copy_(plain_mix.p.argmax(1))
        mix.signs.copy_(plain_mix.sign.to(mix.signs.dtype))
    x = torch.randn(4, 6, 4, 4)
    z, ladj = by_hand(x)
    h, first = mix.eval()(x)
    ours, second = coupling(h)
    torch.testing.assert_close(ours, z, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(first + second, ladj, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(by_hand.inverse(z), x, rtol=1e-4, atol=1e-5)


def test_scales_by_hand_fit_together() -> None:
    torch.manual_seed(0)
    model = PlainGlow(3, 2, lambda channels: [Net(channels // 2, channels, 4)])
    assert model.log_prob(torch.randn(5, 3, 8, 8)).shape == (5,) and model.sample(5, 8).shape == (5, 3, 8, 8)
