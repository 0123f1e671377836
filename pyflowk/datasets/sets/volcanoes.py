"""Where volcanoes are, from the pyvolcans package or from the user's folder."""

from __future__ import annotations

import csv
import importlib.util
import math
from pathlib import Path

import torch

from ...space import Space
from ..base import Dataset, split
from ..registry import register

VOLCANOES = "VOTW467_8May18_volcano_data.csv"


@register("volcanoes", "1,439 volcanoes: points on the sphere", files=True)
def load_volcanoes(seed: int, data_dir: str | None) -> Dataset:
    """The 1,439 volcanoes of the last 12,000 years (Global Volcanism Program, 2013, Volcanoes of the World, v. 4.6.7).

    Events are unit vectors: x points to longitude 0 on the equator, z to the north pole. The table lies inside the
    pyvolcans package, which is not imported, or in the folder ``data_dir``.
    """
    folder = Path(data_dir) if data_dir is not None else None
    package = importlib.util.find_spec("pyvolcans")
    if folder is None and package is not None and package.origin is not None:
        folder = Path(package.origin).parent / "VOLCANS_csv_files"
    if folder is None or not (folder / VOLCANOES).is_file():
        raise FileNotFoundError(
            f"volcanoes: {VOLCANOES} is {'in no installed package' if folder is None else f'not in {folder}'}: "
            "pip install --no-deps pyvolcans, or give the folder that holds the file with --data-dir"
        )
    with (folder / VOLCANOES).open(newline="", encoding="utf-8-sig") as file:
        places = [(float(row["Latitude"]), float(row["Longitude"])) for row in csv.DictReader(file)]
    x = unit_vectors(*torch.tensor(places, dtype=torch.float64).unbind(1))
    return split("volcanoes", Space((3,), manifold="sphere"), x, seed=seed)


def unit_vectors(latitude: torch.Tensor, longitude: torch.Tensor) -> torch.Tensor:
    """Points of the sphere (N, 3) from degrees north and east, (N,) each.

    >>> import torch
    >>> from pyflowk.datasets.sets.volcanoes import unit_vectors
    >>> unit_vectors(torch.tensor([90.0]), torch.tensor([12.0])).round(decimals=4)
    tensor([[-0., -0., 1.]])
    """
    north, east = latitude * (math.pi / 180), longitude * (math.pi / 180)
    return torch.stack((north.cos() * east.cos(), north.cos() * east.sin(), north.sin()), 1)
