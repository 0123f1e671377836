"""The CPU test bench of the CUDA kernels, importable as `simt`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from simt import backend, build
from simt.bench import Bench


def _bench(mode: str) -> Bench:
    if reason := build.unavailable():
        pytest.skip(reason)
    return backend.register(mode, "simt" if mode == "checker" else f"simt-{mode}")


@pytest.fixture(scope="session")
def checked() -> Bench:
    """Back end "simt": every access of a kernel under the checker."""
    return _bench("checker")


@pytest.fixture(scope="session")
def plain() -> Bench:
    """Back end "simt-plain": fast, for large sizes."""
    return _bench("plain")
