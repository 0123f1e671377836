"""A folder of the user's own pictures, whatever they were saved as."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..space import Space
from .base import Dataset, label_context, split

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
RANGES = (1, 255, 65535)
"""White, in numbers without a convention of their own: floats up to 1, or those of 8 or 16 bits."""
NOTES = {
    "frames": "{} of several frames or pages: the first is taken",
    "deep": "{} of more than 8 bits: reduced to 256 levels",
    "alpha": "{} with transparent parts: laid on white",
    "enlarged": "{} smaller than --size: enlarged",
    "copies": "{} identical to another: copies stay on one side of the split",
}


def load_folder(folder: Path, seed: int, size: int | None = None) -> Dataset:
    """All pictures below `folder`; subfolders, where there are several, are the classes. 80 / 10 / 10 %.

    Each picture is turned as its EXIF data say, laid on white where it is transparent, and reduced to 256 levels where
    it has more (16 bits, or numbers whose range, that of all such pictures of the folder, tells what is white); of an
    animation the first frame is taken; `notes` count these. Where all pixels are grey there is one channel, otherwise
    three. `size` brings the shorter side to that many pixels (Lanczos) and cuts out the middle square; without it all
    pictures must be of one size. Names that begin with a dot are passed over. Pictures with the same pixels come into
    the same part of the split.

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
    pictures = [_read(path, size, found) for path in paths]
    _require_one_size(folder, paths, pictures)
    return split_pictures(str(folder), _stack(pictures, found.pop("highest", 0)), labels, seed, found)


def split_pictures(name: str, x: Tensor, labels: Tensor | None, seed: int, found: Counter[str]) -> Dataset:
    """Pictures (N, C, H, W) of bytes in three parts, equal ones in the same; ``found`` counts what is to be told."""
    space = Space(tuple(x.shape[1:]), levels=256, context=label_context(labels))
    groups = _groups(x)
    found["copies"] = len(x) - int(groups.max()) - 1
    notes = tuple(text.format(_number(found[key])) for key, text in NOTES.items() if found[key])
    return dataclasses.replace(split(name, space, x, labels, seed=seed, groups=groups), notes=notes)


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


def _groups(x: Tensor) -> Tensor:
    """The number (N,) of the first of all equal samples, counting different ones."""
    known: dict[bytes, int] = {}
    digests = (hashlib.blake2b(row.numpy().tobytes()).digest() for row in x)
    return torch.tensor([known.setdefault(digest, len(known)) for digest in digests])


def _read(path: Path, size: int | None, found: Counter[str]) -> Image:
    """One picture, upright and opaque, of mode L or RGB, or F where the range of its numbers is not known yet."""
    import numpy as np
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            found["frames"] += getattr(opened, "n_frames", 1) > 1
            picture = _opaque(_plain(ImageOps.exif_transpose(opened), found), found)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: not a readable picture ({error})") from error
    if picture.mode == "F":
        numbers = np.asarray(picture)
        low, high = float(numbers.min()), float(numbers.max())
        if not 0 <= low <= high <= RANGES[-1]:
            raise ValueError(f"{path}: expected grey values 0 to 1, 255 or 65535, got {low:g} to {high:g}")
        found["highest"] = max(found["highest"], math.ceil(high))
    if size is None:
        return picture
    found["enlarged"] += min(picture.size) < size
    return ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS)


def _plain(picture: Image, found: Counter[str]) -> Image:
    """Modes L, LA, RGB, RGBA and, for numbers without a convention, F."""
    import numpy as np
    from PIL import Image

    if picture.mode.startswith("I;16"):
        found["deep"] += 1
        return Image.fromarray(((np.asarray(picture).astype(np.int32) + 128) // 257).astype(np.uint8))
    if picture.mode in ("I", "F"):
        found["deep"] += 1
        return picture.convert("F")
    if picture.has_transparency_data:
        return picture.convert("LA" if picture.mode in ("1", "L", "LA", "La") else "RGBA")
    return picture.convert("L" if picture.mode in ("1", "L") else "RGB")


def _opaque(picture: Image, found: Counter[str]) -> Image:
    """Without the channel of transparency."""
    from PIL import Image

    if picture.mode not in ("LA", "RGBA"):
        return picture
    if picture.getchannel("A").getextrema()[0] == 255:
        return picture.convert(picture.mode[:-1])
    found["alpha"] += 1
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture.convert("RGBA")).convert(picture.mode[:-1])


def _require_one_size(folder: Path, paths: list[Path], pictures: list[Image]) -> None:
    for path, picture in zip(paths, pictures):
        if picture.size != pictures[0].size:
            raise ValueError(
                f"{folder}: expected pictures of one size, got {paths[0].name} {pictures[0].size} and {path.name} "
                f"{picture.size}; --size 32, size=32 in Python, brings all of them to 32 x 32 pixels"
            )


def _stack(pictures: list[Image], highest: int) -> Tensor:
    """(N, 1, H, W) where all pixels are grey, else (N, 3, H, W), bytes."""
    import numpy as np

    arrays = [np.asarray(picture) for picture in pictures]
    white = next(top for top in RANGES if highest <= top)  # the smallest range that holds all of them
    for i, picture in enumerate(pictures):
        if picture.mode == "F":
            arrays[i] = (arrays[i].clip(0, white) * (255 / white) + 0.5).astype(np.uint8)
    if all(a.ndim == 2 or bool((a == a[..., :1]).all()) for a in arrays):
        return torch.from_numpy(np.stack([a if a.ndim == 2 else a[..., 0] for a in arrays])).unsqueeze(1)
    colour = np.stack([np.repeat(a[..., None], 3, 2) if a.ndim == 2 else a for a in arrays])
    return torch.from_numpy(colour).permute(0, 3, 1, 2).contiguous()
