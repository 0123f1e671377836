"""A step of discrete flow matching from logits to the next tokens, beside flow_matching (if it is there) and torch.

`python -m benchmarks --only jump_step`. Every token jumps in the contests named so, half of them else; rivals are given
the logits too, and write no more tensors than they must.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from pyflowk.ops import jump_step
from pyflowk.ops.draw import draw_keys

from .report import OURS, Case, ratio_bar
from .timing import Effort

ON_REQUEST = False
FLOW_MATCHING, MULTINOMIAL, COMPILED = "flow_matching's step", "torch.multinomial", "compiled softmax, cumsum"
SORTED, TOPK = "torch.sort, cumsum, multinomial", "torch.topk, multinomial"
HAS_PEER = importlib.util.find_spec("flow_matching") is not None
#: rows, tokens, symbols; how many times as fast as flow_matching and as the best other
SIZES = ((64, 64, 17, 50.0, 10.0), (64, 256, 128, 50.0, 6.0), (4, 256, 32000, 50.0, 12.0), (2, 512, 50257, 50.0, 12.0))


def notes() -> dict[str, str]:
    """What each rival's time includes."""
    return {
        OURS: "ops.jump_step, keys given",
        FLOW_MATCHING: "what a step of MixtureDiscreteEulerSolver does: softmax, categorical, rates, jump, categorical",
        MULTINOMIAL: "torch.rand, softmax and torch.multinomial of all tokens, torch.where",
        COMPILED: "torch.compile of softmax, cumsum and the first sum above a number; torch.rand before it",
        SORTED: "softmax, torch.sort, cumsum, what is beyond the share 0, torch.multinomial, gather",
        TOPK: "torch.topk, softmax and torch.multinomial of these, gather",
    }


def _peer(logits: Tensor, x: Tensor, h: float) -> Callable[[], Tensor]:
    """The step, line by line, of a solver that would otherwise call a model."""
    from flow_matching.utils import categorical

    size = logits.shape[-1]

    def step() -> Tensor:
        x_1 = categorical(logits.softmax(-1))
        delta_1 = torch.nn.functional.one_hot(x_1, num_classes=size).to(logits.dtype)
        u = 2.0 * delta_1  # kappa' / (1 - kappa) at t = 1/2
        delta_t = torch.nn.functional.one_hot(x, num_classes=size)
        u = torch.where(delta_t.to(dtype=torch.bool), torch.zeros_like(u), u)
        intensity = u.sum(dim=-1)
        jumps = torch.rand(size=x.shape) < 1 - torch.exp(-h * intensity)
        moved = x.clone()
        if jumps.sum() > 0:
            moved[jumps] = categorical(u[jumps].to(dtype=logits.dtype))
        return moved

    return step


def _first_above(logits: Tensor, uniform: Tensor, x: Tensor, gate: Tensor) -> Tensor:
    sums = logits.softmax(-1).cumsum(-1)
    drawn = (sums < uniform[..., None]).sum(-1).clamp(max=logits.shape[-1] - 1)
    return torch.where(gate < 0.5, drawn, x)


def case(rows: int, places: int, size: int, over_peer: float, over_rest: float) -> Case:
    """One contest: half of the tokens jump."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(rows, places, size, generator=generator)
    x = torch.randint(0, size, (rows, places), generator=generator)
    keys, compiled = draw_keys(rows, generator, device="cpu"), torch.compile(_first_above)

    def multinomial() -> Tensor:
        drawn = torch.multinomial(logits.softmax(-1).flatten(0, 1), 1).reshape(x.shape)
        return torch.where(torch.rand(x.shape) < 0.5, drawn, x)

    variants: dict[str, Callable[[], object]] = {
        OURS: lambda: jump_step(logits, x, keys, 0.5),
        MULTINOMIAL: multinomial,
        COMPILED: lambda: compiled(logits, torch.rand(x.shape), x, torch.rand(x.shape)),
    }
    bars = [ratio_bar(over_rest, MULTINOMIAL, COMPILED)]
    if HAS_PEER:
        variants[FLOW_MATCHING] = _peer(logits, x, 0.35)
        bars.insert(0, ratio_bar(over_peer, FLOW_MATCHING))
    effort = Effort(rounds=3, batches=1, warmups=1) if size > 1000 else None
    return Case(f"{rows} x {places} tokens, K={size}", variants, bars, effort=effort)


def case_cut(rows: int, places: int, size: int) -> tuple[Case, Case]:
    """Two contests: every token is drawn from a law that is cut."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(rows, places, size, generator=generator)
    x, keys = torch.zeros(rows, places, dtype=torch.int64), draw_keys(rows, generator, device="cpu")

    def by_sort() -> Tensor:
        p, order = logits.softmax(-1).sort(descending=True)
        p = torch.where(p.cumsum(-1) - p < 0.9, p, 0.0)
        return order.flatten(0, 1).gather(1, torch.multinomial(p.flatten(0, 1), 1)).reshape(x.shape)

    def by_topk() -> Tensor:
        best, order = logits.topk(50)
        return order.flatten(0, 1).gather(1, torch.multinomial(best.softmax(-1).flatten(0, 1), 1)).reshape(x.shape)

    effort = Effort(rounds=3, batches=1, warmups=1)
    share = {OURS: lambda: jump_step(logits, x, keys, 1.0, top_p=0.9), SORTED: by_sort}
    most = {OURS: lambda: jump_step(logits, x, keys, 1.0, top_k=50), TOPK: by_topk}
    return (
        Case(f"top-p 0.9, {rows} x {places} tokens, K={size}", share, [ratio_bar(50.0, SORTED)], effort=effort),
        Case(f"top-k 50, {rows} x {places} tokens, K={size}", most, [ratio_bar(3.0, TOPK)], effort=effort),
    )


def cases(quick: bool) -> Iterator[Case]:
    """Every contest, built when its turn comes."""
    for size in SIZES[:1] if quick else SIZES:
        yield case(*size)
    yield from case_cut(2, 64, 128 if quick else 50257)
