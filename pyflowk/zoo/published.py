"""Published weights of TARFlow and STARFlow as models of the zoo: which tensor is which, and how its numbers lie."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..nets.checkpoints import renamed
from ..space import Context, Space
from .starflow import StarFlow, starflow
from .tarflow import tarflow
from .tarflow_model import TarFlow

__all__ = ["load_starflow", "load_tarflow"]

#: the names of a block's tensors, but for .weight and .bias, and ours
NAMES = {
    r"proj_in": "first",
    r"proj_out": "last",
    r"final_norm": "norm",
    r"attn_blocks\.(\d+)\.attention\.norm": r"layers.\1.norm",
    r"attn_blocks\.(\d+)\.attention\.qkv": r"layers.\1.attention.qkv",
    r"attn_blocks\.(\d+)\.attention\.proj": r"layers.\1.attention.out",
    r"attn_blocks\.(\d+)\.mlp\.norm": r"layers.\1.second_norm",
    r"attn_blocks\.(\d+)\.mlp\.main\.0": r"layers.\1.first",
    r"attn_blocks\.(\d+)\.mlp\.main\.2": r"layers.\1.second",
}
TAR, STAR = "a TARFlow", "a STARFlow"
HEAD = 64


def load_tarflow(state: Mapping[str, Tensor], shape: Sequence[int], noise: float = 0.0) -> TarFlow:
    r"""The model of a TARFlow checkpoint, for images ``shape`` = (C, H, W) of 256 levels.

    Sizes, labels and the form (affine, or of volume preserved, with the deviations of its base) are read from the
    tensors of the state dict that the paper's code saves; ``noise`` is the deviation that it was trained with, in units
    of [-1, 1], by which samples are denoised. The mean of the labels' vectors stands for none, as there, so that
    samples can be guided. It is a model of :func:`pyflowk.zoo.tarflow` with ``published``: it trains on, saves and
    samples as all do. Tensors that are missing, that nothing here bears or that are of another shape, and images that
    do not fit them raise ValueError, what is no state dict TypeError.

    Cost: a copy of the weights. Zhai et al., 2024, arXiv:2412.06329.

    >>> import torch
    >>> from pyflowk import zoo
    >>> state = torch.load("imagenet64.pth")  # doctest: +SKIP
    >>> model = zoo.load_tarflow(state, (3, 64, 64), noise=0.05)  # doctest: +SKIP
    >>> x = model.sample(4, torch.tensor([207]), guidance=2.0, denoise=True)  # doctest: +SKIP
    """
    blocks = _blocks(state, TAR)
    _known(state, TAR, ("pos_embed", "class_embed", "attn_mask"))
    width, features = _of(blocks[0], "proj_in.weight", TAR, 2).shape
    tokens = len(_of(blocks[0], "pos_embed", TAR, 2))
    patch = _patch(shape, features, tokens, TAR)
    affine = len(_of(blocks[0], "proj_out.weight", TAR, 2)) == 2 * features
    labels = len(_of(blocks[0], "class_embed", TAR, 3)) if "class_embed" in blocks[0] else None
    context = None if labels is None else Context("labels", labels)
    _alike(blocks, TAR, width, features, affine, pos_embed=(tokens, width), class_embed=(labels, 1, width))
    with torch.device("meta"):
        model = tarflow(
            Space(tuple(shape), levels=256, context=context), blocks=len(blocks), width=width, depth=_depth(blocks[0]),
            patch=patch, map="affine" if affine else "additive", noise=noise, dropout=0.1 if context else 0.0,
            published=True,
        )  # fmt: skip
    found: dict[str, Tensor] = {}
    for i, (block, net) in enumerate(zip(blocks, _nets(model, len(blocks)), strict=True)):
        places = _of(block, "pos_embed", TAR)
        found[f"{net}.places"] = (places.flip(0) if i % 2 else places)[:-1]
        if labels is not None:
            table = _of(block, "class_embed", TAR)[:, 0]
            found[f"{net}.context.table.weight"] = torch.cat((table, table.mean(0, keepdim=True)))
        found |= {f"{net}.{name}": value for name, value in _network(block, range(features), affine)}
    if not affine:
        variance = _of(state, "var", TAR)
        deviations = (variance.flip(0) if len(blocks) % 2 else variance).sqrt().log().flatten()
        found |= {"flow.base.log_std": deviations, "flow.base.mean": torch.zeros_like(deviations)}
    return _filled(model, found, TAR)


def load_starflow(
    state: Mapping[str, Tensor],
    shape: Sequence[int],
    noise: float = 0.3,
    empty: Tensor | None = None,
    clip: float = 4.0,
) -> StarFlow:
    r"""The model of a STARFlow checkpoint, for codes ``shape`` = (C, S, S) of an autoencoder, as its code scales them.

    Sizes and the length of a text are read from the tensors of the state dict that the paper's code saves, for images,
    with the options of the released one: a learned start, softplus scales, rotary positions, a norm at the end, the
    text in front of the deep block alone, which sees tokens in their order. Contexts are a
    :class:`pyflowk.space.Ragged` of what the text encoder gives, (up to the length, its size) each; ``empty``, (length,
    size), is what it gives for no text, which guidance goes away from. ``noise`` is the deviation that it was trained
    with, ``clip`` of the code's ``soft_clip``. It is a model of :func:`pyflowk.zoo.starflow` with ``published``. Raises
    what :func:`load_tarflow` does.

    Cost: a copy of the weights. Gu et al., 2025, arXiv:2506.06276.

    >>> import torch
    >>> from pyflowk import zoo
    >>> state = torch.load("starflow_3B_t2i_256x256.pth")  # doctest: +SKIP
    >>> model = zoo.load_starflow(state, (4, 32, 32))  # doctest: +SKIP
    """
    blocks = _blocks(state, STAR)
    _known(state, STAR, ("sos_embed", "attn_mask", "proj_txt.weight", "proj_txt.bias"))
    width, features = _of(blocks[0], "proj_in.weight", STAR, 2).shape
    tokens = math.prod(shape) // max(features, 1)
    patch = _patch(shape, features, tokens, STAR)
    _alike(blocks, STAR, width, features, True)
    context = None
    if "proj_txt.weight" in blocks[-1]:
        length = len(_of(blocks[-1], "attn_mask", STAR, 2)) - tokens
        context = Context("vectors", _of(blocks[-1], "proj_txt.weight", STAR, 2).shape[1], length=length)
    with torch.device("meta"):
        model = starflow(
            Space(tuple(shape), context=context), blocks=len(blocks), width=width, depth=_depth(blocks[0]),
            deep=_depth(blocks[-1]), patch=patch, clip=clip, noise=noise,
            dropout=0.1 if empty is not None and context else 0.0, published=True,
        )  # fmt: skip
    order = torch.arange(features).reshape(patch, patch, shape[0]).permute(2, 0, 1).flatten()  # theirs: channel last
    found: dict[str, Tensor] = {}
    for block, net in zip(blocks, _nets(model, len(blocks)), strict=True):
        start = _of(block, "sos_embed", STAR).flatten()
        found[f"{net}.start"] = _of(block, "proj_in.weight", STAR) @ start + _of(block, "proj_in.bias", STAR)
        found |= {f"{net}.{name}": value for name, value in _network(block, order, True)}
        found[f"{net}.norm.weight"] = 1 + _of(block, "final_norm.weight", STAR)
        for i in range(_depth(block)):
            for name in (f"{net}.layers.{i}.attention.qkv.{kind}" for kind in ("weight", "bias")):
                found[name] = _halves(found[name], width)
    if context is not None:
        deep = _nets(model, len(blocks))[-1]
        weight, bias = (_of(blocks[-1], f"proj_txt.{kind}", STAR) for kind in ("weight", "bias"))
        found[f"{deep}.context.table.weight"] = torch.cat((weight, bias[:, None]), 1)
        nothing = torch.zeros(context.length or 0, context.size + 1) if empty is None else _flagged(empty, context)
        found[f"{deep}.context.nothing"] = nothing[None].to(weight.dtype)
    return _filled(model, found, STAR)


# ---- tensors ---------------------------------------------------------------------------------------------------------


def _blocks(state: Mapping[str, Tensor], kind: str) -> list[dict[str, Tensor]]:
    """The tensors of each block, by their names in it."""
    named = isinstance(state, Mapping)
    strange = [value for value in (state.values() if named else [state]) if not (named and isinstance(value, Tensor))]
    if strange:
        got = repr(strange[0])[:60]
        raise TypeError(
            f"state: expected tensors by name, as torch.load or safetensors.torch.load_file reads them, got {got}"
        )
    found: dict[int, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        if match := re.fullmatch(r"blocks\.(\d+)\.(.+)", name):
            found.setdefault(int(match[1]), {})[match[2]] = tensor
    if sorted(found) != list(range(len(found))) or not found:
        raise ValueError(f"expected the tensors of {kind}, blocks.0 and so on, got blocks {sorted(found)}")
    return [found[i] for i in range(len(found))]


def _known(state: Mapping[str, Tensor], kind: str, more: Sequence[str]) -> None:
    """ValueError for names that nothing here bears."""

    def known(name: str) -> bool:
        if name == "var" or name.startswith("feat_rope"):  # which the code writes and no longer reads, but for one var
            return True
        name = re.sub(r"^blocks\.\d+\.", "", name)
        return name in more or renamed(name, NAMES) is not None

    if unknown := [name for name in state if not known(name)]:
        raise ValueError(f"expected the tensors of {kind}, got {', '.join(unknown[:5])} among them")


def _of(block: Mapping[str, Tensor], name: str, kind: str, dims: int | None = None) -> Tensor:
    if name not in block:
        raise ValueError(f"expected the tensors of {kind}, got none that is {name}")
    if dims is not None and block[name].dim() != dims:
        got = tuple(block[name].shape)
        raise ValueError(f"expected the tensors of {kind}, with {name} of {dims} dimensions, got {got}")
    return block[name]


def _alike(
    blocks: Sequence[Mapping[str, Tensor]], kind: str, width: int, features: int, affine: bool, **more: Any
) -> None:
    """ValueError for a tensor of another shape among those that are cut up here; the others are torch's to check."""
    wanted: dict[str, Any] = {
        "proj_in": (width, features), "proj_out": ((1 + affine) * features, width), "qkv": (3 * width, width)
    }  # fmt: skip
    shapes = {f"{name}.weight": shape for name, shape in wanted.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in wanted.items()}
    shapes |= {"sos_embed": (1, 1, features), "final_norm.weight": (width,), **more}
    for i, block in enumerate(blocks):
        for name, tensor in block.items():
            shape = shapes.get(re.sub(r"attn_blocks\.\d+\.attention\.", "", name), tuple(tensor.shape))
            if tuple(tensor.shape) != shape:
                got = tuple(tensor.shape)
                raise ValueError(f"expected the tensors of {kind}, with blocks.{i}.{name} {shape}, got {got}")


