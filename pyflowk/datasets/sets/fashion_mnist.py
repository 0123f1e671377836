"""Fashion-MNIST, from the package of Debian or from the user's folder."""

from __future__ import annotations

import gzip
from pathlib import Path

import torch
from torch import Tensor

from ...space import Context, Space
from ..base import Dataset
from ..files import digest
from ..registry import register

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where the Debian package dataset-fashion-mnist puts its files."""


def read_idx(path: Path) -> Tensor:
    """One gzipped IDX file of unsigned bytes: magic 0x000008RR (RR = rank), RR big-endian sizes, then the bytes."""
    try:
        raw = gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise ValueError(f"{path}: expected a complete gzip file, got one that does not unpack ({error})") from error
    rank = raw[3] if len(raw) > 3 and raw[:3] == b"\0\0\x08" else 0
    header = 4 + 4 * rank
    shape = [int.from_bytes(raw[i : i + 4], "big") for i in range(4, header, 4)]
    if rank == 0 or len(raw) - header != torch.Size(shape).numel():
        raise ValueError(f"{path}: expected an IDX file of bytes, got {len(raw)} bytes that are not one")
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8, offset=header).reshape(shape)


@register("fashion-mnist", "70,000 grey 28x28 images, 256 levels, 10 classes", files=True)
def load_fashion_mnist(seed: int, data_dir: str | None) -> Dataset:
    """60,000 + 10,000 grey 28 x 28 images of 256 levels and 10 classes (Xiao et al. 2017, arXiv:1708.07747).

    5,000 of the training images, chosen by `seed`, are the validation set.
    """
    folder = Path(data_dir) if data_dir is not None else DEBIAN_FOLDER
    names = [f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"fashion-mnist: {missing[0]} is not in {folder}: "
            "apt-get install dataset-fashion-mnist, or give the folder that holds the four files with --data-dir"
        )
    x, y, test, test_labels = (read_idx(folder / name) for name in names)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    train, valid = order[:-5000], order[-5000:]
    pictures = [part.unsqueeze(1).float() for part in (x[train], x[valid], test)]
    labels = [part.long() for part in (y[train], y[valid], test_labels)]
    content = digest(*pictures, *labels)
    space = Space(tuple(pictures[0].shape[1:]), levels=256, context=Context("labels", 10))
    return Dataset("fashion-mnist", space, *pictures, *labels, fingerprint=content)
