"""Linear layers and convolutions held to an operator norm: the singular vectors behind spectral normalisation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._checks import require_counts
from ..ops.derived import Derived
from ..ops.kept import Keeper, Kept
from ..ops.modes import autocasting, capturing, functional, watched, while_loop, wrapped


class SpectralLayer(Keeper, Derived):
    r"""What the normalised layers share: :math:`\tilde W = W \min(1, c / \sigma)`, :math:`\sigma = u^T W v`.

    In training mode u and v are buffers that ``iterations`` steps of the power iteration renew wherever the weight
    is not the one of the last call: once for a step of the optimiser, however often the layer is called or computed
    again. In evaluation mode they are the singular vectors of the weight itself, so that the operator norm of
    :math:`\tilde W` is at most c; they are computed once for a weight, and training goes on from them.
    Whether it is the same weight is told by its values, compared with a copy: on the device without waiting for it,
    also in a compiled graph; in evaluation mode on a GPU the answer is waited for (a :func:`pyflowk.frozen` layer does
    not ask). Under functional transformations of the weight the singular vectors serve in both modes. Gradients take u
    and v as constants, which is the right derivative at the singular vectors. Miyato, Kataoka, Koyama, Yoshida, 2018,
    arXiv:1802.05957.
    """

    weight: Tensor
    u: Tensor
    v: Tensor
    leading_u: Tensor
    leading_v: Tensor
    seen: Tensor
    iterated: Tensor
    converged: Tensor
    _slack = 1 + 1e-6  # from the norm at the leading vectors to a bound: rounding

    def _set_up(self, lipschitz: float, iterations: int, in_shape: Sequence[int]) -> None:
        require_counts(type(self).__name__, iterations=iterations)
        if not 0 < lipschitz <= 1:
            raise ValueError(f"{type(self).__name__} expects 0 < lipschitz <= 1, got {lipschitz}")
        self.lipschitz, self.iterations = float(lipschitz), iterations
        v = _start(in_shape).to(self.weight)
        self.register_buffer("v", v)
        self.register_buffer("u", _unit(self.apply_weight(self.weight.detach(), v)))
        self._set_derived()
        self._kept = Kept()
        self.register_load_state_dict_post_hook(_start_again)

    def derived(self) -> dict[str, Tensor]:
        """The weight of the last call, and whether u and v are renewed for it and the leading ones are its own."""
        return {
            "leading_u": _start(self.u.shape), "leading_v": _start(self.v.shape),
            "seen": torch.full(self.weight.shape, math.nan),
            "iterated": torch.tensor(False), "converged": torch.tensor(False),
        }  # fmt: skip

    def apply_weight(self, weight: Tensor, x: Tensor) -> Tensor:
        """W x, without the bias."""
        raise NotImplementedError

    def apply_adjoint(self, weight: Tensor, y: Tensor) -> Tensor:
        r""":math:`W^T y`."""
        raise NotImplementedError

    def _leading(self, weight: Tensor, done: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The leading singular vectors of the weight; in a compiled graph those that are kept where ``done``."""
        raise NotImplementedError

    def normalized_weight(self) -> Tensor:
        r""":math:`\tilde W`, with the gradient of :math:`\sigma`."""
        return self._normalize() if self.training else self._kept.get([self.weight], self._normalize)

    @torch.no_grad()
    def norm_bound(self) -> float:
        r"""An upper bound of the operator norm of :math:`\tilde W` as it is now; waits for the device.

        For a matrix it is the norm itself. Cost: a symmetric eigenproblem, or about a thousand steps of the power
        iteration; two products as long as the weight stays as it is, and in evaluation mode.
        """
        return self._bound() if self.training else self._kept.get([self.weight], self._bound, "bound")

    def keep(self) -> None:
        self.normalized_weight(), self.norm_bound()

    def _normalize(self) -> Tensor:
        if autocasting(self.weight):  # a rounded norm is no bound
            with torch.autocast(self.weight.device.type, enabled=False):
                return self._normalize()
        u, v = self._vectors()
        sigma = (u * self.apply_weight(self.weight, v)).sum()
        return self.weight * (self.lipschitz / sigma.clamp(min=self.lipschitz))

    def _bound(self) -> float:
        weight = self.weight.detach()
        u, v = self._vectors()
        sigma = float((u * self.apply_weight(weight, v)).sum())
        norm = torch.linalg.vector_norm(self.apply_weight(weight, self._exact(weight)[1]), dtype=torch.float64)
        return float(norm) * self._slack * (self.lipschitz / max(self.lipschitz, sigma))

    @torch.no_grad()
    def _vectors(self) -> tuple[Tensor, Tensor]:
        """u and v for the weight as it is now."""
        weight = self.weight.detach()  # from tangents, too
        if self.seen.device != weight.device or self.seen.dtype != weight.dtype:
            self.seen = torch.full_like(weight, math.nan)
        if functional() if torch.compiler.is_compiling() else wrapped(weight):
            return self._leading(weight)
        if self.training:
            return self._running(weight)
        u, v = self._exact(weight)
        if self._may_note():
            self.u.copy_(u), self.v.copy_(v), self.iterated.fill_(True)  # training goes on from there
        return u, v

    def _running(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """u and v after the power iteration's steps for this weight; chosen on the device, which is not waited for."""
        looks = weight.is_cpu and not watched()
        same: Any = torch.equal(self.seen, weight) if looks else (self.seen == weight).all()
        if looks and same and self.iterated:
            return self.u.clone(), self.v.clone()
        u, v = self._iterate(weight)
        if not looks:
            done = same & self.iterated
            u, v = torch.where(done, self.u, u), torch.where(done, self.v, v)
        if not functional():  # captured buffers must not change in there
            self.u.copy_(u), self.v.copy_(v), self.seen.copy_(weight)
            self.iterated.fill_(True), self.converged.mul_(same)
        return u, v  # other tensors than the buffers, so that a later write spoils no saved one

    def _exact(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The leading singular vectors, computed where they are not those of this weight."""
        looks, compiling = not (watched() or capturing(weight)), torch.compiler.is_compiling()
        same: Any = torch.equal(self.seen, weight) if looks else (self.seen == weight).all()
        if looks and same and self.converged:
            return self.leading_u.clone(), self.leading_v.clone()
        u, v = self._leading(weight, same & self.converged if compiling else None)
        if self._may_note():
            self.leading_u.copy_(u), self.leading_v.copy_(v), self.seen.copy_(weight)
            self.converged.fill_(True), self.iterated.mul_(same)
        return u, v

    def _may_note(self) -> bool:
        """Whether evaluation may write to buffers: not in a program, which is to change nothing, nor to those made in
        inference mode, outside of it."""
        if functional() or torch.compiler.is_exporting():
            return False
        return torch.compiler.is_compiling() or torch.is_inference_mode_enabled() or not self.u.is_inference()

    def _iterate(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        u, v = self.u, self.v
        for _ in range(self.iterations):
            v = _unit(self.apply_adjoint(weight, u), v)
            u = _unit(self.apply_weight(weight, v), u)
        return u, v


def _start_again(module: Any, incompatible_keys: Any) -> None:
    """After loading: the power iteration goes on from other vectors."""
    module.iterated.fill_(False)


class SpectralLinear(SpectralLayer, nn.Linear):
    r"""A linear layer with :math:`\|W\|_2 \le c`, c = ``lipschitz``: see :class:`SpectralLayer`.

    (B, in_features) -> (B, out_features). In evaluation mode the norm is that of the matrix, exact to rounding.
    Cost beside the product: two matrix-vector products a step of the power iteration and one for the norm.

    >>> import torch
    >>> from pyflowk.nets import SpectralLinear
    >>> layer = SpectralLinear(3, 4, lipschitz=0.5).eval()
    >>> layer.weight.data *= 10
    >>> round(torch.linalg.matrix_norm(layer.normalized_weight(), 2).item(), 4)
    0.5
    """

    def __init__(self, in_features: int, out_features: int, lipschitz: float, iterations: int = 2) -> None:
        super().__init__(in_features, out_features)
        self._set_up(lipschitz, iterations, (in_features,))

    def apply_weight(self, weight: Tensor, x: Tensor) -> Tensor:
        return x @ weight.mT

    def apply_adjoint(self, weight: Tensor, y: Tensor) -> Tensor:
        return y @ weight

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.normalized_weight(), self.bias)

    def _leading(self, weight: Tensor, done: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if done is None:
            return _leading_of_matrix(weight)
        return _unless(done, _leading_of_matrix, weight, self.leading_u, self.leading_v)


_GAP = 0.02  # the square of the norm is known to this part


class SpectralConv2d(SpectralLayer, nn.Conv2d):
    r"""A convolution with operator norm at most c = ``lipschitz`` on images of ``size``: see :class:`SpectralLayer`.

    (B, in_channels, \*size) -> (B, out_channels, H', W'). The norm is that of the linear map between images, with the
    stride and the zero padding there are: the power iteration runs the convolution and its transpose. (The norm of
    the weight reshaped to a matrix, which many libraries take, is off by up to the kernel's side in either direction.)
    In evaluation mode it runs from a random start until, with a probability of error below 1e-6, the norm is known
    to 1 %: Kuczynski, Wozniakowski, 1992, SIAM J. Matrix Anal. Appl. 13(4). A 1 x 1 kernel is taken as the matrix it
    is. Raises ValueError for an image of another size. Cost beside the convolution: two convolutions of one image a
    step of the power iteration, and one for the norm.

    >>> import torch
    >>> from pyflowk.nets import SpectralConv2d
    >>> conv = SpectralConv2d(1, 1, 3, size=(8, 8), lipschitz=0.5).eval()
    >>> torch.nn.init.ones_(conv.weight).sum().item()
    9.0
    >>> conv.normalized_weight()[0, 0, 0]  # the norm of that convolution is 8.29 on 8 x 8, that of the weight 3
    tensor([0.0603, 0.0603, 0.0603], grad_fn=<SelectBackward0>)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        size: tuple[int, int],
        lipschitz: float,
        stride: int = 1,
        padding: int | None = None,
        iterations: int = 2,
    ) -> None:
        padding = kernel_size // 2 if padding is None else padding
        super().__init__(in_channels, out_channels, kernel_size, stride, padding)
        self.size = tuple(size)
        self._pointwise = kernel_size == 1 and stride == 1 and padding == 0
        if not self._pointwise:
            self._slack = 1 / math.sqrt(1 - _GAP)
        side = (1, 1) if self._pointwise else self.size
        self._set_up(lipschitz, iterations, (1, in_channels, *side))
        self.start: Tensor

    def derived(self) -> dict[str, Tensor]:
        return {**super().derived(), "start": _start(self.v.shape)}  # random, whatever the weight has become

    def apply_weight(self, weight: Tensor, x: Tensor) -> Tensor:
        return F.conv2d(x, weight, None, self.stride, self.padding)

    def apply_adjoint(self, weight: Tensor, y: Tensor) -> Tensor:
        side = y.shape[2:] if self._pointwise else self.size
        rest = [
            n - ((m - 1) * self.stride[0] - 2 * int(self.padding[0]) + self.kernel_size[0])
            for n, m in zip(side, y.shape[2:], strict=True)
        ]
        return F.conv_transpose2d(y, weight, None, self.stride, self.padding, rest)  # type: ignore[arg-type]

    def check_size(self, x: Tensor) -> None:
        """ValueError unless x is (B, in_channels, *size)."""
        expected = (self.in_channels, *self.size)
        if tuple(x.shape[1:]) != expected:
            raise ValueError(f"expected (B, {', '.join(map(str, expected))}), got {tuple(x.shape)}")

    def forward(self, x: Tensor) -> Tensor:
        self.check_size(x)
        return F.conv2d(x, self.normalized_weight(), self.bias, self.stride, self.padding)

    def _leading(self, weight: Tensor, done: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if self._pointwise:
            if done is None:
                return _leading_of_kernel(weight)
            return _unless(done, _leading_of_kernel, weight, self.leading_u, self.leading_v)
        steps, u, v = _steps_to_certainty(self.start.numel()), self.u, self.start
        if done is None:
            for _ in range(steps):
                u, v = self._step(weight, u, v)
        else:  # one loop in the graph, not a thousand nodes; of no steps where nothing is to be done
            first = torch.where(done, steps, 0)
            start = first, self.leading_u.clone(), torch.where(done, self.leading_v, self.start)
            _, u, v = while_loop(lambda i, u, v: i < steps, lambda i, u, v: (i + 1, *self._step(weight, u, v)), start)
        return _unit(self.apply_weight(weight, v), u), v

    def _step(self, weight: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        u = _unit(self.apply_weight(weight, v), u)
        return u, _unit(self.apply_adjoint(weight, u), v)


def _leading_of_kernel(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The leading singular vectors u and v of a 1 x 1 kernel, shaped as images of one pixel."""
    u, v = _leading_of_matrix(weight.flatten(1))
    return u[None, :, None, None], v[None, :, None, None]


def _unless(
    done: Tensor, leading: Callable[[Tensor], tuple[Tensor, Tensor]], weight: Tensor, u: Tensor, v: Tensor
) -> tuple[Tensor, Tensor]:
    """(u, v) where ``done``, else those of the weight: a branch in a compiled graph."""
    return torch.cond(
        done, lambda weight, u, v: (u.clone(), v.clone()), lambda weight, u, v: leading(weight), (weight, u, v)
    )


def _steps_to_certainty(n: int) -> int:
    """How many steps from a random start in n dimensions leave 2 % of the eigenvalue with a chance below 1e-6."""
    k = 2
    while 0.354 / math.sqrt(_GAP * (k - 1)) * math.sqrt(n) * (1 - _GAP) ** (k - 0.5) > 1e-6:
        k += 1
    return k


def _leading_of_matrix(weight: Tensor) -> tuple[Tensor, Tensor]:
    """u and v of a matrix, by the smaller of its Gram matrices in float64."""
    wide = weight.double()
    tall = wide.shape[0] > wide.shape[1]
    gram = (wide.mT @ wide if tall else wide @ wide.mT).nan_to_num(0, 0, 0)  # eigh raises; the norm is to be NaN
    one = torch.linalg.eigh(gram).eigenvectors[:, -1]
    other = _unit(wide @ one if tall else one @ wide, torch.zeros_like(wide[:, 0] if tall else wide[0]))
    u, v = (other, one) if tall else (one, other)
    return u.to(weight.dtype, copy=True), v.to(weight.dtype, copy=True)


def _start(shape: Sequence[int]) -> Tensor:
    """A random vector of length 1, always the same."""
    return _unit(torch.randn(tuple(shape), generator=torch.Generator().manual_seed(0), device="cpu"))


def _unit(x: Tensor, otherwise: Tensor | None = None) -> Tensor:
    """x at length 1; where x is 0 (a layer that starts at zero), what was there before."""
    length = torch.linalg.vector_norm(x)
    scaled = x / length.clamp(min=torch.finfo(x.dtype).tiny)
    return scaled if otherwise is None else torch.where(length > 0, scaled, otherwise)
