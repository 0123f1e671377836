"""Checkpoints: safetensors for weights, config.json to rebuild the model, trainer.pt to go on training.

A checkpoint is one folder, written beside its final place and renamed into it; the previous one is removed last, so
an interrupted write leaves either the old checkpoint or the new one. config.json holds the size and CRC-32 of every
other file: a truncated or damaged file is noticed before it is read.
"""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from .. import zoo
from ..datasets import Dataset, Preparation
from ..space import Context, Paired, Space
from ..zoo import GenerativeModel
from . import parts

FORMAT = "pyflowk checkpoint"
VERSION = 1
Weights = Literal["best", "ema", "last"]


class CheckpointError(ValueError):
    """A checkpoint is missing, incomplete, damaged, or not one of this package's."""


def _crc(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            value = zlib.crc32(chunk, value)
    return value


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(folder: Path, weights: dict[str, dict[str, Tensor]], state: dict[str, Any], meta: dict[str, Any]) -> None:
    """Write `weights[name]` to name.safetensors, `state` to trainer.pt and `meta` to config.json, atomically.

    On a full disk raises OSError (ENOSPC) that names the folder and the space it takes; what was there stays.
    """
    temporary, previous = (folder.with_name(f"{folder.name}.{end}") for end in ("writing", "previous"))
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        fill(temporary, weights, state, meta)
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        takes, free = _bytes(weights) + _bytes(state), shutil.disk_usage(folder.parent).free
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "os error 28" in str(error)
        if not full and free >= takes:  # torch's writer does not say why it failed
            raise
        what = f"{os.strerror(errno.ENOSPC)}: the checkpoint takes {takes / 1e6:.1f} MB, {free / 1e6:.1f} MB are free"
        what += "; the one before it is still there" if folder.exists() else ""
        raise OSError(errno.ENOSPC, what, str(folder)) from error
    if folder.exists():
        shutil.rmtree(previous, ignore_errors=True)
        folder.rename(previous)
    temporary.rename(folder)
    _sync(folder.parent)
    shutil.rmtree(previous, ignore_errors=True)


def fill(
    folder: Path, weights: dict[str, dict[str, Tensor]], state: dict[str, Any] | None, meta: dict[str, Any]
) -> None:
    """The same into a folder that is there, file by file; without a `state` there is no trainer.pt."""
    for name, tensors in weights.items():
        # clone: safetensors refuses tensors that share memory
        copies = {key: tensor.detach().cpu().clone().contiguous() for key, tensor in tensors.items()}
        save_file(copies, folder / f"{name}.safetensors")
    names = sorted(f"{name}.safetensors" for name in weights)
    if state is not None:
        torch.save(state, folder / "trainer.pt")
        names.append("trainer.pt")
    files = {name: [(folder / name).stat().st_size, _crc(folder / name)] for name in names}
    text = json.dumps({"format": FORMAT, "version": VERSION, **meta, "files": files}, indent=2, allow_nan=False)
    (folder / "config.json").write_text(text, encoding="utf-8")
    for name in (*names, "config.json"):
        _sync(folder / name)


def _bytes(value: Any) -> int:
    """What the tensors inside take."""
    if isinstance(value, Tensor):
        return value.nbytes
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return sum(map(_bytes, inside))


def _reason(file: Path, shorter: bool) -> str:
    """What may have happened to a file that is not as long as it was."""
    with file.open("rb") as opened:
        start = opened.read(9)
    if file.suffix == ".safetensors" and len(start) == 9 and not start.endswith(b"{"):
        return "no safetensors, but another kind of file"
    return "truncated?" if shorter else "another file in its place, or written to since?"


def _locate(path: Path) -> Path:
    """The checkpoint folder meant by a run's folder or by the checkpoint folder itself."""
    for folder in (path, path / "checkpoint", path / "checkpoint.previous", path.with_name(f"{path.name}.previous")):
        if (folder / "config.json").is_file():
            return folder
    what = "no config.json in it" if path.is_dir() else "no such folder" if not path.exists() else "not a folder"
    raise CheckpointError(f"{path}: expected a run's folder or its checkpoint folder, got {what}")


def modern(config: dict[str, Any]) -> dict[str, Any]:
    """A model's config in today's form, with its space and its architecture written down.

    Older ones tell the space by several options, and the first say "auto" for what followed from the shape.

    >>> modern({"name": "ffjord", "shape": [1, 8, 8], "levels": 17, "classes": None, "architecture": "auto"})
    {'name': 'ffjord', 'space': {'shape': [1, 8, 8], 'levels': 17}, 'architecture': 'multiscale'}
    """
    if "space" in config or "shape" not in config:
        return config
    options = {key: value for key, value in config.items() if key not in ("shape", "levels", "classes", "context_dim")}
    counts = {"labels": config.get("classes"), "numbers": config.get("context_dim")}
    context = next((Context(kind, size) for kind, size in counts.items() if size is not None), None)  # type: ignore[arg-type]
    space = Space(config["shape"], levels=config.get("levels"), context=context)
    if options.get("architecture") == "auto":
        is_image = len(space.shape) == 3 and min(space.shape[1:]) >= 8
        options["architecture"] = "multiscale" if is_image else "vector"
    return {"name": options.pop("name"), "space": space.as_json(), **options}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files are all there and undamaged."""

    folder: Path
    meta: dict[str, Any] = field(repr=False)

    @classmethod
    def open(cls, path: str | Path) -> Checkpoint:
        """Find and verify a checkpoint; raises CheckpointError, in one line, for anything else."""
        folder = _locate(Path(path))
        try:
            meta = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except (ValueError, OSError, RecursionError) as error:
            raise CheckpointError(f"{folder / 'config.json'}: expected JSON, got something else ({error})") from error
        if not isinstance(meta, dict) or meta.get("format") != FORMAT:
            raise CheckpointError(f"{folder}: not a checkpoint of pyflowk (config.json does not say {FORMAT!r})")
        if meta.get("version") != VERSION:
            raise CheckpointError(f"{folder}: expected checkpoint version {VERSION}, got {meta.get('version')}")
        missing = {"model", "data", "train", "step", "files"} - meta.keys()
        if missing:
            raise CheckpointError(f"{folder / 'config.json'}: incomplete, {', '.join(sorted(missing))} missing")
        for key in ("model", "data", "train", "files", "content", "sampling"):
            if not isinstance(meta.get(key, {}), dict):
                raise CheckpointError(f"{folder / 'config.json'}: expected an object for {key}, got {meta[key]!r}")
        if not isinstance(meta["step"], int):
            raise CheckpointError(f"{folder / 'config.json'}: expected a number of steps, got {meta['step']!r}")
        for name, told in meta["files"].items():
            if not isinstance(told, list) or [type(number) for number in told] != [int, int]:
                raise CheckpointError(f"{folder / 'config.json'}: expected size and CRC-32 of {name}, got {told!r}")
            file, (size, crc) = folder / name, told
            got = file.stat().st_size if file.is_file() else None
            if got is None:
                raise CheckpointError(f"{file}: missing from the checkpoint")
            if got != size:
                raise CheckpointError(f"{file}: expected {size} bytes, got {got} ({_reason(file, got < size)})")
            if _crc(file) != crc:
                raise CheckpointError(f"{file}: damaged, its checksum is not the one in config.json")
        try:
            return cls(folder, {**meta, "model": modern(meta["model"])})
        except (ValueError, TypeError, KeyError) as error:
            raise CheckpointError(f"{folder / 'config.json'}: this is no model: {error}") from error

    @property
    def system(self) -> str:
        """The name of the model's system; CheckpointError where the zoo has built no such model."""
        name = self.meta["model"].get("name")
        if not isinstance(name, str):
            raise CheckpointError(
                f"{self.folder}: expected the name of a system of the zoo, got {name!r}: a model that was made in "
                "Python is built there"
            )
        return name

    @property
    def space(self) -> Space:
        """What one event of the model is."""
        try:
            return Space.from_json(self.meta["model"].get("space"))
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"{self.folder / 'config.json'}: its model has no space: {error}") from error

    @property
    def sampling(self) -> dict[str, Any]:
        """How the run draws samples, in the options that the system declares."""
        found = self.meta.get("sampling", {})
        try:
            zoo.check(self.system, {}, found)
        except (ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{self.folder / 'config.json'}: its samples cannot be drawn: {error}") from error
        return dict(found)

    @property
    def preparation(self) -> Preparation | None:
        """It was done to the rows of a table before the model saw them; None is for other data and in older runs."""
        stored = self.meta.get("preparation")
        try:
            return None if stored is None else Preparation.from_json(stored)
        except (ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{self.folder / 'config.json'}: no preparation of a table ({error})") from error

    def changes(self, data: Dataset) -> str:
        """The answer says in words how `data` differ from the run's; it is empty where nobody knows, or they do not."""
        found, content = [], self.meta.get("content", {})
        rows = len(data.train) + len(data.valid) + len(data.test)
        if content.get("fingerprint") not in (None, data.fingerprint):
            what = "samples" if data.preparation is None else "rows"
            as_many = rows == content["rows"]
            found.append(
                "other values than there were" if as_many else f"{rows} {what} where there were {content['rows']}"
            )
        before, now = self.preparation, data.preparation
        if before is not None and (now is None or (before.columns, before.given) != (now.columns, now.given)):
            found.append("other columns" if now is None or before.columns != now.columns else "other given columns")
        elif before is not None and now is not None and not (before.is_identity or isinstance(data.train, Paired)):
            found += before.drift(now.undone(*data.part("train")))
        return "; ".join(found)

    def weights(self, name: str) -> dict[str, Tensor]:
        """The tensors of name.safetensors."""
        try:
            return load_file(self.folder / f"{name}.safetensors")
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{self.folder}: {name}.safetensors is not readable ({error})") from error

    @property
    def prepared(self) -> dict[str, Tensor]:
        """What the model has found of all training rows; nothing, usually, and in older runs."""
        return self.weights("prepared") if "prepared.safetensors" in self.meta["files"] else {}

    def require_state(self) -> Path:
        """The file of what the trainer needs to go on; CheckpointError where it is not there."""
        file = self.folder / "trainer.pt"
        if not file.exists():
            raise CheckpointError(f"{self.folder}: a shared model, without what a run needs to go on (trainer.pt)")
        return file

    def state(self) -> dict[str, Any]:
        """What the trainer needs to go on; CheckpointError where it is not there, or holds more than tensors and
        plain values: nothing that could run is ever unpickled."""
        file = self.require_state()
        try:
            state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise CheckpointError(f"{file}: expected tensors and plain values: {str(error).splitlines()[0]}") from error
        return state

    def build(self) -> GenerativeModel:
        """The model as it was created, without its weights; raises CheckpointError where this version cannot."""
        name, config = self.system, {key: value for key, value in self.meta["model"].items() if key != "name"}
        try:
            return zoo.create(name, **config)
        except (ValueError, TypeError) as error:
            own = "" if name in zoo.names() else "; what registers a system of your own has to be imported first"
            raise CheckpointError(f"{self.folder}: this version cannot build its model: {error}{own}") from error

    def load_into(self, model: GenerativeModel, name: str) -> None:
        """Load name.safetensors into `model`; raises CheckpointError when they do not belong together."""
        try:
            parts.load(model, self.weights(name))
        except RuntimeError as error:
            first = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{self.folder}: the weights do not fit this version's model: {first}") from error


def load_model(path: str | Path, weights: Weights = "best") -> tuple[GenerativeModel, Checkpoint]:
    """Rebuild a trained model: the one with the best validation loss, the moving average, or the last weights.

    Returns the model in evaluation mode on the CPU, and its checkpoint, whose `preparation` leads from the rows of a
    table to what the model sees and back. Raises CheckpointError, ValueError for other weights.
    """
    files = {"best": "best", "ema": "ema", "last": "model"}
    if weights not in files:
        raise ValueError(f"weights: expected one of {', '.join(files)}; got {weights!r}")
    checkpoint = Checkpoint.open(path)
    model = checkpoint.build()
    checkpoint.load_into(model, files[weights])
    return model.eval(), checkpoint
