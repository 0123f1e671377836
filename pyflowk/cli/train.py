"""`pyflowk train`: data, model, training, then the test score, samples and curves."""

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
from ..datasets.text import read_text
from ..metrics.levels import unit_of
from ..space import Paired, Space
from ..training import Checkpoint, CheckpointError, TrainConfig, Trainer
from ..training.config import BUDGET, HELPERS
from ..training.drawing import draw
from ..training.evaluation import Report
from ..training.log import read_rows
from ..training.pictures import draw_loss
from ..zoo import Ability, GenerativeModel, MatchingModel
from ..zoo.blocks import network_of
from .options import check_number, check_options, parse_options
from .runs import data_of, origin_of, portable_name
from .tables import Progress, print_pairs, say

if TYPE_CHECKING:
    from .commands import Train

INTERRUPTED = 130
SOLVED = 2000
"""Test rows, at most, that are scored after training where each takes the solution of a differential equation."""


def train(command: Train) -> int:
    """Run the command; exit status 130 when a signal ended the training."""
    name, source = command.model or "realnvp", command.data or "digits"
    options, sampling = parse_options(command.set), parse_options(command.sampling, "--sampling")
    check_number("--data-seed", command.data_seed, 0, 2**63 - 1)
    out = command.out or default_folder(Path("runs"), name, source, resume=command.resume)
    saved = Checkpoint.open(out) if command.resume else None
    check_options(name if saved is None else saved.system, options, sampling)
    config = command.config
    if saved is not None:
        saved.require_state()
        config = resumed_config(saved, command)
        if unheard := ignored(saved, command, options, sampling):
            print(f"--resume goes on with the settings of {out}; ignored: {', '.join(unheard)}", file=sys.stderr)
        data, model, sampling = data_of(saved, command.data), saved.build(), saved.sampling
    else:
        if (out / "checkpoint").exists():
            raise ValueError(f"{out} holds a checkpoint already: add --resume to go on, or choose another --out")
        begun = None if command.from_ is None else training.load_model(command.from_, "best")
        data = data_of(begun[1]) if begun is not None and command.data is None else datasets.load(
            portable_name(source), data_dir=command.data_dir, seed=command.data_seed,
            given=command.given, split=command.split, size=command.size, bins=command.bins,
            as_symbols="real" not in zoo.takes(name), lines=command.lines, tokenizer=written(command.tokenizer),
            watch=Progress,
        )  # fmt: skip
        if begun is None:
            model = build(name, data, options, config.seed, conditional=command.conditional)
        else:
            model = begin(name, begun[0], options, config.seed)
        check_pairs(model, data)
        check_sampling(model, sampling)
    return fit(model, data, config, out, sampling, resume=saved is not None)


def fit(
    model: GenerativeModel,
    data: Dataset,
    config: TrainConfig,
    out: Path,
    sampling: dict[str, Any],
    *,
    resume: bool = False,
) -> int:
    """Train a model into `out` and judge it; exit status 130 when a signal ended the training."""
    trainer = Trainer(model, data, config, out=out, sampling=sampling, resume=resume, watch=Progress)
    count = sum(p.numel() for p in model.parameters())
    size = f"{len(data.train)} / {len(data.valid)} / {len(data.test)} samples of {sizes(data.space)}"
    say(trainer.console, f"{model.name} ({count:,} parameters) on {data.name} ({size}), into {out}")
    for note in (*data.notes, *given_note(data)):
        say(trainer.console, note)
    result = trainer.run()
    if result.interrupted:
        place, again = out / "checkpoint", f"pyflowk train --out {out} --resume"
        say(trainer.console, f"interrupted at step {result.step}: the checkpoint is in {place}; go on with: {again}")
        return INTERRUPTED
    if trainer.main:
        try:
            finish(trainer, out, trainer.console)
        except KeyboardInterrupt:
            say(trainer.console, f"not tested: the checkpoint is in {out / 'checkpoint'}; pyflowk eval {out} tests it")
            return INTERRUPTED
    return 0


