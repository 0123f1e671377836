"""Hutchinson's estimate of a trace: random directions from a counter, and their products with a field's tangents."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ._router import FusedOp
from .draw import draw_keys
from .dtypes import FLOATING, state_dtype
from .random_numbers import RANDOM, check_keys, random_formula, random_numbers

__all__ = ["NOISES", "Probes", "draw_probes", "trace_estimate"]

_KINDS = {"rademacher": "sign", "gaussian": "normal"}
#: name -> code of the noise in `csrc/math/philox.h`.
NOISES = {name: RANDOM[kind] for name, kind in _KINDS.items()}


class Probes(NamedTuple):
    r"""The random directions of one solve: `number` for every row, made again from its key wherever they are needed.

    Direction `probe` of a row depends on the row's key alone, never on the rows beside it.

    >>> probes = draw_probes(torch.zeros(2, 3), 4)
    >>> probes.directions(torch.zeros(2, 3)).square()[0, 0]
    tensor([1., 1., 1.])
    """

    keys: Tensor  # (B,), int64
    number: int
    noise: str

    def directions(self, x: Tensor) -> Tensor:
        r"""Make the directions again, (B, count, \*event) for x (B, \*event), in its dtype."""
        flat = random_numbers(self.keys, self.number, x.shape[1:].numel(), _KINDS[self.noise], x.dtype)
        return flat.reshape(x.shape[0], self.number, *x.shape[1:])


def draw_probes(
    x: Tensor, count: int = 1, noise: str = "rademacher", generator: torch.Generator | None = None
) -> Probes:
    r"""Draw random directions e with E[e e^T] = I, `count` for every row of x (B, \*event): a key a row.

    "rademacher": signs, whose estimate of tr A has the variance 2 sum_{i != j} S_ij^2 for S the symmetric part of A,
    never more than that of "gaussian", 2 |S|_F^2, and none for diagonal A. ValueError for another name or count < 1.
    The numbers behind a key are those of Philox 4x32-10 (Salmon, Moraes, Dror, Shaw 2011), on every device the same
    signs, and normal numbers up to rounding.

    >>> draw_probes(torch.zeros(2, 3), 4).keys.shape
    torch.Size([2])
    """
    if count < 1:
        raise ValueError(f"expected at least one probe, got {count}")
    if noise not in NOISES:
        raise ValueError(f"noise: expected one of {', '.join(NOISES)}; got {noise!r}")
    keys = draw_keys(x.shape[0], generator, device=x.device)
    return Probes(keys, count, noise)


# ---- their products with the images ----------------------------------------------------------------------------------


def _as_directions(images: Tensor, keys: Tensor, noise: int) -> Tensor:
    return random_formula(keys, images.shape[1], images.shape[2], noise, images.dtype == torch.float64)[0]


def _formula(images: Tensor, keys: Tensor, noise: int) -> tuple[Tensor, Tensor]:
    """The op in plain torch: the reference of the kernels, and what functorch and small compiled graphs see."""
    wide = images.to(state_dtype(images))
    products = (_as_directions(images, keys, noise) * wide).sum((1, 2))
    return products / images.shape[1], (wide * wide).sum((1, 2)) / images.shape[1]


def _backward(images: Tensor, keys: Tensor, ddivergence: Tensor, dsquare: Tensor, noise: int) -> tuple[Tensor]:
    column = lambda t: (t / images.shape[1]).reshape(-1, 1, 1)  # noqa: E731
    wide = images.to(state_dtype(images))
    both = column(ddivergence) * _as_directions(images, keys, noise) + column(2 * dsquare) * wide
    return (both.to(images.dtype),)


def _check(images: Tensor, keys: Tensor, noise: int) -> None:
    """What `csrc/bind/hutchinson.cpp` checks, for the paths that do not go through it."""
    if images.dtype not in FLOATING:
        raise TypeError(f"hutchinson: images must be float32, float64, bfloat16 or float16; got {images.dtype}")
    if images.ndim != 3 or images.shape[1] < 1:
        raise ValueError(f"hutchinson: images must be (B, K, D) with at least one probe; got {tuple(images.shape)}")
    check_keys("hutchinson", keys, images.shape[0])
    if keys.device != images.device:
        raise ValueError(f"hutchinson: images and keys must be on one device; got {images.device} and {keys.device}")
    if noise not in NOISES.values():
        raise ValueError(f"hutchinson: noise must be 0 (Rademacher) or 1 (Gaussian); got {noise}")


_op = FusedOp(
    "hutchinson",
    "(Tensor images, Tensor keys, int noise) -> (Tensor, Tensor)",
    formula=_formula,
    check=_check,
    fake=lambda images, *_: tuple(images.new_empty(images.shape[:1], dtype=state_dtype(images)) for _ in range(2)),
    saved=lambda images, keys, *_: (images, keys),
    backward=FusedOp(
        "hutchinson_backward",
        "(Tensor images, Tensor keys, Tensor ddivergence, Tensor dsquare, int noise) -> Tensor",
        formula=_backward,
        fake=lambda images, *_: (images.new_empty(images.shape),),
        indices=("keys",),
    ),
    indices=("keys",),
)


def trace_estimate(images: Tensor, probes: Probes) -> tuple[Tensor, Tensor]:
    r"""Estimate traces: the means over k of e_k . v_k and of |v_k|^2, from v_k = A e_k for directions e_k of `probes`.

    These are Hutchinson's unbiased estimates of tr A and of |A|_F^2, row by row.

    Args:
        images: (B, K, \*event), float32, float64, bfloat16 or float16, any strides.
        probes: of :func:`draw_probes`, of K directions.

    Returns:
        Two tensors (B,), float32 (float64 for float64 images); NaN where a row has one. Bitwise the same for any batch
        mates and threads.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit.

    Cost: one pass over the images, in either direction; the directions are made again, not read. Sources: Hutchinson
    1990; Grathwohl et al. 2019 (arXiv:1810.01367).

    >>> x = torch.zeros(2, 3)
    >>> probes = draw_probes(x, 4)
    >>> trace_estimate(5 * probes.directions(x), probes)  # A = 5 I
    (tensor([15., 15.]), tensor([75., 75.]))
    """
    if images.shape[1:2] != (probes.number,):
        raise ValueError(f"hutchinson: images must be (B, {probes.number}, *event); got {tuple(images.shape)}")
    return _op((images.flatten(2), probes.keys, NOISES[probes.noise]))
