"""A folder of the user's own pictures, whatever they were saved as."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..space import Space
from .base import Dataset, label_context, split
from .pictures import survey
from .rows import Mapped, OnDemand, Watch, pieces

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
NOTES = {
    "frames": "{} of several frames or pages: the first is taken",
    "deep": "{} of more than 8 bits: reduced to 256 levels",
    "alpha": "{} with transparent parts: laid on white",
    "enlarged": "{} smaller than --size: enlarged",
    "copies": "{} identical to another: copies stay on one side of the split",
}


def load_folder(
    folder: Path, seed: int, size: int | None = None, memory: int | None = None, watch: Watch | None = None
) -> Dataset:
    """All pictures below `folder`; subfolders, where there are several, are the classes. 80 / 10 / 10 %.

    Each picture is turned as its EXIF data say, laid on white where it is transparent, and reduced to 256 levels where
    it has more (16 bits, or numbers whose range, that of all such pictures of the folder, tells what is white); of an
    animation the first frame is taken; `notes` count these. Where all pixels are grey there is one channel, otherwise
    three. `size` brings the shorter side to that many pixels (Lanczos) and cuts out the middle square; without it all
    pictures must be of one size. Names that begin with a dot are passed over. Pictures with the same pixels come into
    the same part of the split.

    Pictures that take more than `memory` bytes as float32 of three channels are decoded when they are asked for; before
    that all are decoded once to be compared and once for the fingerprint.

    Raises ValueError for no picture, an unreadable one, two sizes, and pictures beside the folders of classes.
    """
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise ImportError("a folder of images needs Pillow: pip install 'pyflowk[train]'") from error
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise ValueError(f"size: expected a number of pixels, got {size!r}")
    paths = _pictures(folder)
    labels = _labels(folder, paths)
    found: Counter[str] = Counter()
    x, digests = survey(folder, paths, size, found, memory, watch)
    return split_pictures(str(folder), x, labels, numbered(digests), seed, found, watch)


def split_array(name: str, x: Tensor | OnDemand, seed: int, watch: Watch | None = None) -> Dataset:
    """Pictures (N, H, W) or (N, C, H, W) of bytes in three parts, in memory or on demand."""
    if x.ndim == 4 and x.shape[1] not in (1, 3):
        raise ValueError(f"{name}: expected images (N, H, W), (N, 1, H, W) or (N, 3, H, W), got {tuple(x.shape)}")
    digests = (
        hashlib.blake2b(row.numpy().tobytes()).digest() for _, rows in pieces(x, "compared", watch) for row in rows
    )
    groups = numbered(digests)
    if x.ndim == 3:
        one = partial(torch.unsqueeze, dim=1)
        x = Mapped(x, one, (1, *x.shape[1:]), x.dtype) if isinstance(x, OnDemand) else one(x)
    return split_pictures(name, x, None, groups, seed, Counter(), watch)


def split_pictures(
    name: str,
    x: Tensor | OnDemand,
    labels: Tensor | None,
    groups: Tensor,
    seed: int,
    found: Counter[str],
    watch: Watch | None,
) -> Dataset:
    """Pictures (N, C, H, W) of bytes in three parts, equal ones in the same; ``found`` counts what is to be told."""
    space = Space(tuple(x.shape[1:]), levels=256, context=label_context(labels))
    found["copies"] = len(x) - int(groups.max()) - 1
    notes = tuple(text.format(_number(found[key])) for key, text in NOTES.items() if found[key])
    return dataclasses.replace(split(name, space, x, labels, seed=seed, groups=groups, watch=watch), notes=notes)


def numbered(digests: Iterable[bytes]) -> Tensor:
    """The number (N,) of the first of all equal samples, counting different ones."""
    known: dict[bytes, int] = {}
    return torch.tensor([known.setdefault(digest, len(known)) for digest in digests])


def _number(count: int) -> str:
    return f"{count} picture" + "s" * (count != 1)


def _pictures(folder: Path) -> list[Path]:
    """The files that are meant: nothing that file managers, notebooks or archives have left in hidden places."""

    def hidden(path: Path) -> bool:
        return any(part.startswith(".") or part == "__MACOSX" for part in path.relative_to(folder).parts)

    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file() and not hidden(p))
    if not paths:
        raise ValueError(f"{folder}: expected pictures ({', '.join(SUFFIXES)}), found none")
    return paths


def _labels(folder: Path, paths: list[Path]) -> Tensor | None:
    """The number of the subfolder of each picture, or None where there are not several of them."""
    kinds = [p.relative_to(folder).parts[0] if p.parent != folder else None for p in paths]
    groups = sorted({kind for kind in kinds if kind is not None})
    if len(groups) < 2:
        return None
    if None in kinds:
        loose = paths[kinds.index(None)].name
        raise ValueError(
            f"{folder}: expected every picture in a folder of its class ({', '.join(groups[:5])}"
            f"{', ...' if len(groups) > 5 else ''}), but {loose} lies beside them ({kinds.count(None)} such pictures)"
        )
    return torch.tensor([groups.index(kind) for kind in kinds if kind is not None])
