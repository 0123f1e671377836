"""The transformer's own rules: its values by another program, where tokens are, and the sizes that have names."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyflowk.nets import DIT_SIZES, DiT
from pyflowk.nets.attention import turned
from pyflowk.nets.dit import rotary


def awake(net: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for p in net.parameters():
        nn.init.normal_(p, std=0.3)
    return net.double()


def by_loops(net: DiT, t: float, x: Tensor) -> Tensor:
    """The values at one image and one time: token by token, head by head, from the weights alone."""
    w = {name: p.detach() for name, p in net.named_parameters()}
    p, width, heads, rows, columns = net.patch, net.width, net.heads, x.shape[1] // net.patch, x.shape[2] // net.patch
    d, rotary = width // heads, net.positions != "sincos"

    def linear(name: str, h: Tensor) -> Tensor:
        return w[f"{name}.weight"] @ h + w[f"{name}.bias"]

    def normed(h: Tensor) -> Tensor:
        return (h - h.mean()) / (h.var(correction=0) + 1e-6).sqrt()

    def waves(place: int, count: int, base: float) -> Tensor:
        return torch.tensor([place * base ** (-i / count) for i in range(count)], dtype=torch.float64)

    def turned(v: Tensor, place: tuple[int, int]) -> Tensor:
        angle = torch.cat((waves(place[0], d // 4, 100.0), waves(place[1], d // 4, 100.0)))
        z = torch.complex(v[: d // 2], v[d // 2 :]) * torch.exp(1j * angle)
        return torch.cat((z.real, z.imag))

    heard = F.silu(net.time(torch.tensor(t, dtype=torch.float64)).detach())
    places = [(i, j) for i in range(rows) for j in range(columns)]
    tokens = [
        (w["first.weight"] * x[:, i * p : (i + 1) * p, j * p : (j + 1) * p]).sum((1, 2, 3)) + w["first.bias"]
        for i, j in places
    ]
    if net.positions != "rotary":
        tables = [(waves(j, width // 4, 1e4), waves(i, width // 4, 1e4)) for i, j in places]
        tokens = [h + torch.cat((a.sin(), a.cos(), b.sin(), b.cos())) for h, (a, b) in zip(tokens, tables, strict=True)]
    for n in range(len(net.blocks)):
        shift, scale, gate, shift2, scale2, gate2 = linear(f"blocks.{n}.modulation", heard).split(width)
        qkv = [linear(f"blocks.{n}.attention.qkv", normed(h) * (1 + scale) + shift).split(width) for h in tokens]
        mixed = []
        for k in range(len(tokens)):
            parts = []
            for head in range(heads):
                piece = slice(head * d, (head + 1) * d)

                def prepared(which: int, other: int, piece: slice = piece, n: int = n, qkv: Any = qkv) -> Tensor:
                    v, name = qkv[other][which][piece], f"blocks.{n}.attention.{'qk'[which]}_norm.weight"
                    if name in w:
                        v = v / (v.square().mean() + 1e-6).sqrt() * w[name]
                    return turned(v, places[other]) if rotary else v

                logits = [prepared(0, k) @ prepared(1, other) / math.sqrt(d) for other in range(len(tokens))]
                shares = torch.softmax(torch.stack(logits), 0)
                parts.append(sum(share * v[2][piece] for share, v in zip(shares, qkv, strict=True)))
            mixed.append(linear(f"blocks.{n}.attention.out", torch.cat(parts)))
        tokens = [h + gate * m for h, m in zip(tokens, mixed, strict=True)]
        for k, h in enumerate(tokens):
            u = linear(f"blocks.{n}.first", normed(h) * (1 + scale2) + shift2)
            u = 0.5 * u * (1 + torch.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))
            tokens[k] = h + gate2 * linear(f"blocks.{n}.second", u)
    shift, scale = linear("modulation", heard).split(width)
    result = torch.zeros_like(x)
    for (i, j), h in zip(places, tokens, strict=True):
        patch = linear("last", normed(h) * (1 + scale) + shift).reshape(p, p, -1)
        result[:, i * p : (i + 1) * p, j * p : (j + 1) * p] = patch.permute(2, 0, 1)
    return result


@pytest.mark.parametrize(
    "options",
    [{}, {"positions": "rotary"}, {"positions": "sincos", "qk_norm": False, "time_scale": 1.0}],
    ids=["both", "rotary", "sincos"],
)
def test_values_by_loops_over_tokens_and_heads(options: dict[str, Any]) -> None:
    net = awake(DiT(2, 2, 16, 2, 2, **options))
    x = torch.randn(2, 2, 4, 6, dtype=torch.float64)
    for row, t in zip(x, (0.2, 0.9), strict=True):
        expected = by_loops(net, t, row)  # type: ignore[arg-type]
        torch.testing.assert_close(net(t, row[None])[0], expected)
    assert not torch.allclose(net(0.2, x), net(0.2, x.flip(2)).flip(2), rtol=0.1)  # it knows where tokens are


def test_rotary_positions_know_distances_alone() -> None:
    """A query and a key that are the same everywhere meet in logits that depend on the way between them."""
    table = rotary(5, 6, 8, torch.zeros(1, dtype=torch.float64))
    q, k = torch.randn(2, 1, 8, dtype=torch.float64)
    logits = turned(q, *table) @ turned(k, *table).mT
    grid = logits.reshape(5, 6, 5, 6)
    torch.testing.assert_close(grid[1:, 2:, 1:, 2:], grid[:-1, :-2, :-1, :-2])
    assert not torch.allclose(grid[0, 0, 1, 0], grid[0, 0, 0, 1])


def test_sizes_that_have_names() -> None:
    published = {"S": 33, "B": 130, "L": 458, "XL": 675}  # million parameters, patch 2, with 1000 labels and one more
    with torch.device("meta"):
        for size, (width, depth, heads) in DIT_SIZES.items():
            net = DiT.named(f"{size}/2", 4, classes=1001, qk_norm=False)
            count = sum(p.numel() for p in net.parameters())
            assert count / 1e6 == pytest.approx(published[size], abs=1), size
            assert (net.width, len(net.blocks), net.heads, net.patch) == (width, depth, heads, 2)
    for name in ("M/2", "S", "S/", "S/x"):
        with pytest.raises(ValueError, match="name: expected one of S, B, L, XL, / and a patch, as S/2; got"):
            DiT.named(name, 4)


def test_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"sides that are multiples of its patch 2, got \(1, 1, 4, 5\)"):
        DiT(1, 2, 8, 1, 2)(0.5, torch.zeros(1, 1, 4, 5))
    with pytest.raises(ValueError, match="heads: expected a divisor of the width 16, got 3"):
        DiT(1, 2, 16, 1, 3, positions="sincos")
    with pytest.raises(ValueError, match=r"both expects a multiple of 4 channels to wave, got 6 of width=12"):
        DiT(1, 2, 12, 1, 2)
    with pytest.raises(ValueError, match="positions: expected one of both, rotary, sincos; got 'learned'"):
        DiT(1, positions="learned")
