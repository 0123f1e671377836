"""Tables of numbers: .npy, .csv and .parquet files.

A table (N, D) is standardised by the mean and standard deviation of its training and validation rows; its last tenth is
the test set, a seeded tenth the validation set. An .npy file of unsigned bytes (N, H, W), (N, 1, H, W) or (N, 3, H, W)
is a set of images.
"""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

import torch
from torch import Tensor

from .base import Dataset, split

SUFFIXES = (".npy", ".csv", ".parquet")


def _read_csv(path: Path) -> Tensor:
    """Numbers separated by commas; a first row that is not all numbers is the header."""
    rows: list[list[float]] = []
    with path.open(newline="", encoding="utf-8") as file:
        for line, cells in enumerate(csv.reader(file), start=1):
            if not cells:
                continue
            try:
                rows.append([float(cell) for cell in cells])
            except ValueError as error:
                if rows or line > 1:
                    raise ValueError(f"{path}, line {line}: expected numbers, got {','.join(cells)[:60]!r}") from error
            if rows and len(rows[-1]) != len(rows[0]):
                raise ValueError(f"{path}, line {line}: expected {len(rows[0])} columns, got {len(rows[-1])}")
    return torch.tensor(rows, dtype=torch.float64)


def _read_npy(path: Path) -> Tensor:
    import numpy as np

    try:
        array = np.load(path, allow_pickle=False)
    except ValueError as error:  # numpy takes what is not an array for a pickle
        raise ValueError(f"{path}: expected a .npy array of numbers, got something else") from error
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{path}: expected an array of numbers, got dtype {array.dtype}")
    return torch.from_numpy(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="))))


def _read_parquet(path: Path) -> Tensor:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError(f"{path}: reading parquet needs pyarrow: pip install pyarrow") from error
    import numpy as np

    try:
        table = parquet.read_table(path)
    except ValueError as error:
        raise ValueError(f"{path}: not a readable .parquet file ({error})") from error
    columns = [column.to_numpy() for column in table.columns]
    for name, column in zip(table.column_names, columns, strict=True):
        if column.dtype.kind not in "fiub":
            raise ValueError(f"{path}: expected columns of numbers, got {name!r} of {column.dtype}")
    return torch.from_numpy(np.stack(columns, axis=1).astype(np.float64))


def standardise(name: str, x: Tensor, seed: int) -> Dataset:
    """Split a table (N, D) and standardise it: last tenth test, a seeded tenth of N validation, the rest training.

    The order of rows is kept for the test set, so a time series is tested on its future.
    Raises ValueError for fewer than 20 rows, non-finite entries and constant columns.

    >>> import torch
    >>> from pyflowk.datasets.tables import standardise
    >>> data = standardise("ramp", torch.arange(40.0).reshape(20, 2), seed=0)
    >>> len(data.train), len(data.valid), len(data.test), round(torch.cat([data.train, data.valid]).std().item(), 2)
    (16, 2, 2, 0.99)
    """
    if x.ndim != 2 or x.shape[1] < 1 or len(x) < 20:
        raise ValueError(f"{name}: expected a table of at least 20 rows, got shape {tuple(x.shape)}")
    x = x.double()
    if not bool(x.isfinite().all()):
        row = int((~x.isfinite()).any(dim=1).nonzero()[0])
        raise ValueError(f"{name}: expected finite numbers, got {x[row].tolist()} in row {row}")
    count = len(x) // 10
    known, test = x[:-count], x[-count:]
    std = known.std(dim=0)
    if bool((std == 0).any()):
        raise ValueError(f"{name}: expected varying columns, got a constant column {int((std == 0).nonzero()[0])}")
    known, test = (((part - known.mean(dim=0)) / std).float() for part in (known, test))
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))
    return Dataset(name, known[order[:-count]], known[order[-count:]], test)


GALAXIES = "galaxy-data.pkl"


def load_galaxies(data_dir: str | None, seed: int) -> Dataset:
    """100,000 simulated galaxies, redshift and the magnitudes u, g, r, i, z, y (Crenshaw et al. 2024), standardised.

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
    return standardise("galaxies", torch.from_numpy(pandas.read_pickle(folder / GALAXIES).to_numpy(copy=True)), seed)


def load_table(path: Path, seed: int) -> Dataset:
    """A .npy, .csv or .parquet file as a standardised table, or an .npy file of bytes as images."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    readers = {".npy": _read_npy, ".csv": _read_csv, ".parquet": _read_parquet}
    try:
        x = readers[path.suffix.lower()](path)
    except (EOFError, OSError) as error:
        raise ValueError(f"{path}: not a readable {path.suffix} file ({error})") from error
    if x.dtype == torch.uint8 and x.ndim in (3, 4):
        images = x.unsqueeze(1) if x.ndim == 3 else x
        if images.shape[1] not in (1, 3):
            raise ValueError(f"{path}: expected images (N, H, W), (N, 1, H, W) or (N, 3, H, W), got {tuple(x.shape)}")
        return split(str(path), images, seed=seed, levels=256)
    return standardise(str(path), x, seed)
