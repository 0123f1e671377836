"""`pyflowk sample`: what a trained model draws, and how it walks through its latent space."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import training
from ..datasets import Dataset, Preparation
from ..datasets.categories import write_cells
from ..datasets.files import write_csv
from ..space import Events, Ragged, Space
from ..training import Checkpoint, Threads
from ..training.drawing import MAP, in_units, is_globe, on_map, reference, suffix_of, texts_of, write_symbols
from ..training.pictures import draw_samples, draw_trajectory
from ..training.spaces import contexts
from ..zoo import Ability, GenerativeModel
from . import latent
from .options import check_number, parse_options, sampling_of
from .runs import data_of, given_values
from .tables import Progress

if TYPE_CHECKING:
    from .commands import Sample

SUFFIXES = (".png", ".npy", ".csv", ".txt")
SHOWN = 4
"""Texts that are printed; all are in the file."""


def sample(command: Sample) -> int:
    """Draw samples, or walk through the latent space, and write them as a picture, an array, a table or text."""
    check_number("--n", command.n, 1, 10**9)
    check_number("--seed", command.seed, 0, 2**63 - 1)
    folder = command.run_folder
    if command.out is not None and command.out.suffix not in SUFFIXES and not command.trajectory:
        raise ValueError(f"--out: expected a file ending in {', '.join(SUFFIXES[:-1])} or .txt, got {command.out}")
    model, saved = training.load_model(folder, command.weights)
    run = folder if folder.name != "checkpoint" else folder.parent
    out: Path = command.out or run / f"samples{suffix_of(model.space)}"
    if command.trajectory:
        return trajectory(command, model, out.parent)
    _check_suffix(out, model.space)
    walks = command.interpolate or command.attribute is not None
    threads = Threads(command.threads, say=print)
    if walks:
        with threads, threads.step():
            x = _walk(command, model, saved)
    else:
        x = _draw(command, model, saved, threads)
    out.parent.mkdir(parents=True, exist_ok=True)
    _write(out, x, model.space, saved, latent.STEPS if walks else None, command.seed)
    size = str(model.space) if isinstance(x, Ragged) else "x".join(map(str, x.shape[1:]))
    what = f"{command.n // latent.STEPS} walks of {latent.STEPS} samples" if walks else f"{command.n} samples"
    print(f"{what} of {size} in {out}")
    if model.space.is_text:
        print(f"the first {min(SHOWN, command.n)}:" if command.n > SHOWN else "they are:")
        print("\n".join(texts_of(x[:SHOWN], model.space)))
    return 0


def _check_suffix(out: Path, space: Space) -> None:
    if out.suffix == ".csv" and not (space.is_vector or space.columns):
        raise ValueError(f"--out: a .csv holds rows of a table, got samples of {space}")
    if space.columns and out.suffix == ".txt":
        raise ValueError(f"--out: expected .csv or .npy for rows of a table, got {out}")
    if (out.suffix == ".txt") != (suffix_of(space) == ".txt") and out.suffix in (".txt", ".png"):
        kind = "rows of symbols, or of several lengths" if out.suffix == ".txt" else "pictures, points or histograms"
        raise ValueError(f"--out: a {out.suffix} holds {kind}, got samples of {space}")


def _write(out: Path, x: Any, space: Space, saved: Checkpoint, columns: int | None, seed: int) -> None:
    """Samples, or rows in a table's units, as an array, text, a table or a picture beside the data if still there."""
    if out.suffix == ".csv" and space.columns is not None:
        return write_cells(out, x, space.columns, torch.Generator().manual_seed(seed))
    if out.suffix == ".txt":
        return write_symbols(out, x, space)
    if out.suffix == ".npy":
        import numpy as np

        return np.save(out, _array(x).numpy())
    preparation = saved.preparation or Preparation.identity(space.dims)
    shown = range(len(preparation.names)) if x.shape[1] == len(preparation.names) else preparation.modelled
    if out.suffix == ".csv":
        names = [preparation.columns[i] for i in shown] if preparation.columns else ()
        return write_csv(out, x, names, [preparation.digits[i] for i in shown])
    if space.is_image:
        return draw_samples(out, x, None, space.levels, columns)
    names = [preparation.names[i] for i in shown]
    if is_globe(space):
        x, names = on_map(x), [*MAP]
    try:
        data = data_of(saved)
        seen = reference(data, data.preparation if saved.preparation else None)
    except (FileNotFoundError, ImportError) as error:
        print(f"{error}: the picture shows the samples alone")
        return draw_samples(out, x, None, space.levels, columns, names)
    if is_globe(space):
        seen = on_map(seen)
    seen = seen if x.shape[1] == seen.shape[1] else seen[:, list(preparation.modelled)]
    draw_samples(out, x, seen, space.levels, columns, names)


