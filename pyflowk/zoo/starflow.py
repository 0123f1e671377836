"""STARFlow: shallow causal transformers near the data, and a deep one near the noise, which alone hears the context."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from torch import Generator, Tensor

from ..distributions import DiagonalGaussian
from ..nets import CausalTransformer, Field
from ..objectives.nll import nll
from ..ops.draw import draw_normal
from ..ops.guidance import GUIDANCE_RULES
from ..space import Space
from ..transforms import ActNorm, Causal, Compose, Flip, GaussianNoise, Patches, Reshape, SoftplusAffine, Transform
from .blocks import by_network, condition, fitting_patch, velocity
from .option import LAYERS, WIDTH, Dropout, FlatMemory, Option, Width, one_of
from .registry import register
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
        return self.denoiser(1.0, seen, context).reshape(z.shape).to(z.dtype)

    def _score(self, context: Any, z: Tensor, level: float) -> Tensor:
        return super()._score(context, z, level) if self.denoiser is None else -self._noise(z, context) / level


def _choose(space: Space, options: dict[str, Any]) -> dict[str, Any]:
    return {"patch": fitting_patch(space.shape, options["patch"])}


@register("starflow", _choose)
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
    prefix: Annotated[int, Option("tokens that the context becomes, in front of the deep one's", 1, WIDTH)] = 1,
    clip: Annotated[float, Option("where parameters of a map are softly clipped; 0: not", 0, 80)] = 4.0,
    noise: Annotated[float, Option("deviation of the noise on the data in training, in units of [-1, 1]", 0, 1)] = 0.0,
    denoiser: Annotated[bool, Option("a network of its own learns to take the noise off samples")] = False,
    dropout: Dropout = 0.0,
    memory_flat: FlatMemory = False,
) -> StarFlow:
    """STARFlow, a deep causal transformer that hears the context, and shallow ones (Gu et al., 2025, arXiv:2506.06276).

    Events are cut into tokens as by ``zoo.tarflow``. ``blocks`` - 1 maps by transformers of ``depth`` layers, each of
    which looks the other way, leave local detail out; one of ``deep`` layers, nearest to the noise and in natural
    order, makes the rest, with ``prefix`` tokens of the context in front, or a learned one. Transformers are modern:
    RMS norms, gated perceptrons, turned queries and keys of a length of their own. A token's scale is a softplus, and
    all parameters are clipped softly. Here a learned scale and shift of every number, set by the first batch, stands in
    front.

    Guidance goes by the product of Gaussians (``guidance_rule``). ``noise`` and ``denoise`` are as of ``zoo.tarflow``;
    with a ``denoiser`` one evaluation of it takes the noise off. `pyflowk latent RUN --system starflow` learns the
    codes of an autoencoder, as the paper does. Sampling takes a step of each network a token, or rounds of many tokens.

    Raises ValueError for a patch that does not cut the event into two tokens or more, a prefix longer than the tokens,
    and a denoiser without noise.

    >>> from pyflowk import zoo
    >>> zoo.starflow((1, 4, 4), levels=17, blocks=2, width=8, deep=2).sample(2).shape
    torch.Size([2, 1, 4, 4])
    """
    assert patch is not None  # it is chosen
    dims = space.dims
    cut = Patches(space.shape, patch) if len(space.shape) == 3 else Reshape(space.shape, (dims // patch, patch))
    tokens, features = cut.after
    if prefix > tokens:
        raise ValueError(f"prefix: expected at most as many as the {tokens} tokens, got {prefix}")
    if denoiser and not noise:
        raise ValueError("denoiser: expected False where noise is 0, got True")
    grid = cut.grid if isinstance(cut, Patches) else (tokens, 1)
    modern: dict[str, Any] = {"norm": "rms", "gated": True, "qk_norm": True, "positions": "both", "grid": grid}
    heard = condition(space, dropout)
    layers: list[Transform] = [cut, Reshape(cut.after, (dims,)), ActNorm(dims), Reshape((dims,), cut.after)]
    layers += [Flip()] * ((blocks - 1) % 2)  # so that the deep one sees tokens in their order
    for i in range(blocks):
        if i + 1 < blocks:
            net = CausalTransformer(features, tokens, 2, width, depth, start=True, **modern)
        else:
            first = {"prefix": prefix, **heard} if space.context is not None else {"start": True}
            net = CausalTransformer(features, tokens, 2, width, deep, **first, **modern)
        layers.append(Causal(net, SoftplusAffine(clip), flip=True))
    layers.append(Reshape((tokens, features), (dims,)))
    scale = [ActNorm(space.shape[0]).requires_grad_(False)] if space.levels is None else []
    return StarFlow(
        space, DiagonalGaussian((dims,)), Compose(*layers), [*entered(space, noise), *scale], GaussianNoise(noise),
        dropout=dropout, memory_flat=memory_flat, denoiser=_denoiser(space, dropout) if denoiser else None,
    )  # fmt: skip


def _denoiser(space: Space, dropout: float) -> Field:
    """The usual network for such events."""
    options: Any = dict.fromkeys(("width", "depth", "patch", "activation", "time"))
    options |= {"architecture": "auto", "dropout": dropout}
    chosen: Any = {**options, **by_network(space, options)}
    return velocity(space, chosen)
