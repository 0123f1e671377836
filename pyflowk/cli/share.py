"""`pyflowk share`: a trained model with its card, in a folder and on the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .. import training
from ..training import Pretrained
from .runs import data_of
from .tables import Progress

if TYPE_CHECKING:
    from .commands import Share


def share(command: Share) -> int:
    """Judge the model by the test set, if it is still there, and write it; push it where that is wanted."""
    model, saved = training.load_model(command.run_folder, command.weights)
    figures: list[tuple[str, str]] = []
    try:
        data = data_of(saved)
        changes = saved.changes(data)
        if changes:
            print(f"the card has no figures of the test set: {data.name} has changed since the run: {changes}")
        else:
            report = training.evaluate(model, data, sampling=saved.sampling, watch=Progress("scored"))
            figures = [(f"test set, {what}", words) for what, words in report.lines()]
    except (FileNotFoundError, ImportError) as error:
        print(f"the card has no figures of the test set: {error}")
    shared = Pretrained.from_run(command.run_folder, command.weights, figures)
    folder: Path = command.out or saved.folder.parent / "shared"
    shared.save_pretrained(folder)
    print(f"{model.name} in {folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")
    if command.push is not None:
        print(shared.push_to_hub(command.push, private=command.private or None))
    return 0
