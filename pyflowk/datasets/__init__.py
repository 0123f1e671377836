"""Data that needs no download: a registry of small sets, the user's own files, and the levels a model has to beat.

`load` returns a `Dataset` of tensors; `names` and `describe` list the registry; `trivial_level` and `gaussian_level`
score two models anybody could write down, so that every result is printed beside them.
"""

from .base import Dataset, split
from .levels import Score, gaussian_level, score, trivial_level
from .registry import describe, load, names

__all__ = ["Dataset", "Score", "describe", "gaussian_level", "load", "names", "score", "split", "trivial_level"]
