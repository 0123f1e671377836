"""The data of a run: where they are now, what was done to them, and other data seen as the run saw its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import datasets
from ..columns import encode_cells
from ..datasets import Dataset, Preparation, Table, tables
from ..datasets.base import PARTS, table_space
from ..datasets.categories import Mixed, as_mixed
from ..datasets.registry import find, find_symbols
from ..datasets.rows import joined
from ..datasets.text import events_of, in_order, read_text, texts_at
from ..space import Events, Space
from ..training import Checkpoint
from ..training.spaces import check_fit
from ..zoo import GenerativeModel
from .tables import Progress


def portable_name(data: str) -> str:
    """A registered name as it is, a path made absolute: the checkpoint may be read from another folder."""
    path = Path(data).expanduser()
    return str(path.resolve()) if data not in datasets.names() and path.exists() else data


def data_of(saved: Checkpoint, name: str | None = None, data_dir: str | None = None) -> Dataset:
    """The run's own data, prepared and split as it did; ``name`` says where they are if they have moved."""
    origin = origin_of(saved)
    source, folder, split = name or origin["name"], data_dir or origin["data_dir"], origin.get("split", "random")
    if name is None and source not in datasets.names() and not Path(source).exists():
        raise FileNotFoundError(f"{source}: no such file: the run was trained on it, and it may have moved")
    preparation = preparation_of(saved, source, folder)
    tokenizer = saved.space.tokenizer if origin.get("tokenizer") else None
    if preparation is not None and saved.preparation is None:
        split = "time"
    return datasets.load(
        source, data_dir=folder, seed=origin["seed"],
        given=origin.get("given", ()), split=split, preparation=preparation, size=origin.get("size"),
        bins=origin.get("bins"), lines=origin.get("lines", False), tokenizer=tokenizer, watch=Progress,
    )  # fmt: skip


def origin_of(saved: Checkpoint) -> dict[str, Any]:
    """The arguments with which the run's data were loaded; FileNotFoundError where they were made in Python."""
    origin: dict[str, Any] = saved.meta["data"]
    if "seed" not in origin:
        raise FileNotFoundError(
            f"{saved.folder}: the data of the run, {origin.get('name')!r}, were not loaded from anywhere"
        )
    return origin


def preparation_of(saved: Checkpoint, source: str | None = None, folder: str | None = None) -> Preparation | None:
    """The run's own; that of a run which is older than stored ones is worked out from its table again."""
    if "content" in saved.meta:
        return saved.preparation
    origin = origin_of(saved)
    found = find(source or origin["name"], folder or origin["data_dir"], origin["seed"])
    if isinstance(found, Dataset):
        return None
    preparation = tables.before_the_last_tenth(found)
    return preparation.conditioned(origin["given"]) if origin.get("given") else preparation


def other_data(
    saved: Checkpoint, model: GenerativeModel, name: str, data_dir: str | None = None, size: int | None = None
) -> tuple[Dataset, str]:
    """Other data than the run's own, prepared as the run's were, and in words what of them is the test part.

    Of a file or folder that are all samples, of a registered set its test part. The run's own data at another place
    are split as they were; pictures are brought to the run's size unless another one is given. The training part, to
    which the Gaussian is fitted, is the run's if it is still there.
    """
    origin = saved.meta["data"]
    if model.space.is_text and name not in datasets.names() and (files := texts_at(Path(name).expanduser())):
        return _other_text(saved, model.space, name, read_text(files), size)
    is_folder = name not in datasets.names() and Path(name).expanduser().is_dir()
    size = size if size is not None or not is_folder else origin.get("size")
    columns = model.space.columns
    look_up = find if columns is None else find_symbols
    found = look_up(name, data_dir or origin.get("data_dir"), origin.get("seed", 0), size)
    if name == origin["name"] and "seed" in origin and name in datasets.names():
        return data_of(saved, None, data_dir), f"the test set of {name}"
    if columns is not None and isinstance(found, (Mixed, Table)):
        x = encode_cells(as_mixed(found).cells, columns)
        other, content = Dataset(name, model.space, x[:0], x[:0], x, notes=found.notes), None
    elif isinstance(found, Mixed):
        raise ValueError(f"expected events of {model.space}, got {name}, a table with columns of texts")
    elif model.space.is_vector and (isinstance(found, Table) or found.space.is_vector):
        preparation = preparation_of(saved) or Preparation.identity(model.space.dims)
        other, content = _prepared(found, preparation)
    elif isinstance(found, Table):
        raise ValueError(f"expected events of {model.space}, got {name}, a table of {found.values.shape[1]} columns")
    else:
        check_fit(model.space, found)
        other, content = found if name in datasets.names() else _whole(found), found.fingerprint
    if content is not None and content == saved.meta.get("content", {}).get("fingerprint"):
        return data_of(saved, name), f"the test set of {name}, where the run's own data are"
    other = _with_training_part(other, _own(saved))
    whole = name not in datasets.names() or isinstance(found, (Mixed, Table))
    what = f"all {len(other.test)} samples of {name}" if whole else f"the test set of {name}"
    standardised = other.preparation is not None and not other.preparation.is_identity
    return other, f"{what}, by the means and standard deviations of the run" if standardised else what


