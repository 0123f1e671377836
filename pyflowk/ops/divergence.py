r"""The divergence of a vector field given as a function of x: exact, Hutchinson's estimate, Hutch++.

Each takes f: (B, \*event) -> (B, \*event), whose rows do not depend on each other, and returns f(x), the divergence
tr(df/dx) of each row and the (estimated) squared Frobenius norm of df/dx: all from one pass. ``tangents(x, e)``, f(x)
and df/dx e for e (B, K, \*event), is what mode "forward" asks where it is given: :func:`push_forward` otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

from .describe import described
from .hutchinson import Probes, draw_probes, trace_estimate
from .modes import compiling, functional

__all__ = ["divergence_shares", "draw_probes", "exact_divergence", "hutchinson", "hutchplusplus", "push_forward"]

Function = Callable[[Tensor], Tensor]
Tangents = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Result = tuple[Tensor, Tensor, Tensor]


def as_slope(value: Any, x: Tensor) -> Tensor:
    """What a field answered at the state x, in its dtype; TypeError or ValueError where that is no slope."""
    if not isinstance(value, Tensor):
        raise TypeError(f"field: expected a tensor of the state's shape {tuple(x.shape)}; got {described(value)}")
    if value.shape != x.shape:
        raise ValueError(f"field: expected the state's shape {tuple(x.shape)}; got {tuple(value.shape)}")
    if value.is_complex():
        raise TypeError(f"field: expected a real slope, as the state is; got {value.dtype}")
    return value if value.dtype == x.dtype else value.to(x.dtype)


def hutchinson(
    f: Function, x: Tensor, probes: Probes, mode: str = "forward", tangents: Tangents | None = None
) -> Result:
    r"""Hutchinson's unbiased estimates of tr A and |A|_F^2, A = df/dx: the means of e^T A e and of |A e|^2 over probes.

    x: (B, \*event), probes of :func:`draw_probes`. ``mode`` "forward" pushes the probes through f
    (A e), "reverse" pulls them back (e^T A, for functions without forward derivatives; |e^T A|^2 then). Both are
    differentiable. Cost: "forward" one f and K tangents, "reverse" one f and K backward passes.
    Raises ValueError for another mode. Hutchinson 1990; Grathwohl et al. 2019 (arXiv:1810.01367).

    >>> x = torch.ones(2, 3)
    >>> hutchinson(lambda x: 2 * x, x, draw_probes(x))
    (tensor([[2., 2., 2.],
            [2., 2., 2.]]), tensor([6., 6.]), tensor([12., 12.]))
    """
    value, images = _images(f, x, probes.directions(x), mode, tangents)
    return value, *trace_estimate(images, probes)


def exact_divergence(f: Function, x: Tensor, mode: str = "forward", tangents: Tangents | None = None) -> Result:
    r"""f(x), tr df/dx and |df/dx|_F^2, exactly, by one tangent for every element of the event.

    Shapes, modes and errors as :func:`hutchinson`. Cost: one f and D tangents, D the size of an event.

    >>> exact_divergence(lambda x: x**2, torch.tensor([[1.0, 2.0]]))
    (tensor([[1., 4.]]), tensor([6.]), tensor([20.]))
    """
    event = x.shape[1:]
    basis = torch.eye(event.numel(), dtype=x.dtype, device=x.device).reshape(1, event.numel(), *event)
    probes = basis.expand(x.shape[0], *basis.shape[1:])
    value, images = _images(f, x, probes, mode, tangents)
    return value, _dot(probes, images).sum(1), _dot(images, images).sum(1)


def divergence_shares(
    tangents: Tangents, x: Tensor, probes: int | None = None, generator: torch.Generator | None = None
) -> Tensor:
    r"""What every element adds to the divergence, the diagonal of df/dx, (B, \*event): exactly, by D tangents, or as
    the mean of e * df/dx e over so many random ``probes`` a row.

    ``tangents(x, e)`` is f(x) and df/dx e for e (B, K, \*event). Cost: one f and D or ``probes`` tangents. Bekas et
    al., 2007.

    >>> divergence_shares(lambda x, e: push_forward(lambda x: x**2, x, e), torch.tensor([[1.0, 2.0]]))
    tensor([[2., 4.]])
    """
    if probes is None:
        size = x.shape[1:].numel()
        basis = torch.eye(size, dtype=x.dtype, device=x.device).reshape(1, size, *x.shape[1:])
        images = tangents(x, basis.expand(x.shape[0], *basis.shape[1:]))[1]
        return images.flatten(2).diagonal(dim1=1, dim2=2).reshape(x.shape)
    e = draw_probes(x, probes, generator=generator).directions(x)
    return (e * tangents(x, e)[1]).mean(1)


def hutchplusplus(
    f: Function, x: Tensor, probes: Probes, mode: str = "forward", tangents: Tangents | None = None
) -> Result:
    r"""Hutch++: exact on the span of the probes' images, Hutchinson's estimate on what is left.

    With half of the probes S, the other half G and Q an orthonormal basis of A S,
    tr A ~ tr(Q^T A Q) + mean_g g^T (I - Q Q^T) A (I - Q Q^T) g: unbiased, and of less variance than
    :func:`hutchinson` at equal cost where the spectrum of A falls off fast (elsewhere there is no gain). Q takes no
    part in the gradient, which stays unbiased. The Frobenius norm is the plain mean of |A e|^2 over S.

    probes: 2 k of them; k is cut to the size of an event. Cost: one f, 3 k tangents and a QR of (D, k) a row.
    Raises ValueError for an odd number of probes. Meyer, Musco, Musco, Woodruff 2021 (arXiv:2010.09649).

    >>> x = torch.ones(2, 3)
    >>> hutchplusplus(lambda x: x.sum(1, keepdim=True).expand(2, 3), x, draw_probes(x, 2))[1].round()  # rank 1
    tensor([3., 3.])
    """
    if probes.number % 2:
        raise ValueError(f"hutchplusplus expects an even number of probes, got {probes.number}")
    directions = probes.directions(x)
    k = min(probes.number // 2, x.shape[1:].numel())
    sketch, rest = directions[:, :k], directions[:, probes.number // 2 :]
    with torch.no_grad():
        images = _images(f, x.detach(), sketch, mode, tangents)[1].flatten(2)
        finite = torch.where(
            images.isfinite(), images, torch.zeros_like(images)
        )  # LAPACK refuses NaN; A q brings it back
        basis = torch.linalg.qr(finite.mT)[0].mT  # (B, k, D)
        flat = rest.flatten(2)
        rest = (flat - (flat @ basis.mT) @ basis).reshape(rest.shape)
    both = torch.cat([basis.reshape(x.shape[0], k, *x.shape[1:]), rest, sketch], 1)
    value, images = _images(f, x, both, mode, tangents)
    products = _dot(both[:, :-k], images[:, :-k])
    return value, products[:, :k].sum(1) + products[:, k:].mean(1), _dot(images[:, -k:], images[:, -k:]).mean(1)


def push_forward(f: Function, x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
    r"""f(x) and df/dx e for tangents e (B, K, \*event), by forward-mode AD.

    Raises TypeError or ValueError where f answers with no slope of x's shape. Cost: one f and K tangents.

    >>> push_forward(lambda x: x**2, torch.tensor([[3.0]]), torch.ones(1, 1, 1))
    (tensor([[9.]]), tensor([[[6.]]]))
    """

    def checked(x: Tensor) -> Tensor:
        return as_slope(f(x), x)

    if tangents.shape[1] == 1:
        value, image = jvp(checked, (x,), (tangents[:, 0],))[:2]
        return value, image.unsqueeze(1)
    # the images at 0: of a field that is constant there is one image, which vmap spreads along no other dimension; the
    # value is one, too, but vmap takes what another vmap around it maps for several
    inside = not compiling() and functional()
    both = vmap(lambda e: jvp(checked, (x,), (e,))[:2], in_dims=1, out_dims=(0 if inside else None, 0))  # type: ignore[arg-type]
    value, images = both(tangents)
    return value[0] if inside else value, images.transpose(0, 1)


def _images(f: Function, x: Tensor, probes: Tensor, mode: str, tangents: Tangents | None) -> tuple[Tensor, Tensor]:
    """f(x) and A e (or A^T e) for every probe, (B, K, *event)."""
    if mode == "forward":
        return push_forward(f, x, probes) if tangents is None else tangents(x, probes)
    if mode != "reverse":
        raise ValueError(f"mode: expected forward or reverse; got {mode!r}")
    value, pull = vjp(lambda x: as_slope(f(x), x), x)[:2]
    if probes.shape[1] == 1:
        return value, pull(probes[:, 0])[0].unsqueeze(1)
    return value, vmap(lambda e: pull(e)[0], in_dims=1)(probes).transpose(0, 1)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(2).sum(2)
