"""`pyflowk eval`: how good a trained model is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from rich.console import Console

from .. import training
from ..datasets import Dataset
from ..training import Threads
from ..training.spaces import check_fit
from ..zoo import Ability, GenerativeModel
from .options import check_number, sampling_of
from .runs import data_of, other_data
from .tables import Progress, print_pairs, say

if TYPE_CHECKING:
    from .commands import Eval

ROUND_TRIP_SAMPLES, RECONSTRUCTED = 64, 1024


def evaluate(command: Eval) -> int:
    """Print the test score beside the levels to beat, how near samples are, and how well the inverse comes back."""
    check_number("--draws", command.draws, 1, 10**6)
    check_number("--seed", command.seed, 0, 2**63 - 1)
    if command.size is not None and command.data is None:
        raise ValueError("--size: expected --data FOLDER with it; the run's own data have the run's size")
    model, saved = training.load_model(command.run_folder, command.weights)
    sampling = sampling_of(model, command.sampling, saved)
    console = Console()
    if command.data is None:
        data = data_of(saved, None, command.data_dir)
        check_fit(model.space, data)
        what, changes = f"the test set of {data.name}", saved.changes(data)
        if changes:
            say(console, f"note: {data.name} has changed since the run: {changes}")
    else:
        data, what = other_data(saved, model, command.data, command.data_dir, command.size)
    threads = Threads(command.threads, say=print)
    report = training.evaluate(
        model, data, seed=command.seed, draws=command.draws, sampling=sampling, thorough=True, threads=threads,
        watch=Progress("scored"),
    )  # fmt: skip
    rows = report.lines()
    if Ability.LATENT in model.abilities:
        rows.append(("round trip", _round_trip(model, data)))
    if Ability.RECONSTRUCTION in model.abilities:
        rows.append(("reconstruction", reconstruction(model, data)))
    say(console, f"{model.name} on {what}")
    print_pairs(console, rows)
    return 0


def _round_trip(model: GenerativeModel, data: Dataset) -> str:
    x, context = data.take("test", slice(ROUND_TRIP_SAMPLES))
    report = model.round_trip(x, context if model.space.context else None, torch.Generator().manual_seed(0))
    whole = f"max |f^-1(f(x)) - x| = {report.max_error:.1e}"
    worst = max(report.layers[:-1], key=lambda layer: layer.max_error, default=None)
    return whole if worst is None else f"{whole}; worst layer {worst.name}: {worst.max_error:.1e}"


@torch.no_grad()
def reconstruction(model: GenerativeModel, data: Dataset) -> str:
    """How near events come back from their codes, beside one event for all."""
    x = data.take("test", slice(RECONSTRUCTED))[0].float()
    error, whole = (x - model.eval().reconstruct(x)).square().mean().sqrt(), x.std(0).square().mean().sqrt()
    return f"root of the mean squared error {error:.3g}, where that of the mean event is {whole:.3g}"
