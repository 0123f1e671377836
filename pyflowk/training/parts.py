"""What of a model is trained, averaged and saved: the model names the exceptions, this file alone reads them.

| part of the model           | trained          | averaged | saved |
| --------------------------- | ---------------- | -------- | ----- |
| its parameters              | unless frozen    | yes      | yes   |
| its buffers                 | no               | copied   | yes   |
| `targets`, moved by itself  | no               | copied   | yes   |
| `teachers`, never moved     | no               | shared   | no    |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from ..zoo import GenerativeModel


def freeze(model: GenerativeModel) -> None:
    """Targets and teachers get no gradients: they are left out of optimiser, clipping and other processes' sums.

    Raises ValueError for one that the model does not have, and for a tensor that belongs to two rows of the
    table above: to a teacher, say, and to what is trained.
    """
    named = {"teachers": model.teachers, "targets": model.targets}
    frozen = [submodule(model, name) for names in named.values() for name in names]
    _require_apart(model, model.named_parameters(remove_duplicate=False), named)
    _require_apart(model, model.named_buffers(remove_duplicate=False), {"teachers": model.teachers})
    for part in frozen:
        part.requires_grad_(False)


def _require_apart(
    model: GenerativeModel, tensors: Iterable[tuple[str, Tensor]], named: Mapping[str, Iterable[str]]
) -> None:
    """No tensor is of two kinds."""
    seen: dict[int, tuple[str, str]] = {}
    for name, tensor in tensors:
        kind = next((kind for kind, parts in named.items() if inside(name, parts)), "the rest")
        other, first = seen.setdefault(id(tensor), (kind, name))
        if other != kind:
            raise ValueError(
                f"{type(model).__name__}: {first}, of {other}, and {name}, of {kind}, are one tensor: expected a copy, "
                "or both among the same parts"
            )


def trained(model: GenerativeModel) -> list[nn.Parameter]:
    """The parameters that the optimiser moves, once the model is frozen where it is to be."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def train(model: GenerativeModel) -> None:
    """The model in training mode; its teachers in evaluation mode, in which they change nothing of themselves."""
    model.train()
    for name in model.teachers:
        submodule(model, name).eval()


def saved(model: GenerativeModel) -> dict[str, Tensor]:
    """The state of the model without its teachers."""
    return {key: value for key, value in model.state_dict().items() if not inside(key, model.teachers)}


def load(model: GenerativeModel, state: dict[str, Tensor]) -> None:
    """Take in what `saved` has given, strictly; teachers stay as they were built. Raises RuntimeError as torch does."""
    teachers = {key: value for key, value in model.state_dict().items() if inside(key, model.teachers)}
    model.load_state_dict({**state, **teachers})


def submodule(model: nn.Module, name: str) -> nn.Module:
    """The part of this name; ValueError where there is none."""
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        raise ValueError(f"{type(model).__name__}: expected a part of it, among targets or teachers; {error}") from None


def inside(key: str, parts: Iterable[str]) -> bool:
    """Whether a name of the state dict belongs to one of these parts.

    >>> inside("net.0.weight", ("net",)), inside("network.weight", ("net",))
    (True, False)
    """
    return any(key.startswith(f"{part}.") for part in parts)
