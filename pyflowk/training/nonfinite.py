"""Where did the first non-finite number come from? Asked only after a step has failed: the batch is run again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..nets import Field
from ..nets.dual import Dual
from ..space import Events, Paired, Ragged
from ..transforms import Transform

SQUARE_OVERFLOWS = 1e18
"""Beyond this a density, which squares, is not finite in float32."""


class NonFiniteLoss(RuntimeError):
    """The loss or its gradient is not finite; the message names the step, the learning rate and the first layer."""


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Ragged):  # what lies beyond a row's length means nothing
        yield value.values[value.mask]
    elif isinstance(value, Paired):
        yield from (value.x0, value.x1)
    elif isinstance(value, Dual):
        yield from _tensors((value.value, value.tangents))
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _floating(value: Any) -> Iterator[Tensor]:
    return (t for t in _tensors(value) if t.is_floating_point())


def _bad(value: Any) -> bool:
    return any(not bool(t.isfinite().all()) for t in _floating(value))


def _largest(value: Any) -> float:
    return max((t.detach().abs().amax().item() for t in _floating(value) if t.numel()), default=0.0)


def first_nonfinite(model: nn.Module, loss: Callable[[], Tensor], batch: Events) -> str:
    """Run `loss() -> (B,)` and its gradient once more and say which layer makes the first NaN or infinity.

    Looks, in this order, at the batch, the parameters, the output of each module in the order of computation, with its
    tangents and the derivatives of fields (where all of them are finite and the loss is not: at the first one too large
    to be squared), the gradients between modules in the order of the backward pass, and the parameters' gradients.
    Cost: one training step, two checks per module.

    >>> import torch
    >>> from pyflowk.training.nonfinite import first_nonfinite
    >>> net = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.ReLU())
    >>> x = torch.tensor([[float("inf")]])
    >>> first_nonfinite(net, lambda: net(x), x)
    'the batch itself'
    """
    if _bad(batch):
        return "the batch itself"
    for name, parameter in model.named_parameters():
        if _bad(parameter):
            return f"parameter {name}"
    watch = _Watch(model)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    try:
        with torch.enable_grad():
            value = loss()
            if watch.found:
                return watch.found[0]
            if _bad(value):
                return watch.overflow or "the loss itself, after the last layer"
            gradients = torch.autograd.grad(value.mean(), list(parameters.values()), allow_unused=True)
    finally:
        watch.end()
    if watch.found:
        return watch.found[0]
    for name, gradient in reversed(list(zip(parameters, gradients, strict=True))):  # as the backward pass goes
        if _bad(gradient):
            return f"the gradient of parameter {name}"
    size, name = max(((_largest(gradient), name) for name, gradient in zip(parameters, gradients)), default=(0.0, ""))
    if size > SQUARE_OVERFLOWS:
        return f"the norm of the gradient, which is as large as {size:.1e} at parameter {name}"
    return "nothing, when the batch is run again"


class _Watch:
    """Hooks on every module: which output, or which gradient between two of them, is the first that is not finite."""

    def __init__(self, model: nn.Module) -> None:
        self.found: list[str] = []
        self.overflow: str | None = None
        self._uses: dict[int, tuple[Tensor, list[str]]] = {}  # the tensors are kept, or others would get their ids
        self._hooks: list[Any] = []
        self._fields: list[Field] = []
        for name, module in model.named_modules():
            what = f"layer {name or '(model)'} ({type(module).__name__})"
            if isinstance(module, Field):
                self._watch_derivative(module, what)
            self._hooks.append(module.register_forward_pre_hook(self._before(what), with_kwargs=True))
            self._hooks.append(module.register_forward_hook(self._after(what)))

    def end(self) -> None:
        for hook in self._hooks:
            hook.remove()
        for field in self._fields:
            del field.derivative

    def _watch_derivative(self, field: Field, what: str) -> None:
        """What a field's derivative is, of which no hook hears."""
        made = field.derivative

        def derivative(*args: Any, **kwargs: Any) -> Any:
            found = made(*args, **kwargs)
            if _bad(found):
                self.found.append(f"the derivative of {what}")
            return found

        field.derivative = derivative  # type: ignore[method-assign]
        self._fields.append(field)

    def _before(self, what: str) -> Callable[..., None]:
        def look(module: nn.Module, args: Any, kwargs: Any) -> None:
            self._follow((args, kwargs), f"the gradient that {what} passes back", used=True)

        return look

    def _after(self, what: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            if _bad(output):
                self.found.append(f"the {_part(module, output)} of {what}")
            elif self.overflow is None and (size := _largest(output)) > SQUARE_OVERFLOWS:
                self.overflow = f"the density, after {what} has made numbers as large as {size:.1e}"
            self._follow(output, f"the gradient at the output of {what}", used=False)

        return look

    def _follow(self, value: Any, what: str, used: bool) -> None:
        """Look at a tensor's gradient: to blame is the innermost layer that used it, else its origin."""
        for t in _floating(value):
            if not t.requires_grad:
                continue
            names = self._uses.setdefault(id(t), (t, []))[1]
            if not names:
                t.register_hook(lambda grad, names=names: self.found.append(names[-1]) if _bad(grad) else None)
            if used or not names:
                names.append(what)


def _part(module: nn.Module, output: Any) -> str:
    """A transform's output has two parts, the second the log-determinant; that of a layer may have tangents."""
    if isinstance(output, Dual) and not _bad(output.value):
        return "tangents"
    pair = isinstance(module, Transform) and isinstance(output, tuple) and len(output) == 2
    return "log-determinant" if pair and not _bad(output[0]) else "output"
