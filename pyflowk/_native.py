"""Loads the compiled modules and registers them as back ends; `show_config` tells what came of it."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch  # before the kernels: they borrow its threads

from .ops import modes
from .ops._backends import Backend, backends, register_backend
from .ops._router import all_ops, registry
from .ops._triton import backend as triton

__all__ = ["show_config"]


def _load(name: str, allocate: modes.Allocate) -> ModuleType | None:
    """Return the compiled module, or None where this build has none; a module that exists but breaks says so itself."""
    if importlib.util.find_spec(f"pyflowk.{name}") is None:
        return None
    module = importlib.import_module(f"pyflowk.{name}")
    changed = _changed(getattr(module, "_arguments", {}))
    if changed or not hasattr(module, "_allocate_by"):
        what = f" ({changed} is another now)" if changed else ""
        raise ImportError(f"pyflowk.{name} is older than the Python files beside it: pip install -e . again{what}")
    module._allocate_by(allocate)
    return module


def _changed(compiled: dict[str, int]) -> str | None:
    """Return the first compiled function that no op calls with as many arguments."""
    public = (name for name in compiled if not name.startswith("_"))
    return next((name for name in public if name not in all_ops() or all_ops()[name].arguments != compiled[name]), None)


def register() -> None:
    """Register the back ends of this installation, in order of choice."""
    cpu = _load("_cpu", modes.empty_on_cpu)
    if cpu is None:
        raise ImportError(
            f"pyflowk was imported from {os.path.dirname(__file__)}, where its compiled kernels are not built. "
            "Install it (`pip install .`, or `pip install -e .` to develop) and, after a plain install, start Python "
            "outside the source folder."
        )
    off = _switched_off(os.environ.get("PYFLOWK_OFF", ""))
    register_backend(Backend("cpu", "cpu", cpu, off=off["cpu"]))
    module = _load("_cuda", modes.empty_on_card)
    if module is not None:
        cuda = Kernels(module)
        on_card = Backend("cuda", "cuda", cuda, _no_nvidia(), off=off["cuda"], ask=lambda: _cuda_error(cuda), card=True)
        register_backend(on_card)
    device = "cpu" if triton.interpreted() else "cuda"
    card = not triton.interpreted()  # where it also serves by itself
    why_not = triton.unavailable()
    register_backend(Backend("triton", device, triton, why_not, card, off["triton"], triton.ask, card=card))


def _switched_off(wish: str) -> dict[str, dict[str, str]]:
    """Read which kernels PYFLOWK_OFF leaves out, each with its backward: "cuda:affine_coupling,triton:rq_spline"."""
    off: dict[str, dict[str, str]] = {"cpu": {}, "cuda": {}, "triton": {}}
    for entry in filter(None, wish.split(",")):
        name, _, op = entry.strip().partition(":")
        if name not in off or op not in registry():
            raise ImportError(
                f"PYFLOWK_OFF: expected back end:op, separated by commas, with back ends {', '.join(off)} and ops "
                f"{', '.join(registry())}; got {entry!r}"
            )
        parts = [part.name for part in registry()[op].parts]
        off[name] |= dict.fromkeys([op, f"{op}_backward", *parts], "PYFLOWK_OFF")
    return off


def _no_nvidia() -> str:
    if torch.version.hip is not None:
        return f"torch {torch.__version__} drives AMD cards; the CUDA kernels need an NVIDIA card"
    return "" if torch.version.cuda is not None else f"torch {torch.__version__} was built without CUDA"


class Kernels:
    """The CUDA kernels; on `foreign` cards, which they were not compiled for, the formulas."""

    def __init__(self, module: Any) -> None:
        self.module, self.architectures = module, module.architectures
        self.foreign: frozenset[int] = frozenset()  # known once the driver is awake

    def __getattr__(self, op: str) -> Callable[..., Any]:
        kernel = getattr(self.module, op)
        if not self.foreign:
            return kernel
        formula = all_ops()[op].reference

        def by_card(*args: Any) -> Any:
            return (formula if args[0].get_device() in self.foreign else kernel)(*args)

        return by_card


def _cuda_error(kernels: Kernels) -> str:
    """Say why the kernels run on no card here; this wakes the driver. A card that is left out is warned about."""
    if error := _no_nvidia() or kernels.module.device_error():
        if torch.cuda.is_available():  # to torch's own runtime, which may be older
            _warn(f"torch sees a card, but the CUDA kernels do not: {error}")
        return error
    cards = [torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())]
    foreign = {i: f"{c[0]}.{c[1]}" for i, c in enumerate(cards) if not covers(kernels.architectures, c)}
    if not foreign:
        return "" if cards else "torch sees no card"
    found = ", ".join(f"cuda:{i} has compute capability {capability}" for i, capability in foreign.items())
    error = f"the CUDA kernels are compiled for architectures {kernels.architectures}; {found}"
    _warn(error)
    if len(foreign) == len(cards):
        return error
    kernels.foreign = frozenset(foreign)
    return ""


def _warn(what: str) -> None:
    warnings.warn(f"pyflowk: {what}; Triton or plain torch serves there", RuntimeWarning, stacklevel=2)


def covers(architectures: str, capability: tuple[int, int]) -> bool:
    """Tell whether kernels compiled for CMake's list `architectures` run on a card of that compute capability.

    Machine code ("90-real") serves its major version from its minor version on; PTX ("90-virtual") every newer card;
    a plain "90" is both. Names such as "all" or "native" are taken to fit.

    >>> covers("80-real 90", (8, 6)), covers("80-real 90", (10, 0)), covers("80-real 90", (7, 5))
    (True, True, False)
    """
    major, minor = capability
    for entry in architectures.split():
        digits = entry.split("-")[0].rstrip("af")
        if not digits.isdigit():
            return True
        compiled = int(digits[:-1]), int(digits[-1])
        if not entry.endswith("-virtual") and compiled[0] == major and compiled[1] <= minor:
            return True
        if not entry.endswith("-real") and compiled <= (major, minor):
            return True
    return False


def show_config(file: object = None) -> None:
    """Print version, instruction set, threads and devices, then a table of ops: which back end has a kernel for each.

    An op runs on the first back end, from left to right, of its tensors' device whose kernel is there, else as its
    plain-torch formula, as do large products on a card. PYFLOWK_ISA=v2|v3|v4 forces an instruction set (baseline is
    the only one on other processors); PYFLOWK_OFF=cuda:affine_coupling leaves that kernel out.

    >>> show_config()  # doctest: +ELLIPSIS
    pyflowk ...
    """
    from . import __version__

    isa, cuda = backends["cpu"].kernels.isa, backends.get("cuda")
    count = torch.cuda.device_count()
    cards = ", ".join(torch.cuda.get_device_name(i) for i in range(count)) or "no card"
    lines = [
        f"pyflowk {__version__}, torch {torch.__version__}, Python {sys.version.split()[0]}",
        f"CPU: instruction set {isa}, {torch.get_num_threads()} thread(s) borrowed from torch",
        "CUDA: " + (f"compiled for {cuda.kernels.architectures}" if cuda else "not compiled in") + f"; {cards}",
    ]
    for entry in backends.values():
        reason = entry.settled().unavailable
        lines.append(f"back end {entry.name}: " + (f"not usable: {reason}" if reason else "ready"))
    print("\n".join([*lines, "", *_table()]), file=file)  # type: ignore[call-overload]


def _table() -> list[str]:
    """The table has an op in each row and a back end in each column."""
    table = [("op", *backends), *((op, *(_cell(entry, op) for entry in backends.values())) for op in registry())]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]


def _cell(entry: Backend, op: str) -> str:
    """A cell says what a back end has for an op, or holds a dash where the back end is not usable."""
    if entry.unavailable:
        return "-"
    if op in entry.off:
        return f"off: {entry.off[op]}"
    return "kernel" if entry.kernel(op) else "formula"
