"""Weights of published transformers as fields of ours: which tensor is which, and what their times mean."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ..ops.times import as_time
from ..paths import VP
from ..space import Ragged
from .dit import DIT_SIZES, DiT, sincos
from .field import Field
from .velocity import VelocityField

__all__ = ["load_dit", "load_sit"]

#: the names of DiT's and SiT's tensors, but for .weight and .bias, and ours.
NAMES = {
    r"x_embedder\.proj": "first",
    r"t_embedder\.mlp\.0": "time.first",
    r"t_embedder\.mlp\.2": "time.second",
    r"y_embedder\.embedding_table": "context.table",
    r"blocks\.(\d+)\.attn\.qkv": r"blocks.\1.attention.qkv",
    r"blocks\.(\d+)\.attn\.proj": r"blocks.\1.attention.out",
    r"blocks\.(\d+)\.mlp\.fc1": r"blocks.\1.first",
    r"blocks\.(\d+)\.mlp\.fc2": r"blocks.\1.second",
    r"blocks\.(\d+)\.adaLN_modulation\.1": r"blocks.\1.modulation",
    r"final_layer\.adaLN_modulation\.1": "modulation",
    r"final_layer\.linear": "last",
}


def load_sit(state: Mapping[str, Tensor], heads: int | None = None) -> DiT:
    r"""The velocity field of a SiT checkpoint: a :class:`DiT` with the weights of that state dict.

    Sizes are read from the tensors, but for ``heads``, which the named widths tell (384: 6, 768: 12, 1024 and 1152:
    16) and others must state. Of a network that gives variances beside velocities ("learn_sigma") the half that nothing
    trained is left out. Its times are ours, data at 1, and are not scaled. The last row of its table of labels is the
    one that stands for none: the field is ``droppable``, as guidance wants it. ``pos_embed`` must be the fixed table
    that ``positions="sincos"`` makes for a square image. Names that are missing or that nothing here bears, tables
    that were trained and shapes that do not fit raise ValueError. Official files hold the state dict of the average,
    or a dictionary with it under "ema".

    Cost: a copy of the weights. Ma et al., 2024, arXiv:2401.08740.

    >>> import torch
    >>> from pyflowk.nets import load_sit
    >>> state = torch.load("SiT-XL-2-256x256.pt")  # doctest: +SKIP
    >>> velocity = load_sit(state)(0.5, torch.randn(1, 4, 32, 32), torch.tensor([207]))  # doctest: +SKIP
    """
    names = {name: renamed(name, NAMES) for name in state if name != "pos_embed"}
    unknown = [name for name, ours in names.items() if ours is None]
    if unknown:
        raise ValueError(f"expected the tensors of a DiT or SiT, got {', '.join(unknown[:5])} among them")
    found = {ours: state[name] for name, ours in names.items() if ours is not None}
    try:
        first, last, table = (found[f"{name}.weight"] for name in ("first", "last", "context.table"))
    except KeyError as error:
        raise ValueError(f"expected the tensors of a DiT or SiT, got none that is {error.args[0]} here") from None
    width, channels, patch, _ = first.shape
    known = {w: h for w, _, h in DIT_SIZES.values()}
    if heads is None and width not in known:
        raise ValueError(f"heads: expected a number for a width other than {', '.join(map(str, known))}; got {width}")
    depth = 1 + max((int(name.split(".")[1]) for name in found if name.startswith("blocks.")), default=-1)
    with torch.device("meta"):
        net = DiT(
            channels, patch, width, depth, heads or known[width], "sincos", qk_norm=False, time_scale=1.0,
            classes=table.shape[0] - 1, droppable=True,
        )  # fmt: skip
    if last.shape[0] == 2 * patch * patch * channels:  # means and variances of each pixel of a patch
        for name in ("last.weight", "last.bias"):
            found[name] = found[name].unflatten(0, (patch * patch, 2, channels))[:, 0].flatten(0, 1)
    try:
        net.load_state_dict({name: tensor.clone() for name, tensor in found.items()}, assign=True)
    except RuntimeError as error:
        raise ValueError(f"expected the tensors of a DiT or SiT of width {width} and depth {depth}: {error}") from None
    if "pos_embed" in state:
        _check_positions(state["pos_embed"], net)
    return net


def load_dit(state: Mapping[str, Tensor], heads: int | None = None) -> VelocityField:
    r"""The velocity field of a DiT checkpoint, on the path of :class:`pyflowk.paths.VP`, whose noise it predicts.

    Everything as :func:`load_sit`, but for the time: it was taught at steps k = 0 .. 999, noise last, of
    :math:`\bar\alpha_k = \prod_{i \le k} (1 - \beta_i)`, :math:`\beta` from 0.0001 to 0.02 in even steps. At a time of
    the path it is asked at the step, between two of them in proportion, of the same log-ratio of data to noise, 995.6
    at t = 0, and at step 0 where there is less noise than there. Peebles, Xie, 2023, arXiv:2212.09748.
    """
    return VelocityField(_Stepped(load_sit(state, heads)), VP(), "noise")


class _Stepped(Field):
    """A network that knows DDPM's steps, at the times of the path VP."""

    def __init__(self, net: DiT) -> None:
        super().__init__()
        self.net, self.takes_context = net, net.takes_context

    def forward(self, t: Tensor | float, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.net(ddpm_step(as_time(t, x)), x, context)

    def no_context(self) -> Tensor | Ragged:
        return self.net.no_context()


def ddpm_step(t: Tensor) -> Tensor:
    """The step of DDPM, from 0 to 999 and between, that has the log-ratio of data to noise of the path VP at t."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64, device=t.device)
    kept = torch.log1p(-betas).cumsum(0)
    table = -(kept - torch.log(-torch.expm1(kept)))  # it grows with the step
    wanted = -VP().log_snr(t.double()).clamp(-table[-1], -table[0])
    after = torch.searchsorted(table, wanted).clamp(1, 999)
    low, high = table[after - 1], table[after]
    return (after - 1 + (wanted - low) / (high - low)).to(t.dtype)


def renamed(name: str, names: Mapping[str, str]) -> str | None:
    """What a weight or bias is called here, by patterns of modules and what they become; None for one that has none."""
    stem, _, kind = name.rpartition(".")
    for theirs, ours in names.items():
        if kind in ("weight", "bias") and (match := re.fullmatch(theirs, stem)):
            return f"{match.expand(ours)}.{kind}"
    return None


def _check_positions(table: Tensor, net: DiT) -> None:
    side = round(table.shape[-2] ** 0.5)
    made = sincos(side, side, net.width, table)
    if table.numel() != made.numel() or not torch.allclose(table.reshape(made.shape), made, atol=1e-3):
        raise ValueError(f"pos_embed: expected the fixed table of a square image, got another, {tuple(table.shape)}")
