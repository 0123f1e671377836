"""`pyflowk sample` and `pyflowk eval`: what a trained model can do."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from torch import Tensor, nn

from .. import training
from ..datasets import Dataset, Preparation
from ..datasets.files import write_csv
from ..training import Checkpoint, Threads
from ..training.pictures import draw_samples, draw_trajectory
from ..transforms import Continuous, check_invertibility
from ..zoo import FlowModel, GenerativeModel
from . import latent
from .runs import check_fits, data_of, given_values, other_data
from .tables import Progress, print_pairs, say

if TYPE_CHECKING:
    from .commands import Eval, Sample

ROUND_TRIP_SAMPLES = 64


def contexts(model: GenerativeModel, data: Dataset | None, n: int, label: int | None = None) -> Tensor | None:
    """What to draw n samples for: this class, or all in turn, or the contexts of the test set's rows in turn."""
    if model.classes is None:
        if label is not None:
            raise ValueError(f"--label: this model has no classes, got {label}")
        if data is None or data.test_context is None or not model.conditional:
            return None
        picked: Tensor = data.test_context[torch.arange(n) % len(data.test_context)]
        return picked
    if label is None:
        return torch.arange(n) % model.classes
    if not 0 <= label < model.classes:
        raise ValueError(f"--label: expected 0 to {model.classes - 1}, got {label}")
    return torch.full((n,), label)


def sample(command: Sample) -> int:
    """Draw samples, or walk through the latent space, and write them as a picture or an array."""
    check_number("--n", command.n, 1, 10**9)
    check_number("--seed", command.seed, 0, 2**63 - 1)
    folder = command.run_folder
    out: Path = command.out or (folder if folder.name != "checkpoint" else folder.parent) / "samples.png"
    if command.trajectory:
        return trajectory(command, out.parent)
    if out.suffix not in (".png", ".npy", ".csv"):
        raise ValueError(f"--out: expected a file ending in .png, .npy or .csv, got {out}")
    model, saved = training.load_model(folder, command.weights)
    assert isinstance(model, GenerativeModel)
    if out.suffix == ".csv" and (len(model.shape) != 1 or model.levels is not None):
        raise ValueError(f"--out: a .csv holds rows of numbers, got samples of shape {model.shape}")
    walks = command.interpolate or command.attribute is not None
    threads = Threads(command.threads, say=print)
    if walks:
        with threads, threads.step():
            x = _walk(command, model, saved)
    else:
        x = _draw(command, model, saved, threads)
    out.parent.mkdir(parents=True, exist_ok=True)
    _write(out, x, model, saved, latent.STEPS if walks else None)
    what = f"{command.n // latent.STEPS} walks of {latent.STEPS} samples" if walks else f"{command.n} samples"
    print(f"{what} of {'x'.join(map(str, x.shape[1:]))} in {out}")
    return 0


def _write(out: Path, x: Tensor, model: GenerativeModel, saved: Checkpoint, columns: int | None) -> None:
    """Samples, or rows in a table's units, as an array, a table or a picture beside the data where they still are."""
    if out.suffix == ".npy":
        import numpy as np

        return np.save(out, x.numpy())
    preparation = saved.preparation or Preparation.identity(model.dims)
    shown = range(len(preparation.names)) if x.shape[1] == len(preparation.names) else preparation.modelled
    if out.suffix == ".csv":
        names = [preparation.columns[i] for i in shown] if preparation.columns else ()
        return write_csv(out, x, names, [preparation.digits[i] for i in shown])
    if model.levels is not None and len(model.shape) == 3:
        return draw_samples(out, x, None, model.levels, columns)
    try:
        data = data_of(saved)
        reference = in_units(data.preparation if saved.preparation else None, *data.take("test"))
    except (FileNotFoundError, ImportError) as error:
        print(f"{error}: the picture shows the samples alone")
        return draw_samples(out, x, None, model.levels, columns, [preparation.names[i] for i in shown])
    whole = x.shape[1] == reference.shape[1]
    reference = reference if whole else reference[:, list(preparation.modelled)]
    draw_samples(out, x, reference, model.levels, columns, [preparation.names[i] for i in shown])


def in_units(preparation: Preparation | None, x: Tensor, context: Tensor | None) -> Tensor:
    """Samples as they are, or rows in the units of the table that the run was trained on, given columns included."""
    return x if preparation is None else preparation.undo(x.cpu(), None if context is None else context.cpu())


def _draw(command: Sample, model: GenerativeModel, saved: Checkpoint, threads: Threads) -> Tensor:
    """Samples of the model, in the units of the data."""
    if not 0 < command.temperature < math.inf:
        raise ValueError(f"--temperature: expected a number > 0, got {command.temperature}")
    generator = torch.Generator().manual_seed(command.seed)
    options: dict[str, Any] = {} if command.temperature == 1 else {"temperature": command.temperature}
    if options and "temperature" not in model.sampling_options:
        raise ValueError(f"--temperature: {model.config['name']} has no temperature")
    preparation = saved.preparation
    if command.given:
        exact = given_values(command.given, preparation)
        assert preparation is not None
        context: Tensor | None = preparation.context_of(exact)
    else:
        data = None if model.context_dim is None else _for_contexts(saved)
        context = contexts(model, data, command.n, command.label)
    x = training.sample(model, command.n, context, generator, threads=threads, watch=Progress("sampled"), **options)
    rows = in_units(preparation, x, context)
    if command.given and preparation is not None:
        rows[:, list(preparation.given)] = exact  # as they were typed, not as float32 has them
    return rows


