"""A variational autoencoder: events become codes, of fewer numbers, and come back from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Generator, Tensor, nn

from ..distributions import DiagonalGaussian
from ..flows import require_wide
from ..nets import Decoder, Encoder, PretrainedDecoder, PretrainedEncoder, load_autoencoder
from ..objectives.elbo import Gauss, draw_events, elbo, log_prob_of_code, log_prob_of_events
from ..ops.dtypes import state_dtype
from ..shapes import sample_shape, shaped
from ..space import Space
from ..transforms import ActNorm, Compose, Transform, check_levels
from .model import Ability, GenerativeModel, SamplingOptions
from .option import LAYERS, WIDTH, Option, Width, one_of
from .registry import register

FIXED = math.log(0.5)
"""Log-deviation of codes that do not say theirs."""
BOUND = 8.0


@dataclass(frozen=True)
class AutoencoderSampling(SamplingOptions):
    """How far codes and events are drawn around their means."""

    temperature: Annotated[float, Option("what multiplies the deviations of codes", above=0)] = 1.0
    spread: Annotated[float, Option("what multiplies those of events given their codes; 0: the likeliest", 0)] = 1.0


class Autoencoder(GenerativeModel):
    r"""Encoder and decoder: events x, codes :math:`z \sim q(z | x)`, and the law of events given their codes.

    ``posterior`` gives means and log-deviations of codes (B, \*code), ``decoded`` the means of the events of codes. Its
    log-likelihood is a bound (:func:`pyflowk.objectives.elbo`), by one draw of the code each; so is the density of a
    sample, by the code that it was drawn from. Levels lie evenly in [-1, 1]; real numbers are brought to unit scale by
    the first batch, once.
    """

    Sampling = AutoencoderSampling

    def __init__(
        self, space: Space, encoder: Encoder | PretrainedEncoder, decoder: Decoder | PretrainedDecoder, *, fixed: bool,
        beta: float = 1.0, pretrained: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(space)
        self.encoder, self.decoder, self.fixed, self.beta = encoder, decoder, fixed, beta
        self.pretrained = pretrained
        self.prior = DiagonalGaussian(encoder.code)
        channels = (space.shape[0], 1, 1) if len(space.shape) == 3 else (1,) * len(space.shape)
        self.log_scale = nn.Parameter(torch.full(channels, -1.0 if space.levels else 0.0))
        plain = space.levels is not None
        self.scale: Transform = Compose() if plain else ActNorm(space.shape[0]).requires_grad_(False)
        self.prior.anchor_to(self.parameters())

    @property
    def abilities(self) -> frozenset[Ability]:
        return frozenset({Ability.LIKELIHOOD, Ability.RECONSTRUCTION})

    @property
    def loss_unit(self) -> str | None:
        return "nats" if self.beta == 1 or not self.training else None

    @property
    def code(self) -> tuple[int, ...]:
        """The shape of a code."""
        return self.encoder.code

    # ---- codes -------------------------------------------------------------------------------------------------------

    def posterior(self, x: Tensor) -> Gauss:
        require_wide(self.log_scale)
        levels = self.space.levels
        if levels is not None and x.is_cpu and not torch.compiler.is_compiling():
            check_levels(x, levels)
        found = self.encoder(self._centred(x))
        found = found.to(state_dtype(found))
        if self.fixed:
            return found[:, 0], torch.full_like(found[:, 0], FIXED)
        return found[:, 0], BOUND * torch.tanh(found[:, 1] / BOUND)

    def _centred(self, x: Tensor) -> Tensor:
        """Events as the encoder sees them, and the decoder means them."""
        x, levels = x.to(self.log_scale.dtype), self.space.levels
        return self.scale(x)[0] if levels is None else (x + 0.5) * (2 / levels) - 1

    def reconstruct(self, x: Tensor) -> Tensor:
        """The likeliest events of the mean codes of events."""
        self.space.check(x)
        return self.events(self.posterior(x)[0])

    def decoded(self, code: Tensor) -> Tensor:
        require_wide(self.log_scale)
        mean = self.decoder(code)
        return mean.to(state_dtype(mean))

    def log_likelihood(self, x: Tensor, code: Tensor) -> Tensor:
        mean = self.decoded(code)
        x, ladj = self.scale(x.to(mean.dtype))
        return log_prob_of_events(x, mean, self.log_scale, self.space.levels) + ladj

    def log_prior(self, code: Tensor, context: Any = None, generator: Generator | None = None) -> Tensor:
        return self.prior.log_prob(code)

    def events(self, code: Tensor, generator: Generator | None = None, spread: float = 0.0) -> Tensor:
        """Events of codes, by default the likeliest."""
        return self.scale.to_data(draw_events(self.decoded(code), self.log_scale, self.space.levels, generator, spread))

    def initialize(self, x: Tensor, context: Any = None, generator: Generator | None = None) -> None:
        self.check_batch(x, context)
        self.scale.initialize(x.to(self.log_scale.dtype))
        if self.pretrained:  # of a logistic law of scale s the mean size is 2 log(2) s
            with torch.no_grad():
                away = self.decoded(self.posterior(x)[0]) - self._centred(x)
                size = away.abs().mean((0, 2, 3)).clamp(min=0.1 / (self.space.levels or 1))
                self.log_scale.copy_((size / (2 * math.log(2))).log().reshape(self.log_scale.shape))

    # ---- what every system does --------------------------------------------------------------------------------------

    def loss(self, x: Tensor, context: Any = None, generator: Generator | None = None) -> Tensor:
        self.check_batch(x, context)
        return elbo(self, x, beta=self.beta if self.training else 1.0, generator=generator)

    def log_prob(self, x: Tensor, context: Any = None, generator: Generator | None = None) -> Tensor:
        self.check_batch(x, context)
        return -elbo(self, x, generator=generator)

    def sample_and_log_prob(
        self, n: int | Sequence[int], context: Any = None, generator: Generator | None = None, **options: Any
    ) -> tuple[Tensor, Tensor]:
        chosen: Any = self.chosen(options)
        shape = sample_shape(n)
        self.check_context(context, math.prod(shape))
        code, x = self._drawn(math.prod(shape), generator, chosen)
        log_prob = self.log_likelihood(x, code) + self.log_prior(code) - log_prob_of_code(code, self.posterior(x))
        return shaped(x, shape), shaped(log_prob, shape)

    def _sample(self, rows: int, context: Any, generator: Generator | None, chosen: Any) -> Tensor:
        return self._drawn(rows, generator, chosen)[1]

    def _drawn(self, rows: int, generator: Generator | None, chosen: Any) -> tuple[Tensor, Tensor]:
        code = self.prior.sample(rows, None, generator, chosen.temperature)
        return code, self.events(code, generator, chosen.spread)


@register("autoencoder", takes=("real", "levels"))
def autoencoder(
    space: Space,
    *,
    channels: Annotated[int, Option("of a code: images, or numbers of other events", 1, WIDTH)] = 4,
    halvings: Annotated[int, Option("how often a code's images have half the sides", 0, 16)] = 0,
    width: Width = 32,
    depth: Annotated[int, Option("residual blocks on each level, or hidden layers", 1, LAYERS)] = 1,
    deviation: Annotated[str, one_of("of a code: 0.5, or told by the encoder", ("fixed", "learned"))] = "learned",
    beta: Annotated[float, Option("what codes cost in training, in nats a nat", above=0)] = 1.0,
    pretrained: Annotated[
        str, Option("folder or name of an AutoencoderKL (diffusers), whose networks stand in place of these; or none")
    ] = "none",
) -> Autoencoder:
    """Autoencoder, whose codes other systems learn in place of events (Kingma, Welling, 2014, arXiv:1312.6114).

    Images (C, H, W) have codes (``channels``, H / 2^halvings, W / 2^halvings) by convolutions, other events codes of
    ``channels`` numbers by perceptrons. Codes are drawn around what the encoder says, with a ``deviation`` that it says
    too, or of 0.5 for all: then what is learned on codes is smooth without more noise (SimFlow, Zhao et al., 2025,
    arXiv:2512.04084). Events given their code have a Gaussian law, levels a logistic one, of a learned scale a channel.
    The likelihood is a bound. `pyflowk latent RUN` trains a system on the codes of a run.

    ``pretrained`` takes both networks from diffusers, for images of integer levels: latent models then learn its codes,
    in the scale that its config tells, `pyflowk train latent --set coder=pretrained=PLACE`; the first batch sets the
    scale of what its decoder leaves.

    Cost: one pass of either network. Raises ValueError for sides that cannot be halved so often, and ImportError for a
    pretrained one without diffusers.

    >>> from pyflowk import zoo
    >>> zoo.autoencoder((1, 8, 8), levels=17, halvings=1, width=8).sample(2, spread=0.0).shape
    torch.Size([2, 1, 8, 8])
    """
    if pretrained != "none":
        if space.levels is None:
            raise ValueError(f"pretrained: expected images of integer levels, got {space}")
        return Autoencoder(space, *load_autoencoder(pretrained, space.shape), fixed=False, beta=beta, pretrained=True)
    sizes: dict[str, Any] = {"channels": channels, "halvings": halvings, "width": width, "depth": depth}
    fixed = deviation == "fixed"
    encoder, decoder = Encoder(space.shape, **sizes, answers=2 - fixed), Decoder(space.shape, **sizes)
    return Autoencoder(space, encoder, decoder, fixed=fixed, beta=beta)
