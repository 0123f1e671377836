"""Made-up checkpoints of DiT and SiT give what these networks compute, written out here in their own words."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pyflowk.nets import VelocityField, load_dit, load_sit
from pyflowk.nets.checkpoints import ddpm_step
from pyflowk.paths import VP

WIDTH, HEADS, DEPTH, PATCH, CHANNELS, LABELS, SIDE = 16, 2, 2, 2, 3, 4, 3


def waves(width: int) -> Tensor:
    """DiT's fixed table (1, T, width): column first, sines before cosines."""
    rates = 1 / 10000 ** (torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    columns, rows = torch.meshgrid(torch.arange(SIDE * 1.0), torch.arange(SIDE * 1.0), indexing="xy")
    angles = [place.reshape(-1, 1) * rates for place in (columns, rows)]
    return torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], 1)[None]


def checkpoint(learn_sigma: bool = True) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)
    shapes = {
        "x_embedder.proj": (WIDTH, CHANNELS, PATCH, PATCH), "t_embedder.mlp.0": (WIDTH, 256),
        "t_embedder.mlp.2": (WIDTH, WIDTH), "final_layer.adaLN_modulation.1": (2 * WIDTH, WIDTH),
        "final_layer.linear": (PATCH * PATCH * CHANNELS * (1 + learn_sigma), WIDTH),
    }  # fmt: skip
    for i in range(DEPTH):
        shapes |= {
            f"blocks.{i}.attn.qkv": (3 * WIDTH, WIDTH), f"blocks.{i}.attn.proj": (WIDTH, WIDTH),
            f"blocks.{i}.mlp.fc1": (4 * WIDTH, WIDTH), f"blocks.{i}.mlp.fc2": (WIDTH, 4 * WIDTH),
            f"blocks.{i}.adaLN_modulation.1": (6 * WIDTH, WIDTH),
        }  # fmt: skip
    state = {"pos_embed": waves(WIDTH)}
    state["y_embedder.embedding_table.weight"] = torch.randn(LABELS + 1, WIDTH, generator=g, dtype=torch.float64)
    for name, shape in shapes.items():
        state[f"{name}.weight"] = 0.4 * torch.randn(shape, generator=g, dtype=torch.float64)
        state[f"{name}.bias"] = 0.4 * torch.randn(shape[0], generator=g, dtype=torch.float64)
    return state


