"""Training memory that does not grow with depth: a stack whose activations are rebuilt from its output."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.checkpoint import checkpoint, get_device_states, set_device_states

from ..ops.dtypes import state_dtype
from ..ops.modes import plain_autograd
from ..ops.recompute import Place, holding
from .base import Compose, Transform
from .check import InvertibilityReport, check_invertibility
from .pullback import Pullback, Replay
from .split import Split

WATCHED_ROWS = 8
SMALLEST_SCALE = 1e-2  # rows of zeros are rebuilt well enough when they are small


class MemoryFlat(Compose):
    r"""A :class:`Compose` that keeps its output instead of its activations: :math:`x_i = f_{i+1}^{-1}(x_{i+1})`.

    In backward every layer rebuilds its input from its output, through its ``backward_from_output``, while it computes
    its gradients: peak memory is that of one layer, whatever the depth. Each network runs once more, with gradient,
    and the layer is inverted with that same result. Nested Compose and Split are walked into. Names, parameters and
    state dict are those of Compose, so either can load what the other saved.

    A layer that cannot start from its output is checkpointed: its input is kept, and the layer runs again. These are
    transforms without ``backward_from_output`` and layers with dropout (which gets the same random numbers twice);
    ``checkpointed`` names them. Running statistics of batch norms move once.

    The gradients are exact for the rebuilt activations, which differ from the original ones by rounding. Every
    ``watch_every``-th backward pass compares a few rows of the rebuilt input with the original and warns when the
    largest difference exceeds ``tolerance`` times the largest magnitude; ``watch_every=0`` switches that off;
    ``last_error`` is the latest figure, and :meth:`reconstruction_error` measures it layer by layer for a given batch.

    It works with contexts and their gradients, ``torch.autograd.grad``, accumulated gradients, shared parameters,
    functional_call, DistributedDataParallel and autocast. Parameters must be registered in the layers. A second
    derivative through it is refused by autograd; under torch.func transforms and forward-mode AD the layers are
    recorded as in Compose, and under torch.compile each is checkpointed. ``inverse`` is that of Compose.

    Shapes: those of the layers. Cost: forward that of Compose; backward one inverse and one network evaluation a layer
    more. Raises TypeError for what is not a Transform, ValueError, naming the layer, for one that draws random numbers
    or has no inverse. Gomez, Ren, Urtasun, Grosse, 2017, arXiv:1707.04585.

    >>> import torch
    >>> from pyflowk.transforms import ActNorm, Coupling, Logit, MemoryFlat
    >>> flat = MemoryFlat(Logit(), *(Coupling(torch.nn.Linear(2, 4), swap=i % 2 == 1) for i in range(32)))
    >>> z, ladj = flat(torch.rand(5, 4))
    >>> (0.5 * z.square().sum() - ladj.sum()).backward()
    >>> flat.checkpointed
    ('transforms.0 Logit',)
    """

    starts_from_output = True  # as a Compose does, whose map it is

    def __init__(self, *transforms: Transform, tolerance: float = 1e-3, watch_every: int = 100) -> None:
        super().__init__(*transforms)
        if not tolerance > 0 or watch_every < 0:
            raise ValueError(f"MemoryFlat expects tolerance > 0 and watch_every >= 0, got {tolerance}, {watch_every}")
        self.tolerance, self.watch_every = float(tolerance), int(watch_every)
        self._kept: dict[str, Transform] = {}
        for name, layer in _leaves(self):
            if layer.stochastic or layer.estimates_ladj:
                raise ValueError(f"MemoryFlat cannot rebuild {name}: it draws random numbers; put it in front")
            if not layer.has_inverse:
                raise ValueError(f"MemoryFlat cannot rebuild {name}: it has no inverse")
            if not layer.starts_from_output or _drops_out(layer):
                self._kept[name] = layer
        self._backwards = 0
        self._last_error: Tensor | None = None

    @property
    def checkpointed(self) -> tuple[str, ...]:
        """The layers whose input is kept, as "path type"."""
        return tuple(self._kept)

    @property
    def last_error(self) -> float | None:
        """max |rebuilt x - x| / max |x| over the rows watched last; None before that."""
        return None if self._last_error is None else float(self._last_error)

    def reconstruction_error(self, x: Tensor, context: Tensor | None = None) -> InvertibilityReport:
        """How well x comes back, layer by layer: the report of :func:`check_invertibility`."""
        return check_invertibility(self, x, context)

    def forward(
        self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        if torch.compiler.is_compiling() and torch.is_grad_enabled():
            total = x.new_zeros(x.shape[0], dtype=state_dtype(x))
            for transform in self.transforms:
                x, ladj = checkpoint(transform, x, context, use_reentrant=False)
                total = total + ladj
            return x, total
        places = _places(self)
        given = (x, *places) if context is None else (x, context, *places)
        if not plain_autograd() or not any(tensor.requires_grad for tensor in given):
            return super().forward(x, context)
        if not x.is_floating_point():
            x = x.to(state_dtype(x))
        return _Rebuild.apply(self, list(places.values()), x, context, *places)

    def _watch(self, rows: Tensor | None, rebuilt: Tensor) -> None:
        """Compare, and warn; waits for the device."""
        if rows is None or rows.numel() == 0:
            return
        self._last_error = (rebuilt[: len(rows)] - rows).abs().max() / rows.abs().max().clamp(min=SMALLEST_SCALE)
        if not float(self._last_error) <= self.tolerance:
            warnings.warn(
                f"MemoryFlat: the input rebuilt from the output is off by {float(self._last_error):.1e} of its largest "
                f"value, more than {self.tolerance:g}: gradients are as inexact; reconstruction_error(x) tells which "
                "layer does it (smaller log-scales, better conditioned matrices or float64 help)",
                stacklevel=2,
            )

    def _rows_to_watch(self, x: Tensor) -> Tensor | None:
        due = self.watch_every > 0 and self._backwards % self.watch_every == 0
        self._backwards += 1
        return x[:WATCHED_ROWS].detach().clone() if due else None

    def extra_repr(self) -> str:
        return f"tolerance={self.tolerance}, checkpointed={list(self.checkpointed)}"


def _leaves(transform: Transform, prefix: str = "") -> Iterator[tuple[str, Transform]]:
    """The layers that the walk meets, by "path type"."""
    if isinstance(transform, Compose):
        for i, inner in enumerate(transform):
            yield from _leaves(inner, f"{prefix}transforms.{i}.")
    elif isinstance(transform, Split):
        yield from _leaves(transform.inner, f"{prefix}inner.")
    else:
        yield f"{prefix.rstrip('.')} {type(transform).__name__}", transform


def _drops_out(layer: Transform) -> bool:
    return any(isinstance(module, _DropoutNd) for module in layer.modules())


class _Rebuild(torch.autograd.Function):
    """The whole stack as one node of autograd's graph; the parameters are its inputs, so their hooks run as ever."""

    @staticmethod
    def forward(
        ctx: Any, flat: MemoryFlat, places: list[list[Place]], x: Tensor, context: Tensor | None, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.flat, ctx.places, ctx.dtype = flat, places, x.dtype
        ctx.autocast, ctx.rows = _autocast(x.device.type), flat._rows_to_watch(x)
        with ctx.autocast(), _inputs_of(flat._kept.values()) as kept:
            z, ladj = Compose.forward(flat, x, context)
        holders = [inner._buffers for inner in flat.modules()]
        ctx.modes = [((vars(m), "training"), m.training) for m in flat.modules()]
        ctx.buffers = [((holder, name), x) for holder in holders for name, x in holder.items() if x is not None]
        ctx.layers, ctx.random = [layer for layer, _, _ in kept], [random for _, _, random in kept]
        ctx.save_for_backward(z, context, *parameters, *(inputs for _, inputs, _ in kept))
        return z, ladj

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_z: Tensor, grad_ladj: Tensor) -> tuple[Any, ...]:
        z, context, *saved = ctx.saved_tensors
        _, _, needs_x, needs_context, *needs = ctx.needs_input_grad
        # Leaves of their own: hooks on the parameters must see their whole gradient only, and inside functional_call
        # the module holds others by now.
        leaves = [p.detach().requires_grad_(needed) for p, needed in zip(saved, needs)]
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        if needs_context:
            context = context.detach().requires_grad_()
            wanted.append(context)
        replays: dict[Transform, list[Replay]] = {}
        for layer, inputs, random in zip(ctx.layers, saved[len(leaves) :], ctx.random, strict=True):
            replays.setdefault(layer, []).append(functools.partial(_replay, inputs, random))
        pullback = Pullback(wanted, replays)
        standing = [(place, leaf) for leaf, places in zip(leaves, ctx.places, strict=True) for place in places]
        standing += [*ctx.buffers, *ctx.modes]
        with ctx.autocast(), holding(standing), _statistics_at_rest(ctx.flat):
            x, grad_x = ctx.flat.backward_from_output(z, grad_z, grad_ladj, context, pullback)
        ctx.flat._watch(ctx.rows, x)
        return (
            None, None, grad_x.to(ctx.dtype) if needs_x else None, pullback[context] if needs_context else None,
            *(pullback[leaf] if leaf.requires_grad else None for leaf in leaves),
        )  # fmt: skip


