"""Samples of a causal flow token by token, in one call of the kernel, beside a loop in torch with kept keys and values.

`python -m benchmarks --only causal_decode`. Four maps by transformers of 4 layers of width 128, 64 tokens of 12
numbers. Most of it is matrix products where the batch is large: the head of the report says which rate torch's have.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyflowk.nets import CausalTransformer
from pyflowk.transforms import Causal, Compose, Decoding

from .report import OURS, Case, ratio_bar
from .timing import Effort

ON_REQUEST = False
TOKENS, FEATURES, WIDTH, DEPTH, MAPS = 64, 12, 128, 4, 4
CACHE, PREALLOCATED, AT_ONCE = "torch, cache", "torch, cache in place", "torch, density"
JACOBI, SEGMENTS = "torch, Jacobi", "torch, Gauss-Seidel"
#: batch, and how many times as fast as the loop with a cache, and as the density
SIZES = ((1, 9.0, None), (16, 4.0, 1.0), (64, 3.3, 1.0))


def notes() -> dict[str, str]:
    """What each rival's time includes."""
    return {
        OURS: "Compose of 4 Causal, inverse by ops.causal_decode, in float32",
        CACHE: "the loop over tokens, layers, with keys and values put behind each other by torch.cat",
        PREALLOCATED: "the loop of Causal.inverse, whose keys and values lie in place",
        JACOBI: "all tokens at once, in rounds until they agree to rounding",
        SEGMENTS: "the same in segments of 16 tokens: what other devices run",
        AT_ONCE: "no sampling: the other direction of the same maps, all tokens at once",
    }


def awake(tokens: int = TOKENS) -> CausalTransformer:
    """A network away from its zero start."""
    net = CausalTransformer(FEATURES, tokens, 2, WIDTH, DEPTH)
    for p in net.parameters():
        nn.init.normal_(p, std=0.05)
    return net


def by_cache(net: Any, z: Tensor) -> Tensor:
    """The inverse of a map as it is usually written."""
    past: list[list[tuple[Tensor, Tensor]]] = [[] for _ in net.layers]
    x = [z[:, :1]]
    for place in range(z.shape[1] - 1):
        h = net.first(x[-1]) + net.places[place]
        for layer, seen in zip(net.layers, past, strict=True):
            q, k, v = layer.attention.qkv(layer.norm(h)).unflatten(2, (3, net.heads, -1)).permute(2, 0, 3, 1, 4)
            if seen:
                k, v = torch.cat((seen[0][0], k), 2), torch.cat((seen[0][1], v), 2)
            seen[:] = [(k, v)]
            h = h + layer.attention.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
            h = h + layer.second(F.gelu(layer.first(layer.second_norm(h)), approximate="tanh"))
        log_scale, mean = net.last(net.norm(h)).unflatten(2, (-1, 2)).unbind(3)
        x.append(z[:, place + 1 : place + 2] * log_scale.exp() + mean)
    return torch.cat(x, 1)


class InPlace(Causal):
    """The loop of any network, whatever kernel there is."""

    def _decoded(self, noise: Tensor, context: Tensor | None) -> None:
        return None


def case(rows: int, bar: float, at_once: float | None) -> Case:
    """One contest."""
    torch.manual_seed(0)
    nets = [awake() for _ in range(MAPS)]
    hows = ("sequential", "jacobi", "gauss-seidel")
    ours = Compose(*map(Causal, nets))
    loop, jacobi, segments = (Compose(*(InPlace(net, decoding=Decoding(how)) for net in nets)) for how in hows)
    z = torch.randn(rows, TOKENS, FEATURES)

    def cached() -> Tensor:
        x = z
        for net in nets[::-1]:
            x = by_cache(net, x)
        return x

    with torch.no_grad():
        for other in (ours, jacobi, segments):
            torch.testing.assert_close(other.to_data(z), cached(), rtol=1e-4, atol=1e-4)
    variants = {
        OURS: lambda: ours.to_data(z), CACHE: cached, PREALLOCATED: lambda: loop.to_data(z),
        JACOBI: lambda: jacobi.to_data(z), SEGMENTS: lambda: segments.to_data(z), AT_ONCE: lambda: ours(z),
    }  # fmt: skip
    bars = [ratio_bar(bar, CACHE), *([] if at_once is None else [ratio_bar(at_once, AT_ONCE)])]
    return Case(f"{rows} events", variants, bars, effort=Effort(rounds=5, batches=1, warmups=1))


def cases(quick: bool) -> Iterator[Case]:
    """Every contest, built when its turn comes."""
    for size in SIZES[:1] if quick else SIZES:
        yield case(*size)
