"""How a context enters a network: shared by all networks of this room."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .._checks import require_counts
from ..ops.describe import described
from ..ops.modes import transformed
from ..shapes import Rows, check_labels, expand_context
from ..space import Ragged


class Network(nn.Module):
    """A network that may take a context after its inputs: what conditioners, fields and branches have in common.

    The context has one row per event, or one row for all of them (:func:`pyflowk.shapes.expand_context`). A network
    that was built for one raises ValueError without it, and one that was not refuses it. ``takes_context`` tells which:
    transforms, links of a chain whose other links may want the context, hand it to those alone that take it. A subclass
    that says nothing is handed whatever context there is. One that is built ``droppable`` can do without: None, or the
    rows of ``no_context``, then say that there is none, as :func:`drop_context` does of some rows in training. Networks
    of this room know it by their ``context``, a :class:`ContextBias`.

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

    @property
    def may_go_without(self) -> bool:
        """Whether there is a context that guidance could go away from; ``no_context`` says if the network knows how."""
        return self.takes_context

    def no_context(self) -> Tensor | Ragged:
        """One row that stands for no context, on the device of the weights; ValueError for a network without one."""
        if isinstance(bias := getattr(self, "context", None), ContextBias):
            return bias.no_context()
        kind = type(self).__name__
        if not self.takes_context:
            raise ValueError(f"guidance: expected a network that hears labels or numbers given; this {kind} hears none")
        raise ValueError(_indispensable(kind))

    def without(self, context: Tensor | None) -> Tensor | None:
        """What is left of a context for what guidance goes away from: nothing, usually."""
        return None


def drop_context(context: Rows, dropped: Tensor, none: Tensor | Ragged) -> Rows:
    r"""The context whose rows ``dropped`` (B,) are replaced by ``none``, one row, as ``Network.no_context`` gives it.

    Labels are replaced by one more label; numbers get one more column, 1 where they are given, and 0, as all numbers
    are, where they are not; tokens end at length 0. Raises ValueError or TypeError for rows of another kind.

    >>> import torch
    >>> from pyflowk.nets import MLPField, drop_context
    >>> labels, dropped = torch.tensor([3, 1]), torch.tensor([False, True])
    >>> drop_context(labels, dropped, MLPField(2, classes=10, droppable=True).no_context())
    tensor([ 3, 10])
    >>> drop_context(torch.ones(2, 1), dropped, MLPField(2, context_dim=1, droppable=True).no_context())
    tensor([[1., 1.],
            [0., 0.]])
    """
    if isinstance(context, Ragged) and isinstance(none, Ragged):
        return Ragged(context.values, context.lengths.masked_fill(dropped, 0))
    if not isinstance(context, Tensor) or not isinstance(none, Tensor):
        raise TypeError(f"expected a context of one kind, got {described(context)} and {described(none)} for none")
    context = _with_flag(context, none.shape[-1]) if none.is_floating_point() and none.dim() == 2 else context
    if context.shape[1:] != none.shape[1:]:
        raise ValueError(f"expected a context (B, {', '.join(map(str, none.shape[1:]))}), got {tuple(context.shape)}")
    if context.shape[0] not in (1, dropped.shape[0]):
        raise ValueError(f"expected a context of {dropped.shape[0]} rows or of 1 row, got {tuple(context.shape)}")
    none = none.to(context.dtype) if none.is_floating_point() else none  # one more label may not fit the labels' dtype
    return torch.where(dropped.reshape(-1, *[1] * (context.dim() - 1)), none, context)