def _array(x: Events) -> Tensor:
    """Rows of several lengths filled up by -1, or NaN where they are no integers."""
    if isinstance(x, Tensor):
        return x
    beyond = ~x.mask.reshape(*x.mask.shape, *[1] * (x.values.dim() - 2))
    return x.values.masked_fill(beyond, float("nan") if x.values.is_floating_point() else -1)


def _draw(command: Sample, model: GenerativeModel, saved: Checkpoint, threads: Threads) -> Any:
    """Samples of the model, in the units of the data."""
    options = sampling_of(model, command.sampling, saved)
    if "prefix" in model.sampling_options and "prefix" in parse_options(command.sampling, "--sampling"):
        raise ValueError("--sampling prefix: --prefix says what each text begins with")
    if command.prefix is not None:
        if "prefix" not in model.sampling_options:
            raise ValueError(f"--prefix: expected a model of text that completes it, got {model.name}")
        options["prefix"] = command.prefix
    generator = torch.Generator().manual_seed(command.seed)
    preparation = saved.preparation
    if command.given:
        exact = given_values(command.given, preparation)
        assert preparation is not None
        context: Events | None = preparation.context_of(exact)
    else:
        context = _contexts(model.space, saved, command.n, command.label)
    x = training.sample(model, command.n, context, generator, threads=threads, watch=Progress("sampled"), **options)
    rows = in_units(preparation, x, context)
    if command.given and preparation is not None:
        rows[:, list(preparation.given)] = exact  # as they were typed, not as float32 has them
    return rows


def _contexts(space: Space, saved: Checkpoint, n: int, label: int | None) -> Events | None:
    """What to draw n samples for: this class, or all in turn, or the contexts of the test set's rows in turn."""
    if label is not None:
        if space.classes is None:
            raise ValueError(f"--label: this model has no classes, got {label}")
        if not 0 <= label < space.classes:
            raise ValueError(f"--label: expected 0 to {space.classes - 1}, got {label}")
        return torch.full((n,), label)
    from_rows = space.context is not None and space.classes is None
    return contexts(space, _for_contexts(saved) if from_rows else None, n)


def _for_contexts(saved: Checkpoint) -> Dataset:
    """The run's own data, from whose rows contexts are taken."""
    try:
        return data_of(saved)
    except FileNotFoundError as error:
        preparation = saved.preparation or Preparation((), ())
        wanted = " ".join(f"{preparation.names[i]}=..." for i in preparation.given)
        raise FileNotFoundError(f"{error}: say what to draw for by --given {wanted}") from error


def _walk(command: Sample, model: GenerativeModel, saved: Checkpoint) -> Tensor:
    """Walks through the latent space of a model that has one."""
    name = "--attribute" if command.attribute else "--interpolate"
    if command.interpolate and command.attribute:
        raise ValueError("--interpolate and --attribute: expected one of them")
    for option in ("sampling", "given"):
        if getattr(command, option):
            raise ValueError(f"--{option}: nothing is drawn with {name}")
    if Ability.LATENT not in model.abilities:
        raise ValueError(f"{name}: {model.name} has no latent space to walk in")
    if command.n % latent.STEPS:
        raise ValueError(f"--n: expected a multiple of {latent.STEPS} with {name}, one walk a row; got {command.n}")
    data, walks = data_of(saved), command.n // latent.STEPS
    generator = torch.Generator().manual_seed(command.seed)
    if command.attribute is None:
        _check_label("--label", command.label, data)
        return in_units(saved.preparation, latent.interpolate(model, data, walks, command.label, generator), None)
    if command.label is not None:
        raise ValueError(f"--label: the events of --attribute are of its first class, got {command.label}")
    if model.space.context is not None:
        raise ValueError("--attribute: this model is conditional: draw with --label, its latents do not tell the class")
    for kind in command.attribute:
        _check_label("--attribute", kind, data)
    return in_units(saved.preparation, latent.manipulate(model, data, walks, command.attribute, generator), None)


def _check_label(option: str, label: int | None, data: Dataset) -> None:
    if label is None:
        return
    if data.space.classes is None:
        raise ValueError(f"{option}: expected data with labels, but {data.name} has none")
    if not 0 <= label < data.space.classes:
        raise ValueError(f"{option}: expected 0 to {data.space.classes - 1}, got {label}")


def trajectory(command: Sample, model: GenerativeModel, folder: Path) -> int:
    """Write the frames and the GIF of a model whose samples move in the plane."""
    space = model.space
    if Ability.TRAJECTORY not in model.abilities or space.shape != (2,) or space.kind != "real" or space.context:
        raise ValueError(
            "--trajectory: expected an unconditional model of the plane that has a trajectory; "
            f"got {model.name} on events of {space}"
        )
    threads = Threads(command.threads, say=print)
    path = draw_trajectory(folder, model, command.n, seed=command.seed, threads=threads)
    print(f"{command.n} samples on their way in {path}, frame by frame beside it")
    return 0
