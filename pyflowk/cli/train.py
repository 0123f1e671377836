"""`pyflowk train`: data, model, training, then the test score and the pictures."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console

from .. import datasets, training, zoo
from ..datasets import Dataset
from ..training import Checkpoint, CheckpointError, TrainConfig, Trainer
from ..training.config import BUDGET
from ..training.evaluation import Report
from ..training.log import read_rows
from ..training.pictures import draw_loss, draw_samples
from ..zoo import GenerativeModel
from .lists import GIVEN_BY_DATA
from .runs import data_of, portable_name
from .tables import print_pairs, say
from .trained import check_number, contexts, in_units

if TYPE_CHECKING:
    from .commands import Train

INTERRUPTED = 130


def train(command: Train) -> int:
    """Run the command; exit status 130 when a signal ended the training."""
    name, source = command.model or "realnvp", command.data or "digits"
    options = parse_options(command.set)
    check_number("--data-seed", command.data_seed, 0, 2**63 - 1)
    out = command.out or default_folder(Path("runs"), name, source, resume=command.resume)
    saved = Checkpoint.open(out) if command.resume else None
    check_options(name if saved is None else saved.meta["model"]["name"], options)
    config = command.config
    if saved is not None:
        config = resumed_config(saved, command)
        if unheard := ignored(saved, command, options):
            print(f"--resume goes on with the settings of {out}; ignored: {', '.join(unheard)}", file=sys.stderr)
        name, data = saved.meta["model"]["name"], data_of(saved, command.data)
        options = {key: value for key, value in saved.meta["model"].items() if key != "name"}
    else:
        if (out / "checkpoint").exists():
            raise ValueError(f"{out} holds a checkpoint already: add --resume to go on, or choose another --out")
        data = datasets.load(
            portable_name(source), data_dir=command.data_dir, seed=command.data_seed,
            given=command.given, split=command.split, size=command.size,
        )  # fmt: skip
        if command.conditional:
            options["classes"] = labels_of(data)
        if command.given:
            options["context_dim"] = data.space.context_dim
        options |= {"shape": data.space.shape, "levels": data.space.levels}
    model = build(name, options, config.seed)
    trainer = Trainer(model, data, config, out=out, resume=saved is not None)
    count = sum(p.numel() for p in model.parameters())
    size = f"{len(data.train)} / {len(data.valid)} / {len(data.test)} samples of {'x'.join(map(str, data.space.shape))}"
    say(trainer.console, f"{name} ({count:,} parameters) on {data.name} ({size}), into {out}")
    for note in (*data.notes, *given_note(data)):
        say(trainer.console, note)
    result = trainer.run()
    if result.interrupted:
        place, again = out / "checkpoint", f"pyflowk train --out {out} --resume"
        say(trainer.console, f"interrupted at step {result.step}: the checkpoint is in {place}; go on with: {again}")
        return INTERRUPTED
    if trainer.main:
        finish(trainer, out, trainer.console)
    return 0


def parse_options(pairs: tuple[str, ...]) -> dict[str, Any]:
    """`("width=256", "steps=None")` -> {"width": 256, "steps": None}; values are JSON, True, False, None or words.

    >>> parse_options(("width=256", "architecture=vector", "residual=True"))
    {'width': 256, 'architecture': 'vector', 'residual': True}
    """
    words = {"None": None, "True": True, "False": False}
    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not key or not equals:
            raise ValueError(f"--set: expected KEY=VALUE, got {pair!r}")
        try:
            options[key] = json.loads(text)
        except ValueError:
            options[key] = words.get(text, text)
    return options


def check_options(name: str, options: dict[str, Any]) -> None:
    """Raise ValueError, in one line, for a system or an option that there is not, and a value that does not fit."""
    zoo.options(name)
    for key in options.keys() & GIVEN_BY_DATA.keys():
        raise ValueError(f"--set {key}: {GIVEN_BY_DATA[key]}")
    try:
        zoo.check(name, options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"--set: {error}") from error


def given_note(data: Dataset) -> list[str]:
    """Which columns of a table are modelled given which."""
    preparation = data.preparation
    if preparation is None or not preparation.given:
        return []
    modelled, given = ([preparation.names[i] for i in of] for of in (preparation.modelled, preparation.given))
    return [f"models {', '.join(modelled)} given {', '.join(given)}"]


def default_folder(root: Path, model: str, data: str, *, resume: bool) -> Path:
    """The first free root/MODEL-DATA, -2, -3, ...; with `resume` the last one that exists."""
    stem = re.sub(r"[^\w.-]+", "-", f"{model}-{Path(data).stem if data not in datasets.names() else data}")
    folder, number = root / stem, 1
    while (following := root / (stem if number == 1 else f"{stem}-{number}")).exists():
        folder, number = following, number + 1
    return folder if resume else following


def resumed_config(saved: Checkpoint, command: Train) -> TrainConfig:
    """The checkpoint's settings with the command's threads, and its budget if it names one; checks that both agree."""
    name = saved.meta["model"]["name"]
    if command.model is not None and name != command.model:
        raise CheckpointError(f"{saved.folder}: holds a {name}, not a {command.model}")
    before, now = saved.meta["data"]["name"], portable_name(command.data or saved.meta["data"]["name"])
    moved = "content" in saved.meta and before not in datasets.names() and now not in datasets.names()
    if before != now and not moved:  # of a file that has moved the content will be compared
        raise CheckpointError(f"{saved.folder}: was trained on {saved.meta['data']['name']}, not on {command.data}")
    try:
        config = dataclasses.replace(TrainConfig(**saved.meta["train"]), threads=command.config.threads)
    except TypeError as error:
        raise CheckpointError(f"{saved.folder}: its settings are not those of this version: {error}") from error
    budget = {key: getattr(command.config, key) for key in BUDGET}
    return dataclasses.replace(config, **budget) if any(v is not None for v in budget.values()) else config


def ignored(saved: Checkpoint, command: Train, options: dict[str, Any]) -> list[str]:
    """What the command asks for, beside budget and threads, that is not what the run has."""
    model, origin, preparation = saved.meta["model"], saved.meta["data"], saved.preparation
    given = [preparation.names[i] for i in preparation.given] if preparation else origin.get("given", ())
    labels = model.get("classes") or model.get("space", {}).get("context", {}).get("kind") == "labels"
    run = {**saved.meta["train"], "conditional": bool(labels), "data_seed": origin["seed"]}
    run |= {"given": tuple(given), **{key: origin[key] for key in ("split", "size") if key in origin}}
    asked = dataclasses.asdict(command.config) | {key: getattr(command, key) for key in run if hasattr(command, key)}
    typed = [key for key in command.typed if key in run and key not in (*BUDGET, "threads")]
    pairs = [(f"--{key.replace('_', '-')} ", asked[key], run[key]) for key in typed]
    pairs += [(f"--set {key}=", value, model.get(key)) for key, value in options.items()]
    return [f"{what}{_as_typed(value)} (the run has {_as_typed(has)})" for what, value, has in pairs if value != has]


def _as_typed(value: object) -> str:
    """A value as the command line takes it."""
    return (" ".join(value) or "none") if isinstance(value, tuple) else str(value)


def labels_of(data: Dataset) -> int:
    """The number of classes, or ValueError for data without labels."""
    if data.space.classes is None:
        raise ValueError(f"--conditional: expected data with labels, but {data.name} has none")
    return data.space.classes


def build(name: str, options: dict[str, Any], seed: int) -> GenerativeModel:
    """The system with weights drawn from `seed`; the global state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return zoo.create(name, **options)


