"""jump_step: the exact laws of all its ways, far tails, kernel against formula, rows by themselves, bad input."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import pyflowk
from pyflowk.ops import align, apply_edits, jump_step

BACKENDS = ["reference", "cpu"]
every_backend = pytest.mark.parametrize("name", BACKENDS)
LOGITS = torch.tensor([0.3, -1.0, 2.0, 1.4, -math.inf, 0.9], dtype=torch.float64)
#: what is asked for, and what the law of a token x must then be
WAYS: list[dict[str, Any]] = [
    {"jump": 1.0},
    {"jump": 0.3, "renoise": 0.2, "own": -1.3},
    {"jump": 0.6, "temperature": 0.5, "top_k": 3},
    {"jump": 0.9, "top_p": 0.7},
    {"jump": 0.8, "top_k": 4, "top_p": 0.6, "temperature": 2.0},
    {"jump": 0.7, "temperature": 0.0, "renoise": 0.1},
    {"jump": 1.2, "rates": True, "top_k": 4},
    {"jump": math.inf, "rates": True, "temperature": 0.7, "mask": 0},
    {"jump": 0.4, "renoise": 0.3, "mask": 0},
    {"jump": 0.4, "renoise": 0.3, "mask": 6, "top_p": 0.8},
]


def law(logits: Tensor, x: int, jump: float, renoise: float = 0.0, own: float = 0.0, mask: int = -1,
        rates: bool = False, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> Tensor:  # fmt: skip
    """Chances of every symbol, and of the mask behind them where it is none."""
    scores = logits.clone()
    if x < len(scores):
        scores[x] += own
    if 0 <= mask < len(scores):
        scores[mask] = -math.inf
    p = scores.softmax(0) if temperature == 0 else (scores / temperature).softmax(0)
    order = p.argsort(descending=True).tolist()
    if temperature == 0:
        p = torch.zeros_like(p).index_fill(0, torch.tensor(order[:1]), 1.0)
    if top_k:
        p[order[top_k:]] = 0.0
        p /= p.sum()
    if top_p < 1:
        held = p[order].cumsum(0) - p[order]
        p[torch.tensor(order)[held >= top_p]] = 0.0
        p /= p.sum()
    stays = torch.zeros(max(len(p), mask + 1), dtype=torch.float64)
    stays[x] = 1.0
    p = torch.cat((p, torch.zeros(len(stays) - len(p), dtype=torch.float64)))
    if mask >= 0 and x != mask:
        noise = torch.zeros_like(p)
        noise[mask] = 1.0
        return stays if rates else (1 - renoise) * stays + renoise * noise
    if rates:
        others = p * (1 - stays)
        chance = -math.expm1(-jump * others.sum().item())
        return chance * others / others.sum() + (1 - chance) * stays
    noise = renoise if mask < 0 else 0.0  # evenly over all symbols
    return jump * p + noise / len(logits) + (1 - jump - noise) * stays


def assert_law(found: Tensor, expected: Tensor) -> None:
    """Counts as likely as a chi-square of six standard deviations; what has no chance never comes."""
    counts, total = torch.bincount(found.flatten(), minlength=len(expected)).double(), found.numel()
    assert len(counts) == len(expected) and not counts[expected == 0].any()
    some = expected > 0
    square = ((counts - total * expected)[some].square() / (total * expected[some])).sum().item()
    free = int(some.sum()) - 1
    assert square <= free + 6 * math.sqrt(2 * free) + 12, (counts / total, expected)


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("name, size", [("reference", 6), ("cpu", 6), ("cpu", 700)])
def test_the_law_of_every_way(name: str, size: int, way: dict[str, Any]) -> None:
    """Six symbols, and the same among hundreds that have no chance but where noise comes."""
    rows, places = 40, 500
    logits = torch.cat((LOGITS, torch.full((size - 6,), -math.inf, dtype=torch.float64)))
    way = {**way, "mask": size} if way.get("mask") == 6 else way
    keys = torch.arange(rows) * 2**40 + 5
    for x in (0, 2, way.get("mask", 3)):
        tokens = torch.full((rows, places), x)
        with pyflowk.backend(name):
            found = jump_step(logits.float().expand(rows, places, size), tokens, keys, **way)
        assert_law(found, law(logits, x, **way))


@pytest.mark.parametrize("size", [1, 17, 512, 513, 5000])
def test_kernel_and_formula_draw_the_same(size: int) -> None:
    """But for tokens whose number lies within rounding of a boundary."""
    generator = torch.Generator().manual_seed(size)
    keys, x = torch.arange(3) * 2**40, torch.randint(0, size, (3, 21), generator=generator)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        logits = (3 * torch.randn(3, 21, size, generator=generator)).to(dtype)
        for step, way in enumerate([*WAYS, {"jump": 1.0, "top_k": size // 3 + 1}, {"jump": 1.0, "top_p": 0.99}]):
            way = {**way, "mask": size} if way.get("mask", -1) >= size or (size == 1 and "mask" in way) else way
            found = []
            for name in ("cpu", "reference"):
                with pyflowk.backend(name):
                    found.append(jump_step(logits, x, keys, step=step, **way))
            assert (found[0] != found[1]).sum() <= 1, (dtype, way)


@every_backend
def test_the_far_tail(name: str) -> None:
    """A symbol of chance 1e-5 comes as often as it should."""
    logits = torch.tensor([0.0, -2.0, math.log(1e-5 * (1 + math.exp(-2.0)) / (1 - 1e-5))])
    tokens = torch.zeros((250, 4000), dtype=torch.int64)
    with pyflowk.backend(name):
        found = jump_step(logits.expand(*tokens.shape, 3), tokens, torch.arange(250), 1.0)
    assert_law(found, law(logits.double(), 0, 1.0))


@every_backend
def test_tokens_do_not_depend_on_their_mates(name: str) -> None:
    """Nor on the dtype of x's neighbours, strides, threads; another step is another draw."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(9, 4, 5, 40, generator=generator)
    x = torch.randint(0, 40, (9, 4, 5), generator=generator)
    keys, jump = torch.arange(9) - 4, 0.9 * torch.rand(9, 4, 5, generator=generator)
    threads = torch.get_num_threads()
    with pyflowk.backend(name):
        whole = jump_step(logits, x, keys, jump, renoise=0.1)
        large = torch.randn(30, 7, 700, generator=generator), torch.zeros(30, 7, dtype=torch.int64), torch.arange(30)
        try:
            torch.set_num_threads(2)
            assert torch.equal(
                jump_step(*large, 0.5, top_p=0.9)[7:9], jump_step(*(t[7:9] for t in large), 0.5, top_p=0.9)
            )
        finally:
            torch.set_num_threads(threads)
        assert torch.equal(whole[3:4], jump_step(logits[3:4], x[3:4], keys[3:4], jump[3:4], renoise=0.1))
        spread = torch.stack((logits, logits), -1)[..., 0]
        transposed = x.permute(2, 0, 1).contiguous().permute(1, 2, 0)
        assert torch.equal(whole, jump_step(spread, transposed, keys, jump, renoise=torch.full((9,), 0.1)))
        assert torch.equal(jump_step(logits, x, keys, 0.0), x)
        other = jump_step(logits, x, keys, 1.0, step=1)
        assert 0.5 < (other != jump_step(logits, x, keys, 1.0)).float().mean() < 1
        assert jump_step(logits[:0], x[:0], keys[:0], 1.0).shape == (0, 4, 5)
        assert jump_step(logits[:, :0], x[:, :0], keys, 1.0).shape == (9, 0, 5)


