"""Data that needs no download: a registry of small sets, and the user's own files.

`load` returns a `Dataset`, `read_table` a `Table`, rows in their own units, and a `Preparation` leads from those to
what a model sees and back; `split` divides samples into parts. `names` and `describe` list the registry, in which
`register` puts a loader; `sets/` holds a file for each.
"""

from . import sets  # noqa: F401  what lies there is registered
from .base import Dataset, split
from .files import Table
from .preparation import Preparation
from .registry import describe, load, names, read_table, register

__all__ = ["Dataset", "Preparation", "Table", "describe", "load", "names", "read_table", "register", "split"]
