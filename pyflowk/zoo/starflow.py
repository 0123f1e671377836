"""STARFlow: shallow causal transformers near the data, and a deep one near the noise, which alone hears the context."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from ..distributions import DiagonalGaussian
from ..nets import CausalNetwork, CausalTransformer, LanguageModel, load_language_model
from ..nets.attention import heads_of
from ..nets.dit import turns_ahead
from ..space import TEXTS, Space
from ..transforms import ActNorm, Causal, Compose, Flip, GaussianNoise, Patches, Reshape, SoftplusAffine, Transform
from .blocks import beside, centred, condition, fitting_patch
from .option import LAYERS, WIDTH, Dropout, FlatMemory, LearnedInverse, Option, Width
from .registry import FLOWS, register
from .starflow_model import StarFlow
from .tarflow_model import entered


def _choose(space: Space, options: dict[str, Any]) -> dict[str, Any]:
    length = space.context.length if space.context is not None else None
    if length is not None and options["prefix"] not in (None, length):
        raise ValueError(f"prefix: expected as many tokens as the {length} of a text, or None; got {options['prefix']}")
    return {"patch": fitting_patch(space.shape, options["patch"]), "prefix": length or options["prefix"] or 1}


@register("starflow", _choose, takes=(*FLOWS, *TEXTS))
def starflow(
    space: Space,
    *,
    blocks: Annotated[int, Option("maps, the last of which is deep", 1, LAYERS)] = 4,
    width: Width = 64,
    depth: Annotated[int, Option("layers of a shallow transformer", 1, LAYERS)] = 1,
    deep: Annotated[int, Option("layers of the deep one", 1, LAYERS)] = 4,
    patch: Annotated[
        int | None,
        Option("side of a token in pixels, or numbers in one; None: the least for at most 64 tokens", 1, WIDTH),
    ] = None,
    prefix: Annotated[
        int | None, Option("tokens that the context becomes, in front of the deep one's; None: 1, or its own", 1, WIDTH)
    ] = None,
    clip: Annotated[float, Option("where parameters of a map are softly clipped; 0: not", 0, 80)] = 4.0,
    noise: Annotated[float, Option("deviation of the noise on the data in training, in units of [-1, 1]", 0, 1)] = 0.0,
    denoiser: Annotated[bool, Option("a network of its own learns to take the noise off samples")] = False,
    inverse: LearnedInverse = False,
    dropout: Dropout = 0.0,
    memory_flat: FlatMemory = False,
    language_model: Annotated[
        str, Option("folder or name of a causal language model (transformers), fine-tuned as the deep network; or none")
    ] = "none",
    published: Annotated[
        bool, Option("the very networks of the paper's code, as zoo.load_starflow fills them")
    ] = False,
) -> StarFlow:
    """STARFlow, a deep causal transformer that hears the context, and shallow ones (Gu et al., 2025, arXiv:2506.06276).

    Events are cut into tokens as by ``zoo.tarflow``. ``blocks`` - 1 maps by transformers of ``depth`` layers, each of
    which looks the other way, leave local detail out; one of ``deep`` layers, nearest to the noise and in natural
    order, makes the rest, with ``prefix`` tokens of the context in front, or a learned one. Transformers are modern:
    RMS norms, gated perceptrons, turned queries and keys of a length of their own. A token's scale is a softplus, and
    all parameters are clipped softly. Here a learned scale and shift of every number, set by the first batch, stands in
    front.

    Guidance goes by the product of Gaussians (``guidance_rule``). ``noise``, ``denoise`` and ``inverse`` are as of
    ``zoo.tarflow``; with a ``denoiser`` one evaluation of it takes the noise off. Sampling takes a step of each network
    a token, or rounds of many tokens. `pyflowk latent RUN --system starflow` learns the codes of an autoencoder, as the
    paper does.

    A text is a context of tokens or of vectors (:class:`pyflowk.space.Context`), each of which is a token of the
    prefix: what ids mean is learned, vectors are what an encoder of texts has made of them; or a ``language_model``
    that reads such ids already is the deep network, and is fine-tuned. With ``published`` networks are those of the
    paper's code, whose weights :func:`pyflowk.zoo.load_starflow` reads.

    Raises ValueError for a patch that does not cut the event into two tokens or more, a prefix longer than the tokens,
    and a denoiser without noise.

    >>> from pyflowk import zoo
    >>> zoo.starflow((1, 4, 4), levels=17, blocks=2, width=8, deep=2).sample(2).shape
    torch.Size([2, 1, 4, 4])
    """
    assert patch is not None and prefix is not None  # they are chosen
    dims = space.dims
    cut = Patches(space.shape, patch) if len(space.shape) == 3 else Reshape(space.shape, (dims // patch, patch))
    tokens, features = cut.after
    text = space.context is not None and space.context.kind in TEXTS
    if prefix > tokens and not text:
        raise ValueError(f"prefix: expected at most as many as the {tokens} tokens, got {prefix}")
    if denoiser and not noise:
        raise ValueError("denoiser: expected False where noise is 0, got True")
    grid = cut.grid if isinstance(cut, Patches) else (tokens, 1)
    kind: dict[str, Any] = {"norm": "rms", "gated": True, "qk_norm": True, "positions": "both"}
    if published:
        kind = {"positions": "rotary", "approximate": "none", "last_norm": "rms"}
    heard = _heard(space, dropout)
    layers: list[Transform] = [cut]
    if not published:
        layers += [Reshape(cut.after, (dims,)), ActNorm(dims), Reshape((dims,), cut.after)]
    layers += [Flip()] * ((blocks - 1) % 2)  # so that the deep one sees tokens in their order
    for i in range(blocks):
        top = i + 1 == blocks
        front = {"prefix": prefix, "text": text, **heard} if top and space.context is not None else {}
        if published:
            ahead = None if space.context is None else prefix if top else 0
            channels = width // heads_of(width)
            kind["turns"] = partial(turns_ahead, rows=grid[0], columns=grid[1], channels=channels, text=ahead)
        if top and language_model != "none":
            net: CausalNetwork = _speaking(language_model, space, features, tokens, dropout)
        else:
            layers_of = deep if top else depth
            first = {"start": published or not front, **front}
            net = CausalTransformer(features, tokens, 2, width, layers_of, grid=grid, **first, **kind)
        layers.append(Causal(net, SoftplusAffine(clip), flip=True))
    layers.append(Reshape((tokens, features), (dims,)))
    enter = centred(space) if published else entered(space, noise)
    real = space.levels is None and not published
    scale = [ActNorm(space.shape[0]).requires_grad_(False)] if real else []
    return StarFlow(
        space, DiagonalGaussian((dims,)), Compose(*layers), [*enter, *scale], GaussianNoise(noise),
        dropout=dropout, memory_flat=memory_flat, denoiser=beside(space, dropout) if denoiser else None,
        inverse=beside(space, dropout) if inverse else None,
    )  # fmt: skip


def _heard(space: Space, dropout: float) -> dict[str, Any]:
    """The arguments of the deep network that tell it what its context is."""
    known = space.context
    if known is None or known.kind not in TEXTS:
        return condition(space, dropout)
    return {"classes" if known.kind == "tokens" else "context_dim": known.size, "droppable": dropout > 0}


def _speaking(place: str, space: Space, features: int, tokens: int, dropout: float) -> LanguageModel:
    known = space.context
    if known is None or known.kind != "tokens" or known.length is None:
        raise ValueError(f"language_model: expected a context of tokens, its text; got {known or 'none'}")
    model, heard = load_language_model(place), _heard(space, dropout)
    return LanguageModel(model, features, tokens, length=known.length, **heard)
