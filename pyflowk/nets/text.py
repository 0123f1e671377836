"""A text as context: so many tokens, each of which becomes a vector."""

from __future__ import annotations

import torch
from torch import Tensor

from ..space import Context, Ragged
from .context import ContextBias

__all__ = ["ContextTokens", "text_rows"]


class ContextTokens(ContextBias):
    r"""One vector for each of ``length`` tokens of a context: :math:`E_{c_i}`, or :math:`W c_i + b` where c_i is given.

    With ``classes`` the tokens are integers (B, length) and ``classes`` itself stands for none; with ``context_dim``
    they are vectors (B, length, context_dim + 1), whose last number is 1 where there is a token and 0, as all others,
    where there is none, as :func:`text_rows` makes them of texts. No token has a vector, too: a learned one, or 0.
    ``nothing`` is the row that stands for no text if it is ``droppable``: no token at all, unless another is put there.
    Raises ValueError or TypeError for a context of another kind.

    >>> import torch
    >>> from pyflowk.nets import ContextTokens
    >>> ContextTokens(4, length=3, classes=10)(torch.tensor([[0, 9, 10]])).shape
    torch.Size([1, 3, 4])
    """

    nothing: Tensor

    def __init__(
        self,
        features: int,
        length: int,
        context_dim: int | None = None,
        classes: int | None = None,
        droppable: bool = False,
    ) -> None:
        super().__init__(features, context_dim, classes, droppable=True)  # a row may end early
        self.length, self.droppable = length, droppable
        none = torch.zeros(1, length, (context_dim or 0) + 1) if classes is None else torch.full((1, length), classes)
        self.register_buffer("nothing", none)

    def no_context(self) -> Tensor:
        super().no_context()  # an error, if it is not droppable
        return self.nothing

    def forward(self, context: Tensor) -> Tensor:
        self._check(context)
        if self.classes is None:
            return self.table(context)
        return super().forward(context.flatten()).unflatten(0, context.shape)

    def _check(self, context: Tensor) -> None:
        wanted = tuple(self.nothing.shape[1:])
        if context.shape[1:] != wanted or context.is_floating_point() != (self.classes is None):
            kind = "integers" if self.classes is not None else "floats"
            got = f"{tuple(context.shape)} {context.dtype}"
            raise ValueError(f"expected a context (B, {', '.join(map(str, wanted))}) of {kind}, got {got}")


def text_rows(text: Ragged, known: Context) -> Tensor:
    """Texts, rows of tokens or of vectors, as :class:`ContextTokens` takes them. Raises ValueError for longer ones than
    the context has room for, and for vectors of another size.

    >>> import torch
    >>> from pyflowk.nets import text_rows
    >>> from pyflowk.space import Context, Ragged
    >>> text_rows(Ragged.of([torch.tensor([3, 1]), torch.tensor([2])]), Context("tokens", 9, length=3))
    tensor([[3, 1, 9],
            [2, 9, 9]])
    """
    values, mask, length = text.values, text.mask, known.length
    assert length is not None
    sizes = () if known.kind == "tokens" else (known.size,)
    if values.shape[2:] != sizes or values.shape[1] > length:
        wanted = ", ".join(map(str, ("B", f"up to {length}", *sizes)))
        raise ValueError(f"expected a context ({wanted}), got {tuple(values.shape)}")
    room = (0, length - values.shape[1])
    if known.kind == "tokens":
        return torch.nn.functional.pad(values.long().where(mask, known.size), room, value=known.size)
    flags = mask.unsqueeze(2)
    return torch.nn.functional.pad(torch.cat((values.where(flags, 0), flags.to(values.dtype)), 2), (0, 0, *room))
