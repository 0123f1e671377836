"""Sampling, density and training of autoregressive layers, hidden 512 x 2, by the MADE kernels and by D passes.

Every package runs its own layers of the same sizes, and returns the transformed rows; the base is left out. Sampling is
the sequential direction of each, a training step the density with its gradient. `python -m benchmarks --only made`; the
cost against D, beside a peer's, is drawn by `python -m benchmarks.bench_made`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from pyflowk.nets import MADE
from pyflowk.transforms import Affine, Compose, MaskedAutoregressive, RationalQuadratic

from . import page
from .peers import load
from .report import OURS, RESULTS, Bar, Case, hand_over, machine, ratio_bar, save
from .timing import Effort, interleaved

ON_REQUEST = False
HIDDEN, BINS, BOUND = 512, 8, 3.0
DENSITY, SAMPLING, TRAINING = "density", "sampling", "training step"
OUR_DENSITY, OUR_SAMPLING = "ours, density", "ours, sampling"
ONCE = Effort(rounds=1, batches=1, seconds=2e-2, warmups=0)  # calls of half a minute
SLOW = Effort(rounds=2, batches=1, seconds=2e-2, warmups=1)  # calls of several seconds

Direction = Callable[[Tensor], Any]
#: (D, batch, blocks) -> how many times the best package.
SIZES = {
    (2, 1, 5): 10.0, (2, 1024, 5): None, (63, 1, 5): None, (63, 64, 5): None, (63, 1024, 5): 200.0,
    (784, 1, 5): 1500.0, (784, 64, 1): 1500.0,
}  # fmt: skip


def ours(features: int, blocks: int, spline: bool = False) -> dict[str, Direction]:
    layers = []
    for i in range(blocks):
        map = RationalQuadratic(BINS, BOUND) if spline else Affine()
        net = MADE(features, map.params_per_element, (HIDDEN, HIDDEN), order="reversed" if i % 2 else None)
        torch.nn.init.normal_(net.last.weight, std=0.01)
        layers.append(MaskedAutoregressive(net, map))
    flow = Compose(*layers)
    return {DENSITY: flow, SAMPLING: flow.inverse}


def _zuko(features: int, blocks: int, spline: bool = False) -> dict[str, Direction]:
    import zuko

    make = partial(zuko.flows.NSF, bins=BINS) if spline else zuko.flows.MAF
    flow = make(features, 0, transforms=blocks, hidden_features=(HIDDEN, HIDDEN))
    return {DENSITY: lambda x: flow().transform.call_and_ladj(x), SAMPLING: lambda z: flow().transform.inv(z)}


def _nflows(features: int, blocks: int, spline: bool = False) -> dict[str, Direction]:
    from nflows import transforms

    options = {"num_blocks": 1, "use_residual_blocks": False}  # one layer and one block: two hidden layers
    make = transforms.MaskedAffineAutoregressiveTransform
    if spline:
        make = transforms.MaskedPiecewiseRationalQuadraticAutoregressiveTransform
        options |= {"num_bins": BINS, "tails": "linear", "tail_bound": BOUND}
    flow = transforms.CompositeTransform([make(features, HIDDEN, **options) for _ in range(blocks)])
    return {DENSITY: flow, SAMPLING: flow.inverse}


def _normflows(features: int, blocks: int, spline: bool = False) -> dict[str, Direction]:
    import normflows

    layers = [
        normflows.flows.MaskedAffineAutoregressive(features, HIDDEN, num_blocks=1, use_residual_blocks=False)
        for _ in range(blocks)
    ]

    def run(direction: str, x: Tensor) -> tuple[Tensor, Tensor]:
        total = x.new_zeros(len(x))
        for layer in layers:
            x, ladj = getattr(layer, direction)(x)
            total = total + ladj
        return x, total

    return {DENSITY: partial(run, "forward"), SAMPLING: partial(run, "inverse")}


_PEERS = {"zuko": _zuko, "nflows": _nflows, "normflows": _normflows}


def peers() -> list[str]:
    """Those that are installed."""
    return [peer.name for peer in load()[0] if peer.name in _PEERS]


def notes() -> dict[str, str]:
    """What each rival's time includes."""
    return {
        OURS: "MaskedAutoregressive layers, values and log-determinants",
        OUR_DENSITY: "the same layers in the other direction",
        "zuko": "zuko.flows.MAF or NSF; sampling without log-determinants, which would be one pass more",
        "nflows": "MaskedAffine- or MaskedPiecewiseRationalQuadraticAutoregressiveTransform, non-residual",
        "normflows": "MaskedAffineAutoregressive, non-residual",
    }


