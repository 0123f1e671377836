"""A sample of an affine path in one pass: the noise, what lies between it and the data, and how that moves."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._router import FusedOp
from .dtypes import FLOATING, state_dtype
from .random_numbers import RANDOM, check_keys, random_formula, random_numbers

__all__ = ["noise_of", "path_sample", "path_sample_formula"]


def path_sample_formula(x1: Tensor, x0: Tensor, coefficients: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The op in plain torch, x0 given: the reference of the kernels, and what functorch and Inductor see."""
    data, noise = x1.to(state_dtype(x1)), x0.to(state_dtype(x1))
    alpha, sigma, alpha_rate, sigma_rate = (_column(c, x1) for c in coefficients)
    return (alpha * data + sigma * noise).to(x1.dtype), (alpha_rate * data + sigma_rate * noise).to(x1.dtype)


def _noise(x1: Tensor, keys: Tensor) -> Tensor:
    size, wide = x1.shape[1:].numel(), x1.dtype == torch.float64
    return random_formula(keys, 1, size, RANDOM["normal"], wide)[0].reshape(x1.shape)


def _drawn(x1: Tensor, keys: Tensor, coefficients: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    return path_sample_formula(x1, _noise(x1, keys), coefficients)


def _column(numbers: Tensor, x: Tensor) -> Tensor:
    """Numbers (B,) beside x (B, *event)."""
    return numbers.reshape(-1, *[1] * (x.ndim - 1))


def _between_backward(
    x1: Tensor, x0: Tensor, coefficients: Sequence[Tensor], dx_t: Tensor, dtarget: Tensor
) -> tuple[Tensor, Tensor, list[Tensor]]:
    data, noise, moved, rate = (t.to(state_dtype(x1)) for t in (x1, x0, dx_t, dtarget))
    alpha, sigma, alpha_rate, sigma_rate = (_column(c, x1) for c in coefficients)
    products = (moved * data, moved * noise, rate * data, rate * noise)
    return (
        (alpha * moved + alpha_rate * rate).to(x1.dtype),
        (sigma * moved + sigma_rate * rate).to(x1.dtype),
        [product.reshape(len(product), x1.shape[1:].numel()).sum(1) for product in products],
    )


def _drawn_backward(
    x1: Tensor, keys: Tensor, coefficients: Sequence[Tensor], dx_t: Tensor, dtarget: Tensor
) -> tuple[Tensor, list[Tensor]]:
    dx1, _, dcoefficients = _between_backward(x1, _noise(x1, keys), coefficients, dx_t, dtarget)
    return dx1, dcoefficients


def _check(op: str, x1: Tensor, coefficients: Sequence[Tensor]) -> None:
    """What `csrc/bind/path_sample.cpp` checks, for the paths that do not go through it."""
    if x1.dtype not in FLOATING:
        raise TypeError(f"{op}: x1 must be float32, float64, bfloat16 or float16; got {x1.dtype}")
    if x1.ndim < 1:
        raise ValueError(f"{op}: x1 must be (B, *event); got {tuple(x1.shape)}")
    if len(coefficients) != 4:
        raise ValueError(f"{op}: expected alpha, sigma and the rates of both; got {len(coefficients)} tensors")
    for c in coefficients:
        if c.dtype != state_dtype(x1):
            raise TypeError(f"{op}: a coefficient must be {state_dtype(x1)}; got {c.dtype}")
        if c.device != x1.device:
            raise ValueError(f"{op}: x1 and a coefficient must be on one device; got {x1.device} and {c.device}")
        if c.shape != x1.shape[:1]:
            raise ValueError(f"{op}: a coefficient must be ({x1.shape[0]},), a number a row; got {tuple(c.shape)}")


def _check_drawn(x1: Tensor, keys: Tensor, coefficients: Sequence[Tensor]) -> None:
    _check("path_sample", x1, coefficients)
    check_keys("path_sample", keys, x1.shape[0])
    if keys.device != x1.device:
        raise ValueError(f"path_sample: x1 and keys must be on one device; got {x1.device} and {keys.device}")


def _check_between(x1: Tensor, x0: Tensor, coefficients: Sequence[Tensor]) -> None:
    _check("path_between", x1, coefficients)
    if x0.shape != x1.shape:
        raise ValueError(f"path_between: x0 must have the shape of x1, {tuple(x1.shape)}; got {tuple(x0.shape)}")
    if x0.dtype != x1.dtype:
        raise TypeError(f"path_between: x0 must be {x1.dtype}; got {x0.dtype}")
    if x0.device != x1.device:
        raise ValueError(f"path_between: x1 and x0 must be on one device; got {x1.device} and {x0.device}")


def _fake(x1: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return x1.new_empty(x1.shape), x1.new_empty(x1.shape)


def _fake_coefficients(x1: Tensor) -> list[Tensor]:
    return [x1.new_empty(x1.shape[:1], dtype=state_dtype(x1)) for _ in range(4)]


_path_sample = FusedOp(
    "path_sample",
    "(Tensor x1, Tensor keys, Tensor[] coefficients) -> (Tensor, Tensor)",
    formula=_drawn,
    check=_check_drawn,
    fake=_fake,
    saved=lambda x1, keys, coefficients, *outputs: (x1, keys, coefficients),
    backward=FusedOp(
        "path_sample_backward",
        "(Tensor x1, Tensor keys, Tensor[] coefficients, Tensor dx_t, Tensor dtarget) -> (Tensor, Tensor[])",
        formula=_drawn_backward,
        fake=lambda x1, *_: (x1.new_empty(x1.shape), _fake_coefficients(x1)),
        indices=("keys",),
    ),
    indices=("keys",),
    expand_below=0,
)

_path_between = FusedOp(
    "path_between",
    "(Tensor x1, Tensor x0, Tensor[] coefficients) -> (Tensor, Tensor)",
    formula=path_sample_formula,
    check=_check_between,
    fake=_fake,
    saved=lambda x1, x0, coefficients, *outputs: (x1, x0, coefficients),
    backward=FusedOp(
        "path_between_backward",
        "(Tensor x1, Tensor x0, Tensor[] coefficients, Tensor dx_t, Tensor dtarget) -> (Tensor, Tensor, Tensor[])",
        formula=_between_backward,
        fake=lambda x1, *_: (*_fake(x1), _fake_coefficients(x1)),
    ),
)


def path_sample(
    x1: Tensor, coefficients: Sequence[Tensor], *, keys: Tensor | None = None, x0: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    r"""Mix data with noise, and say how the mixture moves: :math:`\alpha x_1 + \sigma x_0` and its rate.

    The rate, the target of flow matching, is :math:`\alpha' x_1 + \sigma' x_0`. The noise x0 is given, or drawn, one
    key a row: it is then that of :func:`noise_of`, never stored, and a row's is the same in every batch.

    Args:
        x1: (B, \*event), float32, float64, bfloat16 or float16, any strides.
        coefficients: alpha, sigma, alpha' and sigma', each (B,), float32 (float64 beside a float64 x1): those of a
            schedule at times (B,).
        keys: (B,), int64, of which standard normal noise is made; `draw_keys` of `pyflowk.ops.draw` draws them.
        x0: noise like x1, instead of keys.

    Returns:
        x_t and the target, each like x1.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit, with both named; both of keys and x0, or none.

    Cost: one pass over memory; drawn noise ten rounds of two multiplications for four numbers. The gradient, of x1, x0
    and coefficients, one pass more. Sources: Lipman et al. 2023 (arXiv:2210.02747); Salmon, Moraes, Dror, Shaw 2011.

    >>> t, one = torch.full((1,), 0.25), torch.ones(1)
    >>> path_sample(torch.ones(1, 2), (t, 1 - t, one, -one), x0=torch.zeros(1, 2))
    (tensor([[0.2500, 0.2500]]), tensor([[1., 1.]]))
    >>> x_t, target = path_sample(torch.ones(1, 2), (t, 1 - t, one, -one), keys=torch.tensor([7]))
    >>> (x_t - 0.25) / 0.75, 1 - target  # the noise
    (tensor([[-0.2527,  0.5371]]), tensor([[-0.2527,  0.5371]]))
    """
    if (keys is None) == (x0 is None):
        raise ValueError(f"path_sample: expected either keys or x0; got {'none' if keys is None else 'both'}")
    if x0 is not None:
        return _path_between((x1, x0, [*coefficients]))
    if isinstance(keys, Tensor):
        keys = keys.contiguous()  # as kernels want indices
    return _path_sample((x1, keys, [*coefficients]))


def noise_of(keys: Tensor, x: Tensor) -> Tensor:
    r"""Make the standard normal noise, shaped as x (B, \*event), that `path_sample` draws from keys (B,).

    It is ``random_numbers(keys, 1, D)`` for D elements, float32 (float64 beside a float64 x).

    >>> noise_of(torch.tensor([7]), torch.zeros(1, 2))
    tensor([[-0.2527,  0.5371]])
    """
    check_keys("noise_of", keys, x.shape[0])
    return random_numbers(keys, 1, x.shape[1:].numel(), dtype=state_dtype(x)).reshape(x.shape)
