"""Flows of zuko, nflows and normflows with this package's kernels inside."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

from . import _nflows, _zuko
from ._masked import Cheap, Unsupported
from ._verify import agrees

__all__ = ["Acceleration", "Part", "accelerate"]

_PEERS = (_zuko, _nflows)
_BASES = {package: base for peer in _PEERS for package, base in peer.PACKAGES.items()}
Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Part:
    """What became of one layer: its path in the flow, its class, whether kernels run in it, which or why none."""

    path: str
    layer: str
    accelerated: bool
    remark: str

    def __str__(self) -> str:
        return f"{self.path} ({self.layer}): {'' if self.accelerated else 'as it was: '}{self.remark}"


class Acceleration(tuple[Part, ...]):
    """Every layer of an accelerated flow, in order; printed one a line."""

    @property
    def left_alone(self) -> Acceleration:
        """The layers that run as before although they cost something."""
        return Acceleration(part for part in self if not part.accelerated and part.remark != _CHEAP)

    def __str__(self) -> str:
        return "\n".join(map(str, self))


_CHEAP = "nothing to gain"


def accelerate(flow: Module) -> Module:
    r"""A flow of zuko, nflows or normflows with this package's kernels in its layers: same type, same parameters.

    The result is a copy whose parameters and buffers *are* those of the flow: an optimizer over either trains both,
    and state dicts have the same keys. Densities and samples from the same noise agree up to rounding, and gradients
    reach the parameters in both directions. The flow that was given stays as it was. Modules around a flow, such as
    the estimators of sbi (``posterior.posterior_estimator``), may be handed in whole.

    ``result.acceleration`` lists the layers and what runs in them (:class:`Acceleration`). Autoregressive layers, be
    they affine or rational-quadratic splines (zuko's MAF and NSF, ``Masked...Autoregressive...``), run in one pass both
    ways, by :func:`pyflowk.ops.made_inverse`: their sequential direction takes D passes of the network in all three
    packages. Affine couplings of vectors (NICE, RealNVP) are one call with their network, unless that is wide and a
    gradient is wanted, which would be no faster. In a coupling, a spline is one fused operation. On a card, what affine
    layers make at once, densities of MAF and both directions of couplings, is left to their own code, whose products
    are the same there. Permutations, linear maps and couplings of images have nothing to gain. What has no kernel stays
    as it is, and a warning says so. Each layer is tried first, with random parameters in float64: one that does not
    agree with its own package's result, in another version say, is left alone.

    Raises TypeError for anything that holds no layer of these packages, with what to hand in instead where that can be
    told, and ValueError for a flow on the meta device. None of them is imported. Cost: a copy without
    the parameters, and an evaluation a layer.

    >>> import pytest
    >>> zuko = pytest.importorskip("zuko")
    >>> flow = accelerate(zuko.flows.MAF(3, context=2, transforms=2))
    >>> print(flow.acceleration)
    transform.transforms.0 (MaskedAutoregressiveTransform): MADE, every unit once both ways, affine
    transform.transforms.1 (MaskedAutoregressiveTransform): MADE, every unit once both ways, affine
    >>> import torch
    >>> flow(torch.zeros(2)).sample((4,)).shape
    torch.Size([4, 3])
    """
    if not _holds_layers(flow):
        got = flow if isinstance(flow, type) else type(flow)
        raise TypeError(
            "accelerate expects a flow of zuko, nflows or normflows (or a module around one); "
            f"got {got.__module__}.{got.__qualname__}{_advice(flow)}"
        )
    if any(tensor.is_meta for tensor in flow.parameters()):
        raise ValueError("accelerate expects a flow with weights; got one on the meta device: materialise it first")
    if isinstance(getattr(flow, "acceleration", None), Acceleration):
        return flow
    tensors = [*flow.parameters(), *flow.buffers()]
    result = copy.deepcopy(flow, {id(tensor): tensor for tensor in tensors})
    report = Acceleration(_accelerated(result))
    result.acceleration = report  # type: ignore[assignment]
    if left := report.left_alone:
        warnings.warn(f"accelerate: {len(left)} layers run as before:\n{left}", stacklevel=2)
    return result


def _holds_layers(flow: object) -> bool:
    return isinstance(flow, nn.Module) and any(_peer(module) for module in flow.modules())


def _advice(flow: object) -> str:
    """What to hand in instead of an object that is no flow, if it tells."""
    if isinstance(flow, type):
        return ", a class: make a flow of it first"
    if isinstance(flow, (list, tuple)) and any(map(_holds_layers, flow)):
        return ": accelerate its flows one by one"
    if type(flow).__module__.startswith("pyflowk."):
        return ", which runs on these kernels as it is"
    if type(flow).__module__.startswith("zuko.distributions"):
        return ", a distribution: accelerate the flow that gave it"
    if type(flow).__module__.startswith("FrEIA."):
        return ", whose couplings ask a network once both ways: kernels would gain nothing; zoo.realnvp is their like"
    if isinstance(flow, nn.Module):
        return ", which has no layer of theirs"
    found = [name for name, value in getattr(flow, "__dict__", {}).items() if _holds_layers(value)]
    return f": accelerate its {' or '.join(found)} and put the result there" if found else ""


def _accelerated(flow: nn.Module) -> Iterator[Part]:
    inner: set[nn.Module] = set()  # parts of layers that kernels run in
    for path, layer in list(flow.named_modules()):
        peer, name = _peer(layer), type(layer).__name__
        if peer is None:
            continue
        try:
            if not _package(type(layer)):
                raise Unsupported("a class of its own, which may compute something else")
            parts, remark = set(layer.modules()), _install(peer, layer)
            inner |= parts
            yield Part(path, name, True, remark)
        except Unsupported as reason:
            if layer not in inner and not any(_peer(part) for part in layer.modules() if part is not layer):
                yield Part(path, name, False, _CHEAP if isinstance(reason, Cheap) else str(reason))


def _install(peer: Any, layer: nn.Module) -> str:
    """Put kernels into a layer after they have done so in a copy with parameters of their own."""
    twin = copy.deepcopy(layer).cpu().double()
    fused = copy.deepcopy(twin)
    peer.install(fused)
    if not agrees(twin, fused, peer.evaluate):
        raise Unsupported("it computes something else than the versions that are known")
    return peer.install(layer)


def _peer(module: nn.Module) -> Any:
    """The peer whose layer this is, by the names of its classes and their modules."""
    for kind in type(module).__mro__:
        package = _package(kind)
        if package and kind.__name__ == _BASES[package]:
            return next(peer for peer in _PEERS if package in peer.PACKAGES)
    return None


def _package(kind: type) -> str | None:
    """zuko, nflows or normflows where the class stands in it, vendored copies included."""
    parts = kind.__module__.split(".")
    return next((package for package in _BASES if package in parts), None)
