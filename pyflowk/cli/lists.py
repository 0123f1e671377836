"""`pyflowk zoo`, `data` and `info`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from .tables import print_pairs

if TYPE_CHECKING:
    from .commands import Zoo

GIVEN_BY_DATA = {
    "levels": "the data tells its levels",
    "classes": "--conditional takes the classes of the data",
    "context_dim": "--given takes columns of the data",
}
"""Options that a user gives in another way."""


def zoo(command: Zoo) -> int:
    """One line for each system, or the options of one with their defaults, as they can be typed, and their meaning."""
    from .. import zoo as systems

    if not command.model:
        print_pairs(Console(), [(name, systems.describe(name)) for name in systems.names()])
        return 0
    print(systems.describe(command.model))
    print(f"Options, with their defaults: pyflowk train {command.model} --set KEY=VALUE KEY=VALUE ...")
    listed = systems.options(command.model).items()
    pairs = [
        (f"{key}={option.default}", f"{option.meaning} ({option.expected})")
        for key, option in listed
        if key not in GIVEN_BY_DATA
    ]
    print_pairs(Console(), pairs)
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
