"""STARFlow: shallow causal transformers near the data, and a deep one near the noise, which alone hears the context."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

from torch import Generator, Tensor

from ..distributions import DiagonalGaussian
from ..nets import CausalTransformer, Field, text_rows
from ..nets.attention import heads_of
from ..nets.dit import turns_ahead
from ..objectives.nll import nll
from ..ops.draw import draw_normal
from ..ops.guidance import GUIDANCE_RULES
from ..space import TEXTS, Ragged, Space
from ..transforms import ActNorm, Causal, Compose, Flip, GaussianNoise, Patches, Reshape, SoftplusAffine, Transform
from .blocks import by_network, centred, condition, fitting_patch, velocity
from .option import LAYERS, WIDTH, Dropout, FlatMemory, Option, Width, one_of
from .registry import FLOWS, register
from .tarflow_model import TarFlow, TarFlowSampling, entered


@dataclass(frozen=True)
class StarFlowSampling(TarFlowSampling):
    """The same, guided by the product of Gaussians where nothing else is said."""

    guidance_rule: Annotated[str, one_of("what is guided: see ops.guide", GUIDANCE_RULES)] = "product"


class StarFlow(TarFlow):
    """A TarFlow with a network of its own, if one is given, that tells the noise on events: samples are denoised by it.

    In training it learns the noise that is put on the data, beside the flow: what is minimised are nats and half of its
    squared error, and no likelihood then. Denoising costs one evaluation of it, where it takes both passes of the flow.
    """

    Sampling = StarFlowSampling

    def __init__(self, *parts: Any, denoiser: Field | None = None, **options: Any) -> None:
        super().__init__(*parts, **options)
        self.denoiser = denoiser

    def _given(self, context: Any, rows: int) -> Any:
        given, known = super()._given(context, rows), self.space.context
        return text_rows(given, known) if isinstance(given, Ragged) and known is not None else given

    @property
    def loss_unit(self) -> str | None:
        return None if self.denoiser is not None and self.training else super().loss_unit

    def loss(self, x: Tensor, context: Tensor | None = None, generator: Generator | None = None) -> Tensor:
        if self.denoiser is None or not self.training:
            return super().loss(x, context, generator)
        given = self._dropped(x, context, generator)
        x, _ = self.flow.enter(x, None)
        front, blocks = self._ends()
        z = Compose(*front.layers()[:-1])(x, None, generator)[0]
        noise = draw_normal(z.shape, generator, dtype=z.dtype, device=z.device)
        z = z + self.sigma * noise
        error = (self._noise(z, given) - noise).square().flatten(1).sum(1)
        return nll(blocks, z, given) + 0.5 * error

    def _noise(self, z: Tensor, context: Any) -> Tensor:
        assert self.denoiser is not None
        seen = z if len(self.space.shape) == 3 else z.flatten(1)
        context = context if self.denoiser.takes_context else None
        return self.denoiser(1.0, seen, context).reshape(z.shape).to(z.dtype)

    def _score(self, context: Any, z: Tensor, level: float) -> Tensor:
        return super()._score(context, z, level) if self.denoiser is None else -self._noise(z, context) / level


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
    dropout: Dropout = 0.0,
    memory_flat: FlatMemory = False,
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

    Guidance goes by the product of Gaussians (``guidance_rule``). ``noise`` and ``denoise`` are as of ``zoo.tarflow``;
    with a ``denoiser`` one evaluation of it takes the noise off. A text is a context of tokens or of vectors
    (:class:`pyflowk.space.Context`), each of which is a token of the prefix: models of the zoo learn what ids mean, and
    take what any encoder of texts has made of them, too. With ``published`` networks are those of the paper's code,
    whose weights :func:`pyflowk.zoo.load_starflow` reads. `pyflowk latent RUN --system starflow` learns the
    codes of an autoencoder, as the paper does. Sampling takes a step of each network a token, or rounds of many tokens.

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
        net = CausalTransformer(
            features, tokens, 2, width, deep if top else depth, start=published or not front, grid=grid, **front, **kind
        )
        layers.append(Causal(net, SoftplusAffine(clip), flip=True))
    layers.append(Reshape((tokens, features), (dims,)))
    enter = centred(space) if published else entered(space, noise)
    real = space.levels is None and not published
    scale = [ActNorm(space.shape[0]).requires_grad_(False)] if real else []
    return StarFlow(
        space, DiagonalGaussian((dims,)), Compose(*layers), [*enter, *scale], GaussianNoise(noise),
        dropout=dropout, memory_flat=memory_flat, denoiser=_denoiser(space, dropout) if denoiser else None,
    )  # fmt: skip


def _heard(space: Space, dropout: float) -> dict[str, Any]:
    """The arguments of the deep network that tell it what its context is."""
    known = space.context
    if known is None or known.kind not in TEXTS:
        return condition(space, dropout)
    return {"classes" if known.kind == "tokens" else "context_dim": known.size, "droppable": dropout > 0}


def _denoiser(space: Space, dropout: float) -> Field:
    """The usual network for such events, which hears of no text."""
    if space.context is not None and space.context.kind in TEXTS:
        space, dropout = replace(space, context=None), 0.0
    options: Any = dict.fromkeys(("width", "depth", "patch", "activation", "time"))
    options |= {"architecture": "auto", "dropout": dropout}
    chosen: Any = {**options, **by_network(space, options)}
    return velocity(space, chosen)