def _depth(block: Mapping[str, Tensor]) -> int:
    return sum(re.fullmatch(r"attn_blocks\.\d+\.attention\.qkv\.weight", name) is not None for name in block)


def _patch(shape: Sequence[int], features: int, tokens: int, kind: str) -> int:
    """The side of a patch of so many numbers, where so many of them make an image."""
    if len(shape) != 3:
        raise ValueError(f"shape: expected (C, H, W), got {tuple(shape)}")
    patch = round((features / max(shape[0], 1)) ** 0.5)
    if not features or shape[0] * patch * patch != features or tokens * features != math.prod(shape):
        raise ValueError(f"shape: expected images of {tokens} tokens of {features} numbers, got {tuple(shape)}")
    return patch


def _network(block: Mapping[str, Tensor], order: Any, affine: bool) -> list[tuple[str, Tensor]]:
    """What has other names alone, the numbers of a token in their order, and its parameters side by side."""
    order = torch.as_tensor(order)
    found = []
    for name, tensor in block.items():
        if (ours := renamed(name, NAMES)) is None:
            continue
        if name == "proj_in.weight":
            tensor = tensor[:, order]
        elif name.startswith("proj_out"):
            halves = tensor.unflatten(0, (1 + affine, len(order)))[:, order]
            tensor = halves.transpose(0, 1).flatten(0, 1)
        found.append((ours, tensor))
    return found


