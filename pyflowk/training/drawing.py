"""Samples of any space as a file to look at: pictures side by side, points beside the data's, symbols row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from ..datasets import Dataset, Preparation
from ..datasets.categories import write_cells
from ..space import Events, Ragged, Space
from ..zoo import GenerativeModel
from .evaluation import device_of, sample
from .pictures import draw_samples
from .spaces import contexts
from .threads import Threads

FEW, MANY = 64, 1024
"""Pictures or rows of symbols, and points, that are drawn at a time."""
SHOWN = 10_000
"""Rows of the data, at most, that samples are shown beside."""
MAP = ("longitude", "latitude")
RULE = "-" * 72
"""Stands between texts."""


def draw(
    model: GenerativeModel,
    data: Dataset,
    path: Path,
    *,
    seed: int = 0,
    threads: Threads | None = None,
    sampling: Mapping[str, Any] | None = None,
    shown: int = SHOWN,
) -> Path:
    """Draw samples of a model and write them to `path` with the suffix of their kind, .png, .txt or .csv, which is
    returned.

    They are in the units of the data, beside up to `shown` test rows where points are shown, and the same for the same
    seed.
    """
    count = FEW if suffix_of(data.space) != ".png" or data.space.is_image else MANY
    context = contexts(model.space, data, count)
    noise = Generator(device_of(model)).manual_seed(seed)
    x = sample(model, count, context, noise, threads=threads, **(sampling or {}))
    path = path.with_name(path.name + suffix_of(data.space))
    path.parent.mkdir(parents=True, exist_ok=True)
    if data.space.columns is not None:
        write_cells(path, x, data.space.columns, Generator().manual_seed(seed))
        return path
    if path.suffix == ".txt":
        write_symbols(path, x, data.space)
        return path
    names = data.preparation.names if data.preparation else ()
    beside = None if data.space.is_image else reference(data, data.preparation, shown)
    x = in_units(data.preparation, x, context)
    if is_globe(data.space) and beside is not None:
        x, beside, names = on_map(x), on_map(beside), MAP
    draw_samples(path, x, beside, data.space.levels, names=names)
    return path


def is_globe(space: Space) -> bool:
    """Whether events are points of the sphere in space, which are shown on a map."""
    return space.manifold == "sphere" and space.shape == (3,)


def on_map(x: Tensor) -> Tensor:
    """Unit vectors (N, 3) as longitude and latitude in degrees (N, 2); the axes point to (0, 0), (90, 0), north."""
    return torch.stack((torch.atan2(x[:, 1], x[:, 0]), x[:, 2].clamp(-1, 1).asin()), 1).rad2deg()


def suffix_of(space: Space) -> str:
    """A file that shows samples ends in .txt where they are symbols or of several lengths, in .csv where these are
    those of a table, else in .png."""
    if space.columns is not None:
        return ".csv"
    return ".txt" if space.kind == "symbols" or space.variable else ".png"


def reference(data: Dataset, preparation: Preparation | None, shown: int = SHOWN) -> Tensor:
    """The first rows of the test part, in the units of the table that was prepared so."""
    return in_units(preparation, *data.take("test", slice(shown)))


def in_units(preparation: Preparation | None, x: Any, context: Any) -> Any:
    """Samples as they are, or rows in the units of the table that the run was trained on, given columns included."""
    return x if preparation is None else preparation.undo(x.to("cpu"), None if context is None else context.to("cpu"))


def write_symbols(path: Path, x: Events, space: Space) -> None:
    """Each line is one row, as long as it is, its values with spaces between them; or the texts that they stand for."""
    lines = texts_of(x, space) if space.is_text else [" ".join(map(_plain, row)) for row in rows_of(x)]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def texts_of(x: Events, space: Space) -> list[str]:
    """The text of each row of symbols; windows of a text, which may have several lines, end in a rule.

    >>> import torch
    >>> from pyflowk.space import Space
    >>> texts_of(torch.tensor([[0, 1, 0]]), Space((3,), symbols=2, alphabet="ab"))[0][:4]
    'aba\\n'
    """
    end = "" if isinstance(x, Ragged) else f"\n{RULE}"
    return [space.decode([*map(int, row)]) + end for row in rows_of(x)]


def rows_of(x: Events) -> Sequence[list[float]]:
    """The values of each row in a list, as many as there are.

    >>> import torch
    >>> from pyflowk.space import Ragged
    >>> rows_of(Ragged.of([torch.tensor([3, 1]), torch.tensor([2])]))
    [[3, 1], [2]]
    """
    return [(x.row(i) if isinstance(x, Ragged) else x[i]).flatten().tolist() for i in range(len(x))]


def _plain(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
