"""Invertible 1x1 convolution with log-determinant: one product over channels, on the layout as it lies."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._router import FusedOp
from .dtypes import FLOATING, state_dtype

__all__ = ["conv1x1", "conv1x1_gradients"]


def _columns(x: Tensor) -> Tensor:
    """(B, C, *rest) -> (B, C, P) in the accumulator's type."""
    return x.to(state_dtype(x)).reshape(x.shape[0], x.shape[1], math.prod(x.shape[2:]))


def _formula(x: Tensor, weight: Tensor, bias: Tensor, terms: Tensor) -> tuple[Tensor, Tensor]:
    """The op in plain torch: the reference of every kernel, and what Inductor and functorch see."""
    y = torch.matmul(weight, _columns(x))
    if bias.numel():
        y = y + bias[:, None]
    ladj = math.prod(x.shape[2:]) * terms.sum()
    return y.reshape(x.shape).to(x.dtype), ladj.expand(x.shape[0]).clone()


def _backward_formula(
    x: Tensor, weight: Tensor, bias: Tensor, dy: Tensor, dladj: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """dx = W^T dy, dW = dy x^T and dbias = dy 1, summed over samples and positions; each term gets P sum dladj."""
    columns, dcolumns = _columns(x), _columns(dy)
    dx = torch.matmul(weight.mT, dcolumns).reshape(x.shape).to(x.dtype)
    if columns.shape[2] < 16:
        dweight = torch.einsum("bip,bjp->ij", dcolumns, columns)
    else:  # whose copies of both in another order would cost more than a matrix a sample
        dweight = torch.matmul(dcolumns, columns.mT).sum(0)
    dbias = dcolumns.sum((0, 2)) if bias.numel() else torch.zeros_like(bias)
    dterms = (math.prod(x.shape[2:]) * dladj.sum()).expand(x.shape[1]).clone()
    return dx, dweight, dbias, dterms


def _check(x: Tensor, weight: Tensor, bias: Tensor, *rest: Tensor) -> None:
    """What `csrc/bind/conv1x1.cpp` checks, for the paths that do not go through it."""
    if x.dtype not in FLOATING:
        raise TypeError(f"conv1x1: x must be float32, float64, bfloat16 or float16; got {x.dtype}")
    if x.ndim < 2:
        raise ValueError(f"conv1x1: x must be (B, C, *rest); got {tuple(x.shape)}")
    c = x.shape[1]
    for name, tensor, shapes in (
        ("weight", weight, [(c, c)]),
        ("bias", bias, [(c,), (0,)]),
        ("terms", rest[-1], [(c,)]),
    ):
        if tensor.dtype != state_dtype(x):
            raise TypeError(f"conv1x1: {name} must be {state_dtype(x)} for x {x.dtype}; got {tensor.dtype}")
        if tensor.device != x.device:
            raise ValueError(f"conv1x1: x and {name} must be on one device; got {x.device} and {tensor.device}")
        if tuple(tensor.shape) not in shapes:
            wanted = " or ".join(map(str, shapes))
            raise ValueError(f"conv1x1: {name} must be {wanted} for x {tuple(x.shape)}; got {tuple(tensor.shape)}")


def _fake(x: Tensor, weight: Tensor, bias: Tensor, terms: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[:1], dtype=state_dtype(x))


def _fake_backward(x: Tensor, weight: Tensor, bias: Tensor, *gradients: Tensor) -> tuple[Tensor, ...]:
    return (
        x.new_empty(x.shape),
        weight.new_empty(weight.shape),
        bias.new_empty(bias.shape),
        bias.new_empty(x.shape[1:2]),
    )


def _large(x: Tensor, *rest: Tensor) -> bool:
    """Predicted for an H200: the kernel's products run at 12 TFLOP/s from 48 channels on, the library's at 50, whose
    launches take 12 us more."""
    return x.ndim > 1 and x.shape[1] >= 48 and 2 * x.shape[1] * x.numel() > 2e8


_op = FusedOp(
    "conv1x1",
    "(Tensor x, Tensor weight, Tensor bias, Tensor terms) -> (Tensor, Tensor)",
    formula=_formula,
    check=_check,
    fake=_fake,
    saved=lambda x, weight, bias, terms, y, ladj: (x, weight, bias),
    shared=("weight", "bias", "terms"),
    prefers_formula=_large,
    backward=FusedOp(
        "conv1x1_backward",
        "(Tensor x, Tensor weight, Tensor bias, Tensor dy, Tensor dladj) -> (Tensor, Tensor, Tensor, Tensor)",
        formula=_backward_formula,
        fake=_fake_backward,
        shared=("weight", "bias"),
        prefers_formula=_large,
    ),
)


def conv1x1(x: Tensor, weight: Tensor, terms: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    r"""Multiply the channels of x by a square matrix whose log-determinant is known, and return that of the map.

    :math:`y_{b,:,p} = W x_{b,:,p} + \mathrm{bias}` at each of the P positions; :math:`\mathrm{ladj} = P \sum_i t_i`,
    where :math:`\sum_i t_i = \log |\det W|`. `lu_weight` makes W and its terms together.

    Args:
        x: (B, C, \*rest), float32, float64, bfloat16 or float16, any strides; without rest, vectors.
        weight: (C, C), float32 (float64 for a float64 x).
        terms: (C,), of weight's dtype; only their sum matters.
        bias: (C,), of weight's dtype, or None.

    Returns:
        y, shaped as x; ladj (B,) in nats, of weight's dtype.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit, with both named.

    Cost: 2 C flops an element; the gradient twice that; large ones on a card by torch's library. It is the same for any
    number of threads. Source: Kingma, Dhariwal 2018 (arXiv:1807.03039), section 3.2.

    >>> y, ladj = conv1x1(torch.ones(1, 2, 3), torch.tensor([[2.0, 0.0], [1.0, 1.0]]), torch.tensor([2.0, 1.0]).log())
    >>> y[0, :, 0], ladj.exp().round()
    (tensor([2., 2.]), tensor([8.]))
    """
    return _op((x, weight, weight.new_empty(0) if bias is None else bias, terms))


def conv1x1_gradients(
    x: Tensor, weight: Tensor, dy: Tensor, dladj: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    r"""Compute the gradients of `conv1x1` for a backward pass that has rebuilt x from the output.

    Args:
        x, weight, bias: as `conv1x1` had them.
        dy: the gradient of y, shaped as x. dladj: that of ladj, (B,), of weight's dtype.

    Returns:
        the gradients of x, weight, terms, and of bias (None without one).

    Errors as `conv1x1`. Cost: 4 C flops an element.

    >>> x, weight = torch.ones(1, 2), torch.eye(2)
    >>> conv1x1_gradients(x, weight, torch.tensor([[3.0, 4.0]]), torch.ones(1))[:3]
    (tensor([[3., 4.]]), tensor([[3., 3.],
            [4., 4.]]), tensor([1., 1.]))
    """
    assert _op.backward is not None
    dx, dweight, dbias, dterms = _op.backward((x, weight, weight.new_empty(0) if bias is None else bias, dy, dladj))
    return dx, dweight, dterms, None if bias is None else dbias
