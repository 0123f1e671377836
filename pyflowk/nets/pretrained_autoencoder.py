"""Encoder and decoder of the autoencoders that latent diffusion models share, as diffusers keeps them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["PretrainedDecoder", "PretrainedEncoder", "load_autoencoder"]


class PretrainedEncoder(nn.Module):
    r"""The encoder of a diffusers ``AutoencoderKL``: images (B, \*shape) in [-1, 1] to (B, 2, \*code).

    Means are :math:`f (m - b)` of its own m, with the ``scaling_factor`` f and the ``shift_factor`` b of its config,
    the numbers that latent models of it learn; behind them log-deviations of the same scale. Raises ValueError for
    images that it does not take. Rombach et al., 2022, arXiv:2112.10752.
    """

    def __init__(self, model: Any, shape: Sequence[int]) -> None:
        super().__init__()
        config, halvings = model.config, len(model.config.block_out_channels) - 1
        sides = [side >> halvings for side in shape[1:]]
        if (
            len(shape) != 3
            or shape[0] != config.in_channels
            or any(s << halvings != n for s, n in zip(sides, shape[1:]))
        ):
            wanted = f"({config.in_channels}, H, W) of sides that are multiples of {1 << halvings}"
            raise ValueError(f"pretrained: expected images {wanted}, got {tuple(shape)}")
        self.code = (config.latent_channels, *sides)
        self.factor, self.shift = _scale(config)
        self.body, self.last = model.encoder, model.quant_conv

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x)
        mean, log_variance = (h if self.last is None else self.last(h)).chunk(2, 1)
        return torch.stack(((mean - self.shift) * self.factor, 0.5 * log_variance + math.log(self.factor)), 1)


class PretrainedDecoder(nn.Module):
    """The way back of a :class:`PretrainedEncoder`: codes (B, *code) to the means of images in [-1, 1]."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.factor, self.shift = _scale(model.config)
        self.first, self.body = model.post_quant_conv, model.decoder

    def forward(self, z: Tensor) -> Tensor:
        z = z / self.factor + self.shift
        return self.body(z if self.first is None else self.first(z))


def load_autoencoder(place: str, shape: Sequence[int]) -> tuple[PretrainedEncoder, PretrainedDecoder]:
    """Both halves of the ``AutoencoderKL`` in a folder, or of a name, for images of a shape, in float32; without
    weights where models are made without memory. Raises ImportError without diffusers."""
    try:
        from diffusers import AutoencoderKL  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise ImportError("pretrained: expected diffusers to be installed, pip install diffusers") from error
    if torch.empty(0).is_meta:
        model = AutoencoderKL.from_config(AutoencoderKL.load_config(place))
    else:
        model = AutoencoderKL.from_pretrained(place, torch_dtype=torch.float32)
    return PretrainedEncoder(model, shape), PretrainedDecoder(model)


def _scale(config: Any) -> tuple[float, float]:
    return float(config.scaling_factor), float(config.shift_factor or 0.0)
