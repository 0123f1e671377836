"""Any system inside any autoencoder: it learns the codes of events in place of the events."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Generator, Tensor

from ..objectives.elbo import Gauss, draw_code, elbo, log_prob_of_code
from ..shapes import sample_shape, shaped
from ..space import TEXTS, Space
from ..transforms import ActNorm, Compose, Transform
from .autoencoder import Autoencoder
from .model import Ability, GenerativeModel, SamplingOptions
from .option import Option, parse_options
from .registry import FLOWS, create, names, register


@dataclass(frozen=True)
class LatentSampling(SamplingOptions):
    """How codes are drawn by the system inside, and events around what the decoder makes of them."""

    inside: Annotated[str | None, Option("options of the samples of the system inside, KEY=VALUE and so on")] = None
    spread: Annotated[float, Option("what multiplies deviations of events given their codes; 0: the likeliest", 0)] = (
        0.0
    )


class Latent(GenerativeModel):
    r"""A system of codes, and the autoencoder that they come from and go back to.

    The autoencoder stays as it is, its codes brought to unit scale by the first batch, once; or, ``joint``, it learns
    with the system inside, which is then the prior of its codes. The log-likelihood is a bound, :math:`\log p(x | z) +
    \log p(z) - \log q(z | x)` for one draw of z, and there is one where the system inside has one.
    """

    Sampling = LatentSampling

    def __init__(self, space: Space, autoencoder: Autoencoder, inner: GenerativeModel, joint: bool = False) -> None:
        super().__init__(space)
        self.autoencoder, self.inner, self.joint = autoencoder, inner, joint
        self.scale: Transform = Compose() if joint else ActNorm(autoencoder.code[0]).requires_grad_(False)
        self.targets: tuple[str, ...] = () if joint else ("autoencoder",)  # saved, and not trained

    @property
    def abilities(self) -> frozenset[Ability]:
        return (self.inner.abilities & {Ability.LIKELIHOOD}) | {Ability.RECONSTRUCTION}

    @property
    def loss_unit(self) -> str | None:
        """Nats of events in evaluation; in training they are those of codes, unless the autoencoder learns, too."""
        return self.inner.loss_unit if self.joint or not self.training else None

    @property
    def code(self) -> tuple[int, ...]:
        """The shape of a code."""
        return self.autoencoder.code

    def chosen(self, options: dict[str, Any]) -> Any:
        found: Any = super().chosen(options)
        self.inner.chosen(self._inside(found))
        return found

    def _inside(self, chosen: Any) -> dict[str, Any]:
        """The options of the samples of the system inside."""
        return parse_options((chosen.inside or "").split(), "inside")

    # ---- codes -------------------------------------------------------------------------------------------------------

    def posterior(self, x: Tensor) -> Gauss:
        if self.joint:
            return self.autoencoder.posterior(x)
        with torch.no_grad():
            return self.autoencoder.posterior(x)

    def log_likelihood(self, x: Tensor, code: Tensor) -> Tensor:
        return self.autoencoder.log_likelihood(x, code)

    def log_prior(self, code: Tensor, context: Any = None, generator: Generator | None = None) -> Tensor:
        z, ladj = self.scale(code)
        if self.inner.loss_unit == "nats" and self.training:
            return ladj - self.inner.loss(z, context, generator)
        return ladj + self.inner.log_prob(z, context, generator)

    # ---- what every system does --------------------------------------------------------------------------------------

    def loss(self, x: Tensor, context: Any = None, generator: Generator | None = None) -> Tensor:
        context = self.check_batch(x, context)
        if self.loss_unit == "nats":
            return elbo(self, x, context, generator=generator)
        return self.inner.loss(self.scale(draw_code(self.posterior(x), generator))[0], context, generator)

    def log_prob(self, x: Tensor, context: Any = None, generator: Generator | None = None) -> Tensor:
        self.require(Ability.LIKELIHOOD)
        return -elbo(self, x, self.check_batch(x, context), generator=generator)

    def sample_and_log_prob(
        self, n: int | Sequence[int], context: Any = None, generator: Generator | None = None, **options: Any
    ) -> tuple[Tensor, Tensor]:
        self.require(Ability.LIKELIHOOD)
        chosen: Any = self.chosen(options)
        shape = sample_shape(n)
        context = self.check_context(context, math.prod(shape))
        inside = self._inside(chosen)
        z, log_prior = self.inner.sample_and_log_prob(math.prod(shape), context, generator, **inside)
        code, ladj = self.scale.inverse(z)
        x = self.autoencoder.events(code, generator, chosen.spread)
        log_prob = self.log_likelihood(x, code) + log_prior - ladj - log_prob_of_code(code, self.posterior(x))
        return shaped(x, shape), shaped(log_prob, shape)

    def reconstruct(self, x: Tensor) -> Tensor:
        return self.autoencoder.reconstruct(x)

    def _sample(self, rows: int, context: Any, generator: Generator | None, chosen: Any) -> Tensor:
        inside = self._inside(chosen)
        z = self.inner.sample(rows, context, generator, **inside)
        return self.autoencoder.events(self.scale.to_data(z), generator, chosen.spread)

    def initialize(self, x: Tensor, context: Any = None, generator: Generator | None = None) -> None:
        context = self.check_batch(x, context)
        scale = self.autoencoder.scale
        if self.joint or self.autoencoder.pretrained or (isinstance(scale, ActNorm) and scale.unset):
            self.autoencoder.initialize(x)
        code = draw_code(self.autoencoder.posterior(x), generator).detach()
        self.inner.initialize(self.scale.initialize(code), context, generator)

    def after_step(self, step: int) -> None:
        self.inner.after_step(step)


def _choose(space: Space, options: dict[str, Any]) -> dict[str, Any]:
    """All options of both, as they are used: a later change of their defaults leaves saved models alone."""
    with torch.device("meta"):
        coder, inner = _parts(space, options["system"], options["options"], options["coder"])
    return {"options": options_of(inner), "coder": options_of(coder)}


@register("latent", _choose, takes=(*FLOWS, *TEXTS))
def latent(
    space: Space,
    *,
    system: Annotated[str, Option("the system that learns codes: a name of the zoo")] = "tarflow",
    options: Annotated[str | None, Option("its options, KEY=VALUE and so on")] = None,
    coder: Annotated[str | None, Option("the options of the autoencoder, KEY=VALUE and so on")] = None,
    joint: Annotated[bool, Option("the autoencoder learns, too, and the system inside is the prior of its codes")] = (
        False
    ),
) -> Latent:
    """Latent models, any system on the codes of an autoencoder (Rombach et al., 2021, arXiv:2112.10752).

    ``pyflowk latent RUN --system tarflow`` makes one of a run of ``zoo.autoencoder``, whose weights it takes and keeps;
    an autoencoder that is made here knows nothing and has to learn ``joint``, best with ``deviation=fixed`` (SimFlow,
    Zhao et al., 2025, arXiv:2512.04084). The context is the inner system's. What events are given their codes is the
    decoder's, so that the likelihood is a bound, and no better than the autoencoder.

    Raises ValueError for systems and options that there are not, and for a system that is not one of codes.

    >>> from pyflowk import zoo
    >>> zoo.latent((6,), system="nice", options="width=8", coder="channels=2 width=8").sample(3).shape
    torch.Size([3, 6])
    """
    return Latent(space, *_parts(space, system, options, coder), joint)


def _parts(space: Space, system: str, options: str | None, coder: str | None) -> tuple[Autoencoder, GenerativeModel]:
    """The autoencoder, and the system on its codes."""
    if system not in names():
        raise ValueError(f"system: expected one of {', '.join(names())}; got {system!r}")
    if system in ("latent", "autoencoder"):
        raise ValueError(f"system: expected a system of codes, which has no autoencoder of its own; got {system}")
    made = _create("coder", coder, "autoencoder", Space(space.shape, space.levels))
    assert isinstance(made, Autoencoder)
    return made, _create("options", options, system, Space(made.code, context=space.context))


def _create(option: str, text: str | None, name: str, space: Space) -> GenerativeModel:
    """A system by its options as text; errors name the option that holds them."""
    try:
        return create(name, space, **parse_options((text or "").split(), option))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{option}: expected options of {name} for {space.shape}; {error}") from error


def options_of(model: GenerativeModel) -> str:
    """The options that a model of the zoo was made with, as :func:`parse_options` reads them."""
    options = {key: value for key, value in model.config.items() if key not in ("name", "space")}
    return " ".join(f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in options.items())