def _with_flag(context: Tensor, columns: int) -> Tensor:
    """Numbers with the column that says that they are given, unless it is there."""
    if context.dim() != 2 or context.shape[1] != columns - 1:
        return context
    return torch.cat((context, context.new_ones(context.shape[0], 1)), 1)


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
    input would do. Exactly one of the two is given. With ``droppable`` there is one label more, ``classes``, which says
    that there is none; or one more column of numbers, 1 where they are given, which a context may leave out, and 0
    beside numbers 0 where they are not. Raises ValueError or TypeError for a context of the wrong kind, and
    on the CPU for labels that there are not.

    >>> import torch
    >>> from pyflowk.nets import ContextBias
    >>> ContextBias(4, classes=10)(torch.tensor([0, 9, 3])).shape
    torch.Size([3, 4])
    """

    def __init__(
        self, features: int, context_dim: int | None = None, classes: int | None = None, droppable: bool = False
    ) -> None:
        super().__init__()
        if (context_dim is None) == (classes is None):
            raise ValueError(f"expected either context_dim or classes, got {context_dim=} and {classes=}")
        require_counts("a context", **({"classes": classes} if classes is not None else {"context_dim": context_dim}))
        self.context_dim, self.classes, self.droppable = context_dim, classes, droppable
        self.table: nn.Embedding | nn.Linear
        if classes is not None:
            self.table = nn.Embedding(classes + droppable, features)
            nn.init.normal_(self.table.weight, std=0.1)
        else:
            self.table = nn.Linear(int(context_dim or 0) + droppable, features, bias=False)

    def no_context(self) -> Tensor:
        """One row that stands for none; ValueError unless it is ``droppable``."""
        weight = self.table.weight
        if not self.droppable:
            raise ValueError(_indispensable("one"))
        if self.classes is not None:
            return torch.full((1,), self.classes, device=weight.device)
        return weight.new_zeros(1, weight.shape[1])

    def forward(self, context: Tensor) -> Tensor:
        if self.classes is not None:
            labels = check_labels(context)
            try:
                return self.table(labels)
            except IndexError as error:  # which torch looks for on the CPU, so that nobody looks twice
                if transformed():
                    raise
                got = f"{labels.min()}..{labels.max()}"
                raise ValueError(f"expected labels in 0..{self.table.weight.shape[0] - 1}, got {got}") from error
        if self.droppable:
            context = _with_flag(context, self.table.weight.shape[1])
        if context.dim() != 2 or context.shape[1] != self.table.weight.shape[1] or not context.is_floating_point():
            raise ValueError(f"expected a context (B, {self.context_dim}) of floats, got {_describe(context)}")
        return self.table(context)


def make_context(
    features: int, context_dim: int | None, classes: int | None, droppable: bool = False
) -> ContextBias | None:
    """A ContextBias, or None where the network has no condition; ValueError for one that could be dropped then."""
    if context_dim is None and classes is None:
        if droppable:
            raise ValueError("droppable: expected a network with a context (context_dim or classes), got none")
        return None
    return ContextBias(features, context_dim, classes, droppable)


def context_vector(bias: ContextBias | None, context: Tensor | None, rows: int) -> Tensor | None:
    """The context's vector for each row, (rows, F), or None; ValueError where it is missing or unwanted."""
    if bias is None:
        if context is not None:
            raise ValueError("this network was built without a context (context_dim or classes), but got one")
        return None
    if context is None:
        if not bias.droppable:
            raise ValueError("this network was built for a context (context_dim or classes), but got none")
        context = bias.no_context()
    return bias(expand_context(context, rows))


def add_context(h: Tensor, bias: ContextBias | None, context: Tensor | None) -> Tensor:
    """h (B, F, *rest) plus the context's vector; ValueError where one is missing or not wanted."""
    vector = context_vector(bias, context, h.shape[0])
    return h if vector is None else h + vector.reshape(*vector.shape, *[1] * (h.dim() - 2))


def _indispensable(kind: str) -> str:
    return (
        "expected a network that can do without its context, for guidance or where it is dropped: built with "
        f"droppable=True, by a system with dropout above 0; this {kind} was not"
    )


def _describe(context: Tensor) -> str:
    return f"{tuple(context.shape)} {context.dtype}"
