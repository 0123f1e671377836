"""The masked autoencoder: a network whose every output depends on earlier inputs only."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._checks import require_counts
from ..ops.derived import Derived
from ..ops.dtypes import state_dtype
from ..ops.kept import Keeper, Kept
from ..ops.made_layout import MadeLayout
from .activations import make_activation
from .context import Network, context_vector, make_context

__all__ = ["MADE"]


class MADE(Keeper, Derived, Network):
    r"""An MLP with masked weights: the parameters of coordinate i are a function of x_0..x_{i-1} and the context.

    (B, D) -> (B, params_per_element D), zero at the start, so that a flow starts as the identity. A hidden unit of
    degree m sees the first m coordinates; degrees are spread evenly over 1..D-1 (over 0..D-1 with a context, which
    enters the first layer and so reaches the first coordinate too), or given.

    Args:
        features: D, at least 1; with D = 1 only biases and context speak.
        hidden: widths of the hidden layers.
        residual: from the second hidden layer on, every pair of layers is a residual block; 1 + 2 k equal widths.
        order: which feature is coordinate 0, 1, ...: None (as they come), "reversed", or a permutation of 0..D-1.
        degrees: of the hidden units, one sequence a layer, each 0..D-1.
        context_dim, classes: as in :class:`MLP`; ``net(x, context)``.
        interleaved: the output holds the parameters of feature 0, then of feature 1, ...; otherwise all first
            parameters, then all second ones, ...

    Raises ValueError for an unknown activation, an order that is no permutation, degrees out of range, widths that no
    residual network has, and a context that is missing, unwanted or of the wrong shape.
    Cost: one product a layer, dense. Germain, Gregor, Murray, Larochelle, 2015, arXiv:1502.03509.

    >>> import torch
    >>> from pyflowk.nets import MADE
    >>> net = MADE(3, 1, hidden=(16,), order="reversed")
    >>> torch.nn.init.normal_(net.last.weight).shape
    torch.Size([3, 16])
    >>> torch.autograd.functional.jacobian(net, torch.ones(1, 3))[0, :, 0].count_nonzero(0)  # of features 0, 1, 2
    tensor([0, 1, 2])
    """

    plan: Tensor
    source: Tensor
    first: Tensor

    def __init__(
        self,
        features: int,
        params_per_element: int = 2,
        hidden: Sequence[int] = (128, 128),
        activation: str = "relu",
        residual: bool = False,
        order: str | Sequence[int] | None = None,
        degrees: Sequence[Sequence[int]] | None = None,
        context_dim: int | None = None,
        classes: int | None = None,
        interleaved: bool = False,
    ) -> None:
        super().__init__()
        require_counts("MADE", features=features, params_per_element=params_per_element)
        require_counts("MADE", **{f"hidden[{i}]": width for i, width in enumerate(hidden)})
        if not hidden:
            raise ValueError("MADE expects at least one hidden layer, got none")
        if residual and (len(hidden) % 2 == 0 or len(set(hidden)) > 1):
            raise ValueError(f"a residual MADE expects 1 + 2 k hidden layers of one width; got {tuple(hidden)}")
        if isinstance(order, str) and order != "reversed":
            raise ValueError(f"order: expected None, 'reversed' or a permutation of 0..{features - 1}; got {order!r}")
        self.features, self.params_per_element, self.interleaved = features, params_per_element, interleaved
        self.activation, self.residual, self.hidden = activation, residual, tuple(hidden)
        numbers = range(features)[::-1] if order == "reversed" else range(features) if order is None else order
        self.order = [int(i) for i in numbers]
        if sorted(self.order) != list(range(features)):
            raise ValueError(f"order: expected None, 'reversed' or a permutation of 0..{features - 1}; got {order!r}")
        lowest = 0 if features == 1 or context_dim is not None or classes is not None else 1
        if degrees is None:
            degrees = [[lowest + j * (features - lowest) // width for j in range(width)] for width in hidden]
        elif [len(d) for d in degrees] != list(hidden) or (residual and len({tuple(d) for d in degrees}) > 1):
            raise ValueError("degrees: expected one for every hidden unit, alike in all layers of a residual MADE")
        self.degrees = [list(d) for d in degrees]
        self._set_derived()
        self.act = make_activation(activation)
        self.context = make_context(hidden[0], context_dim, classes)
        self.takes_context = self.context is not None
        sizes = [features, *hidden]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.last = nn.Linear(hidden[-1], params_per_element * features)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        matrices = sum(linear.weight.numel() for linear in self._linears())
        self.share = len(self.source) / matrices  # of the matrices, that the packed weights are
        self._kept = Kept()

    def derived(self) -> dict[str, Tensor]:
        """The layout of the packed weights, the first layer's units by rising degree, and the masks."""
        layout = MadeLayout(self.degrees, self.order, self.params_per_element, self.interleaved)
        masks = {f"mask{number}": mask for number, mask in enumerate(self._masks())}
        first = torch.tensor(self.degrees[0]).argsort(stable=True)
        return {"plan": layout.plan, "source": layout.source, "first": first, **masks}

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        if x.dim() != 2 or x.shape[1] != self.features:
            raise ValueError(f"MADE expects (B, {self.features}), got {tuple(x.shape)}")
        shift, before = self.shift(x, context), None
        weights = self.weights()
        for number, (weight, bias) in enumerate(weights[:-1]):
            pre = F.linear(x, weight, bias)
            if number == 0 and shift is not None:
                pre = pre + shift
            if self.residual and number % 2 == 0:
                pre = pre if before is None else pre + before
                before = pre
            x = self.act(pre)
        return F.linear(x, *weights[-1])

    def weights(self) -> list[tuple[Tensor, Tensor]]:
        """(masked weight, bias) of every layer."""
        masks = (getattr(self, f"mask{number}") for number in range(len(self.hidden) + 1))
        return [(layer.weight * mask, layer.bias) for layer, mask in zip(self._linears(), masks, strict=True)]

    def shift(self, x: Tensor, context: Tensor | None) -> Tensor | None:
        """What the context adds to the first layer, (B, hidden[0]); None without one."""
        return context_vector(self.context, context, x.shape[0])

    def packed(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor | None, Tensor, tuple[int, ...]]:
        """(weights, shift, plan, hidden) for :func:`pyflowk.ops.made_inverse` on rows like x; differentiable.

        Where no gradient is wanted the packed weights are kept, on a CPU, until a bit of a parameter changes: each
        call compares them with a copy, which a :func:`pyflowk.frozen` model does without.
        """
        shift = self.shift(x, context)
        if shift is not None:
            shift = shift.to(state_dtype(x))[:, self.first]
        return self._packed_weights(), shift, self.plan, self.hidden

    def walk(self, x: Tensor, context: Tensor | None = None) -> Incremental:
        """The network coordinate by coordinate, on rows like x."""
        return Incremental(self, x, context)

    def keep(self) -> None:
        self._packed_weights()

    def _packed_weights(self) -> Tensor:
        layers = [(linear.weight, linear.bias) for linear in self._linears()]
        parameters = [p for pair in layers for p in pair]
        return self._kept.get(parameters, lambda: MadeLayout.pack(layers, self.source))

    def _linears(self) -> list[nn.Linear]:
        return [*self.layers, self.last]

    def _masks(self) -> list[Tensor]:
        coordinate = torch.tensor(self.order).argsort()
        outputs = (
            coordinate.repeat_interleave(self.params_per_element)
            if self.interleaved
            else coordinate.repeat(self.params_per_element)
        )
        degrees = [coordinate + 1, *(torch.tensor(d) for d in self.degrees), outputs]
        return [(before <= after[:, None]).float() for before, after in pairwise(degrees)]

    def extra_repr(self) -> str:
        return (
            f"features={self.features}, params_per_element={self.params_per_element}, hidden={self.hidden}, "
            f"activation={self.activation!r}, residual={self.residual}"
        )


