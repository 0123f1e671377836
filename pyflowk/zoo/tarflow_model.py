"""A flow of tokens, whose context may be dropped, whose samples may be guided and denoised: what TARFlow is made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Annotated, Any

import torch
from torch import Generator, Tensor

from ..distributions import Distribution
from ..flows import Flow
from ..nets import Field, with_level
from ..nets.context import drop_context
from ..objectives.nll import nll
from ..ops.draw import draw_normal, draw_uniform
from ..ops.guidance import GUIDANCE_RULES
from ..shapes import number_of
from ..solvers import denoise
from ..space import Space
from ..transforms import Causal, Compose, Decoding, Flip, GaussianNoise, Solved, Transform
from ..transforms.decoding import DECODINGS
from .blocks import centred, unsquash
from .flow_model import FlowModel, FlowSampling
from .option import WIDTH, Option, one_of, require_usual

LEARNED = "learned"
LEAST = 0.01
"""The least noise of a model of all levels."""


@dataclass(frozen=True)
class TarFlowSampling(FlowSampling):
    """How far guidance goes beyond the context, how tokens are found, and whether the noise is taken off."""

    guidance: Annotated[float, Option("how much further than the context: 0 not at all, -1 samples without it")] = 0.0
    guidance_rule: Annotated[str, one_of("what is guided: see ops.guide", GUIDANCE_RULES)] = "log_scale"
    guidance_rises: Annotated[bool, Option("from no guidance at the first token to all of it at the last")] = False
    attention_temperature: Annotated[
        float, Option("of what guidance goes away from; another than 1 guides without a context, too", above=0)
    ] = 1.0
    decoding: Annotated[
        str,
        one_of("how the tokens are found: see transforms.Decoding; learned: in one evaluation", (*DECODINGS, LEARNED)),
    ] = "auto"
    segment: Annotated[int, Option("tokens that gauss-seidel finds together", 1, WIDTH)] = 16
    tolerance: Annotated[float, Option("share of their size by which tokens may still move; 0: exact", 0)] = 0.0
    denoise: Annotated[bool, Option("take the noise of training off samples; in one step if it is of one level")] = (
        False
    )
    denoising_steps: Annotated[
        int | None, Option("of a model of all levels of noise; None: 100 for a deviation of 1", 1, 1 << 16)
    ] = None

    def __post_init__(self) -> None:
        if not self.guidance:
            require_usual(self, "guidance_rule", "guidance_rises", "attention_temperature", without="guidance")
        if not self.denoise:
            require_usual(self, "denoising_steps", without="denoise")
        if self.decoding == LEARNED and (self.guidance or self.denoise):
            raise ValueError("decoding: learned finds events without noise and guidance; expected neither asked for")


def entered(space: Space, noise: float) -> list[Transform]:
    """The maps from integers to real numbers: into [-1, 1), where noise is to go on them, else by a logit, behind which
    they lie more like a Gaussian's; none for real data."""
    return centred(space) if noise else unsquash(space)


