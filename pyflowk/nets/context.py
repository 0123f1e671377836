"""How a context enters a network: shared by all networks of this room."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from .._checks import require_counts
from ..ops.describe import described
from ..shapes import check_labels, expand_context


class Network(nn.Module):
    """A network that may take a context after its inputs: what conditioners, fields and branches have in common.

    The context has one row per event, or one row for all of them (:func:`pyflowk.shapes.expand_context`). A network
    that was built for one raises ValueError without it, and one that was not refuses it. ``takes_context`` tells which:
    transforms, links of a chain whose other links may want the context, hand it to those alone that take it. A subclass
    that says nothing is handed whatever context there is.

    >>> import torch
    >>> from pyflowk.nets import Network
    >>> from pyflowk.transforms import Coupling
    >>> class Shift(Network):
    ...     def forward(self, x, context=None):
    ...         return torch.cat((0 * x, x if context is None else x + context), 1)
    >>> Coupling(Shift())(torch.ones(2, 2), torch.tensor([[5.0]]))[0]
    tensor([[1., 7.],
            [1., 7.]])
    """

    takes_context: bool = True


def uncompiled(module: Any) -> Any:
    """The module itself, where it stands behind torch.compile."""
    return getattr(module, "_orig_mod", module)


def wants_context(net: object, conditional: bool | None) -> bool:
    """Whether a module of a transform is handed the context: as the user says, else as a Network says, else yes.

    Raises TypeError for what is no module nor function, and for another word than True, False and None.
    """
    if isinstance(net, type) or not callable(net):
        raise TypeError(f"expected a module or a function, got {described(net)}{' itself' * isinstance(net, type)}")
    if conditional is not None:
        if not isinstance(conditional, bool):
            raise TypeError(f"conditional: expected True, False or None, got {described(conditional)}")
        return conditional
    net = uncompiled(net)
    return net.takes_context if isinstance(net, Network) else True


def with_context(net: Callable[..., Tensor], *arguments: Tensor | None) -> Tensor:
    """What a module answers that is handed a context; a TypeError says what to do if it takes none."""
    try:
        return net(*arguments)
    except TypeError as error:
        raise TypeError(f"{error}; it is handed the context: if it takes none, say conditional=False") from error


class ContextBias(nn.Module):
    r"""One vector per context, to be added to a network's first features: :math:`E_c` or :math:`W c`.

    With ``classes`` the context is (B,) integer labels and the vectors are an embedding; with ``context_dim`` it is
    (B, context_dim) numbers and the vectors a linear image of them: what concatenating the context to the network's
    input would do. Exactly one of the two is given. Raises ValueError or TypeError for a context of the wrong kind.

    >>> import torch
    >>> from pyflowk.nets import ContextBias
    >>> ContextBias(4, classes=10)(torch.tensor([0, 9, 3])).shape
    torch.Size([3, 4])
    """

    def __init__(self, features: int, context_dim: int | None = None, classes: int | None = None) -> None:
        super().__init__()
        if (context_dim is None) == (classes is None):
            raise ValueError(f"expected either context_dim or classes, got {context_dim=} and {classes=}")
        require_counts("a context", **({"classes": classes} if classes is not None else {"context_dim": context_dim}))
        self.context_dim, self.classes = context_dim, classes
        self.table: nn.Module
        if classes is not None:
            self.table = nn.Embedding(classes, features)
            nn.init.normal_(self.table.weight, std=0.1)
        else:
            self.table = nn.Linear(int(context_dim or 0), features, bias=False)

    def forward(self, context: Tensor) -> Tensor:
        if self.classes is not None:
            return self.table(check_labels(context))
        if context.dim() != 2 or context.shape[1] != self.context_dim or not context.is_floating_point():
            raise ValueError(f"expected a context (B, {self.context_dim}) of floats, got {_describe(context)}")
        return self.table(context)


def make_context(features: int, context_dim: int | None, classes: int | None) -> ContextBias | None:
    """A ContextBias, or None where the network has no condition."""
    return None if context_dim is None and classes is None else ContextBias(features, context_dim, classes)


def context_vector(bias: ContextBias | None, context: Tensor | None, rows: int) -> Tensor | None:
    """The context's vector for each row, (rows, F), or None; ValueError where it is missing or unwanted."""
    if bias is None:
        if context is not None:
            raise ValueError("this network was built without a context (context_dim or classes), but got one")
        return None
    if context is None:
        raise ValueError("this network was built for a context (context_dim or classes), but got none")
    return bias(expand_context(context, rows))


def add_context(h: Tensor, bias: ContextBias | None, context: Tensor | None) -> Tensor:
    """h (B, F, *rest) plus the context's vector; ValueError where one is missing or not wanted."""
    vector = context_vector(bias, context, h.shape[0])
    return h if vector is None else h + vector.reshape(*vector.shape, *[1] * (h.dim() - 2))


def _describe(context: Tensor) -> str:
    return f"{tuple(context.shape)} {context.dtype}"
