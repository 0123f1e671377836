"""Natural-image patches: twelve pictures that ship inside the scikit-image and scikit-learn wheels.

The preparation follows BSDS300 (Zoran and Weiss 2011; Papamakarios et al., Masked autoregressive flow, 2017,
arXiv:1705.07057) but the pictures differ: never compare with numbers published for BSDS300.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Generator, Tensor

from ...space import Space
from ..base import Dataset
from ..registry import register

SIDE = 8
GAP = 8
"""Columns between the training part and the test part of a picture, so that no patch touches both."""

FROM_SKIMAGE = (
    "astronaut.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "rocket.jpg",
    "hubble_deep_field.jpg",
    "retina.jpg",
    "ihc.png",
    "moon.png",
    "coins.png",
)
FROM_SKLEARN = ("china.jpg", "flower.jpg")
TRAIN, VALID, TEST = 110_000, 10_000, 24_000


def _pictures() -> list[Tensor]:
    """The twelve pictures as grey (H, W) float32 in 0..255."""
    try:
        import skimage
        import sklearn.datasets
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            "patches needs the pictures of two packages: pip install scikit-image scikit-learn"
        ) from error
    import numpy as np

    first = Path(str(skimage.__file__)).parent / "data"
    second = Path(str(sklearn.datasets.__file__)).parent / "images"
    pictures = []
    for path in [*(first / name for name in FROM_SKIMAGE), *(second / name for name in FROM_SKLEARN)]:
        if not path.is_file():
            raise FileNotFoundError(f"patches needs {path.name}, which this version of its package lacks: {path}")
        with Image.open(path) as picture:
            pictures.append(torch.from_numpy(np.asarray(picture.convert("L"), dtype=np.float32).copy()))
    return pictures


def _cut(picture: Tensor, count: int, generator: Generator) -> Tensor:
    """`count` patches (count, 64) at uniformly drawn positions of one (H, W) picture."""
    windows = picture.unfold(0, SIDE, 1).unfold(1, SIDE, 1)
    rows = torch.randint(windows.shape[0], (count,), generator=generator)
    columns = torch.randint(windows.shape[1], (count,), generator=generator)
    return windows[rows, columns].reshape(count, SIDE * SIDE)


def prepare(patches: Tensor, generator: Generator) -> Tensor:
    """Grey patches (N, 64) in 0..255 -> (N, 63): add U(0, 1), divide by 256, subtract the patch mean, drop one pixel.

    The last pixel goes because the mean has made it a linear function of the others.

    >>> import torch
    >>> from pyflowk.datasets.sets.patches import prepare
    >>> prepare(torch.zeros(2, 64), torch.Generator().manual_seed(0)).shape
    torch.Size([2, 63])
    """
    x = (patches + torch.rand(patches.shape, generator=generator)) / 256
    return (x - x.mean(dim=1, keepdim=True))[:, :-1]


@register("patches", "144,000 natural-image patches, 63 numbers")
def load_patches(seed: int) -> Dataset:
    """110,000 / 10,000 / 24,000 patches, equally many of each picture: its left for training, its right for testing."""
    generator = torch.Generator().manual_seed(seed)
    pictures = _pictures()
    train, test = [], []
    for picture in pictures:
        edge = picture.shape[1] * 3 // 4
        train.append(_cut(picture[:, :edge], (TRAIN + VALID) // len(pictures), generator))
        test.append(_cut(picture[:, edge + GAP :], TEST // len(pictures), generator))
    x = torch.cat(train)[torch.randperm(TRAIN + VALID, generator=generator)]
    return Dataset(
        "patches",
        Space((SIDE * SIDE - 1,)),
        prepare(x[:TRAIN], generator),
        prepare(x[TRAIN:], generator),
        prepare(torch.cat(test), generator),
    )