def _other_text(saved: Checkpoint, space: Space, name: str, text: str, size: int | None) -> tuple[Dataset, str]:
    """The windows or lines of another text in the run's symbols; of the run's own text, if it is that, the test set."""
    if size not in (None, space.shape[0]):
        raise ValueError(f"--size: expected none beside a text, whose rows are as those of the run, got {size}")
    try:
        x = events_of(text, space)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if not len(x):
        raise ValueError(f"{name}: expected a text of at least {space.shape[0]} symbols, got a shorter one")
    content = saved.meta.get("content", {})
    if len(x) == content.get("rows") and in_order(name, space, x).fingerprint == content["fingerprint"]:
        return data_of(saved, name), f"the test set of {name}, where the run's own data are"
    other = Dataset(name, replace(space, context=None), x[:0], x[:0], x)
    return _with_training_part(other, _own(saved)), f"all {len(x)} samples of {name}"


def _with_training_part(other: Dataset, own: Dataset | None) -> Dataset:
    """The same with what the run was trained on, if it is still there."""
    if own is None:
        return replace(other, train=other.test[:0], train_context=None)
    known = own.train_context if own.space.context == other.space.context else None
    return replace(other, train=own.train, train_context=known)


def _own(saved: Checkpoint) -> Dataset | None:
    """What the run was trained on, if it is still there and as it was."""
    try:
        own = data_of(saved)
    except (FileNotFoundError, ImportError):
        return None
    return None if saved.changes(own) else own


def _prepared(found: Dataset | Table, preparation: Preparation) -> tuple[Dataset, str | None]:
    """Rows as the run sees them, all of them the test part, and the digest of what the run would see of a file."""
    if isinstance(found, Table):
        x, contexts = preparation.apply(found)
        other = _of_test(found, table_space(preparation), x, contexts, preparation)
        return other, Table(found.name, preparation.select(found)).fingerprint()
    columns = found.preparation.columns if found.preparation and preparation.is_identity else ()
    x, labels = found.take("test")
    x, contexts = preparation.apply(Table(found.name, x.double(), columns))
    labels = labels if contexts is None else contexts
    entropy = found.entropy if preparation.is_identity and not preparation.given else None
    space = replace(found.space, shape=x.shape[1:]) if contexts is None else table_space(preparation)
    return replace(_of_test(found, space, x, labels, preparation), entropy=entropy), None


def _of_test(
    found: Dataset | Table, space: Space, x: Tensor, context: Events | None, preparation: Preparation
) -> Dataset:
    """A data set with a test part alone."""
    return Dataset(found.name, space, x[:0], x[:0], x, None, None, context, preparation=preparation, notes=found.notes)


def _whole(data: Dataset) -> Dataset:
    """Everything in the test part."""
    parts, labels = zip(*(data.part(part) for part in PARTS), strict=True)
    return replace(data, test=joined(parts), test_context=None if labels[-1] is None else joined(labels))


def given_values(pairs: Sequence[str], preparation: Preparation | None) -> Tensor:
    """`("temp=21.5", "humidity=40")` -> (1, 2) float64 in the order of the run's contexts, in the table's units."""
    values: dict[str, float] = {}
    for pair in pairs:
        name, equals, text = pair.rpartition("=")
        try:
            value = float(text)
        except ValueError:
            raise ValueError(f"--given: expected a number for {name or text!r}, got {text!r}") from None
        if not equals or not name:
            raise ValueError(f"--given: expected NAME=NUMBER, got {pair!r}")
        if name in values:
            raise ValueError(f"--given: {name!r} stands twice")
        values[name] = value
    try:
        return (preparation or Preparation((), ())).given_values(values)
    except ValueError as error:
        raise ValueError(f"--given: {error}") from error
