"""Peak memory and time of a training step against depth: K Glow steps on (64, 12, 16, 16), K = 4, 8, 16, 32.

Memory is what torch's allocator has live at the worst moment of forward and backward, the gradients of the parameters
aside. `python -m benchmarks --only depth`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from pyflowk.transforms import Compose, MemoryFlat

from .bench_glow import WIDTH, nets, steps
from .memory import peak_bytes
from .peers.glow import PlainSteps, standard_normal
from .report import describe, machine, save
from .timing import clock, no_collection

ON_REQUEST = True
ROWS, CHANNELS, SIDE, DEPTHS = 64, 12, 16, (4, 8, 16, 32)
FLAT, OURS, PLAIN, CHECKPOINT = (
    "ours, memory-flat",
    "ours, Compose",
    "plain torch",
    "plain torch, each step checkpointed",
)
NORMFLOWS, MEMCNN = "normflows", "memcnn, couplings alone"
GROWTH, SLOWDOWN, ROUNDS = 1.15, 1.35, 3

Step = Callable[[Tensor], tuple[Tensor, Tensor | float]]


class Memcnn(nn.Module):
    """memcnn knows no log-determinants: its affine couplings (two networks each) alone, which is less work."""

    def __init__(self, number: int) -> None:
        super().__init__()
        import memcnn

        class Adapter(nn.Module):
            def __init__(self, net: nn.Module) -> None:
                super().__init__()
                self.net = net

            def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
                raw, t = self.net(x).chunk(2, 1)
                return torch.sigmoid(raw + 2), t

        pairs = [nets(CHANNELS, 2) for _ in range(number // 2)]
        couplings = [memcnn.AffineCoupling(*pair, adapter=Adapter) for pair in pairs]
        self.layers = nn.Sequential(
            *(memcnn.InvertibleModuleWrapper(c, keep_input=i == 0) for i, c in enumerate(couplings))
        )

    def forward(self, x: Tensor) -> tuple[Tensor, float]:
        return self.layers(x), 0.0


class Normflows(nn.Module):
    """Its GlowBlocks; data to noise is their inverse."""

    def __init__(self, number: int) -> None:
        super().__init__()
        import normflows as nf

        blocks = [nf.flows.GlowBlock(CHANNELS, WIDTH, split_mode="channel", scale=True) for _ in range(number)]
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        total = x.new_zeros(x.shape[0])
        for block in self.blocks:
            x, ladj = block.inverse(x)  # type: ignore[operator]
            total = total + ladj
        return x, total


def ours(kind: type[Compose]) -> Callable[[int], nn.Module]:
    """Our stack around the common networks."""

    def build(number: int) -> nn.Module:
        stack = kind(*steps(CHANNELS, nets(CHANNELS, number)))
        stack.initialize(torch.randn(ROWS, CHANNELS, SIDE, SIDE))
        return stack

    return build


BUILDERS: dict[str, Callable[[int], nn.Module]] = {
    FLAT: ours(MemoryFlat),
    OURS: ours(Compose),
    PLAIN: lambda number: PlainSteps(CHANNELS, nets(CHANNELS, number)),
    CHECKPOINT: lambda number: PlainSteps(CHANNELS, nets(CHANNELS, number), checkpointed=True),
    NORMFLOWS: Normflows,
    MEMCNN: Memcnn,
}


def training_step(model: nn.Module, x: Tensor) -> Callable[[], object]:
    """Loss and gradient; no optimizer, whose state would be memory of another kind."""

    def step() -> None:
        model.zero_grad(set_to_none=True)
        z, ladj = model(x)
        (-(standard_normal(z) + ladj).mean()).backward()

    return step


def measure(number: int, rounds: int) -> dict[str, dict[str, float]]:
    """MiB and seconds of each variant at one depth; what cannot be imported is left out."""
    torch.manual_seed(0)
    x = torch.randn(ROWS, CHANNELS, SIDE, SIDE)
    variants, found = {}, {}
    for name, build in BUILDERS.items():
        try:
            model = build(number)
        except ImportError as error:
            print(f"{name} is missing: {error}")
            continue
        variants[name] = training_step(model, x)
        parameters = sum(4 * p.numel() for p in model.parameters())
        found[name] = {"mib": (peak_bytes(variants[name]) - parameters) / 2**20}
    times: dict[str, list[float]] = {name: [] for name in variants}
    with no_collection():
        for _ in range(rounds):  # a step takes long enough to be timed alone, and has run twice by now
            for name, step in variants.items():
                start = clock()
                step()
                times[name].append(clock() - start)
    for name, seconds in times.items():
        found[name]["seconds"] = median(seconds)
    return found


def run(minutes: float, folder: Path | None) -> bool:
    """Measure every depth, print the table, write folder/depth.json and .png; False when a variant of ours failed."""
    torch.set_num_threads(1)
    quick = folder is None
    depths = (2, 4) if quick else DEPTHS
    rounds = 1 if quick else ROUNDS
    facts, table = machine(), {number: measure(number, rounds) for number in depths}
    print(describe(facts))
    few, many = table[depths[0]], table[depths[-1]]
    for name in few:
        cells = [f"K={k}: {row[name]['mib']:6.1f} MiB {1e3 * row[name]['seconds']:7.0f} ms" for k, row in table.items()]
        print(f"{name:<36} {'  '.join(cells)}")
    growth = many[FLAT]["mib"] / few[FLAT]["mib"]
    slowdown = max(row[FLAT]["seconds"] / row[PLAIN]["seconds"] for row in table.values())
    for text, value, bar in (("peak growth", growth, GROWTH), ("time over the plain step", slowdown, SLOWDOWN)):
        print(f"memory-flat, {text}: {value:.2f}, bar {bar}: {'met' if value <= bar else 'NOT MET'}")
    if folder is not None:
        page: dict[str, Any] = {
            "machine": facts,
            "shape": f"({ROWS}, {CHANNELS}, {SIDE}, {SIDE})",
            "width": WIDTH,
            "rounds": rounds,
            "rows": [
                {"Glow steps": number, "variant": name, **figures}
                for number, found in table.items()
                for name, figures in found.items()
            ],
        }
        save(folder, "depth", page)
        _plot(table, facts, folder / "depth.png")
    return True


def _plot(table: dict[int, dict[str, dict[str, float]]], facts: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.2))
    for axis, key, unit, factor in zip(axes, ("mib", "seconds"), ("MiB at the peak", "ms a step"), (1, 1e3)):
        for name in next(iter(table.values())):
            values = [factor * row[name][key] for row in table.values()]
            axis.plot(list(table), values, marker="o", label=name, linewidth=3 if name == FLAT else 1.2)
        axis.set(xlabel="Glow steps", ylabel=unit, xscale="log", yscale="log", xticks=list(table))
        axis.set_xticklabels(map(str, table))
        axis.minorticks_off()
    axes[0].legend(fontsize=7)
    figure.suptitle(
        f"training step on ({ROWS}, {CHANNELS}, {SIDE}, {SIDE}); {facts['processor']}, one thread", fontsize=9
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
