"""Loads the compiled modules and registers them as back ends; `show_config` tells what came of it."""

from __future__ import annotations

import importlib.util
import os
import sys
from types import ModuleType

import torch  # before the kernels: they borrow its threads

from .ops._backends import Backend, backends, implementation, register_backend
from .ops._router import registry

__all__ = ["show_config"]


def _load(name: str) -> ModuleType | None:
    """The compiled module, or None where this build has none; a module that exists but breaks says so itself."""
    if importlib.util.find_spec(f"pyflowk.{name}") is None:
        return None
    return importlib.import_module(f"pyflowk.{name}")


def register() -> None:
    """Register the back ends of this installation, in order of choice."""
    cpu = _load("_cpu")
    if cpu is None:
        raise ImportError(
            f"pyflowk was imported from {os.path.dirname(__file__)}, where its compiled kernels are not built. "
            "Install it (`pip install .`, or `pip install -e .` to develop) and, after a plain install, start Python "
            "outside the source folder."
        )
    register_backend(Backend("cpu", "cpu", cpu))


def show_config(file: object = None) -> None:
    """Print version, instruction set, threads, CUDA architectures, and what each op runs on and why.

    PYFLOWK_ISA=v2|v3|v4 forces an instruction set (baseline is the only one on other processors).

    >>> show_config()  # doctest: +ELLIPSIS
    pyflowk ...
    """
    from . import __version__, _cpu

    cuda = backends.get("cuda")
    lines = [
        f"pyflowk {__version__}, torch {torch.__version__}, Python {sys.version.split()[0]}",
        f"CPU: instruction set {_cpu.isa}, {torch.get_num_threads()} thread(s) borrowed from torch",
        "CUDA: " + (f"compiled for {cuda.kernels.architectures}" if cuda else "not compiled in"),
    ]
    for entry in backends.values():
        lines.append(f"back end {entry.name}: " + (f"not usable: {entry.unavailable}" if entry.unavailable else "ready"))
        lines += [f"    {op} is switched off: {why}" for op, why in entry.off.items()]
    for name, op in registry().items():
        for device in ("cpu", "cuda"):
            lines.append(f"op {name} on {device}: {_serving(name, device, op.reference)}")
    print("\n".join(lines), file=file)  # type: ignore[call-overload]


def _serving(name: str, device: str, formula: object) -> str:
    chosen = implementation(name, device, formula)  # type: ignore[arg-type]
    if chosen is formula:
        return "plain-torch formula"
    return next((f"{b.name} kernel" for b in backends.values() if getattr(b.kernels, name, None) is chosen), "refused")
