"""Samples in one and four evaluations, and their likelihoods: `--only few_steps`.

Digits, given their labels: mean flow, its sibling with a likelihood, consistency and drifting beside flow matching in
50 steps of Euler, after equal CPU time on one thread, in the same trainer with the same U-Net. A classifier that has
learned the training pictures tells how often a sample is what was asked for, and the squared Frechet distance and
coverage in its features; C2ST is of the pixels.

Likelihoods in four evaluations, as a mean flow has learned them (F2D2), beside those of the equation of its velocity:
of test rows of two sets in two dimensions and of digits; and how many independent samples weighted ones of its jumps,
with their exact density, are worth under that of the data, where it is known, with a share for coming back and without
(FALCON).

A training step of a mean flow on a transformer: ours, whose layers take values and tangents together, beside the same
layers in plain torch under torch.func.jvp, with mathematical attention, and torch.compile of that: all three losses
agree.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Generator, Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from pyflowk import datasets, metrics, training, zoo
from pyflowk.datasets import Dataset
from pyflowk.distributions import GaussianMixture
from pyflowk.metrics import Classifier
from pyflowk.nets import DiT, Field, FlowMap
from pyflowk.nets.attention import turned
from pyflowk.nets.dit import rotary, sincos
from pyflowk.objectives import FlowMapMatching, effective_sample_size, importance_sample
from pyflowk.space import Space
from pyflowk.training import TrainConfig, Trainer

from .memory import peak_bytes
from .report import machine, save
from .timing import Effort, interleaved

ON_REQUEST = True
OPS = ("attention", "modulated_norm", "drift")  # that it judges
TOLD = "mean flow, told likelihood"
#: name -> system, its options, the trainer's, and those of the samples that are looked at
SYSTEMS: dict[str, tuple[str, dict[str, Any], dict[str, Any], list[dict[str, Any]]]] = {
    "flow matching": ("flow_matching", {}, {}, [{"method": "euler", "steps": 50}]),
    "mean flow": ("mean_flow", {}, {}, [{"steps": 1}, {"steps": 4}]),
    TOLD: ("mean_flow", {"likelihood": True}, {}, [{"steps": 1}, {"steps": 4}]),
    "consistency": ("consistency", {"derivative": "difference"}, {}, [{"steps": 1}, {"steps": 4}]),
    "drifting": ("drifting", {}, {"batch_size": 256}, [{}]),
}
PLANES, LINES = ("moons", "pinwheel"), 500
SCORED, DRAWN, STEPS = 100, 360, 4


def trained(system: str, data: Dataset, minutes: float, options: dict[str, Any], **config: Any) -> Any:
    """A model that has had so much CPU time, and its steps."""
    torch.manual_seed(0)
    model = zoo.create(system, data.space, **options)
    plan = TrainConfig(minutes=minutes, cpu=True, threads=1, tensorboard=False, sample_every=0, **config)
    with tempfile.TemporaryDirectory() as out:
        trainer = Trainer(model, data, plan, out=out, console=Console(quiet=True), clock=time.process_time)
        steps = trainer.run().step
        return training.load_model(out, "last")[0], steps


# ---- samples ---------------------------------------------------------------------------------------------------------


def samples(minutes: float) -> tuple[list[dict[str, Any]], Any]:
    """Figures of all systems on digits, and the one that tells likelihoods."""
    data, noise, rows, telling = datasets.load("digits"), Generator().manual_seed(0), [], None
    classifier = Classifier.fit(data.train, data.train_context, steps=200, generator=noise)
    x, labels = data.take("test", slice(DRAWN))
    seen = classifier.features(x)
    for name, (system, options, config, ways) in SYSTEMS.items():
        model, steps = trained(system, data, minutes, options, **config)
        telling = model if name == TOLD else telling
        for way in ways:
            drawn = training.sample(model, len(x), labels, Generator().manual_seed(0), **way)
            near = metrics.compare_features(classifier.features(drawn), seen, Generator().manual_seed(0))
            rows.append({
                "system": name, "evaluations": way.get("steps", 1), "training steps": steps,
                "as asked": classifier.accuracy(drawn, labels).item(),
                "Frechet": near["frechet_distance"].value, "Frechet of test pictures": near["frechet_distance"].noise,
                "coverage": near["coverage"].value,
                "c2st": metrics.compare(drawn, x, data.space, Generator().manual_seed(0))["c2st"].value,
            })  # fmt: skip
            print("  ", *(f"{k} {v:.3f}" if isinstance(v, float) else v for k, v in rows[-1].items()), flush=True)
    return rows, telling


# ---- likelihoods -----------------------------------------------------------------------------------------------------


def likelihood(name: str, model: Any, data: Dataset, count: int) -> dict[str, Any]:
    """In few steps beside the exact one, of test rows and of samples."""
    x, labels = data.take("test", slice(count))
    given = labels if data.space.context else None
    exact = training.log_prob(model, x, given)
    found: dict[str, Any] = {"data": name, "rows": count, "exact": exact.mean().item()}
    for steps in (1, STEPS):
        apart = training.log_prob(model, x, given, steps=steps) - exact
        found[f"{steps}: mean"] = apart.mean().item()
        found[f"{steps}: root mean square"] = apart.square().mean().sqrt().item()
    print("  ", *(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in found.items()), flush=True)
    return found


def likelihoods(minutes: float, digits: Any) -> list[dict[str, Any]]:
    """Of two sets in two dimensions and of digits."""
    rows = []
    for name in PLANES:
        data = datasets.load(name)
        data = datasets.Dataset(name, Space((2,)), data.train, data.valid, data.test)
        options = {"objective": "terminal_velocity", "likelihood": True, "width": 64}
        model, _ = trained("mean_flow", data, minutes / 2, options)
        rows.append(likelihood(name, model, data, LINES))
    return [*rows, likelihood("digits", digits, datasets.load("digits"), SCORED)]


def weighted(minutes: float) -> list[dict[str, Any]]:
    """Weights of 2000 samples of a mixture of four Gaussians in one and four jumps."""
    mixture = GaussianMixture((2,), 4).requires_grad_(False)
    mixture.mean.copy_(torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 2.0], [0.0, -2.0]]))
    x = mixture.sample(10_000, None, Generator().manual_seed(0))
    data, rows = Dataset("mixture", Space((2,)), x[:8000], x[8000:9000], x[9000:]), []
    for cycle in (0.0, 1.0):
        options = {"objective": "terminal_velocity", "width": 64, "cycle": cycle}
        model, steps = trained("mean_flow", data, minutes / 2, options)
        found: dict[str, Any] = {"cycle": cycle, "training steps": steps}
        for jumps in (1, STEPS):
            noise = Generator().manual_seed(0)
            log_weights = importance_sample(
                model.eval(), mixture.log_prob, 2000, generator=noise, steps=jumps, density="exact"
            )[1]
            found[f"{jumps}: effective"] = effective_sample_size(log_weights).item() / 2000
        rows.append(found)
        print("  ", *(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in found.items()), flush=True)
    return rows


# ---- a step of training ----------------------------------------------------------------------------------------------


class Plain(Field):
    """A DiT in torch's own operations, on the same weights: its derivative is torch.func.jvp's."""

    hears_end = True

    def __init__(self, net: DiT) -> None:
        super().__init__()
        self.net = net

    def forward(self, t: Tensor, x: Tensor, context: Any = None, end: Tensor | None = None) -> Tensor:
        net, p = self.net, self.net.patch
        heard = F.silu(net.time(t, None if end is None else end - t))
        h = net.first(x).flatten(2).mT
        rows, columns = x.shape[2] // p, x.shape[3] // p
        h = h + sincos(rows, columns, net.width, x)
        rotation = rotary(rows, columns, net.width // net.heads, x)
        for block in net.blocks:
            b1, a1, g1, b2, a2, g2 = block.modulation(heard).unsqueeze(1).chunk(6, -1)
            own = block.attention
            qkv = own.qkv((1 + a1) * F.layer_norm(h, (net.width,), eps=1e-6) + b1)
            q, k, v = qkv.unflatten(-1, (3 * net.heads, -1)).transpose(1, 2).chunk(3, 1)
            q, k = turned(own.q_norm(q), *rotation), turned(own.k_norm(k), *rotation)
            with sdpa_kernel(SDPBackend.MATH):
                mixed = F.scaled_dot_product_attention(q, k, v)
            h = h + g1 * own.out(mixed.transpose(1, 2).flatten(2))
            inner = F.gelu(block.first((1 + a2) * F.layer_norm(h, (net.width,), eps=1e-6) + b2), approximate="tanh")
            h = h + g2 * block.second(inner)
        shift, scale = net.modulation(heard).unsqueeze(1).chunk(2, -1)
        patches = net.last((1 + scale) * F.layer_norm(h, (net.width,), eps=1e-6) + shift)
        image = patches.unflatten(1, (rows, columns)).unflatten(3, (p, p, -1))
        return image.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def steps(quick: bool) -> list[dict[str, Any]]:
    """Time and memory of a training step, forward and backward, all rows of an interval."""
    torch.manual_seed(0)
    net = DiT(4, 2, 64 if quick else 192, 1 if quick else 4, 2 if quick else 3, interval=True, time_scale=1.0)
    with torch.no_grad():
        for weights in net.parameters():
            weights += 0.05 * torch.randn(weights.shape)
    x = torch.randn(8, 4, 32, 32)
    objective = FlowMapMatching(fm_fraction=0.0)

    def step(field: FlowMap) -> Tensor:
        net.zero_grad()
        loss = objective(field, x, generator=Generator().manual_seed(0), reduction="mean")
        loss.backward()
        return loss

    fields = {"ours": FlowMap(net), "torch.func.jvp": FlowMap(Plain(net))}
    compiled = Plain(net)
    compiled.derivative = torch.compile(compiled.derivative)  # type: ignore[method-assign]
    compiled.forward = torch.compile(compiled.forward)  # type: ignore[method-assign]
    fields["torch.compile of that"] = FlowMap(compiled)
    variants = {name: lambda field=field: step(field) for name, field in fields.items()}
    losses = {name: call().item() for name, call in variants.items()}
    for name, loss in losses.items():
        if abs(loss / losses["ours"] - 1) > 1e-3:
            raise AssertionError(f"{name}: a loss of {loss}, ours is {losses['ours']}")
    times = interleaved(variants, Effort(rounds=3, batches=1, seconds=0.0, warmups=1))
    rows = []
    for name, call in variants.items():
        rows.append({"step": name, "seconds": times.seconds[name], "peak MB": peak_bytes(call) / 1e6})
        print("  ", rows[-1], flush=True)
    return rows


def run(minutes: float, folder: Path | None) -> bool:
    """Everything, folder/few_steps.json after each part; always True."""
    torch.set_num_threads(1)
    page: dict[str, Any] = {"machine": machine(), "minutes": minutes}
    parts: dict[str, Any] = {"a step of training": lambda: steps(minutes < 0.1)}
    telling: list[Any] = []

    def pictures() -> list[dict[str, Any]]:
        rows, model = samples(minutes)
        telling.append(model)
        return rows

    parts["samples"] = pictures
    parts["log-likelihood in few steps less exact, nats"] = lambda: likelihoods(minutes, telling[0])
    parts["worth of weighted samples"] = lambda: weighted(minutes)
    for name, part in parts.items():
        print(name)
        page[name] = part()
        if folder is not None:
            save(folder, "few_steps", page)
    return True
