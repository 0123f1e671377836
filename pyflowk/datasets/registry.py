"""The list of data sets: who adds one adds one line here."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import images, tables, toys
from .base import Dataset
from .patches import load_patches


@dataclass(frozen=True)
class Entry:
    """How one data set is loaded, and one line about it."""

    load: Callable[[str | None, int], Dataset]
    summary: str


def _toy(name: str, toy: toys.Toy, summary: str, classes: int | None = None, entropy: float | None = None) -> Entry:
    return Entry(lambda _, seed: toys.load_toy(name, toy, classes, entropy, seed), f"2-D, {summary}")


# The entropy of the ring of Gaussians is a quadrature of its mixture density; without overlap it would be 2.8379.
_ENTRIES: dict[str, Entry] = {
    "digits": Entry(lambda _, seed: images.load_digits(seed), "1797 grey 8x8 images, 17 levels, 10 classes"),
    "fashion-mnist": Entry(images.load_fashion_mnist, "70,000 grey 28x28 images, 256 levels, 10 classes"),
    "patches": Entry(lambda _, seed: load_patches(seed), "144,000 natural-image patches, 63 numbers"),
    "galaxies": Entry(tables.load_galaxies, "100,000 galaxies: redshift and six magnitudes, 7 numbers"),
    "8gaussians": _toy("8gaussians", toys.eight_gaussians, "ring of eight Gaussians", 8, 2.8316),
    "moons": _toy("moons", toys.moons, "two interleaved half circles", 2),
    "checkerboard": _toy("checkerboard", toys.checkerboard, "eight uniform squares", 8, math.log(32)),
    "scurve": _toy("scurve", toys.s_curve, "S-curve"),
    "swissroll": _toy("swissroll", toys.swiss_roll, "Swiss roll"),
    "rings": _toy("rings", toys.rings, "four concentric circles", 4),
    "pinwheel": _toy("pinwheel", toys.pinwheel, "five bent arms", 5),
    "2spirals": _toy("2spirals", toys.two_spirals, "two spirals", 2),
}


def names() -> list[str]:
    """Names that `load` knows.

    >>> from pyflowk.datasets import names
    >>> names()[0]
    'digits'
    """
    return list(_ENTRIES)


def describe() -> dict[str, str]:
    """One line for each name.

    >>> from pyflowk.datasets import describe
    >>> describe()["moons"]
    '2-D, two interleaved half circles'
    """
    return {name: entry.summary for name, entry in _ENTRIES.items()}


def load(name: str, *, data_dir: str | None = None, seed: int = 0, given: Sequence[int] = ()) -> Dataset:
    """Load a registered data set by name, or the user's own by path: a folder of images, .npy, .csv or .parquet.

    `seed` draws the split (and, for generated data, the data); `data_dir` is where Fashion-MNIST's files lie; `given`
    are columns of a table that become contexts (:meth:`Dataset.given`).
    Raises ValueError for a wrong name, FileNotFoundError or ImportError, naming what to install, for a missing file.

    >>> from pyflowk.datasets import load
    >>> data = load("moons", seed=1)
    >>> data.train.shape, data.classes
    (torch.Size([10000, 2]), 2)
    """
    data = _load(name, data_dir, seed)
    return data.given(given) if given else data


def _load(name: str, data_dir: str | None, seed: int) -> Dataset:
    if name in _ENTRIES:
        return _ENTRIES[name].load(data_dir, seed)
    path = Path(name).expanduser()
    if path.is_dir():
        return images.load_folder(path, seed)
    if path.suffix.lower() in tables.SUFFIXES:
        return tables.load_table(path, seed)
    raise ValueError(
        f"unknown data set {name!r}: expected one of {', '.join(names())}, "
        f"a folder of images, or a file ending in {', '.join(tables.SUFFIXES)}"
    )
