"""Which implementation serves an op: the compiled modules, Triton, or the plain-torch formula."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Backend", "backend", "backends", "forced", "implementation", "on_change", "register_backend"]


@dataclass
class Backend:
    """One way to run ops on one kind of device: `kernels` maps an op's name to a callable of its schema."""

    name: str
    device: str
    kernels: Any
    unavailable: str = ""  # why it cannot run here; empty if it can
    automatic: bool = True  # chosen by itself, or only when forced
    off: dict[str, str] = field(default_factory=dict)  # op name -> why its kernel is switched off on this machine
    #: asked once, when the first tensor arrives or somebody wants to know: the rest of `unavailable`. Importing pyflowk
    #: must not wake a driver (a process that did cannot fork) nor load Triton.
    ask: Callable[[], str] | None = None
    #: its kernels stand beside a library with tensor cores: chosen by itself, it leaves an op's formula the sizes that
    #: the op says are the formula's.
    card: bool = False

    def settled(self) -> Backend:
        """Ask what is still to be asked of this back end, and return it."""
        if self.ask is not None:
            self.unavailable, self.ask = self.ask(), None
            _notify()
        return self

    def switch_off(self, op: str, why: str) -> None:
        """Leave `op` to the next back end, or to its formula."""
        self.off[op] = why
        _notify()

    def kernel(self, op: str) -> Callable[..., Any] | None:
        """Return the kernel for `op`, or None where this back end has none or may not use it."""
        return None if self.unavailable or op in self.off else getattr(self.kernels, op, None)


#: in order of choice; a back end registered later serves where the earlier ones cannot.
backends: dict[str, Backend] = {}
_forced: str | None = None
_listeners: list[Callable[[], None]] = []


def forced() -> str | None:
    """Return the implementation that a `with backend(...)` block forces on every op."""
    return _forced


def on_change(listener: Callable[[], None]) -> None:
    """Call `listener` now and whenever the choice of back ends may have changed."""
    _listeners.append(listener)
    listener()


def register_backend(entry: Backend) -> None:
    """Add a back end (the package adds its own at import; tests add the simulated ones)."""
    backends[entry.name] = entry
    _notify()


def _notify() -> None:
    for listener in _listeners:
        listener()


def implementation(
    op: str,
    device: str,
    formula: Callable[..., Any],
    prefers_formula: Callable[..., bool] | None = None,
) -> Callable[..., Any]:
    """Choose what runs `op` for tensors on `device` under the present choice.

    Where `prefers_formula` says so of a call's arguments, a card's kernel leaves the call to the formula.
    """
    if _forced == "reference":
        return formula
    if _forced is not None:
        entry = backends[_forced]
        return (entry.kernel(op) or formula) if entry.device == device else _refusal(op, entry, device)
    for entry in backends.values():
        if entry.automatic and entry.device == device and (kernel := entry.kernel(op)):
            if entry.ask is not None:
                return _first_call(entry, op, device, formula, prefers_formula)
            return _by_size(kernel, formula, prefers_formula) if entry.card and prefers_formula else kernel
    return formula


def _by_size(
    kernel: Callable[..., Any], formula: Callable[..., Any], prefers_formula: Callable[..., bool]
) -> Callable[..., Any]:
    def faster(*args: Any) -> Any:
        return (formula if prefers_formula(*args) else kernel)(*args)

    return faster


def _first_call(entry: Backend, op: str, device: str, *choice: Any) -> Callable[..., Any]:
    def ask_and_choose_again(*args: Any) -> Any:
        entry.settled()
        return implementation(op, device, *choice)(*args)

    return ask_and_choose_again


def _refusal(op: str, entry: Backend, device: str) -> Callable[..., Any]:
    def refuse(*args: Any) -> None:
        raise ValueError(f"{op}: back end {entry.name!r} takes tensors on {entry.device}; got one on {device}")

    return refuse


@contextlib.contextmanager
def backend(name: str) -> Iterator[None]:
    """Force every op onto one implementation inside a `with` block, for the whole process.

    "reference" is the plain-torch formula; "cpu", "cuda" and "triton" are the kernels. An op without a kernel in the
    forced back end runs its formula.

    Raises:
        ValueError: an unknown name, or a back end that cannot run on this machine (with the reason); and, at the call,
            a tensor on another device than the back end's.

    >>> import torch, pyflowk
    >>> with pyflowk.backend("reference"):
    ...     pyflowk.ops.additive_coupling(torch.zeros(1, 2), torch.ones(1, 1))[0]
    tensor([[0., 1.]])
    """
    global _forced
    if name != "reference":
        if name not in backends:
            raise ValueError(f"backend: expected one of reference, {', '.join(backends)}; got {name!r}")
        if reason := backends[name].settled().unavailable:
            raise ValueError(f"backend: {name!r} cannot run here: {reason}")
    before, _forced = _forced, name
    _notify()
    try:
        yield
    finally:
        _forced = before
        _notify()