def _halves(qkv: Tensor, width: int) -> Tensor:
    """Queries and keys whose pairs that turn are i and i + d / 2 of a head, not 2 i and 2 i + 1."""
    order = torch.arange(HEAD).reshape(-1, 2).T.flatten()
    turned = qkv[: 2 * width].unflatten(0, (-1, HEAD))[:, order].flatten(0, 1)
    return torch.cat((turned, qkv[2 * width :]))


def _flagged(empty: Tensor, context: Context) -> Tensor:
    if empty.shape != (context.length, context.size):
        raise ValueError(f"empty: expected ({context.length}, {context.size}), got {tuple(empty.shape)}")
    return torch.cat((empty, empty.new_ones(len(empty), 1)), 1)


def _nets(model: TarFlow, blocks: int) -> list[str]:
    """The names of the networks of a model, in order."""
    found = [name for name, _ in model.named_modules() if re.search(r"\d+\.net$", name)]
    assert len(found) == blocks
    return found


def _filled(model: Any, found: Mapping[str, Tensor], kind: str) -> Any:
    try:
        model.load_state_dict({name: tensor.clone() for name, tensor in found.items()}, assign=True)
    except RuntimeError as error:
        raise ValueError(f"expected the tensors of {kind}: {error}") from None
    return model.eval()