def _for_contexts(saved: Checkpoint) -> Dataset:
    """The run's own data, from whose rows contexts are taken."""
    try:
        return data_of(saved)
    except FileNotFoundError as error:
        preparation = saved.preparation or Preparation((), ())
        wanted = " ".join(f"{preparation.names[i]}=..." for i in preparation.given)
        raise FileNotFoundError(f"{error}: say what to draw for by --given {wanted}") from error


def _walk(command: Sample, model: GenerativeModel, saved: Checkpoint) -> Tensor:
    """Walks through the latent space of a flow."""
    name = "--attribute" if command.attribute else "--interpolate"
    if command.interpolate and command.attribute:
        raise ValueError("--interpolate and --attribute: expected one of them")
    if command.temperature != 1:
        raise ValueError(f"--temperature: nothing is drawn with {name}")
    if command.given:
        raise ValueError(f"--given: nothing is drawn with {name}")
    if not isinstance(model, FlowModel):
        raise ValueError(f"{name}: {model.config['name']} has no latent space to walk in")
    if command.n % latent.STEPS:
        raise ValueError(f"--n: expected a multiple of {latent.STEPS} with {name}, one walk a row; got {command.n}")
    data, walks = data_of(saved), command.n // latent.STEPS
    generator = torch.Generator().manual_seed(command.seed)
    if command.attribute is None:
        _check_label("--label", command.label, data)
        return in_units(saved.preparation, latent.interpolate(model, data, walks, command.label, generator), None)
    if command.label is not None:
        raise ValueError(f"--label: the events of --attribute are of its first class, got {command.label}")
    if model.conditional:
        raise ValueError("--attribute: this model is conditional: draw with --label, its latents do not tell the class")
    for kind in command.attribute:
        _check_label("--attribute", kind, data)
    return in_units(saved.preparation, latent.manipulate(model, data, walks, command.attribute, generator), None)


def check_number(option: str, value: int, least: int, most: int) -> None:
    """Raise ValueError, naming the option, for a number out of its range."""
    if not least <= value <= most:
        raise ValueError(f"{option}: expected an integer from {least} to {most}, got {value}")


def _check_label(option: str, label: int | None, data: Dataset) -> None:
    if label is None:
        return
    if data.space.classes is None:
        raise ValueError(f"{option}: expected data with labels, but {data.name} has none")
    if not 0 <= label < data.space.classes:
        raise ValueError(f"{option}: expected 0 to {data.space.classes - 1}, got {label}")


def trajectory(command: Sample, folder: Path) -> int:
    """Write the frames and the GIF of a model with one continuous flow in the plane."""
    model, saved = training.load_model(command.run_folder, command.weights)
    flows = [layer for layer in model.modules() if isinstance(layer, Continuous)]
    if not isinstance(model, FlowModel) or model.dims != 2 or len(flows) != 1 or model.conditional:
        name, shape = saved.meta["model"]["name"], tuple(getattr(model, "shape", ()))
        raise ValueError(
            "--trajectory: expected an unconditional model of the plane with one continuous flow; "
            f"got {name} on events of {shape} with {len(flows)} of them"
        )
    threads = Threads(command.threads, say=print)
    path = draw_trajectory(folder, flows[0], model.flow.base, command.n, seed=command.seed, threads=threads)
    print(f"{command.n} samples on their way in {path}, frame by frame beside it")
    return 0


def evaluate(command: Eval) -> int:
    """Print the test score beside the levels to beat, and how well the inverse comes back."""
    check_number("--draws", command.draws, 1, 10**6)
    check_number("--seed", command.seed, 0, 2**63 - 1)
    if command.size is not None and command.data is None:
        raise ValueError("--size: expected --data FOLDER with it; the run's own pictures have the run's size")
    model, saved = training.load_model(command.run_folder, command.weights)
    assert isinstance(model, GenerativeModel)
    console = Console()
    if command.data is None:
        data = data_of(saved, None, command.data_dir)
        check_fits(model, data)
        what, changes = f"the test set of {data.name}", saved.changes(data)
        if changes:
            say(console, f"note: {data.name} has changed since the run: {changes}")
    else:
        data, what = other_data(saved, model, command.data, command.data_dir, command.size)
    threads = Threads(command.threads, say=print)
    report = training.evaluate(
        model, data, seed=command.seed, draws=command.draws, threads=threads, watch=Progress("scored")
    )
    rows = report.lines()
    flow = getattr(model, "flow", None)
    if isinstance(flow, nn.Module):
        rows.append(("round trip", _round_trip(flow, model, data)))
    say(console, f"{saved.meta['model']['name']} on {what}")
    print_pairs(console, rows)
    return 0


def _round_trip(flow: nn.Module, model: GenerativeModel, data: Dataset) -> str:
    x, context = data.take("test", slice(ROUND_TRIP_SAMPLES))
    report = check_invertibility(flow, x, context if model.conditional else None, torch.Generator().manual_seed(0))
    worst = max(report.layers[:-1], key=lambda layer: layer.max_error)
    return f"max |f^-1(f(x)) - x| = {report.max_error:.1e}; worst layer {worst.name}: {worst.max_error:.1e}"
