"""Pairs of noise and data that a model has made, in a folder: the noise as its seed, the data as an array."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..ops.random_numbers import random_numbers
from ..space import Paired
from .base import Dataset
from .files import digest
from .preparation import Preparation

FORMAT = "pyflowk pairs"
PLAN, ENDS, CONTEXT = "pairs.json", "ends.npy", "context.npy"
_ROWS = 2**40
"""Rows of a seed have keys of their own below this."""


def noise_of(seed: int, first: int, rows: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normal float32 numbers (rows, *shape) of rows ``first`` and up: the same whichever rows are asked for.

    >>> from pyflowk.datasets.pairs import noise_of
    >>> noise_of(1, 0, 5, (2,))[3:].equal(noise_of(1, 3, 2, (2,)))
    True
    """
    keys = seed * _ROWS % 2**62 + torch.arange(first, first + rows)
    return random_numbers(keys, 1, torch.Size(shape).numel(), "normal").reshape(rows, *shape)


def write_pairs(
    folder: Path,
    make: Callable[[Tensor, Any], Tensor],
    contexts: Any,
    counts: tuple[int, int],
    shape: tuple[int, ...],
    *,
    seed: int,
    origin: dict[str, Any],
    block: int = 512,
    watch: Callable[[float], None] | None = None,
) -> None:
    """Fill a folder with the ends x1 = make(x0, context) of noise x0, ``counts`` of them to train on and to validate.

    ``contexts`` (N, ...) are taken in turn; None for a model without. ``origin`` says where the data lie on whose test
    part the model that learns from the pairs will be judged. What is there already for the same plan is kept: a work
    that was interrupted goes on. Raises ValueError where another plan has been begun in the folder, and where an end
    is not finite.
    """
    total = sum(counts)
    plan = {
        "format": FORMAT, "seed": seed, "counts": list(counts), "shape": list(shape), "data": origin,
        "context": contexts is not None,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    ends, partial = folder / ENDS, folder / f"{ENDS}.part"
    if ends.exists():
        if json.loads((folder / PLAN).read_text(encoding="utf-8")) != plan:
            raise ValueError(f"{folder} holds other pairs already: choose another folder")
        return
    begun = folder / f"{PLAN}.part"
    done = 0
    if begun.exists() and partial.exists():
        stored = json.loads(begun.read_text(encoding="utf-8"))
        done = stored.pop("done") if stored["plan"] == plan else 0
    x1 = np.lib.format.open_memmap(partial, "r+" if done else "w+", np.float32, (total, *shape))
    for start in range(done, total, block):
        rows = min(block, total - start)
        given = None if contexts is None else contexts[torch.arange(start, start + rows) % len(contexts)]
        found = make(noise_of(seed, start, rows, shape), given)
        if not bool(found.isfinite().all()):
            raise ValueError(f"pairs: expected finite ends, got others among rows {start} to {start + rows - 1}")
        x1[start : start + rows] = found.float().cpu().numpy()
        x1.flush()
        begun.write_text(json.dumps({"plan": plan, "done": start + rows}), encoding="utf-8")
        if watch is not None:
            watch((start + rows) / total)
    del x1
    if contexts is not None:
        np.save(folder / CONTEXT, contexts[torch.arange(total) % len(contexts)].numpy())
    (folder / PLAN).write_text(json.dumps(plan, indent=2), encoding="utf-8")
    os.replace(partial, ends)  # last: what is there is whole
    begun.unlink(missing_ok=True)


def source_of(origin: dict[str, Any]) -> dict[str, Any]:
    """Where data come from: of pairs, the data they were made for."""
    folder = Path(origin["name"])
    return json.loads((folder / PLAN).read_text(encoding="utf-8"))["data"] if holds_pairs(folder) else origin


def holds_pairs(folder: Path) -> bool:
    """Whether a folder is one of `write_pairs`, whole."""
    return (folder / PLAN).is_file() and (folder / ENDS).is_file()


def load_pairs(folder: Path, load: Callable[..., Dataset]) -> Dataset:
    """The pairs of a folder as the training and validation rows of the data they were made for, which are tested on."""
    plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
    if plan.get("format") != FORMAT:
        raise ValueError(f"{folder / PLAN}: expected {FORMAT}, got {plan.get('format')!r}")
    source = {key: value for key, value in plan["data"].items() if value is not None}
    if "preparation" in source:
        source["preparation"] = Preparation.from_json(source["preparation"])
    own = load(source.pop("name"), **source)
    (count, more), shape = plan["counts"], tuple(plan["shape"])
    x1 = torch.from_numpy(np.load(folder / ENDS))
    pairs = Paired(noise_of(plan["seed"], 0, count + more, shape), x1)
    context = torch.from_numpy(np.load(folder / CONTEXT)) if plan["context"] else None
    train, valid = (None, None) if context is None else (context[:count], context[count:])
    space = own.space if context is not None else replace(own.space, context=None)
    return Dataset(
        str(folder), space, pairs[:count], pairs[count:], own.test, train, valid,
        own.test_context if context is not None else None,
        preparation=own.preparation, fingerprint=digest(x1), entropy=own.entropy,
    )  # fmt: skip
