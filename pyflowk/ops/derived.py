"""Buffers that no state dict holds, because a module's settings tell them, on a model that is made without memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Derived(nn.Module):
    """A module whose ``derived()`` gives such buffers: they are made again wherever they would be lost.

    A model may be built on the meta device and get its memory later: by ``to_empty``, which leaves every number
    undefined, or by ``load_state_dict(assign=True)``, which gives numbers to what the state dict holds and to nothing
    else. A subclass calls ``_set_derived()`` in its constructor; dtypes of numbers with a fraction follow the module's.
    """

    def derived(self) -> dict[str, Tensor]:
        """Make the buffers, name by name, on the CPU and from the settings alone."""
        raise NotImplementedError(f"{type(self).__name__} names no derived buffers")

    def _set_derived(self) -> None:
        place = torch.empty(0).device
        made = self._made()
        self._derived_names = tuple(made)
        for name, value in made.items():
            self.register_buffer(name, value.to(place), persistent=False)
        self.register_load_state_dict_post_hook(_give_memory)

    def _made(self) -> dict[str, Tensor]:
        with torch.device("cpu"), torch.no_grad():
            return self.derived()

    def _lost(self) -> bool:
        return any(self._buffers[name].is_meta for name in self._derived_names)  # type: ignore[union-attr]

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        lost = self._lost()
        result = super()._apply(fn, recurse)
        if lost and not self._lost():
            for name, value in self._made().items():
                self._buffers[name].copy_(value)  # type: ignore[union-attr]
        return result


def _give_memory(module: Any, incompatible_keys: Any) -> None:
    """After loading by assignment: the derived buffers go where the parameters are now."""
    here = next((p.device for p in module.parameters() if not p.is_meta), None)
    if here is None or not module._lost():
        return
    for name, value in module._made().items():
        old = module._buffers[name]
        module._buffers[name] = value.to(here, old.dtype)