def written(tokenizer: Path | None) -> str | None:
    """What a tokenizer.json says."""
    return None if tokenizer is None else read_text([tokenizer])


def check_pairs(model: GenerativeModel, data: Dataset) -> None:
    """ValueError for pairs of a model's noise and samples, which a new model cannot learn, or not in their scale."""
    if isinstance(data.train, Paired) and not (isinstance(model, MatchingModel) and data.space.levels is not None):
        raise ValueError(
            f"--data: {data.name} holds pairs of noise and what a model has made of it, in scales of its own; "
            "pyflowk reflow makes such pairs and goes on with that model"
        )


def check_sampling(model: GenerativeModel, sampling: dict[str, Any]) -> None:
    """ValueError for samples that the model could not draw once it is trained."""
    try:
        model.chosen(sampling)
    except ValueError as error:
        unaware = sampling.get("guidance") and not model.config.get("dropout")
        more = "; train with --conditional (or --given) and --set dropout=0.1" if unaware else ""
        raise ValueError(f"--sampling: {error}{more}") from error


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
    """The checkpoint's settings with the command's threads, workers, and budget if it names one; both have to agree."""
    name = saved.system
    if command.model is not None and name != command.model:
        raise CheckpointError(f"{saved.folder}: holds a {name}, not a {command.model}")
    before = origin_of(saved)["name"]
    now = portable_name(command.data or before)
    moved = "content" in saved.meta and before not in datasets.names() and now not in datasets.names()
    if before != now and not moved:  # of a file that has moved the content will be compared
        raise CheckpointError(f"{saved.folder}: was trained on {saved.meta['data']['name']}, not on {command.data}")
    try:
        config = TrainConfig(**saved.meta["train"])
        config = dataclasses.replace(config, **{key: getattr(command.config, key) for key in HELPERS})
    except TypeError as error:
        raise CheckpointError(f"{saved.folder}: its settings are not those of this version: {error}") from error
    budget = {key: getattr(command.config, key) for key in BUDGET}
    return dataclasses.replace(config, **budget) if any(v is not None for v in budget.values()) else config


def ignored(saved: Checkpoint, command: Train, options: dict[str, Any], sampling: dict[str, Any]) -> list[str]:
    """What the command asks for, beside budget, threads and workers, that is not what the run has."""
    model, origin, preparation = saved.meta["model"], origin_of(saved), saved.preparation
    given = [preparation.names[i] for i in preparation.given] if preparation else origin.get("given", ())
    labels = saved.space.classes is not None
    run: dict[str, Any] = {**saved.meta["train"], "conditional": labels, "data_seed": origin["seed"]}
    run |= {"given": tuple(given)} | {key: origin[key] for key in ("split", "size", "bins") if key in origin}
    kept = saved.space.tokenizer
    same = written(command.tokenizer) == kept
    run |= {"lines": origin.get("lines", False), "tokenizer": command.tokenizer if same else kept and "one of its own"}
    asked = {**vars(command.config), **vars(command)}
    typed = [key for key in command.typed if key in run and key not in (*BUDGET, *HELPERS)]
    pairs = [(f"--{key.replace('_', '-')} ", asked[key], run[key]) for key in typed]
    drawn: dict[str, Any] = {key: option.default for key, option in zoo.sampling(saved.system).items()}
    drawn |= saved.sampling
    for name, wanted, has in (("set", options, model), ("sampling", sampling, drawn)):
        pairs += [(f"--{name} {key}=", value, has.get(key)) for key, value in wanted.items()]
    return [f"{what}{_as_typed(value)} (the run has {_as_typed(has)})" for what, value, has in pairs if value != has]


def _as_typed(value: object) -> str:
    """A value as the command line takes it."""
    return (" ".join(value) or "none") if isinstance(value, tuple) else str(value)


