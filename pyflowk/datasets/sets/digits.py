"""Handwritten digits that scikit-learn brings."""

from __future__ import annotations

import torch

from ...space import Context, Space
from ..base import Dataset, split
from ..registry import register


@register("digits", "1797 grey 8x8 images, 17 levels, 10 classes")
def load_digits(seed: int) -> Dataset:
    """1797 grey 8 x 8 images with 17 levels and 10 classes, from the scikit-learn wheel; 1437 / 180 / 180."""
    try:
        from sklearn.datasets import load_digits as from_sklearn
    except ImportError as error:
        raise ImportError("digits needs scikit-learn: pip install 'pyflowk[train]'") from error
    bunch = from_sklearn()
    x, y = torch.from_numpy(bunch.images).unsqueeze(1), torch.from_numpy(bunch.target).long()
    return split("digits", Space((1, 8, 8), levels=17, context=Context("labels", 10)), x, y, seed=seed)
