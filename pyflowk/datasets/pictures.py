"""Files of pictures: decoded as a viewer shows them, looked through once, and read when they are asked for."""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from .memory import fits
from .rows import OnDemand, Watch

if TYPE_CHECKING:
    from PIL.Image import Image

Item = TypeVar("Item")
Found = TypeVar("Found")

RANGES = (1, 255, 65535)
"""White, in numbers without a convention of their own: floats up to 1, or those of 8 or 16 bits."""
AT_ONCE = 64
"""Pictures that are decoded together, on as many threads as there are processors."""


class PictureFiles(OnDemand):
    """Pictures (N, C, H, W) of bytes that are decoded when they are asked for."""

    decoded = True

    def __init__(self, paths: Sequence[Path], size: int | None, picture: tuple[int, int, int], white: int) -> None:
        super().__init__((len(paths), *picture), torch.uint8)
        self.paths, self.size, self.white = tuple(paths), size, white

    def __getitem__(self, rows: Tensor | slice, /) -> Tensor:
        numbers = range(len(self))[rows] if isinstance(rows, slice) else rows.tolist()
        found = torch.empty((len(numbers), *self.shape[1:]), dtype=torch.uint8)
        for start in range(0, len(numbers), AT_ONCE):
            for i, pixels in enumerate(_each(self._decode, numbers[start : start + AT_ONCE]), start):
                found[i] = _channels(pixels, self.shape[1])
        return found

    def _decode(self, number: int) -> Any:
        pixels = _bytes(read(self.paths[number], self.size, Counter()), self.white)
        if pixels.shape[:2] != self.shape[2:]:
            raise ValueError(f"{self.paths[number]}: has changed: {pixels.shape[1]} x {pixels.shape[0]} pixels now")
        return pixels


def survey(
    folder: Path,
    paths: Sequence[Path],
    size: int | None,
    found: Counter[str],
    memory: int | None = None,
    watch: Watch | None = None,
) -> tuple[Tensor | PictureFiles, list[bytes]]:
    """Decode every picture once: all of them (N, C, H, W) in bytes, and digests that are equal where the pixels are.

    What takes more than ``memory`` bytes as float32 of three channels is not kept but decoded again on demand;
    ``found`` counts what is to be told. Raises ValueError for an unreadable picture and for two sizes.
    """
    say = None if watch is None else watch("looked through")
    looks: list[_Look] = []
    kept = True
    for start in range(0, len(paths), AT_ONCE):
        looks += _each(partial(_Look, size=size, keep=kept), paths[start : start + AT_ONCE])
        if start == 0 and not fits(12 * len(paths) * math.prod(looks[0].size), memory):
            kept, looks = False, [look.without_pixels() for look in looks]
        if say is not None:
            say(len(looks) / len(paths))
    for look in looks:
        found.update(look.found)
    _require_one_size(folder, paths, [look.size for look in looks])
    white = next(top for top in RANGES if max(look.highest for look in looks) <= top)  # the smallest that holds all
    width, height = looks[0].size
    files = PictureFiles(paths, size, (1 if all(look.grey for look in looks) else 3, height, width), white)
    if not kept:
        unknown = [i for i, look in enumerate(looks) if look.digest is None]  # the white of all had to be known first
        later = dict(zip(unknown, _each(lambda i: _digest(files._decode(i)), unknown)))
        return files, [look.digest or later[i] for i, look in enumerate(looks)]
    x = torch.empty(files.shape, dtype=torch.uint8)
    digests = []
    for i, look in enumerate(looks):
        pixels = _bytes(look.pixels, white)
        x[i] = _channels(pixels, files.shape[1])
        digests.append(look.digest or _digest(pixels))
    return x, digests


class _Look:
    """What is kept of a picture that was decoded; no digest of numbers whose range is not known yet."""

    def __init__(self, path: Path, size: int | None, keep: bool) -> None:
        counted: Counter[str] = Counter()
        picture = read(path, size, counted)
        self.highest, self.found = counted.pop("highest", 0), counted
        self.size: tuple[int, int] = picture.size
        pixels = None if picture.mode == "F" else _bytes(picture, 255)
        self.grey = pixels is None or pixels.ndim == 2 or bool((pixels == pixels[..., :1]).all())
        self.digest = None if pixels is None else _digest(pixels)
        self.pixels = (picture if pixels is None else pixels) if keep else None

    def without_pixels(self) -> _Look:
        self.pixels = None
        return self


def _each(function: Callable[[Item], Found], items: Sequence[Item]) -> list[Found]:
    """The function of each item, in order, on several threads; on this one in a process that reads rows only."""
    threads = min(len(items), os.cpu_count() or 1)
    if threads < 2 or get_worker_info() is not None:
        return [function(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, items))


def _digest(pixels: Any) -> bytes:
    """Of (H, W), or of (H, W, 3) which is the same where all of it is grey."""
    if pixels.ndim == 3 and bool((pixels == pixels[..., :1]).all()):
        pixels = pixels[..., 0]
    return hashlib.blake2b(pixels.tobytes(), digest_size=32, person=b"grey" if pixels.ndim == 2 else b"rgb").digest()


def _bytes(picture: Image | Any, white: int) -> Any:
    """The pixels of a picture as bytes (H, W) or (H, W, 3)."""
    import numpy as np

    pixels = np.array(picture)
    return (pixels.clip(0, white) * (255 / white) + 0.5).astype(np.uint8) if pixels.dtype == np.float32 else pixels


def _channels(pixels: Any, count: int) -> Tensor:
    """Bytes (H, W) or (H, W, 3) as (1, H, W) or (3, H, W)."""
    found: Tensor = torch.from_numpy(pixels if pixels.ndim == 3 else pixels[..., None]).permute(2, 0, 1)
    return found[:1] if count == 1 else found.expand(3, -1, -1)


def _require_one_size(folder: Path, paths: Sequence[Path], sizes: Sequence[tuple[int, int]]) -> None:
    for path, size in zip(paths, sizes):
        if size != sizes[0]:
            raise ValueError(
                f"{folder}: expected pictures of one size, got {paths[0].name} {sizes[0]} and {path.name} "
                f"{size}; --size 32, size=32 in Python, brings all of them to 32 x 32 pixels"
            )


def read(path: Path, size: int | None, found: Counter[str]) -> Image:
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
