"""Invertible linear maps over features or channels: 1x1 convolutions with a known log-determinant."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..ops import SingularTransformError, conv1x1, conv1x1_gradients, lu_factor_slogdet, lu_weight
from ..ops.dtypes import state_dtype
from ..ops.kept import Keeper, Kept
from ..ops.lu_weight import require_pivots
from ..ops.modes import autocasting, transformed
from .actnorm import ActNorm
from .base import Transform
from .pullback import Pullback

_Map = tuple[Tensor, Tensor, "Tensor | None"]  # weight, terms of log |det|, bias
PARAMETRISATIONS = ("plu", "dense", "householder")


class InvertibleConv1x1(Keeper, Transform):
    r"""Mix features or channels by a learned square matrix: :math:`z_{:,p} = W x_{:,p}`,
    :math:`\mathrm{ladj} = P \log |\det W|` with P positions.

    x is (B, C) or (B, C, \*rest), kept in its layout. W starts as a random rotation.

    Args:
        channels: C.
        parametrisation: "plu" :math:`W = P L (U + \mathrm{diag}(s e^d))` with P and the signs s fixed: never singular
            as long as d is finite, and its log-determinant is :math:`\sum d`. "dense": the matrix itself, factored at
            every forward (float64, partial pivoting). "householder": a product of C reflections, always orthogonal,
            log-determinant 0.
        norm: an `ActNorm` of as many channels that acts before the matrix. It becomes this module's own, and one
            product then does both: :math:`W' = W \mathrm{diag}(e^a), b' = W b`.
        generator: for the rotation.

    What the parameters make (W or its inverse) is kept on a CPU while no gradient is asked for, until a bit of them
    changes; whether the module is in training or evaluation plays no part.

    Cost: 2 C flops an element in either direction, and C^3 / 3 to make W. The first inverse after a change of the
    parameters (on a GPU every one, unless the model is :func:`pyflowk.frozen`) inverts W by triangular solves. "dense"
    on a GPU waits for the pivots.

    Raises:
        SingularTransformError: W has no inverse: at the forward of "dense", when a singular W is loaded, and at the
            inverse (on a GPU, which would have to be waited for, of "dense" only); the message names the pivot.
        ValueError: another number of channels, an unknown parametrisation, a norm of another size.

    Sources: Kingma, Dhariwal 2018 (arXiv:1807.03039), section 3.2; Tomczak, Welling 2016 (arXiv:1611.09630) for the
    reflections.

    >>> from pyflowk.transforms import InvertibleConv1x1
    >>> import torch
    >>> mix = InvertibleConv1x1(12, generator=torch.Generator().manual_seed(0))
    >>> x = torch.randn(4, 12, 8, 8)
    >>> z, ladj = mix(x)
    >>> bool(torch.allclose(mix.inverse(z)[0], x, atol=1e-5)), mix.condition() < 12.001
    (True, True)

    In a module of your own, with the log-determinant that you add up:

    >>> class Block(torch.nn.Module):
    ...     def __init__(self, channels):
    ...         super().__init__()
    ...         self.mix = InvertibleConv1x1(channels)
    ...     def forward(self, x):
    ...         z, ladj = self.mix(x)
    ...         return torch.asinh(z), ladj - 0.5 * torch.log1p(z * z).flatten(1).sum(1)
    >>> [t.shape for t in Block(3)(torch.randn(5, 3, 4, 4))]
    [torch.Size([5, 3, 4, 4]), torch.Size([5])]
    """

    def __init__(
        self,
        channels: int,
        parametrisation: str = "plu",
        *,
        norm: ActNorm | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"{type(self).__name__} expects at least one channel, got {channels}")
        if parametrisation not in PARAMETRISATIONS:
            raise ValueError(f"parametrisation: expected one of {', '.join(PARAMETRISATIONS)}; got {parametrisation!r}")
        if norm is not None and norm.log_scale.numel() != channels:
            raise ValueError(f"norm: expected an ActNorm of {channels} channels, got one of {norm.log_scale.numel()}")
        self.channels, self.parametrisation, self.norm = channels, parametrisation, norm
        gaussian = torch.randn(channels, channels, generator=generator, dtype=torch.float64)
        dtype = torch.get_default_dtype()
        if parametrisation == "plu":
            permutation, lower, upper = torch.linalg.lu(_rotation(gaussian))
            diagonal = upper.diagonal()
            lu = lower.tril(-1) + upper.triu(1) + diagonal.abs().log().diag()
            self.lu = nn.Parameter(lu.to(dtype))
            self.permutation: Tensor
            self.signs: Tensor
            self.register_buffer("permutation", permutation.argmax(1))
            self.register_buffer("signs", torch.where(diagonal < 0, -1, 1))
        elif parametrisation == "dense":
            self.weight = nn.Parameter(_rotation(gaussian).to(dtype))
        else:
            self.reflections = nn.Parameter(gaussian.to(dtype))
        self._kept = Kept()
        self.register_load_state_dict_post_hook(_check_loaded)

    def forward(
        self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        self._check(x)
        if self.norm is not None and self.norm.training and self.norm.unset:
            self.norm.initialize(x)
        return self._apply_map(x, False)

    def inverse(
        self, z: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        self._check(z)
        return self._apply_map(z, True)

    def backward_from_output(
        self, z: Tensor, grad_z: Tensor, grad_ladj: Tensor, context: Tensor | None, pullback: Pullback
    ) -> tuple[Tensor, Tensor]:
        x = self._apply_map(z, True)[0]
        with torch.enable_grad():
            made = _to(state_dtype(z), self._folded(False))
        weight, _, bias = (None if t is None else t.detach() for t in made)
        assert weight is not None
        grad_x, *gradients = conv1x1_gradients(x, weight, grad_z, grad_ladj, bias)
        pairs = [(t, g) for t, g in zip(made, gradients, strict=True) if t is not None and g is not None]
        pullback.vjp([t for t, _ in pairs], [g for _, g in pairs], (), self, None)
        return x, grad_x

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        self._check(x)
        if self.norm is not None:
            self.norm.initialize(x)
        return self.forward(x)[0]

    def matrix(self, inverse: bool = False) -> Tensor:
        """W (C, C), without the norm, or its inverse; with gradient."""
        return self._matrix(inverse)[0]

    @torch.no_grad()
    def condition(self) -> float:
        r"""The condition number :math:`\|W\|_1 \|W^{-1}\|_1`, without the norm: at float32, a round trip through W
        loses a factor of about that over 1e-7. Worth a line in the log of a long training.
        """
        return float(self.matrix().double().norm(1, 0).max() * self.matrix(True).double().norm(1, 0).max())

    def _apply_map(self, x: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        return conv1x1(x, *_to(state_dtype(x), self._map(inverse)))

    def keep(self) -> None:
        self._map(False), self._map(True)

    def _map(self, inverse: bool) -> _Map:
        tensors = self._tensors()
        if self.norm is not None:
            tensors += (self.norm.log_scale, self.norm.bias)
        return self._kept.get(tensors, lambda: self._made(inverse), inverse)

    def _tensors(self) -> list[Tensor]:
        """Its own; parameters() takes as long as a kernel."""
        return [t for t in (*self._parameters.values(), *self._buffers.values()) if t is not None]

    def _made(self, inverse: bool) -> _Map:
        made = self._folded(inverse)
        if inverse and not transformed() and made[0].is_cpu and not made[0].isfinite().all():
            self.check_invertible()
        return made

    def _folded(self, inverse: bool) -> _Map:
        """(weight, terms, bias) of the whole map, norm included; autocast must not narrow any of it."""
        one = self._tensors()[0]
        if not autocasting(one):  # entering the context takes 5 us
            return self._folded_wide(inverse)
        with torch.autocast(one.device.type, enabled=False):
            return self._folded_wide(inverse)

    def _folded_wide(self, inverse: bool) -> _Map:
        weight, terms = self._matrix(inverse)
        if self.norm is None:
            return weight, terms, None
        log_scale, bias = self.norm.log_scale.to(weight.dtype), self.norm.bias.to(weight.dtype)
        if inverse:
            scale = torch.exp(-log_scale)
            return scale[:, None] * weight, terms - log_scale, -scale * bias
        return weight * torch.exp(log_scale), terms + log_scale, weight @ bias

    def _matrix(self, inverse: bool) -> tuple[Tensor, Tensor]:
        """(W, terms) or those of its inverse, without the norm."""
        if self.parametrisation == "plu":
            return lu_weight(self.lu, self.permutation, self.signs, inverse)
        if self.parametrisation == "householder":
            weight = _product_of_reflections(self.reflections)
            return weight.mT if inverse else weight, torch.zeros_like(self.reflections[0])
        _, _, logabsdet = lu_factor_slogdet(self.weight)
        terms = logabsdet.expand(self.channels) / self.channels
        return (torch.linalg.inv_ex(self.weight)[0], -terms) if inverse else (self.weight, terms)

    def check_invertible(self) -> None:
        """Raise SingularTransformError unless W has an inverse: what loading a state dict does by itself."""
        name = f"{type(self).__name__}: the matrix"
        if self.parametrisation == "dense":
            require_pivots(torch.linalg.lu_factor_ex(self.weight.detach().double())[0].diagonal(), name)
        elif self.parametrisation == "householder":
            sizes = self.reflections.detach().double().norm(dim=1)
            for i in (~(sizes.isfinite() & (sizes > 0))).nonzero().flatten().tolist()[:1]:
                raise SingularTransformError(f"{name} is no product of reflections: vector {i} has length {sizes[i]:g}")
        else:
            _check_factors(self.lu.detach(), self.permutation, self.signs, name)

    def _check(self, x: Tensor) -> None:
        if x.dim() < 2 or x.shape[1] != self.channels:
            raise ValueError(f"{type(self).__name__} expects (B, {self.channels}, *rest), got {tuple(x.shape)}")
        if not x.is_floating_point():
            raise TypeError(f"{type(self).__name__} expects a floating-point x, got {x.dtype}")

    def extra_repr(self) -> str:
        return f"channels={self.channels}, parametrisation={self.parametrisation!r}"


class LULinear(InvertibleConv1x1):
    r"""Mix the features of vectors (B, D) by a matrix in LU factors: `InvertibleConv1x1` of a vector, with a bias.

    :math:`z = W x + b, \mathrm{ladj} = \log |\det W|`. Everything else as there.

    >>> from pyflowk.transforms import LULinear
    >>> import torch
    >>> z, ladj = LULinear(5)(torch.randn(7, 5))
    >>> z.shape, bool(ladj.abs().max() < 1e-5)
    (torch.Size([7, 5]), True)
    """

    def __init__(
        self,
        features: int,
        parametrisation: str = "plu",
        *,
        bias: bool = True,
        norm: ActNorm | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(features, parametrisation, norm=norm, generator=generator)
        self.bias = nn.Parameter(torch.zeros(features)) if bias else None

    def _folded_wide(self, inverse: bool) -> _Map:
        weight, terms, bias = super()._folded_wide(inverse)
        if self.bias is None:
            return weight, terms, bias
        own = self.bias.to(weight.dtype)
        if inverse:
            own = -weight @ own
        return weight, terms, own if bias is None else bias + own


def _to(dtype: torch.dtype, map: _Map) -> _Map:
    weight, terms, bias = map
    if weight.dtype == dtype:
        return map
    return weight.to(dtype), terms.to(dtype), None if bias is None else bias.to(dtype)


def _rotation(gaussian: Tensor) -> Tensor:
    """A rotation (determinant 1), uniformly distributed for a Gaussian matrix."""
    q, r = torch.linalg.qr(gaussian)
    q = q * r.diagonal().sign()
    q[:, 0] *= torch.linalg.det(q).sign()
    return q


def _product_of_reflections(vectors: Tensor) -> Tensor:
    """H_1 ... H_C with H_i = I - 2 v_i v_i^T / |v_i|^2, v_i the rows.

    In the form I - V^T T V of which T, triangular, comes from one solve (Joffrain and others 2006: T^-1 is the upper
    triangle of V V^T, its diagonal halved).
    """
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    gram = unit @ unit.mT
    identity = torch.eye(len(vectors), dtype=vectors.dtype, device=vectors.device)
    inner = torch.linalg.solve_triangular(gram.triu(1) + 0.5 * identity, unit, upper=True)
    return identity - unit.mT @ inner


def _check_factors(lu: Tensor, permutation: Tensor, signs: Tensor, name: str) -> None:
    sizes = lu.diagonal().exp()
    bad = ~(sizes.isfinite() & (sizes > 0))
    if bad.any():
        first = int(bad.nonzero()[0])
        raise SingularTransformError(
            f"{name} {tuple(lu.shape)} is singular: pivot {first} is {float(sizes[first]):g} (its logarithm "
            f"{float(lu[first, first]):g})"
        )
    if not torch.equal(permutation.sort().values, torch.arange(len(lu), device=lu.device)):
        raise ValueError(f"{name}: permutation must hold each of 0..{len(lu) - 1} once, got {permutation.tolist()}")
    if not (signs.abs() == 1).all():
        raise ValueError(f"{name}: signs must be 1 or -1, got {signs.tolist()}")


def _check_loaded(module: Any, incompatible_keys: Any) -> None:
    """After loading: a singular matrix is refused at once. A meta module has no values yet."""
    if not any(p.is_meta for p in module.parameters()):
        module.check_invertible()