def published(w: dict[str, Tensor], t: Tensor, x: Tensor, labels: Tensor) -> Tensor:
    """The first half of what such a network answers, (B, C, H, W), at times or steps (B,)."""

    def linear(name: str, h: Tensor) -> Tensor:
        return torch.einsum("oi,...i->...o", w[f"{name}.weight"], h) + w[f"{name}.bias"]

    def normed(h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        centred = h - h.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * (1 + scale) + shift

    angles = t[:, None] * torch.exp(-math.log(10000) * torch.arange(128, dtype=torch.float64) / 128)
    heard = linear("t_embedder.mlp.0", torch.cat((angles.cos(), angles.sin()), 1))
    heard = linear("t_embedder.mlp.2", heard * heard.sigmoid()) + w["y_embedder.embedding_table.weight"][labels]
    heard = (heard * heard.sigmoid())[:, None]
    patches = x.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)  # (B, C, rows, columns, p, q)
    h = torch.einsum("bcijpq,ocpq->bijo", patches, w["x_embedder.proj.weight"]) + w["x_embedder.proj.bias"]
    h = h.reshape(len(x), -1, WIDTH) + w["pos_embed"]
    for i in range(DEPTH):
        b1, s1, g1, b2, s2, g2 = linear(f"blocks.{i}.adaLN_modulation.1", heard).split(WIDTH, -1)
        qkv = linear(f"blocks.{i}.attn.qkv", normed(h, b1, s1)).reshape(len(x), -1, 3, HEADS, WIDTH // HEADS)
        shares = torch.einsum("bthd,bshd->bhts", qkv[:, :, 0], qkv[:, :, 1]) / math.sqrt(WIDTH / HEADS)
        mixed = torch.einsum("bhts,bshd->bthd", shares.softmax(-1), qkv[:, :, 2]).reshape(h.shape)
        h = h + g1 * linear(f"blocks.{i}.attn.proj", mixed)
        inner = F.gelu(linear(f"blocks.{i}.mlp.fc1", normed(h, b2, s2)), approximate="tanh")
        h = h + g2 * linear(f"blocks.{i}.mlp.fc2", inner)
    shift, scale = linear("final_layer.adaLN_modulation.1", heard).split(WIDTH, -1)
    pixels = linear("final_layer.linear", normed(h, shift, scale)).reshape(len(x), SIDE, SIDE, PATCH, PATCH, -1)
    return torch.einsum("bijpqc->bcipjq", pixels).reshape(len(x), -1, *x.shape[2:])[:, :CHANNELS]


X = torch.randn(
    2, CHANNELS, SIDE * PATCH, SIDE * PATCH, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
)
Y = torch.tensor([1, LABELS])  # one label, and the one for none


@pytest.mark.parametrize("learn_sigma", [True, False])
def test_a_sit_checkpoint_is_a_velocity(learn_sigma: bool) -> None:
    state, t = checkpoint(learn_sigma), torch.tensor([0.1, 0.8], dtype=torch.float64)
    field = load_sit(state, heads=HEADS)
    torch.testing.assert_close(field(t, X, Y), published(state, t, X, Y))
    torch.testing.assert_close(field(t[1], X[1:], None), published(state, t, X, Y)[1:])
    assert field.no_context().tolist() == [LABELS] and all(p.requires_grad for p in field.parameters())


def test_a_dit_checkpoint_predicts_the_noise_of_the_step_with_the_same_ratio() -> None:
    state = checkpoint()
    field = load_dit(state, HEADS)
    assert isinstance(field, VelocityField) and field.no_context().tolist() == [LABELS]
    kept = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    steps = torch.tensor([3, 700])
    t = VP().time((kept[steps] / (1 - kept[steps])).log())
    torch.testing.assert_close(ddpm_step(t), steps.double(), rtol=0, atol=1e-6)
    noise = published(state, steps.double(), X, Y)
    c = VP().at(t).beside(X)
    torch.testing.assert_close(c.alpha.square().flatten(), kept[steps])
    data = (X - c.sigma * noise) / c.alpha
    torch.testing.assert_close(field(t, X, Y), c.alpha_rate * data + c.sigma_rate * noise)
    times = torch.linspace(0, 1, 101, dtype=torch.float64)
    assert (ddpm_step(times).diff() < 0).all() and ddpm_step(times[-1]) == 0
    assert 995 < ddpm_step(times[0]) < 996  # products over 1000 steps end at a little less data than the integral
    assert ddpm_step(times.float()).sub(ddpm_step(times)).abs().max() < 0.02


def test_checkpoints_of_something_else() -> None:
    state = checkpoint()
    with pytest.raises(ValueError, match=r"heads: expected a number for a width other than 384, .* 1152; got 16"):
        load_sit(state)
    for change, message in (
        ({"decoder.weight": X}, "expected the tensors of a DiT or SiT, got decoder.weight among them"),
        ({"pos_embed": state["pos_embed"].flip(1)}, "pos_embed: expected the fixed table of a square image"),
        ({"blocks.1.mlp.fc1.bias": X[0, 0, 0]}, "depth 2: .*size mismatch for blocks.1.first.bias"),
    ):
        with pytest.raises(ValueError, match=f"(?s){message}"):
            load_sit({**state, **change}, HEADS)
    for missing, message in (
        ("x_embedder.proj.weight", "none that is first.weight"),
        ("blocks.0.mlp.fc2.bias", "Missing"),
    ):
        with pytest.raises(ValueError, match=f"(?s)expected the tensors of a DiT or SiT.*{message}"):
            load_sit({name: tensor for name, tensor in state.items() if name != missing}, HEADS)