def test_a_step_with_edits_compiles_and_is_mapped() -> None:
    """The ops on tokens of which no other test compiles: in one graph, with what follows in a step of edits."""
    logits, n = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0)), torch.tensor([5, 0, 3])
    x, keys = torch.zeros(3, 5, dtype=torch.int64), torch.arange(3)

    def step(logits: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        moved = jump_step(logits, x, keys, 0.5, renoise=0.1)
        return moved, *align(x, n, moved, n, keys), *apply_edits(moved, n, x, moved > 3, x, limit=9)

    eager = step(logits, x)
    for compiled, plain in zip(torch.compile(step, backend="aot_eager", fullgraph=True)(logits, x), eager):
        assert torch.equal(compiled, plain)
    mapped = torch.func.vmap(lambda one: jump_step(one, x, keys, 0.5, renoise=0.1))(torch.stack((logits, logits)))
    assert torch.equal(mapped[1], eager[0])


@every_backend
def test_bad_input_is_refused(name: str) -> None:
    logits, x, keys = torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.int64), torch.arange(2)
    bad = logits.clone()
    bad[1, 2, 0] = math.nan
    with pyflowk.backend(name):
        with pytest.raises(ValueError, match=r"logits of row 1, token 2 are not finite.* got tensor\(\[nan, 0., 0., 0"):
            jump_step(bad, x, keys, 1.0)
        frozen = torch.ones(2, 3)
        frozen[1, 2] = 0.0
        assert jump_step(bad, x, keys, frozen).shape == (2, 3)  # not looked at
        with pytest.raises(ValueError, match="row 0, token 0 are not finite, or leave nothing to draw"):
            jump_step(logits[..., :1], x, keys, 1.0, mask=0)
        with pytest.raises(ValueError, match=r"logits \(B, \*event, K\) and x \(B, \*event\); got \(2, 3, 4\)"):
            jump_step(logits, x.T, keys, 1.0)
        with pytest.raises(TypeError, match="int64"):
            jump_step(logits, x.int(), keys, 1.0)
        with pytest.raises(TypeError, match="float32, float64, bfloat16 or float16"):
            jump_step(logits.long(), x, keys, 1.0)
        with pytest.raises(ValueError, match=r"keys must be \(2,\), one a row; got \(1,\)"):
            jump_step(logits, x, keys[:1], 1.0)
        with pytest.raises(ValueError, match=r"jump must be a number, \(2,\) or like x; got \(3,\)"):
            jump_step(logits, x, keys, torch.ones(3))
        with pytest.raises(ValueError, match="x must hold symbols 0 to 3, or the mask 9; got 5"):
            jump_step(logits, x + torch.tensor([0, 9, 5]), keys, 1.0, mask=9)
        with pytest.raises(ValueError, match="x must hold symbols 0 to 3; got -1"):
            jump_step(logits, x - 1, keys, 1.0)
        with pytest.raises(ValueError, match="there is no symbol"):
            jump_step(logits[..., :0], x, keys, 1.0, mask=0)
        with pytest.raises(ValueError, match=r"top_p of 0 to 1; got 1.*, 0 and 1.5"):
            jump_step(logits, x, keys, 1.0, top_p=1.5)
        for bad, got in ((math.nan, "nan"), (-0.1, "-0.1"), (torch.tensor([0.5, 1.5]), "1.5")):
            with pytest.raises(ValueError, match=f"jump must be 0 to 1; got {got}"):
                jump_step(logits, x, keys, bad)
        with pytest.raises(ValueError, match="jump must be at least 0; got -1"):
            jump_step(logits, x, keys, torch.full((2, 3), -1.0), rates=True)
        with pytest.raises(ValueError, match="renoise must be 0 to 1; got 2"):
            jump_step(logits, x, keys, 0.5, renoise=2)
        for renoise in (0.8, torch.full((2, 3), 0.8)):
            with pytest.raises(ValueError, match=r"jump \+ renoise must be 0 to 1; got 1.6"):
                jump_step(logits, x, keys, 0.8, renoise=renoise)
        assert jump_step(logits, x, keys, 0.8, renoise=0.8, mask=0).shape == (2, 3)  # no token has both chances
        with pytest.raises(ValueError, match="own must be a number; got nan"):
            jump_step(logits, x, keys, 0.5, own=torch.full((2,), math.nan))
        with pytest.raises(ValueError, match="with rates, renoise must be 0"):
            jump_step(logits, x, keys, 1.0, rates=True, renoise=0.1)
        with pytest.raises(ValueError, match="mask must be a symbol of at least 0; got -1"):
            jump_step(logits, x, keys, 1.0, mask=-1)
        with pytest.raises(ValueError, match=r"step must be 0 to 2\^32 - 1; got -1"):
            jump_step(logits, x, keys, 1.0, step=-1)
