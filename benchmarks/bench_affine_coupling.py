"""affine_coupling alone, with the network's output given: forward, inverse, forward + backward and in place.

Everybody does y = x e^s + t on the second half of dim 1 and sums s; "tanh" bounds s = 2 tanh(r / 2) first. Packages
with a bound of their own that cannot be switched off take part in the contest without a bound; their note says so.
`python -m benchmarks --only affine_coupling` takes the variants in turns, judges the bars and writes the results;
`pytest benchmarks/bench_affine_coupling.py` gives the same calls to pytest-benchmark, one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from pyflowk.ops import affine_coupling

from .peers import Move, Peer, load, plain
from .report import COPY_INTO, COPY_NEW, OURS, Bar, Case, hand_over, microseconds_bar, never_slower_bar, ratio_bar

ON_REQUEST = False
SHAPES = {"256x2": (256, 2), "1024x64": (1024, 64), "64x12x16x16": (64, 12, 16, 16), "4096x784": (4096, 784)}
OVERHEAD = {"8x4": (8, 4)}
DIRECTIONS = ("forward", "inverse", "forward + backward", "in place")
EAGER, MASK, COMPILE = "eager", "eager, mask", "torch.compile"


def notes() -> dict[str, str]:
    """What each rival's time includes."""
    return {
        EAGER: "chunk, exp, cat; in place: mul_ and add_ on the moved half",
        MASK: "masks multiplied in, network output for every channel",
        COMPILE: "of the eager form, fullgraph, static shapes, dynamo reset for every case",
        "in place": "ours and the two that are called so write over x; the others make a new y",
        **{peer.name: peer.note for peer in load()[0]},
    }


