"""Nats after one minute of training on one thread: MAFs of one size from every package, one harness: `--only nats`.

Five layers of two hidden layers of 128 units on standardised data; Adam, batches of 256, a cosine over the CPU time of
the steps, so that rivals on the machine cost nothing. Nats are of the test set, in the data's own units. Peers'
flows run as they are and with our kernels inside.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyflowk import datasets, metrics, zoo
from pyflowk.compat import accelerate

from .peers import load
from .report import OURS, machine, save

ON_REQUEST = True
LAYERS, WIDTH, BATCH, RATE, CLIP = 5, 128, 256, 2e-3, 5.0
LogProb = Callable[[Tensor], Tensor]


def ours(features: int) -> tuple[nn.Module, LogProb]:
    model = zoo.maf((features,), blocks=LAYERS, width=WIDTH)
    return model, model.log_prob


def zuko(features: int) -> tuple[nn.Module, LogProb]:
    from zuko.flows import MAF

    flow = MAF(features, transforms=LAYERS, hidden_features=(WIDTH, WIDTH))
    return flow, lambda x: flow().log_prob(x)


def nflows(features: int) -> tuple[nn.Module, LogProb]:
    from nflows.flows.autoregressive import MaskedAutoregressiveFlow

    flow = MaskedAutoregressiveFlow(features, WIDTH, LAYERS, 1, use_residual_blocks=False)
    return flow, flow.log_prob


def normflows(features: int) -> tuple[nn.Module, LogProb]:
    """Its layers turned round, so that the density is the direct direction; their scale, sigmoid(r + 2) + 0.001, then
    cannot stretch data, which costs it most of its nats."""
    import normflows as nf

    layers: list[nn.Module] = []
    for _ in range(LAYERS):
        made = nf.flows.MaskedAffineAutoregressive(features, WIDTH, num_blocks=2, use_residual_blocks=False)
        layers += [nf.flows.base.Reverse(made), nf.flows.Permute(features)]
    flow = nf.NormalizingFlow(nf.distributions.DiagGaussian(features, trainable=False), layers)
    return flow, flow.log_prob


def accelerated(build: Callable[[int], tuple[nn.Module, LogProb]]) -> Callable[[int], tuple[nn.Module, LogProb]]:
    def built(features: int) -> tuple[nn.Module, LogProb]:
        flow: Any = accelerate(build(features)[0])
        return flow, (lambda x: flow().log_prob(x)) if build is zuko else flow.log_prob

    return built


def rivals() -> Iterator[tuple[str, Callable[[int], tuple[nn.Module, LogProb]]]]:
    """Ours, and every package that is installed."""
    yield OURS, ours
    for build in (zuko, nflows, normflows):
        if build.__name__ in {peer.name for peer in load()[0]}:
            yield build.__name__, build
            yield f"{build.__name__}, accelerated", accelerated(build)


def train(build: Callable[[int], tuple[nn.Module, LogProb]], data: datasets.Dataset, seconds: float) -> dict[str, Any]:
    """Test nats, their standard error and the steps taken in that many CPU seconds."""
    mean, std = data.train.mean(0), data.train.std(0)
    train, test = ((part - mean) / std for part in (data.train, data.test))
    torch.manual_seed(0)
    model, log_prob = build(data.space.dims)
    if isinstance(model, zoo.GenerativeModel):
        model.initialize(train[:2048])
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    order, steps, start = torch.randperm(len(train)), 0, time.process_time()
    while (done := (time.process_time() - start) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * done))
        at = steps * BATCH % (len(train) - BATCH)
        if at < BATCH:
            order = torch.randperm(len(train))
        optimizer.zero_grad()
        (-log_prob(train[order[at : at + BATCH]]).mean()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP * data.space.dims**0.5)
        optimizer.step()
        steps += 1
    model.eval()
    with torch.no_grad():
        nats = torch.cat([log_prob(rows) for rows in test.split(2000)]) - std.log().sum()
    return {"nats": nats.mean().item(), "error": (nats.std() / len(nats) ** 0.5).item(), "steps": steps}


def run(minutes: float, folder: Path | None) -> bool:
    """Train everything, print a table, write folder/nats.json; always True."""
    torch.set_num_threads(1)
    page: dict[str, Any] = {"machine": machine(), "minutes": minutes, "rows": []}
    for name in ("patches", "galaxies"):
        try:
            data = datasets.load(name)
        except (FileNotFoundError, ImportError) as missing:
            print(f"{name} left out: {missing}")
            continue
        print(f"{name}, {60 * minutes:.0f} s of CPU time, one thread; nats on {len(data.test)} test rows")
        level = metrics.gaussian_level(data.space, data.train, data.test)
        if level is not None:
            print(f"  {'one Gaussian':24} {level.nats:8.2f} +- {level.nats_error:.2f}")
        for rival, build in rivals():
            found = train(build, data, 60 * minutes)
            page["rows"].append({"data": name, "model": rival, **found})
            print(f"  {rival:24} {found['nats']:8.2f} +- {found['error']:.2f} after {found['steps']} steps", flush=True)
    if folder is not None:
        save(folder, "nats", page)
    return True