def finish(trainer: Trainer, out: Path, console: Console) -> None:
    """Score the best weights on the test set, draw samples and curves, and write result.json."""
    data, started = trainer.data, time.monotonic()
    model, saved = training.load_model(out, "best")
    assert isinstance(model, GenerativeModel)
    model.to(trainer.device)
    report = training.evaluate(model, data, seed=trainer.config.seed, threads=trainer.threads)
    say(console, "test set")
    print_pairs(console, report.lines())
    noise = torch.Generator(trainer.device).manual_seed(trainer.config.seed)
    count = 64 if data.space.is_image else 1024
    context = contexts(model, data, count)
    x = training.sample(model, count, context, noise, threads=trainer.threads)
    samples = in_units(data.preparation, x, context)
    reference = in_units(data.preparation, *data.take("test"))
    names = data.preparation.names if data.preparation else ()
    draw_samples(out / "samples.png", samples, reference, data.space.levels, names=names)
    draw_curve(out, data, report, (trainer.model.loss_unit, model.loss_unit))
    result = {"step": saved.meta["step"], "seconds": saved.meta["seconds"], **report.as_dict()}
    (out / "result.json").write_text(json.dumps(result, indent=2, allow_nan=False), encoding="utf-8")
    say(
        console,
        f"{saved.meta['step']} steps in {saved.meta['seconds']:.1f} s, test and pictures in "
        f"{time.monotonic() - started:.1f} s; see {out / 'samples.png'} and {out / 'loss.png'}",
    )


def draw_curve(out: Path, data: Dataset, report: Report, units: tuple[str | None, str | None]) -> None:
    """loss.png in bits/dim for integer data, in nats otherwise; `units` are those of the loss in training, evaluation.

    A loss that is no likelihood has no unit, and nothing to compare it with.
    """
    rows, gaussian = read_rows(out / "log.csv"), report.gaussian if units[1] == "nats" else None
    label = "train" if units[0] == units[1] else "train, with regularisers"
    if data.space.levels is not None and units[1] == "nats":
        draw_loss(out / "loss.png", rows, "bits/dim", gaussian.bits if gaussian else None, label)
    else:
        draw_loss(out / "loss.png", rows, units[1] or "loss", -gaussian.nats if gaussian else None, label)
