"""What it costs that a model looks at its weights in every call, beside `pyflowk.frozen`, which does not look.

`python -m benchmarks --only frozen`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import torch
from torch import nn

import pyflowk
from pyflowk import zoo
from pyflowk.compat import accelerate

from .peers import load
from .report import OURS, Bar, Case

ON_REQUEST = False
FROZEN = "frozen"
BATCHES = (1, 64, 1024)
LIMIT = Bar("looking takes at most half of the call again", 1.5, lambda s: s[OURS] / s[FROZEN], limit=True)


def notes() -> dict[str, str]:
    """What each variant is."""
    return {OURS: "the model as it is: each call compares the weights with a copy", FROZEN: "pyflowk.frozen of it"}


def _awake(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.02 * torch.randn(p.shape)
    return model.eval()


def _zuko() -> nn.Module:
    import zuko

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a layer left as it was
        return accelerate(zuko.flows.MAF(63, transforms=5, hidden_features=(512, 512)))


#: name -> model, shape of its events, largest batch: Glow's is one for images.
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "MAF, D = 6, 64 x 2": (lambda: zoo.create("maf", (6,), width=64), (6,), 1024),
    "MAF, D = 63, 512 x 2": (lambda: zoo.create("maf", (63,), width=512), (63,), 1024),
    "Glow, 3 x 32 x 32": (lambda: zoo.create("glow", (3, 32, 32), width=32, steps=4), (3, 32, 32), 64),
    "residual flow, D = 63, 128 x 3": (lambda: zoo.create("residual_flow", (63,), layers=4), (63,), 1024),
    "zuko MAF accelerated, D = 63, 512 x 2": (_zuko, (63,), 1024),
}


def case(name: str, task: str, batch: int) -> Case:
    """One model, task and batch."""
    build, shape, _ = MODELS[name]
    model, x = _awake(build()), torch.randn(batch, *shape)
    calls = {}
    for variant, served in {OURS: model, FROZEN: pyflowk.frozen(model)}.items():
        flow = served if hasattr(served, "log_prob") else None
        if task == "density":
            calls[variant] = lambda flow=flow, served=served: (flow or served()).log_prob(x)
        else:
            calls[variant] = lambda flow=flow, served=served: flow.sample(batch) if flow else served().sample((batch,))
    return Case(f"{name}: {task}, batch {batch}", calls, [LIMIT])


def cases(quick: bool) -> Iterator[Case]:
    """Every contest, built when its turn comes."""
    packages = [peer.name for peer in load()[0]]
    for name, (_, _, most) in MODELS.items():
        if name.startswith("zuko") and "zuko" not in packages:
            continue
        yield from (
            case(name, task, n) for task in ("density", "sampling") for n in BATCHES[: 1 if quick else 3] if n <= most
        )
