"""The one place where a call finds its way: eager, autograd, torch.compile, functorch or forward-mode AD.

    compiling?   functorch or forward AD inside, or a small call -> formula (Inductor fuses it); else the library op
    dispatch mode, tensor subclass, negative view, jit trace     -> library op
    forward AD (jvp, jacfwd, dual levels) or functionalize       -> formula: right when nested, which no hook is
    functorch (vmap, grad, vjp)                                  -> autograd.Function with setup_context and vmap
    grad mode on and an input requires grad                      -> ctx-style autograd.Function (19 us a step cheaper)
    else                                                         -> the kernel, directly

`modes.py` tells which of them it is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad
from torch.autograd.graph import increment_version
from torch.nn import Parameter

from ._backends import implementation, on_change
from .modes import (
    compiling,
    exporting,
    functional,
    functionalizing,
    grad_enabled,
    modes_on_stack,
    of_no_device,
    tracing,
    unwatched,
    unwrap,
)

__all__ = ["FusedOp", "all_ops", "flat", "registry"]

_library = torch.library.Library("pyflowk", "DEF")
_PLAIN = (Tensor, Parameter)
_DEVICES = ("cpu", "cuda")
_ops: dict[str, FusedOp] = {}

#: Under torch.compile a call on fewer elements than this becomes the formula, unless the op says otherwise: Inductor
#: fuses it with what is around it, and the call itself (some 80 us) costs nothing.
EXPAND_BELOW = 1 << 14


def all_ops() -> dict[str, FusedOp]:
    """Return every op by its name, the backward ops too."""
    return _ops


def registry() -> dict[str, FusedOp]:
    """Return every op by its name, the ops left out that are backward ones or parts of them."""
    inner = {part.name for op in _ops.values() for part in (op.backward, *op.parts) if part is not None}
    return {name: op for name, op in _ops.items() if name not in inner}


class FusedOp:
    """One op, declared once: its schema, its plain-torch formula, and how it is differentiated.

    Args:
        name: of the op, and of its kernels in every compiled module.
        schema: tensors first, then plain configuration. An op with a varying number of tensors, such as slopes, has a
            list of them, `Tensor[] ks`; formula, kernels and the torch.library op all take it as a list.
        formula: the op in plain, differentiable torch operations.
        fake: shapes and dtypes of the outputs, from the same arguments.
        check: raises on arguments that do not fit; called where no kernel does it.
        saved: (*inputs, *outputs) -> the tensors that the backward op takes first.
        hidden: how many outputs, the last ones, are for the backward op alone, which takes no gradients of them. Such
            an op has one output beside them.
        backward: the op that takes (*saved, *output gradients, *configuration) to the input gradients, those of
            `indices` left out and a list of them for a list. Its own derivatives come from its formula, so every
            higher order exists.
        shared: names of the tensors that all rows share, such as weights; dimension 0 of every other one is the rows.
        indices: names of the integer tensors.
        expand_below: a call under torch.compile on fewer elements becomes the formula; 0 (never) for ops whose formula
            is a long loop.
        prefers_formula: asked with a call's arguments, unchecked ones, on a card unless a back end is forced: whether
            the formula, whose products are the library's there, is predicted faster than the kernel. It looks at
            shapes and dtypes alone.
        parts: ops that its formula, or that of the backward op, calls, where a back end has kernels for parts alone.
    """

    def __init__(
        self,
        name: str,
        schema: str,
        *,
        formula: Callable[..., tuple[Any, ...]],
        fake: Callable[..., tuple[Any, ...]],
        check: Callable[..., None] | None = None,
        saved: Callable[..., tuple[Any, ...]] | None = None,
        hidden: int = 0,
        backward: FusedOp | None = None,
        shared: Collection[str] = (),
        indices: Collection[str] = (),
        expand_below: int = EXPAND_BELOW,
        prefers_formula: Callable[..., bool] | None = None,
        parts: Collection[FusedOp] = (),
    ) -> None:
        self.parts = parts
        self.name, self.formula, self.check, self.backward = name, formula, check, backward
        self._fake, self._saved, self.expand_below = fake, saved, expand_below
        self.prefers_formula = prefers_formula
        arguments = [argument.split() for argument in schema.split("->")[0].strip("( )").split(",")]
        tensors = [argument[1] for argument in arguments if argument[0] in ("Tensor", "Tensor[]")]
        if unknown := {*shared, *indices} - set(tensors):
            raise ValueError(f"{name}: no tensor of its schema is called {', '.join(sorted(unknown))}")
        self._tensors, self.arguments = len(tensors), len(arguments)
        self._lists = any(argument[0] == "Tensor[]" for argument in arguments)
        results = [result.strip() for result in schema.split("->")[1].strip("( )").split(",")]
        self._listed = [result == "Tensor[]" for result in results]
        self._single = results == ["Tensor"]  # such an op returns it bare where torch calls it
        self._seen = len(results) - hidden
        self._shared = tuple(tensor in shared for tensor in tensors)
        self._real = tuple(tensor not in indices for tensor in tensors)
        self._implementations: dict[str, Callable[..., Any]] = {}
        self._declare(schema)
        _ops[name] = self
        if backward is not None and saved is not None:
            self._eager = _eager_function(self, backward, saved)
            self._functional = _functional_function(self, backward, saved)
        on_change(self._choose)

    def __call__(self, args: tuple[Any, ...], inplace: bool = False, consume: bool = False) -> Any:
        """Route one call; with inplace the first output is the first input, overwritten. With consume the gradient may
        be, which then stands in the first input of both ops and is the backward op's first output."""
        if compiling():
            return self._compiled(args, inplace)
        needs_gradient = False
        for tensor in self._inputs(args):
            if type(tensor) not in _PLAIN or tensor.is_neg():
                return self._through_library(args, inplace)
            needs_gradient = needs_gradient or tensor.requires_grad
        if modes_on_stack() or tracing() is not None:
            return self._through_library(args, inplace)
        if forward_ad._current_level >= 0:
            return self._by_formula(args, inplace)
        if functional():
            return self._functional_call(args, inplace)
        if needs_gradient and grad_enabled():
            return self._with_gradient(args, inplace, consume)
        return self.run(args, inplace)

    def run(self, args: tuple[Any, ...], inplace: bool = False) -> tuple[Tensor, ...]:
        """Call the kernel (or, where there is none, the formula) on plain tensors, past every transformation."""
        first = args[0]
        chosen = self._on_cpu if first.is_cpu else self._implementations.get(first.device.type, self.reference)
        if not inplace:
            return chosen(*args)
        if chosen is not self.reference:
            return chosen(*args, True)
        return _overwrite(first, chosen(*args))

    def reference(self, *args: Any) -> tuple[Tensor, ...]:
        """Call the formula behind the checks that a kernel would have made, with a kernel's arguments."""
        if len(args) > self.arguments:  # one more than the schema has: inplace
            outputs = self.reference(*args[:-1])
            return _overwrite(args[0], outputs) if args[-1] else outputs
        if self.check is not None:
            self.check(*args)
        return self.formula(*args)

    def backward_arguments(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return what the backward op takes after a call with `args` whose outputs have ones for gradients."""
        outputs = self.reference(*args)
        saved = self._saved(*args[: self._tensors], *outputs)  # type: ignore[misc]
        return *saved, *(torch.ones_like(output) for output in outputs[: self._seen]), *args[self._tensors :]

    # ---- the other ways -------------------------------------------------------------------------------------------

    def _compiled(self, args: tuple[Any, ...], inplace: bool) -> Any:
        from torch.fx.experimental.symbolic_shapes import guard_or_false, statically_known_true  # with sympy: seconds

        # an exported program serves every batch: a size that is not known must not become a condition on it
        known = statically_known_true if exporting() else guard_or_false
        small = self.expand_below > 0 and known(args[0].numel() < self.expand_below)
        if functional() or forward_ad._current_level >= 0 or small:
            return self._by_formula(args, inplace)
        return self._through_library(args, inplace)

    def _through_library(self, args: tuple[Any, ...], inplace: bool) -> Any:
        for tensor in self._inputs(args):
            if not isinstance(tensor, Tensor):
                raise TypeError(f"{self.name}: expected torch.Tensor arguments; got {type(tensor).__name__}")
        if self.backward is None and functional():  # where torch's derivative of the op would fail
            return self._by_formula(args, inplace)
        outputs = self._from_library(*args)
        return _overwrite(args[0], outputs) if inplace else outputs

    def _by_formula(self, args: tuple[Any, ...], inplace: bool) -> Any:
        outputs = self.reference(*args)
        return _overwrite(args[0], outputs) if inplace else outputs

    def _functional_call(self, args: tuple[Any, ...], inplace: bool) -> Any:
        if self.backward is None or functionalizing():
            return self._by_formula(args, inplace)
        outputs = self._functional.apply(*self._spread(args))
        return _overwrite(args[0], outputs) if inplace else outputs

    def _with_gradient(self, args: tuple[Any, ...], inplace: bool, consume: bool) -> Any:
        if self.backward is None:
            return self.reference(*args)
        return self._eager.apply(inplace, consume, *self._spread(args))

    # ---- lists of tensors -----------------------------------------------------------------------------------------

    def _inputs(self, args: tuple[Any, ...]) -> Sequence[Any]:
        """Yield the tensors of a call, those in lists too."""
        return flat(args[: self._tensors]) if self._lists else args[: self._tensors]

    def _spread(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """What an autograd.Function takes, which looks for tensors in no list: the lengths of lists, then all tensors
        and the configuration. `_gather` is the way back."""
        if not self._lists:
            return None, *args
        tensors = args[: self._tensors]
        return _lengths(tensors), *flat(tensors), *args[self._tensors :]

    # ---- registration ---------------------------------------------------------------------------------------------

    def _gradients(self, gradients: tuple[Any, ...], config: tuple[Any, ...]) -> tuple[Any, ...]:
        """One gradient (of a list: one list) an argument: None for indices and configuration."""
        if all(self._real):
            return *gradients, *(None,) * len(config)
        rest = iter(gradients)
        return *(next(rest) if real else None for real in self._real), *(None,) * len(config)

    def _choose(self) -> None:
        choose = partial(implementation, self.name, formula=self.reference, prefers_formula=self.prefers_formula)
        self._implementations = {device: choose(device) for device in _DEVICES}
        self._on_cpu = self._implementations["cpu"]

    def _declare(self, schema: str) -> None:
        _library.define(self.name + schema, tags=(torch.Tag.pt2_compliant_tag,))
        _library.impl(self.name, lambda *args: self._bare(self.run(args)), "CompositeExplicitAutograd")
        torch.library.register_fake(f"pyflowk::{self.name}", self._checked_fake, lib=_library)
        setup, backward = (_library_backward if self.backward else _formula_backward)(self)
        torch.library.register_autograd(f"pyflowk::{self.name}", backward, setup_context=setup, lib=_library)
        for device in _DEVICES:
            _library.impl(self.name, self._at_autograd, f"Autograd{device.upper()}", with_keyset=True)
        self._library_op = getattr(torch.ops.pyflowk, self.name).default

    def _at_autograd(self, keys: Any, *args: Any) -> Any:
        """A call of the torch.library op, from a compiled program say. Where nothing watches it, it goes the short way:
        torch's own would enter Python twice, and costs as much again."""
        differentiated = grad_enabled() and any(tensor.requires_grad for tensor in self._inputs(args))
        if not unwatched(keys) or (differentiated and self.backward is None):
            return self._library_op.redispatch(of_no_device(keys), *args)
        if forward_ad._current_level >= 0:
            return self._bare(self.reference(*args))
        return self._bare(self._eager.apply(False, False, *self._spread(args)) if differentiated else self.run(args))

    def _checked_fake(self, *args: Any) -> Any:
        if self.check is not None:
            self.check(*args)
        return self._bare(self._fake(*args))

    def _bare(self, outputs: tuple[Any, ...]) -> Any:
        """What torch gets where it calls the op, one tensor bare: another number than promised breaks its stack."""
        if [type(output) is list for output in outputs] != self._listed:
            found = ", ".join("Tensor[]" if type(output) is list else "Tensor" for output in outputs)
            raise ValueError(f"{self.name}: arguments that do not fit each other gave ({found})")
        return outputs[0] if self._single else outputs

    def _from_library(self, *args: Any) -> tuple[Tensor, ...]:
        outputs = self._library_op(*args)
        return (outputs,) if self._single else outputs


def _overwrite(target: Tensor, outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return target.copy_(outputs[0]), *outputs[1:]


def flat(arguments: Iterable[Any]) -> list[Any]:
    """Return all tensors of arguments some of which are lists of tensors."""
    tensors: list[Any] = []
    for argument in arguments:
        if type(argument) is list:
            tensors += argument
        else:
            tensors.append(argument)
    return tensors


def _lengths(arguments: Iterable[Any]) -> tuple[int | None, ...]:
    """Count the tensors that each argument holds; None stands for one that is no list."""
    return tuple([len(a) if type(a) is list else None for a in arguments])


def _gather(lengths: tuple[int | None, ...] | None, spread: Sequence[Any]) -> tuple[Any, ...]:
    """`spread` with its first elements in lists of these lengths again."""
    if lengths is None:
        return tuple(spread)
    gathered: list[Any] = []
    at = 0
    for length in lengths:
        if length is None:
            gathered.append(spread[at])
            at += 1
        else:
            gathered.append([*spread[at : at + length]])
            at += length
    return *gathered, *spread[at:]


def _save(ctx: Any, tensors: tuple[Any, ...]) -> None:
    """Save tensors and lists of tensors; `_saved` gives them back."""
    ctx.lengths = _lengths(tensors)
    ctx.save_for_backward(*flat(tensors))


def _saved(ctx: Any) -> tuple[Any, ...]:
    return _gather(ctx.lengths, ctx.saved_tensors)


def _eager_function(op: FusedOp, differentiate: FusedOp, saved: Callable[..., Any]) -> type[Function]:
    tensors, seen = op._tensors, op._seen

    class Eager(Function):
        @staticmethod
        def forward(ctx: Any, inplace: bool, consume: bool, lengths: Any, *spread: Any) -> Any:
            args = _gather(lengths, spread)
            outputs = op.run(args, inplace)
            if inplace:
                ctx.mark_dirty(args[0])
            _save(ctx, saved(*args[:tensors], *outputs))
            ctx.config, ctx.consume = args[tensors:], consume
            if seen < len(outputs):
                ctx.mark_non_differentiable(*outputs[seen:])
                ctx.set_materialize_grads(False)  # zeros of their size, which nobody reads
            return outputs

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Any:
            if grads[0] is None:  # undefined, where no zeros are made of that
                return (None,) * len(ctx.needs_input_grad)
            config, args = ctx.config, (*_saved(ctx), *grads[:seen], *ctx.config)
            if ctx.consume and not grad_enabled():  # with it on, somebody wants to differentiate this once more
                args = args[0].detach(), *args[1:]
                outputs = differentiate(args, True)
                increment_version(args[0])  # who needs it again, this op too, now hears that it is gone
            else:
                outputs = differentiate(args)
            gradients = op._gradients(outputs, config)
            return None, None, None, *(flat(gradients) if op._lists else gradients)

    Eager.__qualname__ = Eager.__name__ = op.name
    return Eager


def _functional_function(op: FusedOp, differentiate: FusedOp, saved: Callable[..., Any]) -> type[Function]:
    tensors, seen = op._tensors, op._seen

    class Functional(Function):
        @staticmethod
        def forward(lengths: Any, *spread: Any) -> Any:
            return op.run(_gather(lengths, spread))

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
            args = _gather(inputs[0], inputs[1:])
            _save(ctx, saved(*args[:tensors], *output))
            ctx.config = args[tensors:]

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Any:
            config = ctx.config
            # a pullback may be called when its transform has ended
            there = _gather(ctx.lengths, [*map(unwrap, (*ctx.saved_tensors, *grads[:seen]))])
            gradients = op._gradients(differentiate((*there, *config)), config)
            return None, *(flat(gradients) if op._lists else gradients)

        @staticmethod
        def vmap(info: Any, in_dims: tuple[Any, ...], lengths: Any, *spread: Any) -> Any:
            return _fold_rows(op, info.batch_size, _gather(lengths, in_dims[1:]), _gather(lengths, spread))

    Functional.__qualname__ = Functional.__name__ = f"{op.name}_functional"
    return Functional


def _fold_rows(op: FusedOp, size: int, in_dims: tuple[Any, ...], args: tuple[Any, ...]) -> Any:
    """vmap: every op works row by row, so the mapped dimension joins the rows and leaves them again.

    Where a tensor that all rows share is mapped itself, there is no such way, and the formula serves.
    """
    tensors = args[: op._tensors]
    if any(shared and d is not None for shared, dims in zip(op._shared, in_dims) for d in flat((dims,))):
        outputs = torch.func.vmap(op.reference, in_dims)(*args)
        return outputs, (0,) * len(outputs)

    def fold(tensor: Any, dim: Any) -> Any:
        if isinstance(tensor, list):
            return [fold(*pair) for pair in zip(tensor, dim)]
        whole = tensor.unsqueeze(0).expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
        folded = whole.reshape(size * whole.shape[1], *whole.shape[2:])
        return folded if tensor.is_floating_point() else folded.contiguous()  # as kernels want indices

    rows = [t if shared else fold(t, dim) for t, dim, shared in zip(tensors, in_dims, op._shared)]
    outputs = op((*rows, *args[op._tensors :]))
    unfolded = tuple(o.reshape(size, o.shape[0] // size if size else 0, *o.shape[1:]) for o in outputs)
    return unfolded, (0,) * len(outputs)


def _library_backward(op: FusedOp) -> tuple[Callable[..., None], Callable[..., Any]]:
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        outputs = (output,) if op._single else output
        _save(ctx, op._saved(*inputs[: op._tensors], *outputs))  # type: ignore[misc]
        ctx.config = inputs[op._tensors :]

    def backward(ctx: Any, *grads: Tensor) -> Any:
        gradients = op.backward._from_library(*_saved(ctx), *grads[: op._seen], *ctx.config)  # type: ignore[union-attr]
        return op._gradients(gradients, ctx.config)

    return setup_context, backward


def _formula_backward(op: FusedOp) -> tuple[Callable[..., None], Callable[..., Any]]:
    """For backward ops: the derivative of their formula, itself differentiable to any order."""

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        _save(ctx, inputs[: op._tensors])
        ctx.config = inputs[op._tensors :]

    def backward(ctx: Any, *grads: Any) -> Any:
        tensors = _saved(ctx)
        real = [t for t, r in zip(tensors, op._real) if r]

        def of_real(*spread: Tensor) -> tuple[Tensor, ...]:
            rest = iter(_gather(_lengths(real), spread))
            return tuple(flat(op.formula(*(next(rest) if r else t for t, r in zip(tensors, op._real)), *ctx.config)))

        pull = torch.func.vjp(of_real, *flat(real))[1]
        return op._gradients(_gather(_lengths(real), pull(tuple(flat(grads)))), ctx.config)

    return setup_context, backward