def _places(module: nn.Module) -> dict[Tensor, list[Place]]:
    """Every parameter with the places that hold it: tied ones have several."""
    places: dict[Tensor, list[Place]] = {}
    for inner in module.modules():
        for name, parameter in inner._parameters.items():
            if parameter is not None:
                places.setdefault(parameter, []).append((inner._parameters, name))
    return places


def _autocast(device: str) -> Callable[[], Any]:
    """Autocast as it is at this moment, to be entered again.

    Without its cache: a cast weight made in forward has no graph, and whoever used the weight next would get it.
    """
    if not torch.amp.is_autocast_available(device):
        return contextlib.nullcontext
    dtype, enabled = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
    return functools.partial(torch.autocast, device, dtype=dtype, enabled=enabled, cache_enabled=False)


class _Random:
    """The state of the random numbers at this moment, to be entered again."""

    def __init__(self, x: Tensor) -> None:
        self.cpu = torch.get_rng_state()
        self.devices, self.states = get_device_states(x)
        self.type = x.device.type if self.devices else "cuda"

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        with torch.random.fork_rng(self.devices, device_type=self.type):
            torch.set_rng_state(self.cpu)
            set_device_states(self.devices, self.states, device_type=self.type)
            yield


@contextlib.contextmanager
def _inputs_of(layers: Iterable[Transform]) -> Iterator[list[tuple[Transform, Tensor, _Random]]]:
    """Note what each of these layers is given whenever it runs."""
    kept: list[tuple[Transform, Tensor, _Random]] = []

    def note(layer: Any, arguments: tuple[Any, ...]) -> None:
        kept.append((layer, arguments[0], _Random(arguments[0])))

    handles = [layer.register_forward_pre_hook(note) for layer in dict.fromkeys(layers)]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def _replay(x: Tensor, random: _Random, layer: Transform, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Run a kept layer again from its input, recorded by autograd."""
    x = x.detach().requires_grad_()
    with torch.enable_grad(), random.again():
        return x, *layer(x, context)


@contextlib.contextmanager
def _statistics_at_rest(module: nn.Module) -> Iterator[None]:
    """Batch norms have counted this batch in forward already."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
