"""What an op gives belongs to torch: memory of its allocator, each output its own."""

from __future__ import annotations

from functools import cache

import pytest
from torch import Tensor

from pyflowk.ops import _router
from tests.ops import hostile

recorded = cache(hostile.recorded)


def memory(tensors: list[Tensor]) -> list[int]:
    """Where each lies, those without an element left out."""
    return [t.untyped_storage().data_ptr() for t in tensors if t.numel()]


@pytest.mark.parametrize("name", sorted(_router._ops))
def test_outputs_have_memory_of_torch_and_of_their_own(name: str) -> None:
    """Else a stream that uses them is not noted, a captured graph cannot hold them, and a write shows elsewhere."""
    op = _router._ops[name]
    for args in recorded()[name]:
        outputs = _router.flat(op.run(args))
        assert all(output.untyped_storage().resizable() for output in outputs)
        places = memory(outputs)
        assert len({*places}) == len(places)
        assert {*places}.isdisjoint(memory([t for t in _router.flat(args) if isinstance(t, Tensor)]))
