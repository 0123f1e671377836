"""A table of simulated galaxies, from the pzflow package or from the user's folder."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ..files import Table, from_columns, noted
from ..registry import register

GALAXIES = "galaxy-data.pkl"


@register("galaxies", "100,000 galaxies: redshift and six magnitudes, 7 numbers", files=True)
def read_galaxies(seed: int, data_dir: str | None) -> Table:
    """100,000 simulated galaxies, redshift and the magnitudes u, g, r, i, z, y (Crenshaw et al. 2024).

    The table is a pickle inside the pzflow package, which is not imported, or in the folder ``data_dir``.
    """
    folder = Path(data_dir) if data_dir is not None else None
    package = importlib.util.find_spec("pzflow")
    if folder is None and package is not None and package.origin is not None:
        folder = Path(package.origin).parent / "example_files"
    if folder is None or not (folder / GALAXIES).is_file():
        raise FileNotFoundError(
            f"galaxies: {GALAXIES} is {'in no installed package' if folder is None else f'not in {folder}'}: "
            "pip install --no-deps pzflow, or give the folder that holds the file with --data-dir"
        )
    try:
        import pandas
    except ImportError as error:
        raise ImportError("galaxies is a table of pandas: pip install pandas") from error
    frame = pandas.read_pickle(folder / GALAXIES)
    return noted(from_columns("galaxies", {str(name): frame[name].to_numpy() for name in frame.columns}))
