"""Square matrices by their LU factors, with the log-determinant for nothing; and factors of dense ones."""

from __future__ import annotations

import torch
from torch import Tensor

from ._router import FusedOp
from .dtypes import FLOATING, state_dtype
from .modes import capturing, transformed

__all__ = ["SingularTransformError", "lu_factor_slogdet", "lu_weight"]


class SingularTransformError(ValueError):
    """A linear map that has no inverse; the message names the pivot that vanished."""


def _factors(lu: Tensor, signs: Tensor) -> tuple[Tensor, Tensor]:
    """(L, U) with their diagonals."""
    lu = lu.to(state_dtype(lu))
    pivots = signs * torch.exp(lu.diagonal(dim1=-2, dim2=-1))
    identity = torch.eye(lu.shape[-1], dtype=lu.dtype, device=lu.device)
    return lu.tril(-1) + identity, lu.triu(1) + torch.diag_embed(pivots)


def _formula(lu: Tensor, permutation: Tensor, signs: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
    """The op in plain torch: the reference of every kernel, and what Inductor and functorch see."""
    lower, upper = _factors(lu, signs)
    terms = lu.to(lower.dtype).diagonal(dim1=-2, dim2=-1)
    if not inverse:
        weight = (lower @ upper).take_along_dim(permutation[..., None], -2)
        return weight, terms.clone()
    identity = torch.eye(lu.shape[-1], dtype=lower.dtype, device=lu.device).expand(lower.shape)
    half = torch.linalg.solve_triangular(lower, identity, upper=False, unitriangular=True)
    weight = torch.linalg.solve_triangular(upper, half, upper=True).take_along_dim(permutation[..., None, :], -1)
    return weight, -terms


def _backward_formula(
    lu: Tensor, weight: Tensor, permutation: Tensor, signs: Tensor, dweight: Tensor, dterms: Tensor, inverse: bool
) -> tuple[Tensor]:
    """Through the product dL = dT U^T and dU = L^T dT; through its inverse V, with dY = U^-T dV and Y = U V,
    dU = -dY V^T and dL = -(L^-T dY) Y^T. The permutation of V's columns, over which all of these sum, plays no part.
    """
    lower, upper = _factors(lu, signs)
    if inverse:
        dhalf = torch.linalg.solve_triangular(upper.mT, dweight, upper=False)
        dupper = -dhalf @ weight.mT
        dlower = -torch.linalg.solve_triangular(lower.mT, dhalf, upper=True, unitriangular=True) @ (upper @ weight).mT
        dterms = -dterms
    else:
        index = permutation.argsort(-1)[..., None]
        product = dweight.take_along_dim(index, -2)
        dlower, dupper = product @ upper.mT, lower.mT @ product
    pivots = upper.diagonal(dim1=-2, dim2=-1)
    diagonal = dupper.diagonal(dim1=-2, dim2=-1) * pivots + dterms
    return ((dlower.tril(-1) + dupper.triu(1) + torch.diag_embed(diagonal)).to(lu.dtype),)


def _check(lu: Tensor, *rest: object) -> None:
    """What `csrc/bind/lu_weight.cpp` checks, for the paths that do not go through it."""
    permutation, signs = (t for t in rest if isinstance(t, Tensor) and not t.is_floating_point())
    if lu.dtype not in FLOATING:
        raise TypeError(f"lu_weight: lu must be float32, float64, bfloat16 or float16; got {lu.dtype}")
    if lu.ndim != 3 or lu.shape[1] != lu.shape[2]:
        raise ValueError(f"lu_weight: lu must be (N, C, C); got {tuple(lu.shape)}")
    for name, tensor in (("permutation", permutation), ("signs", signs)):
        if tensor.shape != lu.shape[:2] or tensor.dtype != torch.int64:
            raise ValueError(
                f"lu_weight: {name} must be {tuple(lu.shape[:2])} and int64 for lu {tuple(lu.shape)}; "
                f"got {tuple(tensor.shape)}, {tensor.dtype}"
            )
        if tensor.device != lu.device:
            raise ValueError(f"lu_weight: lu and {name} must be on one device; got {lu.device} and {tensor.device}")


def _fake(lu: Tensor, permutation: Tensor, signs: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
    dtype = state_dtype(lu)
    return lu.new_empty(lu.shape, dtype=dtype), lu.new_empty(lu.shape[:2], dtype=dtype)


def _large(lu: Tensor, *rest: Tensor | bool) -> bool:
    """Predicted for an H200: a thread a column takes n^2 steps of some 20 ns for an inverse (0.1 ms at 64), one an
    element n steps for a product (some 0.1 ms at 512); the library 0.1 ms for either."""
    return lu.ndim == 3 and lu.shape[1] >= (64 if rest[-1] else 512)


_op = FusedOp(
    "lu_weight",
    "(Tensor lu, Tensor permutation, Tensor signs, bool inverse) -> (Tensor, Tensor)",
    formula=_formula,
    check=_check,
    fake=_fake,
    saved=lambda lu, permutation, signs, weight, terms: (lu, weight, permutation, signs),
    indices=("permutation", "signs"),
    prefers_formula=_large,
    backward=FusedOp(
        "lu_weight_backward",
        "(Tensor lu, Tensor weight, Tensor permutation, Tensor signs, Tensor dweight, Tensor dterms, bool inverse) "
        "-> Tensor",
        formula=_backward_formula,
        fake=lambda lu, *rest: (lu.new_empty(lu.shape),),
        indices=("permutation", "signs"),
        prefers_formula=_large,
    ),
)


def lu_weight(lu: Tensor, permutation: Tensor, signs: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
    r"""Assemble square matrices, or their inverses, from LU factors, with the terms of log \|det\|.

    :math:`W = P L (U + \mathrm{diag}(s \, e^{d}))` with one matrix `lu` for everything: L below its diagonal (its own
    diagonal is 1), U above, d on it. Row i of W is row permutation[i] of the product. The inverse is taken by two
    triangular solves.

    Args:
        lu: (N, C, C) or (C, C), float32, float64, bfloat16 or float16.
        permutation: (N, C) or (C,), int64: a permutation of 0..C-1.
        signs: shaped as permutation, int64: 1 or -1, the signs of the pivots.
        inverse: whether to return the inverse of W.

    Returns:
        weight, shaped as lu, and terms (N, C) or (C,), whose sum is the log \|det\| of the matrix returned; both
        float32 (float64 for a float64 lu).

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit, with both named.

    Cost: C^3 / 3 multiplications, the inverse and the gradients 2 to 4 times that; in double, but on a card inverses
    from C = 64 and products from 512 on are torch's, in the dtype of the result. Source: Kingma, Dhariwal 2018
    (arXiv:1807.03039), section 3.2.

    >>> lu = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    >>> weight, terms = lu_weight(lu, torch.tensor([1, 0]), torch.tensor([1, -1]))
    >>> weight, terms.sum()
    (tensor([[2., 1.],
            [1., 1.]]), tensor(0.))
    """
    if lu.ndim != 2:
        return _op((lu, permutation, signs, inverse))
    weight, terms = _op((lu[None], permutation[None], signs[None], inverse))
    return weight[0], terms[0]


def lu_factor_slogdet(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Factor a square matrix with partial pivoting, and return its sign and log \|det\| with gradient.

    Everything happens in float64, so that rounding cannot hide a vanishing pivot: one that is smaller than C units of
    rounding beside the largest is zero.

    Args:
        weight: (C, C), float32 or float64.

    Returns:
        lu (C, C) in the layout of `torch.linalg.lu_factor`, float64; sign, () of weight's dtype; logabsdet, () of
        weight's dtype, in nats.

    Raises:
        SingularTransformError: a pivot is zero or not finite; the message names it. Under torch.compile and functorch
            transforms of the matrix itself nothing can be raised: logabsdet is -inf or NaN then.
        ValueError: weight is not a square matrix.

    Cost: 2 C^3 / 3 flops; on a GPU the host waits for the pivots, and a CUDA graph does without. Plain torch.

    >>> lu, sign, logabsdet = lu_factor_slogdet(torch.tensor([[0.0, 2.0], [1.0, 0.0]]))
    >>> sign, logabsdet
    (tensor(-1.), tensor(0.6931))
    >>> lu_factor_slogdet(torch.ones(2, 2))
    Traceback (most recent call last):
    ...
    pyflowk.ops.lu_weight.SingularTransformError: the matrix (2, 2) is singular: pivot 1 is 0 (the largest is 1)
    """
    if weight.ndim != 2 or weight.shape[0] != weight.shape[1]:
        raise ValueError(f"lu_factor_slogdet: expected a square matrix; got {tuple(weight.shape)}")
    lu, pivots, _ = torch.linalg.lu_factor_ex(weight.double())
    diagonal = lu.diagonal()
    if not transformed() and not capturing(diagonal):
        require_pivots(diagonal)
    swaps = (pivots != torch.arange(1, len(pivots) + 1, device=pivots.device)).sum()
    sign = torch.where((swaps + (diagonal < 0).sum()) % 2 == 0, 1.0, -1.0)
    return lu, sign.to(weight.dtype), diagonal.abs().log().sum().to(weight.dtype)


@torch.no_grad()
def require_pivots(pivots: Tensor, what: str = "the matrix") -> None:
    """Raise SingularTransformError unless all pivots (C,) are finite and none vanishes beside the largest."""
    sizes = pivots.detach().double().abs()
    if not len(sizes):
        return
    finite = sizes.isfinite()
    largest = sizes.where(finite, 0.0).max()
    bad = ~finite | (sizes <= len(sizes) * torch.finfo(torch.float64).eps * largest)
    if bad.any():
        first = int(bad.nonzero()[0])
        raise SingularTransformError(
            f"{what} ({len(sizes)}, {len(sizes)}) is singular: pivot {first} is {float(pivots[first]):g} "
            f"(the largest is {float(largest):g})"
        )
