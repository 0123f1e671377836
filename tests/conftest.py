"""What holds for all tests: none leaves the ops served otherwise, and the collector of cycles rests while collecting."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Let the collector leave alone what lives as long as the session: modules and some thousand collected tests."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.fixture(autouse=True)
def served_as_before() -> Iterator[None]:
    """A test that leaves the ops to another implementation would have all later ones of its process prove that one."""
    from pyflowk.ops import _backends, registry

    def served() -> tuple[object, ...]:
        return _backends.forced(), *(op._on_cpu for op in registry().values())

    before = served()
    yield
    assert served() == before, "this test leaves ops to another implementation than it found"
