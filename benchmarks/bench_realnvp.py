"""RealNVP with 10 couplings, hidden 128 x 2, 64 dimensions: the whole training step, and sampling.

A training step is the mean loss of a batch, its gradient, and a step of torch's fused AdamW. Every model has the same
networks and the same number of parameters, which is checked; halves take turns in all of them. Ours and plain torch
bound the log-scales by 2 tanh(r / 2), each package as its note says. `python -m benchmarks --only realnvp`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyflowk import zoo
from pyflowk.distributions import DiagonalGaussian
from pyflowk.flows import Flow
from pyflowk.nets import MLP
from pyflowk.transforms import Affine, Compose, Coupling

from .peers import WIDTH, FlowPeer, Peer, load
from .peers.plain import HalvesFlow, LayeredFlow
from .report import OURS, Bar, Case, hand_over, ratio_bar

ON_REQUEST = False
FEATURES, COUPLINGS, BATCHES = 64, 10, (256, 1024)
OURS_COMPILED, ZOO = "ours, torch.compile", "ours, zoo.realnvp"
EAGER, HALVES, COMPILE, COMPILED_HALVES = "eager", "eager, no cat", "torch.compile", "torch.compile, no cat"

Entry = tuple[nn.Module, Callable[[Tensor], Tensor], Callable[[int], Tensor]]


class OurFlow(FlowPeer):
    """transforms.Coupling around nets.MLP, which has the layers of the common networks."""

    def __init__(self, features: int, couplings: int, bound: str = "tanh") -> None:
        super().__init__()
        self.nets = [MLP(features // 2, features, WIDTH) for _ in range(couplings)]
        layers = [Coupling(net, Affine(bound), "half", swap=i % 2 == 0) for i, net in enumerate(self.nets)]
        self.flow = Flow(DiagonalGaussian((features,)), Compose(*layers))

    def log_prob(self, x: Tensor) -> Tensor:
        return self.flow.log_prob(x)

    def sample(self, n: int) -> Tensor:
        return self.flow.sample(n)


def notes() -> dict[str, str]:
    """What each rival's time includes."""
    return {
        OURS: "transforms.Coupling around nets.MLP, whose layers are those of the common networks",
        ZOO: "the zoo's model: ActNorm before every coupling and four masks in turn, 1280 parameters more",
        EAGER: "one coupling after another: chunk, transform, cat",
        HALVES: "the same with the halves kept apart from end to end",
        COMPILE: "of log_prob and of sample, fullgraph, static shapes; the optimizer's step is eager for everybody",
        **{peer.name: peer.note for peer in load()[0]},
    }


def models(couplings: int, peers: list[Peer]) -> dict[str, Entry]:
    """variant -> (module, log_prob, sample); ValueError unless all hold the same number of parameters."""
    ours, eager, halves = (kind(FEATURES, couplings) for kind in (OurFlow, LayeredFlow, HalvesFlow))
    found: dict[str, Entry] = {OURS: plain(ours)}
    found[OURS_COMPILED] = compiled(OurFlow(FEATURES, couplings))
    found[EAGER], found[HALVES] = plain(eager), plain(halves)
    found[COMPILE] = compiled(LayeredFlow(FEATURES, couplings))
    found[COMPILED_HALVES] = compiled(HalvesFlow(FEATURES, couplings))
    for peer in peers:
        found[peer.name] = plain(peer.flow(FEATURES, couplings))
    sizes = {name: parameters(entry[0]) for name, entry in found.items()}
    if len(set(sizes.values())) != 1:
        raise ValueError(f"expected equal numbers of parameters, got {sizes}")
    whole = zoo.create("realnvp", (FEATURES,), couplings=couplings)
    whole.initialize(torch.randn(512, FEATURES))
    found[ZOO] = (whole, whole.log_prob, whole.sample)
    return found


def plain(model: FlowPeer) -> Entry:
    return model, model.log_prob, model.sample


def compiled(model: FlowPeer) -> Entry:
    options: dict[str, Any] = {"dynamic": False, "fullgraph": True}
    return model, torch.compile(model.log_prob, **options), torch.compile(model.sample, **options)


def parameters(model: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def training_step(model: nn.Module, log_prob: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], object]:
    """Loss, gradient, AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        (-log_prob(x).mean()).backward()
        optimizer.step()

    return step


def case(task: str, batch: int, couplings: int, peers: list[Peer]) -> Case:
    """One contest: task is "training step" or "sampling"."""
    torch.manual_seed(0)
    x = torch.randn(batch, FEATURES)
    variants: dict[str, Callable[[], object]] = {}
    for name, (model, log_prob, sample) in models(couplings, peers).items():
        training = task == "training step"
        variants[name] = training_step(model, log_prob, x) if training else partial(sample, batch)
    return Case(f"RealNVP {task}, batch {batch}", variants, bars(peers), grad=task == "training step")


def bars(peers: list[Peer]) -> list[Bar]:
    """Faster than every package and than eager torch, not slower than compiled plain torch."""
    rivals = (EAGER, HALVES, *(peer.name for peer in peers))
    compiled_ones = [ratio_bar(1.0, COMPILE), ratio_bar(1.0, COMPILED_HALVES)]

    def best(seconds: Any) -> float:
        return seconds[COMPILE] / min(seconds[OURS], seconds[OURS_COMPILED])

    return [ratio_bar(1.0, *rivals), *compiled_ones, Bar(f">= 1x {COMPILE}, ours compiled if faster", 1.0, best)]


def cases(quick: bool) -> Iterator[Case]:
    """Every contest, built when its turn comes."""
    peers, _ = load()
    couplings, batches = (2, BATCHES[:1]) if quick else (COUPLINGS, BATCHES)
    for batch in batches:
        for task in ("training step", "sampling"):
            yield case(task, batch, couplings, peers)


VARIANTS = (
    OURS, OURS_COMPILED, ZOO, EAGER, HALVES, COMPILE, COMPILED_HALVES, *(peer.name for peer in load()[0])
)  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("task", ["training step", "sampling"])
def test_realnvp(benchmark: Any, task: str, batch: int, variant: str) -> None:
    hand_over(case(task, batch, COUPLINGS, load()[0]), variant, benchmark)
