"""No test changes what the next one stands on, and the collector of cycles rests while they are collected."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch


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
def nothing_left_behind() -> Iterator[None]:
    """A test that leaves the ops to another implementation would have all later ones of its process prove that one."""
    from pyflowk.ops import _backends, registry

    def state() -> tuple[object, ...]:
        served = [op._on_cpu for op in registry().values()]
        return _backends.forced(), served, torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()

    before = state()
    yield
    assert state() == before, "this test leaves another back end, dtype, number of threads or mode behind"
