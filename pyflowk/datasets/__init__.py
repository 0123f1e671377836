"""Data that needs no download: a registry of small sets, the user's own files, and the levels a model has to beat.

`load` returns a `Dataset` of tensors, `read_table` a `Table`, rows in their own units, and a `Preparation` leads from
those to what a model sees and back; `split` divides samples into parts. `names` and `describe` list the registry.
`trivial_level` and `gaussian_level` score two models anybody could write down, so that every result, a `Score` by
`score`, is printed beside them.
"""

from .base import Dataset, split
from .files import Table
from .levels import Score, gaussian_level, score, trivial_level
from .preparation import Preparation
from .registry import describe, load, names, read_table

__all__ = [
    "Dataset", "Preparation", "Score", "Table", "describe", "gaussian_level", "load", "names", "read_table", "score",
    "split", "trivial_level",
]  # fmt: skip
