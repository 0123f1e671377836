"""Time and memory of a causal flow against its tokens, 64 to 1024 of them: `--only token_numbers`.

Four maps by transformers of 4 layers of width 128, tokens of 12 numbers, 4 events, one thread. A training step, with
and without `memory_flat`, holds what torch's allocator has live at its worst moment, gradients of the parameters, too.
Samples are drawn token after token, in one call a map, and beside them by the loop with keys and values in place.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyflowk.transforms import Causal, Compose, Decoding, MemoryFlat

from .bench_causal_decode import DEPTH, FEATURES, MAPS, WIDTH, InPlace, awake
from .memory import peak_bytes
from .report import describe, machine, save
from .timing import clock, no_collection

ON_REQUEST = True
TOKENS, ROWS = (64, 128, 256, 512, 1024), 4
STEP, FLAT, DENSITY = "training step", "training step, memory-flat", "density"
SAMPLE, LOOP = "samples", "samples, torch loop"


def variants(tokens: int) -> dict[str, Callable[[], object]]:
    """What is timed."""
    torch.manual_seed(0)
    nets = [awake(tokens) for _ in range(MAPS)]
    plain, flat = (kind(*map(Causal, nets)) for kind in (Compose, MemoryFlat))
    loop = Compose(*(InPlace(net, decoding=Decoding("sequential")) for net in nets))
    x = torch.randn(ROWS, tokens, FEATURES)

    def step(stack: Compose) -> Callable[[], object]:
        def run() -> None:
            stack.zero_grad(set_to_none=True)
            z, ladj = stack(x)
            (0.5 * z.square().flatten(1).sum(1) - ladj).mean().backward()

        return run

    calls: dict[str, Callable[[], object]] = {STEP: step(plain), FLAT: step(flat)}
    without: dict[str, Callable[[], Tensor]] = {
        DENSITY: lambda: plain(x)[1], SAMPLE: lambda: plain.to_data(x), LOOP: lambda: loop.to_data(x)
    }  # fmt: skip
    return calls | {name: torch.no_grad()(call) for name, call in without.items()}


def measure(tokens: int) -> dict[str, dict[str, float]]:
    """Seconds and MiB of each variant."""
    found: dict[str, dict[str, float]] = {}
    for name, call in variants(tokens).items():
        mib = peak_bytes(call) / 2**20  # after a call that warms up
        with no_collection():
            start = clock()
            call()
            found[name] = {"seconds": clock() - start, "mib": mib}
    return found


def run(minutes: float, folder: Path | None) -> bool:
    """Print a table, write folder/token_numbers.json after each row; always True."""
    torch.set_num_threads(1)
    page: dict[str, Any] = {"machine": machine(), "by": ["tokens"], "rows": []}
    print(describe(page["machine"]), f"{MAPS} maps x {DEPTH} layers, width {WIDTH}, {ROWS} events", sep="\n")
    for tokens in TOKENS if minutes > 0.1 else TOKENS[:2]:
        found = measure(tokens)
        page["rows"].append(
            {"tokens": tokens, **{f"{n}, {unit}": v for n, f in found.items() for unit, v in f.items()}}
        )
        told = (f"{name} {figure['seconds']:.3f} s, {figure['mib']:.0f} MiB" for name, figure in found.items())
        print(f"  {tokens:5} tokens: {'; '.join(told)}", flush=True)
        if folder is not None:
            save(folder, "token_numbers", page)
    return True