def build(
    name: str, data: Dataset, options: dict[str, Any], seed: int, *, conditional: bool = False
) -> GenerativeModel:
    """The system for the space of the data, with weights drawn from `seed`; the global state is left alone.

    It is given the numbers or tokens that stand beside the data, and labels where it is to be `conditional`, which
    raises ValueError for data without labels.
    """
    space = data.space
    if conditional and space.classes is None:
        raise ValueError(f"--conditional: expected data with labels, but {data.name} has none")
    if space.classes is not None and not conditional:
        space = dataclasses.replace(space, context=None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return zoo.create(name, space, **options)


def begin(name: str, teacher: GenerativeModel, options: dict[str, Any], seed: int) -> GenerativeModel:
    """The system with the network of another model and its weights; what it has besides is drawn from `seed`."""
    known = zoo.options(name)
    same = {key: value for key, value in network_of(teacher.config).items() if key in known}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = zoo.create(name, teacher.space, **{**same, **options})
        except ValueError as error:
            raise ValueError(f"--from: {name} cannot have the network of this {teacher.name}: {error}") from error
    model.adopt(teacher)
    return model


def sizes(space: Space) -> str:
    """The shape of an event in words.

    >>> sizes(Space((1, 8, 8), levels=17)), sizes(Space((12,), symbols=4, variable=True))
    ('1x8x8', 'up to 12 symbols')
    """
    text = "x".join(map(str, space.shape))
    return f"{'up to ' if space.variable else ''}{text}{' symbols' if space.symbols else ''}"


def finish(trainer: Trainer, out: Path, console: Console) -> None:
    """Judge the best weights on the test set, draw samples and curves, and write result.json."""
    data, seed, started = trainer.data, trainer.config.seed, time.monotonic()
    model, saved = training.load_model(out, "best")
    model.to(trainer.device)
    shared: dict[str, Any] = {"seed": seed, "threads": trainer.threads, "sampling": trainer.sampling}
    rows = min(len(data.test), SOLVED) if Ability.TRAJECTORY in model.abilities else len(data.test)
    scored = f"{rows} of {len(data.test)} test rows (pyflowk eval {out}: all)"
    scored = scored if rows < len(data.test) else f"{rows} test rows"
    say(console, f"testing on {scored} and drawing samples; the checkpoint is saved, Ctrl-C loses nothing of it")
    report = training.evaluate(model, data, **shared, rows=rows, watch=Progress("tested"))
    say(console, "test set")
    print_pairs(console, report.lines())
    samples = draw(model, data, out / "samples", **shared)
    draw_curve(out, data, report, (trainer.model.loss_unit, model.loss_unit))
    result = {"step": saved.meta["step"], "seconds": saved.meta["seconds"], "rows": rows, **report.as_dict()}
    (out / "result.json").write_text(json.dumps(result, indent=2, allow_nan=False), encoding="utf-8")
    say(
        console,
        f"{saved.meta['step']} steps in {saved.meta['seconds']:.1f} s, test and samples in "
        f"{time.monotonic() - started:.1f} s; see {samples} and {out / 'loss.png'}",
    )


def draw_curve(out: Path, data: Dataset, report: Report, units: tuple[str | None, str | None]) -> None:
    """loss.png in bits per dimension or symbol for integers, in nats otherwise; `units` are those of the loss in
    training and in evaluation.

    A loss that is no likelihood has no unit, and nothing to compare it with.
    """
    rows, gaussian = read_rows(out / "log.csv"), report.gaussian if units[1] == "nats" else None
    label = "train" if units[0] == units[1] else "train, with regularisers"
    per = unit_of(data.space)
    if per is not None and units[1] == "nats":
        draw_loss(out / "loss.png", rows, f"bits/{per}", gaussian.bits if gaussian else None, label)
    else:
        draw_loss(out / "loss.png", rows, units[1] or "loss", -gaussian.nats if gaussian else None, label)
