"""What a backward pass that starts from the output carries from layer to layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from .base import Transform

Replay = Callable[["Transform", Tensor | None], tuple[Tensor, Tensor, Tensor]]


class Pullback:
    r"""The gradients of tensors that many layers may use: sums, by tensor, over all of them.

    ``wanted`` are the parameters, and the context where it needs a gradient; gradients of anything else are dropped.
    ``replays`` holds, for layers that cannot start from their output, ``(layer, context) -> (x, z, ladj)``: their input
    as it was kept, and what they make of it, recorded by autograd; the last one is used first.

    A layer's ``backward_from_output`` calls :meth:`add` with a gradient that it knows in closed form, :meth:`vjp` for
    what autograd has recorded, and :meth:`layer` for a transform inside it. Afterwards ``pullback[p]`` is the gradient
    of p, or None. Cost: that of the layers. KeyError for a tensor that was not wanted.

    >>> import torch
    >>> from pyflowk.transforms import ActNorm, Pullback
    >>> norm = ActNorm(2)
    >>> pullback = Pullback(norm.parameters())
    >>> x, grad_x = pullback.layer(norm, torch.ones(3, 2), torch.ones(3, 2), torch.zeros(3), None)
    >>> pullback[norm.bias]
    tensor([3., 3.])
    """

    def __init__(self, wanted: Iterable[Tensor], replays: Mapping[Transform, list[Replay]] | None = None) -> None:
        self._sums: dict[Tensor, Tensor | None] = dict.fromkeys(wanted)
        self._replays = replays or {}

    def __getitem__(self, tensor: Tensor) -> Tensor | None:
        return self._sums[tensor]

    def add(self, tensor: Tensor, gradient: Tensor | None) -> None:
        """Add to the gradient of a parameter or of the context."""
        if gradient is not None and tensor in self._sums:
            before = self._sums[tensor]
            self._sums[tensor] = gradient if before is None else before + gradient

    def vjp(
        self,
        outputs: Sequence[Tensor],
        gradients: Sequence[Tensor],
        inputs: Sequence[Tensor],
        module: nn.Module,
        context: Tensor | None,
    ) -> list[Tensor]:
        """The gradients of ``inputs``; those of the module's parameters and of the context are added to the sums."""
        candidates = module.parameters() if context is None else (*module.parameters(), context)
        shared = [tensor for tensor in dict.fromkeys(candidates) if tensor in self._sums]
        recorded = [(o, g) for o, g in zip(outputs, gradients, strict=True) if o.requires_grad]
        if not recorded:
            return [torch.zeros_like(tensor) for tensor in inputs]
        starts, weights = zip(*recorded, strict=True)
        found = torch.autograd.grad(starts, [*inputs, *shared], weights, allow_unused=True)
        for tensor, gradient in zip(shared, found[len(inputs) :], strict=True):
            self.add(tensor, gradient)
        return [torch.zeros_like(t) if g is None else g for t, g in zip(inputs, found, strict=False)]

    def layer(
        self, transform: Transform, z: Tensor, grad_z: Tensor, grad_ladj: Tensor, context: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(x, gradient of x) of one layer, from its output, or from its kept input where there is one."""
        if self._replays.get(transform):
            x, *outputs = self._replays[transform].pop()(transform, context)
            return x, self.vjp(outputs, (grad_z, grad_ladj), (x,), transform, context)[0]
        return transform.backward_from_output(z, grad_z, grad_ladj, context, self)
