"""A flow of tokens whose deep map hears a text, and which may learn to denoise: what STARFlow is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from torch import Tensor

from ..nets import Field, text_rows
from ..ops.guidance import GUIDANCE_RULES
from ..space import Ragged
from .option import one_of
from .tarflow_model import TarFlow, TarFlowSampling


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

    def _beside(self, clean: Tensor, noise: Tensor, noised: Tensor, z: Tensor, given: Any) -> Tensor:
        lost = super()._beside(clean, noise, noised, z, given)
        if self.denoiser is None:
            return lost
        return lost + 0.5 * (self._noise(noised, given) - noise).square().flatten(1).sum(1)

    def _noise(self, z: Tensor, context: Any) -> Tensor:
        assert self.denoiser is not None
        seen = z if len(self.space.shape) == 3 else z.flatten(1)
        context = context if self.denoiser.takes_context else None
        return self.denoiser(1.0, seen, context).reshape(z.shape).to(z.dtype)

    def _score(self, context: Any, z: Tensor, level: float) -> Tensor:
        return super()._score(context, z, level) if self.denoiser is None else -self._noise(z, context) / level
