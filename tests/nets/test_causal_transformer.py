"""The causal transformer's own rules: its values by another program, what looks where, and its steps."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyflowk.nets import CausalNetwork, CausalTransformer
from pyflowk.nets.attention import Past
from pyflowk.nets.dual import Dual

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "start-labels": {"start": True, "classes": 3},
    "rotary": {"positions": "rotary", "grid": (2, 3)},
    "modern": {"positions": "both", "grid": (3, 2), "norm": "rms", "gated": True, "qk_norm": True, "kv_heads": 1},
    "prefix": {"prefix": 2, "context_dim": 3, "droppable": True, "qk_norm": True},
}
kinds = pytest.mark.parametrize("kind", KINDS)


def awake(kind: str, **options: Any) -> tuple[CausalTransformer, Tensor, Tensor | None]:
    """A network away from its zero start, tokens, and the context that it takes."""
    torch.manual_seed(0)
    net = CausalTransformer(2, 6, 2, 8, 2, 2, **KINDS[kind], **options).double()
    for p in net.parameters():
        nn.init.normal_(p, std=0.4)
    x = torch.randn(3, 6, 2, dtype=torch.float64)
    if net.context is None:
        return net, x, None
    return net, x, torch.tensor([2, 0, 1]) if net.context.classes else torch.randn(3, 3, dtype=torch.float64)


def by_loops(net: CausalTransformer, x: Tensor, context: Tensor | None, temperature: float = 1.0) -> Tensor:
    """The parameters of one event: token by token, head by head, from the weights alone."""
    w = {name: p.detach() for name, p in net.named_parameters()}
    heads, d = net.heads, net.width // net.heads
    kv_heads = net.layers[0].attention.kv_heads  # type: ignore[union-attr]

    def linear(name: str, h: Tensor) -> Tensor:
        return w[f"{name}.weight"] @ h + w[f"{name}.bias"]

    def normed(name: str, h: Tensor) -> Tensor:
        if f"{name}.bias" not in w:
            return h / (h.square().mean() + 1e-6).sqrt() * w[f"{name}.weight"]
        return (h - h.mean()) / (h.var(correction=0) + 1e-5).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]

    def turned(v: Tensor, place: int) -> Tensor:
        if net.positions == "learned" or place < net.front:
            return v
        row, column = divmod(place - net.front, net.grid[1])
        rates = torch.tensor([100.0 ** (-i / (d // 4)) for i in range(d // 4)], dtype=torch.float64)
        z = torch.complex(v[: d // 2], v[d // 2 :]) * torch.exp(1j * torch.cat((row * rates, column * rates)))
        return torch.cat((z.real, z.imag))

    tokens = [linear("first", token) for token in x[:-1]]
    if net.prefix:
        assert context is not None
        given = torch.cat((context, context.new_ones(1)))  # which says that there is one
        tokens = [*(w["context.table.weight"] @ given).split(net.width), *tokens]
    elif "start" in w:
        tokens = [w["start"], *tokens]
    if context is not None and not net.prefix:
        tokens = [h + w["context.table.weight"][context] for h in tokens]
    if "places" in w:
        tokens = [h + place for h, place in zip(tokens, w["places"], strict=True)]
    for n in range(len(net.layers)):
        name = f"layers.{n}"
        qkv = [linear(f"{name}.attention.qkv", normed(f"{name}.norm", h)).split(d) for h in tokens]

        def part(which: int, head: int, place: int, name: str = name, qkv: Any = qkv) -> Tensor:
            v = qkv[place][(0, heads, heads + kv_heads)[which] + head]
            gain = w.get(f"{name}.attention.{'qk'[min(which, 1)]}_norm.weight")
            if which < 2 and gain is not None:
                v = v / (v.square().mean() + 1e-6).sqrt() * gain
            return turned(v, place) if which < 2 else v

        mixed = []
        for k in range(len(tokens)):
            found = []
            for head in range(heads):
                shared = head * kv_heads // heads
                logits = [part(0, head, k) @ part(1, shared, i) / math.sqrt(d) / temperature for i in range(k + 1)]
                shares = torch.softmax(torch.stack(logits), 0)
                found.append(sum(share * part(2, shared, i) for i, share in enumerate(shares)))
            mixed.append(linear(f"{name}.attention.out", torch.cat(found)))  # type: ignore[arg-type]
        tokens = [h + m for h, m in zip(tokens, mixed, strict=True)]
        for k, h in enumerate(tokens):
            u = linear(f"{name}.first", normed(f"{name}.second_norm", h))
            if net.layers[n].gated:
                u = F.silu(u[: len(u) // 2]) * u[len(u) // 2 :]
            else:
                u = 0.5 * u * (1 + torch.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))
            tokens[k] = h + linear(f"{name}.second", u)
    return torch.stack([linear("last", normed("norm", h)) for h in tokens[max(net.front - 1, 0) :]])


@kinds
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_values_by_loops_over_tokens_and_heads(kind: str, temperature: float) -> None:
    net, x, context = awake(kind)
    found = net(x, context, temperature)
    assert found.shape == (3, 6 if net.front else 5, 4)
    for i, row in enumerate(x):
        expected = by_loops(net, row, None if context is None else context[i], temperature)
        torch.testing.assert_close(found[i], expected)


@kinds
@pytest.mark.parametrize("graph", [True, False], ids=["with-gradients", "in-place"])
def test_a_walk_of_any_steps_gives_what_one_pass_gives(kind: str, graph: bool) -> None:
    net, x, context = awake(kind)
    whole = net(x, context, 0.7)
    with torch.set_grad_enabled(graph):
        for steps in ((1, 1, 1, 1, 1), (2, 3), (5,)):
            walk = net.walk(x, context, temperature=0.7)
            first, found, start = walk.first(), [], 0
            for n in steps:
                found.append(walk.after(x[:, start : start + n]))
                start += n
            found = found if first is None else [first, *found]
            torch.testing.assert_close(torch.cat(found, 1), whole)
        with pytest.raises(ValueError, match="expected 5 tokens, as there is none behind the last; got more"):
            walk.after(x[:, :1])


@kinds
def test_the_walk_of_any_network_is_the_same(kind: str) -> None:
    net, x, context = awake(kind)
    cached, whole = net.walk(x, context), CausalNetwork.walk(net, x, context)
    first, same = cached.first(), whole.first()
    assert (first is None) == (same is None) == (not net.front)
    if first is not None and same is not None:
        torch.testing.assert_close(first, same)
    for i in range(5):
        torch.testing.assert_close(cached.after(x[:, i : i + 1]), whole.after(x[:, i : i + 1]))


@kinds
def test_a_token_is_told_of_those_before_it_alone(kind: str) -> None:
    net, x, context = awake(kind)
    slopes = torch.autograd.functional.jacobian(lambda x: net(x, context).sum(0), x).abs().sum((1, 2, 4))
    first = 0 if net.front else 1
    for i, seen in enumerate(slopes > 0, start=first):
        assert seen[:i].all() and not seen[i:].any()


def test_it_starts_at_zero_and_16_bits_leave_the_sums_of_its_layers_wide() -> None:
    net = CausalTransformer(2, 6, width=8, depth=2, start=True)
    assert net(torch.randn(2, 6, 2)).count_nonzero() == 0
    seen: list[Tensor] = []
    net.layers[1].register_forward_pre_hook(lambda layer, given: seen.append(given[0]))
    with torch.autocast("cpu", torch.bfloat16):
        net(torch.randn(2, 6, 2))
    assert seen[0].dtype == torch.float32


def test_keys_lie_in_place_where_no_derivative_is_asked_for() -> None:
    k = Dual(torch.randn(2, 1, 1, 4))
    with torch.no_grad():
        past = Past(3)
        held = past.joined(k, k)[0].value.data_ptr()
        assert [past.joined(k, k)[0].value.data_ptr() for _ in range(2)] == [held, held] and past.length == 3
    again = Past(3)
    assert torch.equal(again.joined(k, k)[0].value, k.value)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"norm": "batch"}, "norm: expected layer or rms, got 'batch'"),
        ({"positions": "sincos"}, "positions: expected one of learned, rotary, both; got 'sincos'"),
        ({"grid": (2, 2)}, r"grid: expected rows and columns of 6 tokens, got \(2, 2\)"),
        ({"positions": "rotary", "heads": 4}, "rotary expects heads of a multiple of 4 channels, got width=8"),
        ({"heads": 3}, "heads: expected a divisor of the width 8, got 3"),
        ({"heads": 4, "kv_heads": 3}, "kv_heads: expected a divisor of the 4 heads, got 3"),
        ({"last_norm": "batch"}, "last_norm: expected layer or rms or none, got 'batch'"),
        ({"approximate": "erf"}, "approximate: expected tanh or none, got 'erf'"),
        ({"prefix": 2}, "prefix: expected a context to make it from, got none"),
        ({"text": True, "classes": 3}, "text: expected a prefix of as many tokens, and no noise_level beside it"),
        ({"tokens": 1}, "tokens: expected at least 2 where nothing stands in front of them, got 1"),
        ({"depth": 0}, "CausalTransformer expects depth to be an integer of at least 1, got 0"),
    ],
)
def test_what_does_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CausalTransformer(**{"features": 2, "tokens": 6, "width": 8, "depth": 1, **options})


def test_tokens_of_another_shape_are_refused() -> None:
    net = CausalTransformer(2, 6, width=8, depth=1)
    for shape in ((3, 5, 2), (3, 6, 3), (6, 2)):
        with pytest.raises(ValueError, match=r"CausalTransformer expects \(B, 6, 2\), got "):
            net(torch.zeros(shape))
        with pytest.raises(ValueError, match=r"CausalTransformer expects \(B, 6, 2\), got "):
            net.walk(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"temperature: expected a number above 0, got 0\.0"):
        net(torch.zeros(3, 6, 2), temperature=0.0)
    for grad in (True, False):
        for walk in (net.walk(torch.zeros(3, 6, 2)), CausalNetwork.walk(net, torch.zeros(3, 6, 2))):
            with torch.set_grad_enabled(grad):
                walk.first()
                walk.after(torch.zeros(3, 1, 2))
                for rows in (1, 4):
                    with pytest.raises(ValueError, match=r"expected tokens \(3, n, 2\), of as many events as .* began"):
                        walk.after(torch.zeros(rows, 1, 2))
