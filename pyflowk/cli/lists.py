"""`pyflowk zoo`, `data` and `info`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from .tables import print_pairs

if TYPE_CHECKING:
    from .commands import Zoo


def zoo(command: Zoo) -> int:
    """One line for each system, or the options of one with their defaults."""
    from .. import zoo as systems

    if not command.model:
        print_pairs(Console(), [(name, systems.describe(name)) for name in systems.names()])
        return 0
    options = systems.defaults(command.model)
    print(systems.describe(command.model))
    print("Options (pyflowk train --set KEY=VALUE) and their defaults:")
    chosen_by_data = ("levels", "classes", "context_dim")
    print_pairs(Console(), [(key, str(value)) for key, value in options.items() if key not in chosen_by_data])
    return 0


def data() -> int:
    """One line for each data set."""
    from .. import datasets

    print_pairs(Console(), datasets.describe().items())
    print("Also: a folder of images, a .npy, .csv or .parquet file.")
    return 0


def info() -> int:
    """`pyflowk.show_config()`."""
    import pyflowk

    pyflowk.show_config()
    return 0
