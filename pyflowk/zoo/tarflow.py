"""TARFlow: a stack of causal transformers, each of which moves the tokens of an event by those before them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Generator, Tensor

from ..distributions import DiagonalGaussian, Distribution
from ..flows import Flow
from ..nets import PLACES, CausalTransformer
from ..nets.context import drop_context
from ..objectives.nll import nll
from ..ops.draw import draw_uniform
from ..ops.guidance import GUIDANCE_RULES
from ..shapes import number_of
from ..space import Space
from ..transforms import (
    ActNorm,
    Additive,
    Affine,
    Causal,
    Compose,
    Decoding,
    GaussianNoise,
    Patches,
    Reshape,
    Solved,
    Transform,
)
from ..transforms.decoding import DECODINGS
from .blocks import centred, condition, fitting_patch
from .flow_model import FlowModel, FlowSampling
from .option import LAYERS, WIDTH, Dropout, FlatMemory, Limit, Option, Width, one_of, require_usual
from .registry import register


@dataclass(frozen=True)
class TarFlowSampling(FlowSampling):
    """How far guidance goes beyond the context, how tokens are found, and whether the noise is taken off."""

    guidance: Annotated[float, Option("how much further than the context: 0 not at all, -1 samples without it")] = 0.0
    guidance_rule: Annotated[str, one_of("what is guided: see ops.guide", GUIDANCE_RULES)] = "log_scale"
    guidance_rises: Annotated[bool, Option("from no guidance at the first token to all of it at the last")] = False
    attention_temperature: Annotated[
        float, Option("of what guidance goes away from; another than 1 guides without a context, too", above=0)
    ] = 1.0
    decoding: Annotated[str, one_of("how the tokens are found: see transforms.Decoding", DECODINGS)] = "auto"
    segment: Annotated[int, Option("tokens that gauss-seidel finds together", 1, WIDTH)] = 16
    tolerance: Annotated[float, Option("share of their size by which tokens may still move; 0: exact", 0)] = 0.0
    denoise: Annotated[bool, Option("one step towards what is left of samples without the noise of training")] = False

    def __post_init__(self) -> None:
        if not self.guidance:
            require_usual(self, "guidance_rule", "guidance_rises", "attention_temperature", without="guidance")


class TarFlow(FlowModel):
    r"""A FlowModel of tokens, whose context may be dropped, whose samples may be guided and denoised.

    ``front`` are maps of the data, of which the last adds the noise of training; ``transform`` maps what they give to
    the base's noise. With ``dropout`` that share of the events is learned without a context, in training alone, and
    every context may be None.

    Denoised samples are :math:`z + \sigma^2\, \nabla \log p_\sigma(z)`, the mean of the events that noise of deviation
    :math:`\sigma` makes z of: one step, which leaves less spread than the data have. Its cost is one forward and
    backward pass.
    """

    Sampling = TarFlowSampling

    def __init__(
        self, space: Space, base: Distribution, transform: Transform, front: Sequence[Transform], noise: GaussianNoise,
        *, dropout: float = 0.0, memory_flat: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(space, base, transform, front=[*front, noise], memory_flat=memory_flat)
        self.sigma, self.dropout = noise.sigma, dropout

    def loss(self, x: Tensor, context: Tensor | None = None, generator: Generator | None = None) -> Tensor:
        x, context = self._enter(x, context)
        if self.dropout and self.training and context is not None:
            dropped = draw_uniform((len(x),), generator, dtype=torch.float32, device=x.device) < self.dropout
            context = drop_context(context, dropped, self._maps()[0].net.no_context())
        return nll(self.flow, x, context, generator=generator)

    def check_context(self, context: Any, rows: int) -> Any:
        return None if context is None and self.dropout else super().check_context(context, rows)

    def chosen(self, options: dict[str, Any]) -> Any:
        found: Any = super().chosen(options)
        if found.denoise and not self.sigma:
            raise ValueError("denoise: expected a model that was trained with noise above 0, got one of 0")
        self._drawn_by(found)  # an error, before a run has learned in vain, if it cannot be guided
        return found

    def _maps(self) -> list[Causal]:
        return [layer for layer in self.flow.transform.layers() if isinstance(layer, Causal)]

    def _drawn_by(self, chosen: Any) -> Flow:
        decoding = Decoding(chosen.decoding, chosen.segment, chosen.tolerance)
        if not chosen.guidance and decoding == Decoding():
            return self.flow
        how = (chosen.guidance, chosen.guidance_rule, chosen.guidance_rises, chosen.attention_temperature)
        layers = self.flow.transform.layers()
        found = (t.guided(*how).decoded(decoding) if isinstance(t, Causal) else t for t in layers)
        return Flow(self.flow.base, Compose(*found))

    @torch.no_grad()
    def solved(
        self, n: int, context: Any = None, generator: Generator | None = None, **options: Any
    ) -> list[tuple[Causal, Solved]]:
        """The blocks, the last one first, and what each has found of n samples, drawn as by :meth:`sample`: how many
        rounds that took, and how fast they came to an end. "auto" is "gauss-seidel" here."""
        chosen: Any = self.chosen(options)
        flow, context = self._drawn_by(chosen), self.check_context(context, number_of(n))
        z, found = flow.base.sample(n, context, generator, chosen.temperature), []
        for layer in flow.transform.layers()[::-1]:
            if isinstance(layer, Causal):
                found.append((layer, layer.solve(z, context)))
                z = found[-1][1].x
            else:
                z = layer.to_data(z, context, generator)
        return found

    def _sample(self, rows: int, context: Any, generator: Generator | None, chosen: Any) -> Tensor:
        if not chosen.denoise:
            return super()._sample(rows, context, generator, chosen)
        drawn, layers = self._drawn_by(chosen).transform.layers(), self.flow.transform.layers()
        place = 1 + next(i for i, layer in enumerate(layers) if isinstance(layer, GaussianNoise))
        z = Flow(self.flow.base, Compose(*drawn[place:])).sample(rows, context, generator, chosen.temperature)
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            density = Flow(self.flow.base, Compose(*layers[place:])).log_prob(z, context).sum()
            (score,) = torch.autograd.grad(density, z)
        return Compose(*layers[:place]).to_data(z.detach() + self.sigma**2 * score, context, generator)


def _choose(space: Space, options: dict[str, Any]) -> dict[str, Any]:
    return {"patch": fitting_patch(space.shape, options["patch"])}


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
    map: Annotated[str, one_of("scale and shift, or shift alone", ("affine", "additive"))] = "affine",
    limit: Limit = 4.0,
    noise: Annotated[float, Option("deviation of the noise on the data in training, in units of [-1, 1]", 0, 1)] = 0.0,
    dropout: Dropout = 0.0,
    memory_flat: FlatMemory = False,
) -> TarFlow:
    """TARFlow, transformers that move each token of an image by those before it (Zhai et al., 2024, arXiv:2412.06329).

    Images (C, H, W) are cut into tokens of ``patch`` x ``patch`` pixels, other events into tokens of ``patch`` numbers.
    ``blocks`` times every token is scaled and shifted, given those before it, by a causal transformer of ``depth``
    layers and ``width`` channels; the next one looks back from the other end. ``map`` "additive" preserves the volume,
    and the base learns a mean and a deviation for each number. Integers get even noise and lie in [-1, 1), real numbers
    are brought to unit scale by the first batch, once. The context is added to every token.

    ``noise`` makes the data of training smooth, which makes better pictures and a worse likelihood: the density is
    that of noised events, for which samples are drawn, too; with ``denoise`` one step takes them to the mean of the
    events that they may have come from. 0 is for bits per dimension. With ``dropout`` (0.1) samples can be drawn with
    ``guidance``, and everything can be asked without a context; without any context an ``attention_temperature`` makes
    what guidance goes away from. ``memory_flat`` trains in the memory of one block.

    Density is one pass of the networks, sampling one step of them a token. Raises ValueError for a patch that does not
    cut the event into two tokens or more, and for guidance and denoising of models that were not trained for them.

    >>> from pyflowk import zoo
    >>> zoo.tarflow((1, 4, 4), levels=17, blocks=2, width=8).sample(2).shape
    torch.Size([2, 1, 4, 4])
    """
    assert patch is not None  # it is chosen
    affine, dims = map == "affine", space.dims
    cut = Patches(space.shape, patch) if len(space.shape) == 3 else Reshape(space.shape, (dims // patch, patch))
    tokens, features = cut.after
    grid = cut.grid if isinstance(cut, Patches) else (tokens, 1)
    layers: list[Transform] = [cut]
    for _ in range(blocks):
        net = CausalTransformer(
            features, tokens, 1 + affine, width, depth, positions=positions, grid=grid, start=start,
            **condition(space, dropout),
        )  # fmt: skip
        layers.append(Causal(net, Affine("tanh", limit, interleaved=True) if affine else Additive(), flip=True))
    layers.append(Reshape((tokens, features), (dims,)))
    scale = [ActNorm(space.shape[0]).requires_grad_(False)] if space.levels is None else []
    return TarFlow(
        space, DiagonalGaussian((dims,), learned=not affine), Compose(*layers), [*centred(space), *scale],
        GaussianNoise(noise), dropout=dropout, memory_flat=memory_flat,
    )  # fmt: skip