class Incremental:
    """A MADE evaluated coordinate by coordinate, every hidden unit once: ``params(i, x)`` in rising i.

    x holds the coordinates before i, (B, 1) each; the parameters of coordinate i come as (B, params_per_element).
    Cost of all D calls: the multiplications of one forward pass, in D (layers + 1) products.
    """

    def __init__(self, made: MADE, x: Tensor, context: Tensor | None) -> None:
        self.made = made
        self.units: list[list[Tensor]] = [[] for _ in made.hidden]  # finished activations, a tensor a degree
        self.pres: list[list[Tensor]] = [[] for _ in made.hidden]
        self.layers, shift = [], made.shift(x, context)
        columns = torch.tensor(made.order, device=x.device)
        numbers = columns[:, None] * made.params_per_element + torch.arange(made.params_per_element, device=x.device)
        if not made.interleaved:
            numbers = columns[:, None] + made.features * torch.arange(made.params_per_element, device=x.device)
        rows = [torch.tensor(d, device=x.device).argsort(stable=True) for d in made.degrees] + [numbers.flatten()]
        for (weight, bias), row in zip(made.weights(), rows, strict=True):
            self.layers.append((weight[row][:, columns], bias[row]))
            columns = row
        self.shift = None if shift is None else shift[:, rows[0]]
        sorted_degrees = [sorted(d) for d in made.degrees]
        self.ends = [[sum(m <= i for m in d) for i in range(-1, made.features)] for d in sorted_degrees]
        self.rows = x.shape[0]

    def params(self, i: int, x: list[Tensor]) -> Tensor:
        known = x
        for layer, units in enumerate(self.units):
            low, high = self.ends[layer][i], self.ends[layer][i + 1]
            if high > low:
                pre = self._product(layer, low, high, known)
                if layer == 0 and self.shift is not None:
                    pre = pre + self.shift[:, low:high]
                if self.made.residual and layer and layer % 2 == 0:
                    pre = pre + self.pres[layer - 2][-1]
                self.pres[layer].append(pre)
                units.append(self.made.act(pre))
            known = units
        k = self.made.params_per_element
        return self._product(len(self.units), i * k, i * k + k, known)

    def _product(self, layer: int, low: int, high: int, known: list[Tensor]) -> Tensor:
        weight, bias = self.layers[layer]
        if not known:
            return bias[low:high].expand(self.rows, -1)
        h = torch.cat(known, 1)
        return F.linear(h, weight[low:high, : h.shape[1]], bias[low:high])
