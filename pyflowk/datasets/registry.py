"""Data sets by name: one decorated loader each, one way to load any of them and the user's own files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from .._hints import did_you_mean, owner_of, require_free
from ..space import Paired
from . import categories, folder, pairs, tables, text
from .base import Dataset
from .categories import Mixed
from .files import SUFFIXES, Table, read_file
from .preparation import Preparation
from .rows import Watch

Loader = Callable[[int], Dataset | Table] | Callable[[int, str | None], Dataset | Table]
Decorated = TypeVar("Decorated", bound=Loader)


@dataclass(frozen=True)
class Entry:
    """How a data set is loaded, `load(seed, data_dir)`, one line about it, and where the loader is."""

    load: Callable[[int, str | None], Dataset | Table]
    summary: str
    owner: str


_ENTRIES: dict[str, Entry] = {}


def register(name: str, summary: str, *, files: bool = False) -> Callable[[Decorated], Decorated]:
    """Decorate a loader `(seed) -> Dataset | Table`: `load(name)` and the command line then know it.

    A table is split and standardised by `load`. With `files` the loader also takes the folder in which its files lie,
    `(seed, data_dir)`, None where the user names none. Raises ValueError for a name that another
    loader has.

    >>> import torch
    >>> from pyflowk import datasets
    >>> from pyflowk.space import Space
    >>> @datasets.register("points", "three times ten points")
    ... def load_points(seed):
    ...     generator = torch.Generator().manual_seed(seed)
    ...     return datasets.Dataset("points", Space((2,)), *torch.randn(3, 10, 2, generator=generator))
    >>> datasets.load("points").train.shape
    torch.Size([10, 2])
    """

    def decorate(loader: Decorated) -> Decorated:
        load: Any = loader
        owner = owner_of(loader)
        require_free("data set", name, owner, _ENTRIES[name].owner if name in _ENTRIES else None)
        _ENTRIES[name] = Entry(load if files else lambda seed, data_dir: load(seed), summary, owner)
        return loader

    return decorate


def names() -> list[str]:
    """Names that `load` knows.

    >>> from pyflowk.datasets import names
    >>> names()[0]
    'brackets'
    """
    return list(_ENTRIES)


def describe() -> dict[str, str]:
    """One line for each name.

    >>> from pyflowk.datasets import describe
    >>> describe()["moons"]
    '2-D, two interleaved half circles'
    """
    return {name: entry.summary for name, entry in _ENTRIES.items()}


def load(
    name: str,
    *,
    data_dir: str | None = None,
    seed: int = 0,
    given: Sequence[int | str] = (),
    split: tables.Split = "random",
    preparation: Preparation | None = None,
    size: int | None = None,
    bins: int | None = None,
    as_symbols: bool = False,
    lines: bool = False,
    tokenizer: str | None = None,
    memory: int | None = None,
    watch: Watch | None = None,
) -> Dataset:
    """Load a registered data set by name, or the user's own by path: a folder of images, .npy, .csv or .parquet; a file
    or a folder of text; or a folder of pairs that a run has made (`pyflowk reflow`).

    `seed` draws the split (and, for generated data, the data); `data_dir` is where Fashion-MNIST's files lie; `given`
    are columns of a table, by name or number, that become contexts (:meth:`Dataset.given`); `split` "time" tests a
    table on its last rows; `preparation` is that of an earlier run, given columns included, which a table is prepared
    by instead of its own; `size` brings the pictures of a folder to size x size pixels, and cuts a text into windows of
    so many characters (128). ``as_symbols`` takes the rows of a table for symbols
    (:func:`pyflowk.datasets.categories.categorical`): texts, and numbers cut into ``bins`` (32), which ask for it, too.
    ``lines`` makes every line of a text a row as long as it is, up to `size` symbols (80); ``tokenizer``, the text of a
    tokenizer.json of Hugging Face's tokenizers, makes its tokens the symbols.

    A file or folder that takes more than `memory` bytes, by default an eighth of what there is, is read on demand, with
    the same results but for the rounding of means; `watch` hears how far a pass over it is. Raises ValueError for a
    wrong name, FileNotFoundError or ImportError, naming what to install, for a missing file.

    >>> from pyflowk.datasets import load
    >>> data = load("moons", seed=1)
    >>> print(data.space)
    2 given labels (B,) below 2
    """
    found: Dataset | Table | Mixed
    if lines or tokenizer is not None:
        found = text.load_text(name, size, lines=lines, tokenizer=tokenizer)
    elif as_symbols or bins is not None:
        found = find_symbols(name, data_dir, seed, size, memory, watch)
    else:
        found = find(name, data_dir, seed, size, memory, watch)
    if isinstance(found, Dataset) and isinstance(found.train, Paired):
        return replace(found, origin={"name": _absolute(name), "data_dir": None, "seed": seed})
    cut = None
    if (as_symbols or bins is not None) and isinstance(found, (Mixed, Table)):
        cut = categories.BINS if bins is None else bins
        data = categories.categorical(found, bins=cut, seed=seed, split=split)
        if given or preparation is not None:
            raise ValueError(f"given: expected a table of numbers, but the rows of {name} are taken for symbols")
    elif bins is not None:
        raise ValueError(f"bins: expected a table, but {name} is none")
    elif not isinstance(found, Dataset):
        assert isinstance(found, Table)
        data = tables.prepare(found, seed=seed, split=split, preparation=preparation, watch=watch)
    elif split != "random":
        raise ValueError(f"split {split!r}: expected a table, but {name} is none")
    else:
        data = found
    place = name if name in _ENTRIES else _absolute(name)
    files = None if data_dir is None else _absolute(data_dir)
    origin = {"name": place, "data_dir": files, "seed": seed, "split": split, "size": size}
    origin |= {} if cut is None else {"bins": cut}
    origin |= ({"lines": True} if lines else {}) | ({"tokenizer": True} if tokenizer is not None else {})
    data = replace(data, origin=origin)
    chosen = given if preparation is None else preparation.given
    return data.given(chosen) if chosen and data.space.context_dim is None else data


def _absolute(path: str) -> str:
    """The path by which a file is found from every folder."""
    return str(Path(path).expanduser().resolve())


def read_table(name: str, *, data_dir: str | None = None, seed: int = 0) -> Table:
    """All rows of a table, a file or a registered one, in its own units; of other registered vectors the test part.

    Raises ValueError for pictures, and what `load` raises.
    """
    found = find(name, data_dir, seed)
    if isinstance(found, Table):
        return found
    if not found.space.is_vector:
        raise ValueError(f"{name}: expected rows of numbers, got samples of {found.space}")
    return Table(name, found.test[:].double(), found.preparation.columns if found.preparation else ())


def find(
    name: str,
    data_dir: str | None,
    seed: int,
    size: int | None = None,
    memory: int | None = None,
    watch: Watch | None = None,
) -> Dataset | Table:
    """A registered data set or the user's own as it is loaded: a table is neither checked nor split yet."""
    path = Path(name).expanduser()
    if name not in _ENTRIES and pairs.holds_pairs(path):
        return pairs.load_pairs(path, load)
    if name not in _ENTRIES and text.texts_at(path):
        return text.load_text(name, size)
    if name not in _ENTRIES and path.is_dir():
        return folder.load_folder(path, seed, size, memory, watch)
    if size is not None:
        raise ValueError(f"size: expected a folder of pictures to resize or a text to cut, but {name} is none")
    if name in _ENTRIES:
        return _ENTRIES[name].load(seed, data_dir)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"unknown data set {name!r}{did_you_mean(name, names())}: expected one of {', '.join(names())}, "
            f"a folder of images or texts, or a file ending in {', '.join((*SUFFIXES, *text.SUFFIXES))}"
        )
    found = read_file(path, memory, watch)
    return found if isinstance(found, Table) else folder.split_array(str(path), found, seed, watch)


def find_symbols(
    name: str,
    data_dir: str | None,
    seed: int,
    size: int | None = None,
    memory: int | None = None,
    watch: Watch | None = None,
) -> Dataset | Table | Mixed:
    """As :func:`find`, but a table of the user's own may have columns of texts, and is read as a whole."""
    path = Path(name).expanduser()
    if name not in _ENTRIES and path.suffix.lower() in categories.SUFFIXES and path.is_file() and size is None:
        return categories.read_mixed(path)
    return find(name, data_dir, seed, size, memory, watch)
