"""`pyflowk reflow`: a flow learns again from the pairs of noise and data that it makes itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from torch import Tensor

from .. import datasets, training, zoo
from ..datasets.pairs import source_of, write_pairs
from ..training import Checkpoint, Threads, TrainConfig
from ..training.evaluation import BATCH, device_of
from ..zoo import GenerativeModel, MatchingModel
from .options import check_number, sampling_of
from .runs import data_of, origin_of
from .tables import Progress, say
from .train import default_folder, fit

if TYPE_CHECKING:
    from .commands import Reflow

VALIDATED = 10
"""One pair of so many is for validation."""
ONE_STEP = {"method": "euler", "steps": 1}


def reflow(command: Reflow) -> int:
    """Round by round, make pairs with the last model and train one like it on them; status 130 after a signal."""
    check_number("--rounds", command.rounds, 1, 100)
    check_number("--pairs", command.pairs, 2 * VALIDATED, 10**9)
    run = command.run_folder if command.run_folder.name != "checkpoint" else command.run_folder.parent
    first = command.out or default_folder(run.parent, run.name, "reflow", resume=False)
    for number in range(command.rounds):
        out = first if number == 0 else first.with_name(f"{first.name}-{number + 1}")
        if (out / "checkpoint").exists():
            raise ValueError(
                f"{out} holds a checkpoint already: choose another --out, or go on with pyflowk train --out {out} "
                "--resume"
            )
        teacher, saved = training.load_model(run, command.weights)
        if not isinstance(teacher, MatchingModel):
            raise ValueError(f"{run}: expected a run of a system that learns by matching, got one of {teacher.name}")
        sampling = sampling_of(teacher, command.sampling, saved)
        config = replace(command.config, seed=command.config.seed + number)
        student = distilling(saved) if command.distill else saved.build()
        make_pairs(teacher, saved, out / "pairs", command.pairs, config, sampling)
        student.load_state_dict(teacher.state_dict())
        data = datasets.load(str(out / "pairs"), seed=origin_of(saved)["seed"])
        if status := fit(student, data, config, out, {**saved.sampling, **(ONE_STEP if command.distill else {})}):
            return status
        run = out
    return 0


def distilling(saved: Checkpoint) -> GenerativeModel:
    """The same system, which learns one Euler step from noise to data and nothing else."""
    known = zoo.options(saved.system).get("time_law")
    if known is None or "start" not in known.choices:
        raise ValueError(f"--distill: expected a run of rectified_flow, got one of {saved.system}")
    options = {key: value for key, value in saved.meta["model"].items() if key != "name"}
    return zoo.create(saved.system, **{**options, "time_law": "start"})


def make_pairs(
    teacher: MatchingModel,
    saved: Checkpoint,
    folder: Path,
    count: int,
    config: TrainConfig,
    sampling: Mapping[str, Any],
) -> None:
    """Write so many pairs that a model makes, for the contexts of its training rows in turn."""
    device, parts = device_of(teacher), (count - count // VALIDATED, count // VALIDATED)
    context = None
    if teacher.space.context is not None:
        data = data_of(saved)
        context = data.take("train", slice(min(count, len(data.train))))[1]
    origin = {**origin_of(saved), "preparation": saved.preparation.as_json() if saved.preparation else None}
    chosen: Any = teacher.chosen(dict(sampling))
    how = f"{chosen.method} in {'steps of its own' if chosen.steps is None else f'{chosen.steps} steps'}"
    say(Console(), f"{count} pairs of {teacher.name}, by {how}, into {folder}")
    with Threads(config.threads, device=device, say=print) as clock, torch.no_grad():

        def make(x0: Tensor, given: Any) -> Tensor:
            with clock.step():
                return teacher.ends(x0.to(device), None if given is None else given.to(device), **sampling)

        write_pairs(
            folder, make, context, parts, teacher.space.shape, seed=config.seed,
            origin=source_of(origin), block=BATCH, watch=Progress("made pairs"),
        )  # fmt: skip
