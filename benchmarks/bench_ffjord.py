"""What FFJORD learns on the toys in equal CPU time, one thread, beside the same model on torchdiffeq: `--only ffjord`.

"NLL minus entropy" on 10,000 test points is how far the model is from the truth (0 is perfect), in nats; the toys'
entropies are known in closed form. Both train the same field with the same seeds, batches, probes and Adam, by 8 steps
of rk4 with Hutchinson's estimate; the learning rate falls to zero with the time that is left. Both are judged by the
exact trace and an adaptive solver: mean and standard error of SEEDS runs.
"""

from __future__ import annotations

import math
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor

from pyflowk import datasets
from pyflowk.distributions import DiagonalGaussian
from pyflowk.flows import Flow
from pyflowk.nets import MLPField
from pyflowk.ops.divergence import draw_probes
from pyflowk.solvers import Adaptive, Fixed
from pyflowk.transforms import Continuous

from .bench_cnf_trajectory import TORCHDIFFEQ, peer_solve
from .report import OURS, machine, save

ON_REQUEST = True
OPS = ("hutchinson",)  # that it judges
DATA = ("checkerboard", "8gaussians")
BATCH, STEPS, RATE, SEEDS = 512, 8, 3e-3, 3


def run(minutes: float, folder: Path | None) -> bool:
    """Train both for `minutes` on each toy, print and write folder/ffjord.json; always True."""
    torch.set_num_threads(1)
    rows = []
    for data in DATA:
        for variant in (OURS, TORCHDIFFEQ):
            scores, steps = zip(*(train(variant, data, 60 * minutes, seed) for seed in range(SEEDS)), strict=True)
            mean, error = statistics.mean(scores), statistics.stdev(scores) / math.sqrt(SEEDS)
            rows.append({"data": data, "variant": variant, "nll_minus_entropy": scores, "steps": steps})
            print(f"{data}, {60 * minutes:.0f} s, {variant}: {min(steps)}-{max(steps)} steps, ", end="")
            print(f"NLL - entropy {mean:.3f} +- {error:.3f} nats", flush=True)
    if folder is not None:
        page = {"machine": machine(), "minutes": minutes, "rows": rows}
        save(folder, "ffjord", page)
    return True


def train(variant: str, data: str, seconds: float, seed: int) -> tuple[float, int]:
    """(NLL minus entropy on the test part after so much CPU time, steps of Adam)."""
    samples = datasets.load(data)
    assert samples.entropy is not None
    torch.manual_seed(seed)
    field = MLPField(2, 64, 3, "tanh", "concat")
    estimating = Continuous(field, divergence="hutchinson", method="rk4", stepping=Fixed(STEPS))
    optimizer = torch.optim.Adam(field.parameters(), RATE)
    generator, start, steps = torch.Generator().manual_seed(seed), time.process_time(), 0

    def solve(x: Tensor) -> tuple[Tensor, Tensor]:
        if variant == OURS:
            return estimating(x, None, generator)
        return peer_solve(field, STEPS, x, draw_probes(x, generator=generator).directions(x)[:, 0])

    while (left := 1 - (time.process_time() - start) / seconds) > 0:
        optimizer.param_groups[0]["lr"] = RATE * left
        z, ladj = solve(samples.train[torch.randint(len(samples.train), (BATCH,), generator=generator)])
        optimizer.zero_grad()
        (0.5 * z.square().sum(1) - ladj).mean().backward()
        optimizer.step()
        steps += 1
    exact = Flow(DiagonalGaussian((2,)), Continuous(field, method="dopri5", stepping=Adaptive(1e-5, 1e-5)))
    with torch.no_grad():
        return -exact.log_prob(samples.test).mean().item() - samples.entropy, steps