def call(task: str, directions: dict[str, Direction], x: Tensor) -> Callable[[], object]:
    """That task on rows x."""
    if task != TRAINING:
        return partial(directions[task], x)

    def step() -> None:
        z, ladj = directions[DENSITY](x)
        (z.square().sum() / 2 - ladj.sum()).backward()

    return step


def case(task: str, features: int, batch: int, blocks: int, target: float | None, spline: bool = False) -> Case:
    """One contest in one direction, our other direction beside it; normflows' splines are nflows'."""
    torch.manual_seed(0)
    x = torch.randn(batch, features)
    mine = ours(features, blocks, spline)
    variants = {OURS: call(task, mine, x)}
    for other in {DENSITY: (SAMPLING,), SAMPLING: (DENSITY,)}.get(task, ()):
        variants[f"ours, {other}"] = call(other, mine, x)
    names = [name for name in peers() if not (spline and name == "normflows")]
    for name in names:
        variants[name] = call(task, _PEERS[name](features, blocks, spline), x)
    bars = [ratio_bar(target or 1.0, *names)] if names else []
    if task == SAMPLING and batch >= 64:
        bars.append(Bar("<= 1.2x our own density", 1.2, lambda s: s[OURS] / s[OUR_DENSITY], limit=True))
    slow = task == SAMPLING and features * batch * blocks > 256
    effort = ONCE if slow and (features > 500 or batch > 500) else SLOW if slow else None
    return Case(
        f"{'NSF' if spline else 'MAF'} {task}, D = {features}, batch {batch}, {blocks} blocks",
        variants,
        bars,
        grad=task == TRAINING,
        effort=effort,
    )


def cases(quick: bool) -> Iterator[Case]:
    """Every contest, built when its turn comes."""
    if quick:
        yield case(SAMPLING, 2, 1, 1, None)
        yield case(DENSITY, 3, 8, 1, None)
        yield case(SAMPLING, 2, 1, 1, None, spline=True)
        yield case(TRAINING, 3, 8, 1, None)
        return
    for (features, batch, blocks), target in SIZES.items():
        yield case(SAMPLING, features, batch, blocks, target)
    yield case(DENSITY, 63, 1024, 5, 3.5)
    yield case(DENSITY, 784, 64, 1, None)
    for batch in (1, 64):
        yield case(SAMPLING, 63, batch, 5, None, spline=True)
    yield case(DENSITY, 63, 1024, 5, None, spline=True)
    for spline in (False, True):
        yield case(TRAINING, 63, 1024, 5, None, spline)


def scaling() -> None:
    """Cost of sampling one layer against D, ours and nflows': PNG and JSON in benchmarks/results."""
    import matplotlib.pyplot as plt

    torch.set_num_threads(1)
    sizes, batch = [16, 32, 64, 128, 256, 512, 1024], 16
    seconds: dict[str, list[float]] = {OURS: [], "nflows": []}
    for features in sizes:
        x = torch.randn(batch, features)
        variants = {OURS: partial(ours(features, 1)[SAMPLING], x), "nflows": partial(_nflows(features, 1)[SAMPLING], x)}
        with torch.no_grad():
            times = interleaved(variants, SLOW).seconds
        for name, values in seconds.items():
            values.append(times[name])
        print(features, {name: f"{1e3 * t:.3g} ms" for name, t in times.items()}, flush=True)
    figure, axes = plt.subplots(figsize=(5, 4), layout="constrained")
    for name, values in seconds.items():
        axes.loglog(sizes, [1e3 * t for t in values], "o-", label=name)
    start = seconds[OURS][0], seconds["nflows"][0]
    for power, (name, first) in enumerate(zip(("D", "D^2"), start, strict=True), 1):
        axes.loglog(
            sizes, [1e3 * first * (n / sizes[0]) ** power for n in sizes], ":", color="grey", label=f"slope {name}"
        )
    axes.set(xlabel="D", ylabel="ms", title=f"Sampling a MAF layer, {HIDDEN} x 2, batch {batch}")
    axes.legend()
    figure.savefig(RESULTS / "made_scaling.png", dpi=120)
    rows = [{"D": n, **{name: values[i] for name, values in seconds.items()}} for i, n in enumerate(sizes)]
    save(RESULTS, "made_scaling", {"machine": machine(), "batch": batch, "hidden": f"{HIDDEN} x 2", "rows": rows})
    page.write(RESULTS)


@pytest.mark.parametrize("variant", (OURS, *peers()))
@pytest.mark.parametrize("task", [DENSITY, SAMPLING])
def test_made(benchmark: Any, task: str, variant: str) -> None:
    hand_over(case(task, 16, 64, 2, None), variant, benchmark)


if __name__ == "__main__":
    scaling()