class TarFlow(FlowModel):
    r"""A FlowModel of tokens, whose context may be dropped, whose samples may be guided and denoised.

    ``front`` are maps of the data, of which the last adds the noise of training; ``transform`` maps what they give to
    the base's noise. With ``dropout`` that share of the events is learned without a context, in training alone, and
    every context may be None.

    Denoised samples are :math:`z + \sigma^2\, \nabla \log p_\sigma(z)`, the mean of the events that noise of deviation
    :math:`\sigma` makes z of: one step, which leaves less spread than the data have. Its cost is one forward and
    backward pass. ``iterative``, the networks are told the level of the noise, and learn all from ``LEAST`` to
    :math:`\sigma` (the loss is then :math:`\sigma` times the nats, and no likelihood in training); denoised samples go
    down from there in many steps, all others and densities are those of the least noise.

    ``inverse`` is a network that learns, beside the flow, which events are behind its noise, without what was put on
    them: with ``decoding`` "learned" it draws samples in one evaluation (Lu et al., 2025, arXiv:2512.10953). Half of
    its squared error is added to the nats in training, and moves nothing of the flow.
    """

    Sampling = TarFlowSampling

    def __init__(
        self, space: Space, base: Distribution, transform: Transform, front: Sequence[Transform], noise: GaussianNoise,
        *, dropout: float = 0.0, memory_flat: bool = False, iterative: bool = False, inverse: Field | None = None,
    ) -> None:  # fmt: skip
        if iterative and not noise.sigma > LEAST:
            raise ValueError(f"noise: expected more than {LEAST} if iterative, got {noise.sigma:g}")
        if iterative and inverse is not None:
            raise ValueError("inverse: expected False if iterative, whose noise is of all levels; got True")
        sigma, noise = noise.sigma, GaussianNoise(0.0) if iterative else noise
        super().__init__(space, base, transform, front=[*front, noise], memory_flat=memory_flat)
        self.sigma, self.dropout, self.iterative, self.inverse = sigma, dropout, iterative, inverse

    @property
    def loss_unit(self) -> str | None:
        return None if self.training and (self.iterative or self.inverse is not None) else "nats"

    def loss(self, x: Tensor, context: Tensor | None = None, generator: Generator | None = None) -> Tensor:
        given = self._dropped(x, context, generator)
        if self.loss_unit == "nats":
            return nll(self.flow, x, self._at(LEAST, given, x.shape[0]), generator=generator)
        x, _ = self.flow.enter(x, None)
        front, blocks = self._ends()
        clean = Compose(*front.layers()[:-1])(x, None, generator)[0]
        level: Tensor | float = self.sigma
        if self.iterative:
            share = draw_uniform((clean.shape[0],), generator, dtype=clean.dtype, device=clean.device)
            level = LEAST + (self.sigma - LEAST) * share
        noise = draw_normal(clean.shape, generator, dtype=clean.dtype, device=clean.device)
        spread = level.reshape(-1, *[1] * (clean.dim() - 1)) if isinstance(level, Tensor) else level
        noised, heard = clean + spread * noise, self._at(level, given, clean.shape[0])
        z, ladj = blocks.transform(noised, heard, generator)
        nats = -blocks.base.log_prob(z, heard) - ladj
        return level * nats if self.iterative else nats + self._beside(clean, noise, noised, z, given)

    def _beside(self, clean: Tensor, noise: Tensor, noised: Tensor, z: Tensor, given: Any) -> Tensor:
        """What is learned beside the flow, (B,)."""
        if self.inverse is None:
            return clean.new_zeros(clean.shape[0])
        return 0.5 * (self._undone(z.detach(), given) - clean).square().flatten(1).sum(1)

    def _undone(self, z: Tensor, given: Any) -> Tensor:
        """What the learned inverse makes of the base's noise: events as the front gives them."""
        assert self.inverse is not None
        layers = self._ends()[1].transform.layers()
        cut: Any = layers[0]
        turns = sum(isinstance(layer, Flip) or (isinstance(layer, Causal) and layer.flip) for layer in layers)
        tokens = z.reshape(z.shape[0], *cut.after)
        seen = cut.to_data(tokens.flip(1) if turns % 2 else tokens)
        seen, shape = seen if len(self.space.shape) == 3 else seen.flatten(1), seen.shape
        found = self.inverse(1.0, seen, given if self.inverse.takes_context else None)
        return found.reshape(shape).to(z.dtype)

    def check_context(self, context: Any, rows: int) -> Any:
        return self._at(LEAST, self._given(context, rows), rows)

    def _rows(self, x: Tensor) -> int:
        self.space.check(x)
        return x.shape[0]

    def _given(self, context: Any, rows: int) -> Any:
        """The user's context, checked; None where it is left out and may be."""
        return None if context is None and self.dropout else super().check_context(context, rows)

    def _at(self, level: float | Tensor, given: Any, rows: int) -> Any:
        """What networks hear of a context, and of the level of noise."""
        if not self.iterative:
            return given
        own = self.flow.base.anchor
        net = self._conditional().net
        if given is None and net.may_go_without:
            given = net.no_context()
        levels = level if isinstance(level, Tensor) else torch.full((rows,), level, dtype=own.dtype, device=own.device)
        return with_level(levels, given)

    def chosen(self, options: dict[str, Any]) -> Any:
        found: Any = super().chosen(options)
        if found.denoise and not self.sigma:
            raise ValueError("denoise: expected a model that was trained with noise above 0, got one of 0")
        if found.decoding == LEARNED and self.inverse is None:
            raise ValueError("decoding: expected a model that has learned its inverse (inverse=True) for learned")
        self._drawn_by(found)  # an error, before a run has learned in vain, if it cannot be guided
        return found

    def _dropped(self, x: Tensor, context: Any, generator: Generator | None) -> Any:
        """The context of events, checked, which is left out of some in training."""
        given = self._given(context, self._rows(x))
        if not (self.dropout and self.training) or given is None:
            return given
        dropped = draw_uniform((x.shape[0],), generator, dtype=torch.float32, device=x.device) < self.dropout
        return drop_context(given, dropped, self._conditional().net.no_context())

    def _ends(self) -> tuple[Compose, Flow]:
        """The maps of the data, up to the noise, and the flow of what they give."""
        chain: Any = self.flow.transform
        return Compose(*chain[:-1]), Flow(self.flow.base, chain[-1])

    def _conditional(self) -> Causal:
        """The first map whose network may hear of a context."""
        maps = [layer for layer in self.flow.transform.layers() if isinstance(layer, Causal)]
        return next((layer for layer in maps if layer.net.may_go_without), maps[0])

    def _drawn_by(self, chosen: Any) -> Flow:
        decoding = Decoding("auto" if chosen.decoding == LEARNED else chosen.decoding, chosen.segment, chosen.tolerance)
        if not chosen.guidance and decoding == Decoding():
            return self.flow
        how = (chosen.guidance, chosen.guidance_rule, chosen.guidance_rises, chosen.attention_temperature)
        layers = self.flow.transform.layers()
        hearing = any(isinstance(t, Causal) and t.net.may_go_without for t in layers)

        def drawn(t: Transform) -> Transform:
            if not isinstance(t, Causal):
                return t
            guided = t.net.may_go_without or not hearing  # those that hear no context leave it to those that do
            return (t.guided(*how) if guided else t).decoded(decoding)

        found = map(drawn, layers)
        return Flow(self.flow.base, Compose(*found))

    @torch.no_grad()
    def solved(
        self, n: int, context: Any = None, generator: Generator | None = None, **options: Any
    ) -> list[tuple[Causal, Solved]]:
        """The blocks, the last one first, and what each has found of n samples, drawn as by :meth:`sample`: how many
        rounds that took, and how fast they came to an end. "auto" is "gauss-seidel" here."""
        chosen: Any = self.chosen(options)
        if chosen.decoding == LEARNED:
            raise ValueError("decoding: expected another than learned, which takes no rounds")
        flow, context = self._drawn_by(chosen), self.check_context(context, number_of(n))
        z, found = flow.base.sample(n, context, generator, chosen.temperature), []
        for layer in flow.transform.layers()[::-1]:
            if isinstance(layer, Causal):
                found.append((layer, layer.solve(z, context)))
                z = found[-1][1].x
            else:
                z = layer.to_data(z, context, generator)
        return found

    @torch.no_grad()
    def fastest_decoding(
        self, n: int, context: Any = None, generator: Generator | None = None, **options: Any
    ) -> dict[str, Any]:
        """The exact way to find the tokens that draws n samples with such options in the least time here, as options of
        :meth:`sample`: each is tried once, after one warm-up. It is worth its time where many batches are to be drawn.

        >>> from pyflowk import zoo
        >>> model = zoo.tarflow((4,), blocks=1, width=8, depth=1)
        >>> sorted(model.fastest_decoding(2))
        ['decoding', 'segment']
        """
        ways = [(how, 16) for how in DECODINGS if how != "gauss-seidel"]
        ways += [("gauss-seidel", segment) for segment in (8, 16, 32, 64)]
        spent: dict[tuple[str, int], float] = {}
        for way in [ways[0], *ways]:
            chosen = {"decoding": way[0], "segment": way[1]}
            start = perf_counter()
            self.sample(n, context, generator, **options, **chosen).sum().item()  # which waits for a device
            spent[way] = perf_counter() - start
        how, segment = min(spent, key=lambda way: spent[way])
        return {"decoding": how, "segment": segment}

    def sample_and_log_prob(
        self, n: int | Sequence[int], context: Any = None, generator: Generator | None = None, **options: Any
    ) -> tuple[Tensor, Tensor]:
        if options.get("denoise"):
            raise ValueError("denoise: expected False, for denoised samples have no known density; got True")
        if options.get("decoding") == LEARNED:
            raise ValueError("decoding: expected another than learned for densities of samples, which has none")
        if options.get("tolerance"):
            raise ValueError(
                "tolerance: expected 0 for densities of samples, as those that are found up to it are of another "
                f"density; got {options['tolerance']}"
            )
        return super().sample_and_log_prob(n, context, generator, **options)

    def _sample(self, rows: int, context: Any, generator: Generator | None, chosen: Any) -> Tensor:
        front, blocks = self._ends()
        if chosen.decoding == LEARNED:
            z = self.flow.base.sample(rows, context, generator, chosen.temperature)
            return front.to_data(self._undone(z, context), context, generator)
        if not chosen.denoise:
            return super()._sample(rows, context, generator, chosen)
        drawn = Compose(*self._drawn_by(chosen).transform.layers()[-len(blocks.transform.layers()) :])
        deviations = [self.sigma, 0.0]
        if self.iterative:
            steps = chosen.denoising_steps or math.ceil(100 * self.sigma)
            deviations = [*torch.linspace(self.sigma, LEAST, max(steps, 2)).tolist(), 0.0]
            context = self._leveled(context, self.sigma)
        z = Flow(self.flow.base, drawn).sample(rows, context, generator, chosen.temperature).detach()
        z = denoise(
            partial(self._score, context),
            z,
            deviations,
            clip=1.0 if self.iterative and self.space.levels is not None else None,
        )
        return front.to_data(z, context, generator)

    def _score(self, context: Any, z: Tensor, level: float) -> Tensor:
        """The gradient of the log-density of noised events."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            density = self._ends()[1].log_prob(z, self._leveled(context, level)).sum()
            return torch.autograd.grad(density, z)[0]

    def _leveled(self, context: Any, level: float) -> Any:
        """The same context with another level of noise."""
        if not self.iterative:
            return context
        return torch.cat((torch.full_like(context[:, :1], level), context[:, 1:]), 1)