def inputs(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """x and our params; log-scales are negative, so that writing over x again and again stays bounded."""
    generator = torch.Generator().manual_seed(0)
    x, params = (torch.randn(shape, generator=generator) for _ in range(2))
    raw, t = params.chunk(2, 1)
    return x, torch.cat([-raw.abs(), t], 1)


def couplings(shape: tuple[int, ...], bound: str, peers: list[Peer]) -> dict[str, tuple[Move, Move, Tensor]]:
    """variant -> (forward, inverse, params in its own layout)."""
    x, params = inputs(shape)
    mask = plain.mask_of(x)
    chunk = partial(plain.chunk_forward, bound=bound), partial(plain.chunk_inverse, bound=bound)
    found: dict[str, tuple[Move, Move, Tensor]] = {
        OURS: (partial(affine_coupling, bound=bound), partial(affine_coupling, bound=bound, inverse=True), params),
        EAGER: (*chunk, params),
        MASK: (
            partial(plain.mask_forward, mask=mask, bound=bound),
            partial(plain.mask_inverse, mask=mask, bound=bound),
            plain.mask_params(params),
        ),
        COMPILE: (
            torch.compile(chunk[0], dynamic=False, fullgraph=True),
            torch.compile(chunk[1], dynamic=False, fullgraph=True),
            params,
        ),
    }
    for peer in peers:
        if bound in peer.bounds and (peer.images or len(shape) == 2):
            rows = peer.rows(params.shape[1] // 2)
            found[peer.name] = (*peer.coupling(shape[1], bound), params[:, rows].contiguous())
    return found


def case(size: str, shape: tuple[int, ...], direction: str, bound: str, peers: list[Peer]) -> Case:
    """One contest."""
    x, params = inputs(shape)
    rivals = couplings(shape, bound, peers)
    name = f"{direction}, {size}" + ("" if bound == "none" else f", {bound} bound")
    variants: dict[str, Callable[[], object]] = {}
    for variant, (forward, inverse, own) in rivals.items():
        if direction == "forward + backward":
            variants[variant] = _training(forward, x, own)
        else:
            variants[variant] = partial(inverse if direction == "inverse" else forward, x, own)
    if direction == "in place":
        variants[OURS] = partial(affine_coupling, x.clone(), params, bound=bound, inplace=True)
        variants["eager, in place"] = partial(plain.chunk_inplace, x.clone(), params, bound)
        written = torch.compile(partial(plain.chunk_inplace, bound=bound), dynamic=False, fullgraph=True)
        variants["torch.compile, in place"] = partial(written, x.clone(), params)
    size_bytes = 4 * x.numel()
    traffic = {}
    if direction != "forward + backward" and size in SHAPES:
        target = torch.empty_like(x)
        variants |= {COPY_NEW: x.clone, COPY_INTO: partial(target.copy_, x)}
        ladj = 4 * shape[0]
        whole = 3 * size_bytes + ladj  # read x and params, write y and ladj
        traffic = {
            OURS: 2 * size_bytes + ladj if direction == "in place" else whole,  # in place the still half stays put
            EAGER: whole,
            COMPILE: whole,
            COPY_NEW: 2 * size_bytes,
            COPY_INTO: 2 * size_bytes,
        }
    return Case(name, variants, bars(size, direction), traffic, grad=direction == "forward + backward")


def _training(forward: Move, x: Tensor, params: Tensor) -> Callable[[], object]:
    x, params = x.clone().requires_grad_(), params.clone().requires_grad_()
    dy, dladj = torch.ones_like(x), torch.ones(x.shape[0])

    def call() -> object:
        y, ladj = forward(x, params)
        return torch.autograd.grad((y, ladj), (x, params), (dy, dladj))

    return call


def bars(size: str, direction: str) -> list[Bar]:
    """What the design asks for; everywhere: not slower than anybody."""
    never = never_slower_bar()
    if size in OVERHEAD:
        return [microseconds_bar(30 if direction == "forward + backward" else 2)]
    forward = {"1024x64": (2.5, 5.0), "64x12x16x16": (1.8, 4.0), "4096x784": (1.3, 2.3)}
    training = {"1024x64": 1.6, "64x12x16x16": 1.3}
    if direction == "forward" and size in forward:
        compiled, eager = forward[size]
        wide = [bandwidth_bar(3, COPY_NEW, size)] if size == "4096x784" else []
        return [ratio_bar(compiled, COMPILE), ratio_bar(eager, EAGER), never, *wide]
    if direction == "in place" and size == "4096x784":
        return [ratio_bar(2.3, COMPILE), never, bandwidth_bar(2, COPY_INTO, size)]
    if direction == "forward + backward" and size in training:
        return [ratio_bar(training[size], COMPILE, EAGER), never]
    return [never]


def bandwidth_bar(passes: int, copy: str, size: str) -> Bar:
    """At least 85 % of the bandwidth of a copy, which passes over x twice; ours over `passes` times its size."""
    sizes = passes + SHAPES[size][0] / torch.Size(SHAPES[size]).numel()  # with ladj

    def of(seconds: Any) -> float:
        return sizes / seconds[OURS] / (2 / seconds[copy])

    return Bar(f">= 0.85 of the bandwidth of {copy}", 0.85, of)


def cases(quick: bool) -> Iterator[Case]:
    """Every contest, built when its turn comes."""
    peers, _ = load()
    if quick:
        yield case("256x2", SHAPES["256x2"], "forward", "none", peers)
        yield case("256x2", SHAPES["256x2"], "in place", "none", peers)
        yield case("8x4", OVERHEAD["8x4"], "forward + backward", "tanh", peers)
        return
    for bound in ("none", "tanh"):
        for direction in DIRECTIONS:
            for size, shape in SHAPES.items():
                yield case(size, shape, direction, bound, peers)
    for direction in ("forward", "forward + backward"):
        yield case("8x4", OVERHEAD["8x4"], direction, "tanh", peers)


VARIANTS = (OURS, EAGER, MASK, COMPILE, *(peer.name for peer in load()[0]))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("size", SHAPES)
def test_affine_coupling(benchmark: Any, size: str, direction: str, variant: str) -> None:
    hand_over(case(size, SHAPES[size], direction, "none", load()[0]), variant, benchmark)
