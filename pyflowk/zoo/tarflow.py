"""TARFlow: a stack of causal transformers, each of which moves the tokens of an event by those before them."""

from __future__ import annotations

from typing import Annotated, Any

from ..distributions import DiagonalGaussian
from ..nets import PLACES, CausalTransformer
from ..space import Space
from ..transforms import (
    ActNorm,
    Additive,
    Affine,
    Causal,
    Compose,
    GaussianNoise,
    Map,
    Patches,
    RationalQuadratic,
    Reshape,
    Transform,
)
from .blocks import beside, centred, condition, fitting_patch
from .option import LAYERS, WIDTH, Dropout, FlatMemory, LearnedInverse, Limit, Option, Width, one_of
from .registry import register
from .tarflow_model import TarFlow, entered


def _choose(space: Space, options: dict[str, Any]) -> dict[str, Any]:
    return {"patch": fitting_patch(space.shape, options["patch"])}


MAPS = ("affine", "additive", "spline")


@register("tarflow", _choose)
def tarflow(
    space: Space,
    *,
    blocks: Annotated[int, Option("maps, each by a transformer that looks the other way", 1, LAYERS)] = 4,
    width: Width = 64,
    depth: Annotated[int, Option("layers of a transformer", 1, LAYERS)] = 2,
    patch: Annotated[
        int | None,
        Option("side of a token in pixels, or numbers in one; None: the least for at most 64 tokens", 1, WIDTH),
    ] = None,
    positions: Annotated[str, one_of("how a token knows its place: see nets.CausalTransformer", PLACES)] = "learned",
    start: Annotated[bool, Option("a learned token in front moves the first one, too")] = False,
    map: Annotated[str, one_of("scale and shift, shift alone, or a spline of each number", MAPS)] = "affine",
    bins: Annotated[int, Option("pieces of a spline", 2, WIDTH)] = 8,
    limit: Limit = 4.0,
    noise: Annotated[float, Option("deviation of the noise on the data in training, in units of [-1, 1]", 0, 1)] = 0.0,
    dropout: Dropout = 0.0,
    iterative: Annotated[
        bool, Option("learn all noise up to `noise`, which networks are told, for samples denoised step by step")
    ] = False,
    inverse: LearnedInverse = False,
    memory_flat: FlatMemory = False,
    published: Annotated[
        bool, Option("the very networks of the paper's code, as zoo.load_tarflow fills them: no limit, start or logit")
    ] = False,
) -> TarFlow:
    """TARFlow, transformers that move each token of an image by those before it (Zhai et al., 2024, arXiv:2412.06329).

    Images (C, H, W) are cut into tokens of ``patch`` x ``patch`` pixels, other events into tokens of ``patch`` numbers.
    ``blocks`` times every token is scaled and shifted, given those before it, by a causal transformer of ``depth``
    layers and ``width`` channels; the next one looks back from the other end. ``map`` "additive" preserves the volume,
    and the base learns a mean and a deviation for each number; "spline" moves every number by a monotone one of
    ``bins`` pieces (Durkan et al., 2019, arXiv:1906.04032), which has edges and several modes in one map. Integers get
    even noise and lie in [-1, 1) if ``noise`` is to go on them, else a logit takes them to all numbers; real numbers
    are brought to unit scale by the first batch, once. The context is added to every token. Three things are not those
    of the paper: the logit, a learned scale and shift of every number, set by the first batch, in front of the blocks,
    and vectors of places that are no smaller than the tokens at the start; what is learned in minutes hangs on them.
    With ``published`` networks and maps are those of the paper's code, whose weights :func:`pyflowk.zoo.load_tarflow`
    reads.

    ``noise`` makes the data of training smooth, which makes better pictures and a worse likelihood: the density is that
    of noised events, for which samples are drawn, too; with ``denoise`` one step takes them to the mean of the events
    that they may have come from. 0 is for bits per dimension. With ``dropout`` (0.1) samples can be drawn with
    ``guidance``, and everything can be asked without a context; without any context an ``attention_temperature`` makes
    what guidance goes away from. ``memory_flat`` trains in the memory of one block. ``iterative`` makes iTARFlow (Chen
    et al., 2026, arXiv:2604.20041), best with noise of 0.3 or more: its networks hear how noisy events are, learn all
    noise from 0.01 up, and denoise samples in many steps, which leaves all of their spread.

    With ``inverse`` a network of its own learns to find events in one evaluation: samples of ``decoding`` "learned".

    Density is one pass of the networks, sampling one step of them a token. Raises ValueError for a patch that does not
    cut the event into two tokens or more, and for guidance and denoising of models that were not trained for them.

    >>> from pyflowk import zoo
    >>> zoo.tarflow((1, 4, 4), levels=17, blocks=2, width=8).sample(2).shape
    torch.Size([2, 1, 4, 4])
    """
    assert patch is not None  # it is chosen
    dims = space.dims
    if published and (start or iterative or positions != "learned" or map == "spline"):
        raise ValueError("published: expected learned positions, no start nor spline, and noise of one level beside it")
    cut = Patches(space.shape, patch) if len(space.shape) == 3 else Reshape(space.shape, (dims // patch, patch))
    tokens, features = cut.after
    grid = cut.grid if isinstance(cut, Patches) else (tokens, 1)
    layers: list[Transform] = [cut]
    if not published:
        layers += [Reshape(cut.after, (dims,)), ActNorm(dims), Reshape((dims,), cut.after)]
    kind: dict[str, Any] = {"approximate": "none", "last_norm": "none"} if published else {}
    move = _map(map, limit, bins, published)
    for _ in range(blocks):
        net = CausalTransformer(
            features, tokens, move.params_per_element, width, depth, positions=positions, grid=grid, start=start,
            noise_level=iterative, **condition(space, dropout), **kind,
        )  # fmt: skip
        layers.append(Causal(net, _map(map, limit, bins, published), flip=True))
    layers.append(Reshape((tokens, features), (dims,)))
    front = centred(space) if published else entered(space, noise)
    real = space.levels is None and not published
    scale = [ActNorm(space.shape[0]).requires_grad_(False)] if real else []
    return TarFlow(
        space, DiagonalGaussian((dims,), learned=map == "additive"), Compose(*layers), [*front, *scale],
        GaussianNoise(noise), dropout=dropout, memory_flat=memory_flat, iterative=iterative,
        inverse=beside(space, dropout) if inverse else None,
    )  # fmt: skip


def _map(map: str, limit: float, bins: int, published: bool) -> Map:
    if map == "spline":
        return RationalQuadratic(bins, 4.0, interleaved=True)
    return Additive() if map == "additive" else Affine("none" if published else "tanh", limit, interleaved=True)
