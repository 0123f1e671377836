"""`pyflowk zoo`, `data` and `info`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Console

from .tables import print_pairs

if TYPE_CHECKING:
    from ..zoo.option import Option
    from .commands import Zoo


def zoo(command: Zoo) -> int:
    """One line for each system, or the options of one with their defaults, as they can be typed, and their meaning."""
    from .. import zoo as systems

    if not command.model:
        print_pairs(Console(), [(name, systems.describe(name)) for name in systems.names()])
        return 0
    print(systems.describe(command.model))
    if sentence := systems.condition(command.model):
        taken = systems.takes(command.model)
        here = {"labels": "--conditional takes the labels of the data", "numbers": "--given columns of a table"}
        ways = ", ".join(way for kind, way in here.items() if kind in taken)
        print(f"{sentence} Here {ways}." if ways else sentence)
    print(f"Options, with their defaults: pyflowk train {command.model} --set KEY=VALUE KEY=VALUE ...")
    print_options(systems.options(command.model))
    if declared := systems.sampling(command.model):
        print("Of its samples, in train, sample and eval: --sampling KEY=VALUE KEY=VALUE ...")
        print_options(declared)
    return 0


def print_options(options: Mapping[str, Option]) -> None:
    """One line for each option: as it can be typed, what it means, which values it takes."""
    typed = [(key, '""' if o.default == "" else o.default) for key, o in options.items()]
    meant = [f"{o.meaning} ({o.expected})" for o in options.values()]
    print_pairs(Console(), [(f"{key}={value}", words) for (key, value), words in zip(typed, meant, strict=True)])


def data() -> int:
    """One line for each data set."""
    from .. import datasets
    from ..datasets import text

    print_pairs(Console(), datasets.describe().items())
    print("Also: a folder of images, a .npy, .csv or .parquet file; a text or a folder of texts, files ending in")
    print(f"{', '.join(text.SUFFIXES)}, as windows of --size {text.LENGTH} characters, or by --lines.")
    return 0


def info() -> int:
    """`pyflowk.show_config()`."""
    import pyflowk

    pyflowk.show_config()
    return 0
