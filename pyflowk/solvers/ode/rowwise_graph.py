"""A step's graph, as torch.compile traces it, read number by number: each as a C++ expression of one row's numbers.

A tensor of the graph is an array of names of expressions (`Rows`). What depends on neither state nor clock is left to
torch, once a call (`Constant`, the prologue). A graph that this does not know, or that is too long to be written out,
raises `NotRowwise`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

__all__ = ["TYPES", "Entry", "NotRowwise", "Reader", "Rows", "run"]

_MOST = 4000  # expressions
#: what torch and C++ call the same
TYPES = {torch.float64: "double", torch.float32: "float", torch.bool: "bool", torch.int64: "int64_t"}
Entry = tuple[Any, tuple[Any, ...], dict[str, Any]]  # function, arguments and options


class NotRowwise(Exception):
    """The graph has no such form."""


@dataclass
class Rows:
    """A tensor of the graph as the numbers of one row; its dimension `batch`, that of the rows, has size 1 here."""

    items: np.ndarray
    batch: int
    dtype: torch.dtype


@dataclass(frozen=True)
class Constant:
    """A tensor that is the same for the whole solve: the result of an entry of the prologue."""

    place: int


# ---- what is done number by number: C++ of the operands, which have the type that torch computes in ------------------


def _power(x: str, p: str) -> str:
    known = {"2.0": f"{x} * {x}", "3.0": f"{x} * {x} * {x}", "0.5": f"std::sqrt({x})", "1.5": f"{x} * std::sqrt({x})",
             "-1.0": f"1 / {x}", "1.0": x}  # fmt: skip
    return known.get(p.rstrip("f"), f"std::pow({x}, {p})")


def _bounded(x: str, low: str | None = None, high: str | None = None) -> str:
    x = x if low is None else f"({x} < {low} ? {low} : {x})"
    return x if high is None else f"({x} > {high} ? {high} : {x})"


_POINTWISE: dict[str, Callable[..., str]] = {
    "add": lambda a, b, alpha="1.0": f"{a} + {b}" if alpha in ("1.0", "1") else f"{a} + {alpha} * {b}",
    "sub": lambda a, b, alpha="1.0": f"{a} - {b}" if alpha in ("1.0", "1") else f"{a} - {alpha} * {b}",
    "rsub": lambda a, b, alpha="1.0": f"{b} - {a}" if alpha in ("1.0", "1") else f"{b} - {alpha} * {a}",
    "mul": lambda a, b: f"{a} * {b}",
    "div": lambda a, b: f"{a} / {b}",
    "neg": lambda a: f"-{a}",
    "reciprocal": lambda a: f"1 / {a}",
    "rsqrt": lambda a: f"1 / std::sqrt({a})",
    "softplus": lambda a: f"({a} > 20 ? {a} : std::log1p(std::exp({a})))",
    "gelu": lambda a: f"{a} * (0.5 * std::erfc({a} * -0.70710678118654752))",
    "sigmoid": lambda a: f"1 / (1 + std::exp(-{a}))",
    "relu": lambda a: f"({a} < 0 ? 0 : {a})",
    "sign": lambda a: f"({a} != {a} ? {a} : ({a} > 0) - ({a} < 0))",
    "abs": lambda a: f"std::abs({a})",
    "pow": _power,
    "clamp": _bounded,
    "clamp_min": _bounded,
    "clamp_max": lambda a, high: _bounded(a, None, high),
    "maximum": lambda a, b: f"({a} != {a} || {a} > {b} ? {a} : {b})",
    "minimum": lambda a, b: f"({a} != {a} || {a} < {b} ? {a} : {b})",
    "where": lambda c, a, b: f"{c} ? {a} : {b}",
    "bitwise_and": lambda a, b: f"{a} & {b}",
    "bitwise_or": lambda a, b: f"{a} | {b}",
    "bitwise_not": lambda a: f"!{a}",
    "logical_and": lambda a, b: f"{a} && {b}",
    "logical_or": lambda a, b: f"{a} || {b}",
    "logical_not": lambda a: f"!{a}",
    "isnan": lambda a: f"{a} != {a}",
    "copysign": lambda a, b: f"std::copysign({a}, {b})",
    "_to_copy": lambda a: a,
    "clone": lambda a: a,
    **{name: (lambda a, name=name: f"std::{name}({a})") for name in (
        "exp", "expm1", "log", "log1p", "sqrt", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh",
        "tanh", "erf")},
    **{name: (lambda a, b, sign=sign: f"{a} {sign} {b}") for name, sign in (
        ("eq", "=="), ("ne", "!="), ("lt", "<"), ("le", "<="), ("gt", ">"), ("ge", ">="))},
}  # fmt: skip
_COMPARISONS = {"eq", "ne", "lt", "le", "gt", "ge", "isnan"}
_SAME = {"alias", "detach", "lift_fresh_copy", "lift_fresh"}


class Reader:
    """Walks a graph and gathers the expressions of one row."""

    def __init__(self, graph: torch.fx.GraphModule, inputs: Sequence[Any], roles: dict[int, str]) -> None:
        self.graph, self.inputs, self.roles = graph, inputs, roles
        self.rows = len(next(x for x in inputs if isinstance(x, Tensor) and id(x) in roles))
        self.lines: list[str] = []
        self.names: dict[tuple[str, str], str] = {}
        self.prologue: list[Entry] = []
        self.places: dict[str, Constant] = {}
        self.values: list[Any] = list(inputs)  # of the inputs and the prologue, in this call
        self.pointers: dict[int, tuple[str, torch.dtype]] = {}
        self.env: dict[Node, Any] = {}

    def read(self) -> list[Rows]:
        inputs = iter(enumerate(self.inputs))
        for node in self.graph.graph.nodes:
            if node.op == "placeholder":
                place, value = next(inputs)
                self.env[node] = self._input(place, value)
            elif node.op == "get_attr":
                self.env[node] = self._constant(getattr(self.graph, node.target))
            elif node.op == "output":
                return [self.env[n] for n in node.args[0]]
            elif node.op == "call_function":
                self.env[node] = self._call(node)
                if len(self.lines) > _MOST:
                    raise NotRowwise("too long")
        raise NotRowwise("no output")

    def _input(self, place: int, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if id(value) not in self.roles:
            return Constant(place)
        name, event = self.roles[id(value)], value.shape[1:]
        items = np.array([f"{name}{i}" for i in range(event.numel())], dtype=object).reshape(1, *event)
        return Rows(items, 0, value.dtype)

    def _constant(self, value: Any) -> Any:
        if isinstance(value, Tensor) and value.ndim == 0 and not isinstance(value, torch.nn.Parameter):
            return value.item()
        raise NotRowwise("a constant tensor")

    def _call(self, node: Node) -> Any:
        arguments: Any = torch.fx.node.map_arg(node.args, lambda n: self.env[n])
        options: dict[str, Any] = dict(torch.fx.node.map_arg(dict(node.kwargs), lambda n: self.env[n]))
        name = getattr(node.target, "_overloadpacket", node.target).__name__  # type: ignore[union-attr]
        if name in _SAME:
            return arguments[0]
        if name == "scalar_tensor" or (name == "full" and not arguments[0]):
            return arguments[-1]
        flat = torch.utils._pytree.tree_leaves((arguments, options))
        if not any(isinstance(leaf, Rows) for leaf in flat):
            return self._once(node.target, arguments, options)
        if node.target is operator.getitem:
            return arguments[0][arguments[1]]
        if name in _POINTWISE:
            return self._pointwise(node, name, arguments, options)
        structure = getattr(self, f"op_{name}", None)
        if structure is None:
            raise NotRowwise(name)
        return structure(node, *arguments, **options)

    def _once(self, target: Any, arguments: Any, options: Any) -> Constant:
        """What needs no row, done by torch before the loop."""
        if isinstance(target, torch._ops.OpOverload) and (
            target._schema.is_mutable or torch.Tag.nondeterministic_seeded in target.tags
        ):
            raise NotRowwise(f"{target} at every step")
        key = repr((target, arguments, options))
        if key not in self.places:
            self.prologue.append((target, arguments, options))
            self.values.append(run(self.values, self.prologue[-1]))
            self.places[key] = Constant(len(self.values) - 1)
        return self.places[key]

    # ---- numbers ----------------------------------------------------------------------------------------------------

    def _emit(self, dtype: torch.dtype, expression: str) -> str:
        """A name for an expression, the same for the same."""
        if dtype not in TYPES:
            raise NotRowwise(str(dtype))
        key = TYPES[dtype], expression
        if key not in self.names:
            self.names[key] = f"v{len(self.names)}"
            self.lines.append(f"const {key[0]} {self.names[key]} = {expression};")
        return self.names[key]

    def _loaded(self, fixed: Constant, ndim: int, batch: int) -> tuple[np.ndarray, torch.dtype]:
        """What a fixed tensor brings to each number of a result of `ndim` dimensions."""
        value = self.values[fixed.place]
        if not isinstance(value, Tensor) or value.dtype not in TYPES or value.device.type != "cpu":
            raise NotRowwise("a tensor of another kind")
        shape, along = list(value.shape), batch - (ndim - value.ndim)
        stride = 0
        if along >= 0 and shape[along] == self.rows and self.rows > 1:
            if math.prod(shape[:along]) != 1:
                raise NotRowwise("rows behind another dimension")
            stride, shape[along] = math.prod(shape[along + 1 :]), 1
        if math.prod(shape) > _MOST:
            raise NotRowwise("too long")
        pointer, _ = self.pointers.setdefault(fixed.place, (f"p{len(self.pointers)}", value.dtype))
        row = f" + row * {stride}" if stride else ""
        items = [self._emit(value.dtype, f"{pointer}[{i}{row}]") for i in range(math.prod(shape))]
        return np.array(items, dtype=object).reshape(shape), value.dtype

    def _operand(self, value: Any, like: torch.Size, batch: int, wanted: torch.dtype) -> np.ndarray | str:
        if isinstance(value, (bool, int, float)):
            return _literal(value, wanted)
        if isinstance(value, Rows):
            if self.rows > 1 and value.batch - value.items.ndim != batch - len(like):
                raise NotRowwise("rows along different dimensions")
            items, dtype = value.items, value.dtype
        else:
            items, dtype = self._loaded(value, len(like), batch)
        if dtype == wanted:
            return items
        cast = [self._emit(wanted, f"static_cast<{TYPES.get(wanted)}>({item})") for item in items.ravel()]
        return np.array(cast, dtype=object).reshape(items.shape)

    def _pointwise(self, node: Node, name: str, arguments: Sequence[Any], options: dict[str, Any]) -> Rows:
        result, first = node.meta["val"], next(a for a in arguments if isinstance(a, Rows))
        if options.pop("rounding_mode", None) is not None:
            raise NotRowwise("rounding")
        for ignored in ("dtype", "layout", "device", "pin_memory", "non_blocking", "memory_format"):
            options.pop(ignored, None)
        batch = result.ndim - (first.items.ndim - first.batch)
        wanted = _common(node) if name in _COMPARISONS else result.dtype
        given = [*arguments, *options.values()]
        kinds = [torch.bool if name == "where" and i == 0 else wanted for i in range(len(given))]
        operands = [a if a is None else self._operand(a, result.shape, batch, kind) for a, kind in zip(given, kinds)]
        make = _POINTWISE[name]

        def one(*items: Any) -> str:
            named = dict(zip(options, items[len(arguments) :]))
            return self._emit(result.dtype, make(*items[: len(arguments)], **named))

        try:
            items = np.frompyfunc(one, len(operands), 1)(*(np.array(o, dtype=object) for o in operands))
        except TypeError as error:
            raise NotRowwise(f"{name} with such arguments") from error
        return Rows(np.asarray(items, dtype=object), batch, result.dtype)

    # ---- shapes -----------------------------------------------------------------------------------------------------

    def op_select(self, node: Node, x: Rows, dim: int, index: int) -> Rows:
        dim %= x.items.ndim
        if dim == x.batch:
            raise NotRowwise("one of the rows")
        return Rows(x.items.take(index, dim), x.batch - (dim < x.batch), x.dtype)

    def op_slice(self, node: Node, x: Rows, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Rows:
        dim %= x.items.ndim
        if dim == x.batch:
            if node.meta["val"].shape[dim] != self.rows:
                raise NotRowwise("some of the rows")
            return x
        at = tuple(slice(start, end, step) if d == dim else slice(None) for d in range(x.items.ndim))
        return Rows(x.items[at], x.batch, x.dtype)

    def op_unbind(self, node: Node, x: Rows, dim: int = 0) -> list[Rows]:
        return [self.op_select(node, x, dim, i) for i in range(x.items.shape[dim])]

    def op_split_with_sizes(self, node: Node, x: Rows, sizes: Sequence[int], dim: int = 0) -> list[Rows]:
        if dim % x.items.ndim == x.batch:
            raise NotRowwise("some of the rows")
        ends = np.cumsum(sizes)[:-1]
        return [Rows(part, x.batch, x.dtype) for part in np.split(x.items, ends, dim)]

    def op_split(self, node: Node, x: Rows, size: int, dim: int = 0) -> list[Rows]:
        return self.op_split_with_sizes(node, x, [v.shape[dim] for v in node.meta["val"]], dim)

    def op_unsqueeze(self, node: Node, x: Rows, dim: int) -> Rows:
        dim %= x.items.ndim + 1
        return Rows(np.expand_dims(x.items, dim), x.batch + (dim <= x.batch), x.dtype)

    def op_squeeze(self, node: Node, x: Rows, dim: Any = None) -> Rows:
        return self.op_view(node, x, node.meta["val"].shape)

    def op_view(self, node: Node, x: Rows, shape: Any) -> Rows:
        shape = node.meta["val"].shape
        before = math.prod(x.items.shape[: x.batch])
        sizes = [math.prod(shape[:d]) for d in range(len(shape))]
        if before != 1 or 1 not in sizes:
            raise NotRowwise("rows behind another dimension")
        found = [d for d, size in enumerate(sizes) if size == 1 and shape[d] == self.rows]
        if not found:
            raise NotRowwise("rows that are taken apart")
        return Rows(x.items.reshape([1 if d == found[0] else n for d, n in enumerate(shape)]), found[0], x.dtype)

    op_reshape = op__unsafe_view = op_view

    def op_expand(self, node: Node, x: Rows, sizes: Any) -> Rows:
        shape = list(node.meta["val"].shape)
        batch = len(shape) - (x.items.ndim - x.batch)
        shape[batch] = 1
        return Rows(np.broadcast_to(x.items, shape), batch, x.dtype)

    def op_permute(self, node: Node, x: Rows, dims: Sequence[int]) -> Rows:
        dims = [d % x.items.ndim for d in dims]
        return Rows(x.items.transpose(dims), dims.index(x.batch), x.dtype)

    def op_cat(self, node: Node, parts: Sequence[Any], dim: int = 0) -> Rows:
        result, first = node.meta["val"], next(p for p in parts if isinstance(p, Rows))
        dim %= result.ndim
        if dim == first.batch:
            raise NotRowwise("more rows")
        items = [self._operand(p, result.shape, first.batch, result.dtype) for p in parts]
        wide = [np.broadcast_to(i, [*i.shape[: first.batch], 1, *i.shape[first.batch + 1 :]]) for i in items]  # type: ignore[union-attr]
        return Rows(np.concatenate(wide, dim), first.batch, result.dtype)

    def op_stack(self, node: Node, parts: Sequence[Any], dim: int = 0) -> Rows:
        result, first = node.meta["val"], next(p for p in parts if isinstance(p, Rows))
        dim %= result.ndim
        shape = [n for d, n in enumerate(result.shape) if d != dim]
        items = [self._operand(p, torch.Size(shape), first.batch, result.dtype) for p in parts]
        shape[first.batch] = 1
        wide = [np.broadcast_to(np.array(i, dtype=object), shape) for i in items]
        return Rows(np.stack(wide, dim), first.batch + (dim <= first.batch), result.dtype)

    def op_full_like(self, node: Node, x: Rows, value: Any = 0, **_: Any) -> Rows:
        result = node.meta["val"]
        return Rows(
            np.full(x.items.shape, self._emit(result.dtype, _literal(value, result.dtype)), dtype=object),
            x.batch,
            result.dtype,
        )

    def op_zeros_like(self, node: Node, x: Rows, **_: Any) -> Rows:
        return self.op_full_like(node, x, 0)

    def op_ones_like(self, node: Node, x: Rows, **_: Any) -> Rows:
        return self.op_full_like(node, x, 1)

    # ---- sums -------------------------------------------------------------------------------------------------------

    def _total(self, dtype: torch.dtype, items: Sequence[str]) -> str:
        total = items[0] if items else self._emit(dtype, "0")
        for item in items[1:]:
            total = self._emit(dtype, f"{total} + {item}")
        return total

    def op_sum(self, node: Node, x: Rows, dims: Any = None, keepdim: bool = False, **_: Any) -> Rows:
        result = node.meta["val"]
        dims = sorted({d % x.items.ndim for d in dims}) if dims else list(range(x.items.ndim))
        if x.batch in dims or x.dtype != result.dtype:
            raise NotRowwise("a sum of rows")
        rest = [d for d in range(x.items.ndim) if d not in dims]
        flat = x.items.transpose([*rest, *dims]).reshape(*(x.items.shape[d] for d in rest), -1)
        items = np.empty(flat.shape[:-1], dtype=object)
        for at in np.ndindex(items.shape):
            items[at] = self._total(x.dtype, list(flat[at]))
        batch = rest.index(x.batch)
        if keepdim:
            items, batch = np.expand_dims(items, dims), x.batch
        return Rows(items, batch, x.dtype)

    def op_mean(self, node: Node, x: Rows, dims: Any = None, keepdim: bool = False, **options: Any) -> Rows:
        total = self.op_sum(node, x, dims, keepdim)
        count = x.items.size // max(total.items.size, 1)
        divided = [self._emit(x.dtype, f"{item} / {count}") for item in total.items.ravel()]
        return Rows(np.array(divided, dtype=object).reshape(total.items.shape), total.batch, x.dtype)

    def op_mm(self, node: Node, x: Any, matrix: Any) -> Rows:
        if not isinstance(x, Rows) or not isinstance(matrix, Constant) or x.batch:
            raise NotRowwise("a product that is not of rows and a matrix")
        value = self.values[matrix.place]
        if value.dtype != x.dtype or len(self.lines) + value.numel() > _MOST:
            raise NotRowwise("too long")
        pointer, _ = self.pointers.setdefault(matrix.place, (f"p{len(self.pointers)}", value.dtype))
        width = value.shape[1]
        columns = [
            self._total(x.dtype, [self._emit(x.dtype, f"{item} * {pointer}[{i * width + j}]")
                                  for i, item in enumerate(x.items[0])])
            for j in range(width)
        ]  # fmt: skip
        return Rows(np.array([columns], dtype=object), 0, x.dtype)

    def op_addmm(self, node: Node, bias: Any, x: Any, matrix: Any, *, beta: Any = 1, alpha: Any = 1) -> Rows:
        if beta != 1 or alpha != 1:
            raise NotRowwise("a scaled product")
        product = self.op_mm(node, x, matrix)
        added = self._operand(bias, node.meta["val"].shape, 0, product.dtype)
        one = np.frompyfunc(lambda a, b: self._emit(product.dtype, f"{a} + {b}"), 2, 1)
        return Rows(np.asarray(one(product.items, added), dtype=object), 0, product.dtype)


def _literal(value: Any, dtype: torch.dtype) -> str:
    if dtype == torch.bool or isinstance(value, bool):
        return str(int(bool(value))) if dtype == torch.bool else str(float(value))
    if not dtype.is_floating_point:
        return str(value)
    if math.isnan(value) or math.isinf(value):
        return "NAN" if math.isnan(value) else "INFINITY" if value > 0 else "-INFINITY"
    return f"{float(value)!r}f" if dtype == torch.float32 else repr(float(value))


def _common(node: Node) -> torch.dtype:
    """The type that a comparison is made in."""
    parts: list[Any] = [a.meta["val"] if isinstance(a, Node) else a for a in node.args]
    return torch.result_type(parts[0], parts[1]) if len(parts) > 1 else parts[0].dtype


def run(values: Sequence[Any], entry: Entry) -> Any:
    """The result of an entry of the prologue, from the inputs and the results before it."""
    target, arguments, options = entry

    def given(argument: Any) -> Any:
        if isinstance(argument, Constant):
            return values[argument.place]
        return [given(part) for part in argument] if isinstance(argument, (list, tuple)) else argument

    return target(*map(given, arguments), **{name: given(option) for name, option in options.items()})
