"""The CPU test bench of the CUDA kernels, importable as `simt`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from simt import backend, build
from simt.bench import Bench


@pytest.fixture(scope="session")
def checked() -> Bench:
    """Back end "simt": every access of a kernel under the checker."""
    if reason := build.unavailable():
        pytest.skip(reason)
    return backend.register("checker")
