"""Made-up checkpoints of TARFlow and STARFlow give what these networks compute, written out here in their own words."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pyflowk import zoo
from pyflowk.space import Ragged
from pyflowk.transforms import Compose

WIDTH, LABELS, LENGTH, SIZE = 128, 3, 3, 5  # two heads; a text of three vectors of five numbers
Weights = dict[str, Tensor]


def noise(*shape: int, std: float = 1.0) -> Tensor:
    return std * torch.randn(shape, generator=torch.Generator().manual_seed(math.prod(shape)), dtype=torch.float64)


def made(prefix: str, layers: int, features: int, params: int, tokens: int) -> Weights:
    """What the blocks of both have."""
    shapes = {"proj_in": (WIDTH, features), "proj_out": (params * features, WIDTH)}
    for i in range(layers):
        name = f"attn_blocks.{i}"
        shapes |= {f"{name}.attention.norm": (WIDTH,), f"{name}.mlp.norm": (WIDTH,)}
        shapes |= {f"{name}.attention.qkv": (3 * WIDTH, WIDTH), f"{name}.attention.proj": (WIDTH, WIDTH)}
        shapes |= {f"{name}.mlp.main.0": (4 * WIDTH, WIDTH), f"{name}.mlp.main.2": (WIDTH, 4 * WIDTH)}
    state = {f"{prefix}.attn_mask": torch.ones(tokens, tokens).tril()}
    for k, (name, shape) in enumerate(shapes.items()):
        std = (0.1 if name == "proj_out" else 0.6) / shape[-1] ** 0.5 if len(shape) == 2 else 0.3
        state[f"{prefix}.{name}.weight"] = noise(*shape, std=std).roll(k) + (len(shape) == 1)
        state[f"{prefix}.{name}.bias"] = noise(shape[0], std=0.2).roll(k)
    return state


def linear(w: Weights, name: str, h: Tensor) -> Tensor:
    return torch.einsum("oi,bti->bto", w[f"{name}.weight"], h) + w[f"{name}.bias"]


def through(w: Weights, prefix: str, h: Tensor, turn: Any = lambda q: q) -> Tensor:
    """All layers of a block, each token seeing itself and those before it."""
    rows, tokens, heads = len(h), h.shape[1], WIDTH // 64
    hidden = torch.ones(tokens, tokens).triu(1).bool()
    i = 0
    while f"{prefix}.attn_blocks.{i}.attention.qkv.weight" in w:
        name = f"{prefix}.attn_blocks.{i}"

        def normed(part: str, h: Tensor, name: str = name) -> Tensor:
            return F.layer_norm(h, (WIDTH,), w[f"{name}.{part}.norm.weight"], w[f"{name}.{part}.norm.bias"])

        q, k, v = (
            linear(w, f"{name}.attention.qkv", normed("attention", h)).reshape(rows, tokens, 3, heads, 64).unbind(2)
        )
        logits = torch.einsum("bthd,bshd->bhts", turn(q), turn(k)) / 8
        shares = logits.masked_fill(hidden, -torch.inf).softmax(-1)
        h = h + linear(w, f"{name}.attention.proj", torch.einsum("bhts,bshd->bthd", shares, v).reshape(h.shape))
        u = linear(w, f"{name}.mlp.main.0", normed("mlp", h))
        h = h + linear(w, f"{name}.mlp.main.2", 0.5 * u * (1 + torch.erf(u / math.sqrt(2))))
        i += 1
    return h


# ---- TARFlow ---------------------------------------------------------------------------------------------------------


def tar(affine: bool = True, labels: bool = True) -> Weights:
    state = {"var": 0.5 + noise(4, 12).square()}
    for k in range(3):
        state |= made(f"blocks.{k}", 1 + (k < 0), 12, 1 + affine, 4)
        state[f"blocks.{k}.pos_embed"] = noise(4, WIDTH, std=0.5) + k
        if labels:
            state[f"blocks.{k}.class_embed"] = noise(LABELS, 1, WIDTH) - k
    return state


def tar_density(w: Weights, x: Tensor, labels: Tensor | None, affine: bool) -> tuple[Tensor, Tensor]:
    """Noise (B, T, D) of pixels in [-1, 1], and the sum of its log-determinants."""
    z, total = F.unfold(x, 2, stride=2).mT, x.new_zeros(len(x))
    for k in range(3):
        block = f"blocks.{k}"
        z, places = (z.flip(1), w[f"{block}.pos_embed"].flip(0)) if k % 2 else (z, w[f"{block}.pos_embed"])
        h = linear(w, f"{block}.proj_in", z) + places
        if f"{block}.class_embed" in w:
            table = w[f"{block}.class_embed"]
            h = h + (table.mean(0) if labels is None else table[labels])
        told = linear(w, f"{block}.proj_out", through(w, block, h))
        told = torch.cat((torch.zeros_like(told[:, :1]), told[:, :-1]), 1)
        alpha, mean = told.chunk(2, -1) if affine else (torch.zeros_like(told), told)
        z, total = (z - mean) * torch.exp(-alpha), total - alpha.sum((1, 2))
        z = z.flip(1) if k % 2 else z
    return z, total


@pytest.mark.parametrize("affine", [True, False])
def test_a_tarflow_checkpoint_is_a_model_of_the_zoo(affine: bool) -> None:
    state = tar(affine)
    model = zoo.load_tarflow(state, (3, 4, 4), noise=0.1)
    assert (
        model.config["blocks"] == 3 and model.space.classes == LABELS and model.flow.base.anchor.dtype == torch.float64
    )
    x, labels = torch.rand(2, 3, 4, 4, dtype=torch.float64) * 2 - 1, torch.tensor([2, 0])
    blocks = Compose(*model._ends()[1].transform.layers())
    for given in (labels, None):
        z, ladj = tar_density(state, x, given, affine)
        found, total = blocks(x, model.check_context(given, 2))
        torch.testing.assert_close(found.reshape(z.shape).flip(1), z)  # of three blocks
        torch.testing.assert_close(total, ladj)
        spread = state["var"].sqrt() if not affine else torch.ones_like(state["var"])
        law = torch.distributions.Normal(torch.zeros_like(spread), spread).log_prob(z).sum((1, 2))
        torch.testing.assert_close(model.flow.base.log_prob(found), law)
    back = blocks.to_data(found)
    torch.testing.assert_close(back, x, atol=1e-6, rtol=1e-6)
    drawn = [zoo.create("tarflow", **{k: v for k, v in model.config.items() if k != "name"}).double(), model]
    drawn[0].load_state_dict(model.state_dict())
    seeds = [torch.Generator().manual_seed(0) for _ in drawn]
    guided = {"guidance": 1.0} if affine else {}
    samples = [m.eval().sample(2, labels, g, denoise=True, **guided) for m, g in zip(drawn, seeds, strict=True)]
    assert torch.equal(*samples) and samples[0].isfinite().all()


# ---- STARFlow --------------------------------------------------------------------------------------------------------


def star(text: bool = True) -> Weights:
    state = {"var": torch.ones(9, 8), "feat_rope.freqs_cos": torch.zeros(1), "feat_rope.freqs_sin": torch.zeros(1)}
    for k in range(2):
        block = f"blocks.{k}"
        state |= made(block, 1 + k, 8, 2, 9 + LENGTH * text)
        state |= {f"{block}.sos_embed": noise(1, 1, 8), f"{block}.final_norm.weight": noise(WIDTH, std=0.3)}
        if text and k:
            state |= {f"{block}.proj_txt.weight": noise(WIDTH, SIZE), f"{block}.proj_txt.bias": noise(WIDTH)}
    return state


def star_turns(prefix: int, text: bool) -> Any:
    """Pairs 2 i and 2 i + 1 turned: by row and column of 9 tokens, and by 8 rates of the place in a text."""
    pairs = 24 if text else 32
    rates = torch.tensor([10000.0 ** (-2 * i / pairs) for i in range(pairs // 2)], dtype=torch.float64)
    own = torch.tensor([10000.0 ** (-i / 8) for i in range(8)] * text, dtype=torch.float64)
    angles = [torch.cat((0 * rates, 0 * rates, own * (i / LENGTH * 3))) for i in range(prefix)]
    angles += [torch.cat((i // 3 * rates, i % 3 * rates, 0 * own)) for i in range(9)]

    def turn(q: Tensor) -> Tensor:
        z = torch.view_as_complex(q.reshape(*q.shape[:-1], 32, 2).contiguous())
        return torch.view_as_real(z * torch.exp(1j * torch.stack(angles))[:, None]).flatten(-2)

    return turn


def star_density(w: Weights, x: Tensor, text: Tensor | None) -> tuple[Tensor, Tensor]:
    """Noise (B, T, D) of codes (B, 2, 6, 6), D in the order row, column, channel; and the log-determinants."""
    z = x.reshape(len(x), 2, 3, 2, 3, 2).permute(0, 2, 4, 3, 5, 1).reshape(len(x), 9, 8)
    total = x.new_zeros(len(x))
    for k in range(2):
        block = f"blocks.{k}"
        z = z.flip(1) if k == 0 else z  # the last block sees them in order
        h = linear(w, f"{block}.proj_in", torch.cat((w[f"{block}.sos_embed"].expand(len(x), 1, 8), z[:, :-1]), 1))
        ahead = linear(w, f"{block}.proj_txt", text) if text is not None and k else h[:, :0]
        h = through(w, block, torch.cat((ahead, h), 1), star_turns(ahead.shape[1], text is not None))
        h = h / (h.square().mean(-1, keepdim=True) + 1e-6).sqrt() * (1 + w[f"{block}.final_norm.weight"])
        told = 4 * torch.tanh(linear(w, f"{block}.proj_out", h[:, ahead.shape[1] :]) / 4)
        raw, mean = told.chunk(2, -1)
        scale = F.softplus(raw + 0.541324854612918)
        z, total = (z - mean) / scale, total - scale.log().sum((1, 2))
        z = z.flip(1) if k == 0 else z
    return z, total


@pytest.mark.parametrize("text", [True, False])
def test_a_starflow_checkpoint_is_a_model_of_the_zoo(text: bool) -> None:
    state = star(text)
    empty = noise(LENGTH, SIZE) if text else None
    model = zoo.load_starflow(state, (2, 6, 6), empty=empty)
    x, said = noise(2, 2, 6, 6), noise(2, LENGTH, SIZE) + 1 if text else None
    blocks = Compose(*model._ends()[1].transform.layers())
    words = Ragged(said, torch.tensor([LENGTH, LENGTH])) if said is not None else None
    for heard, given in ((said, words), (None if empty is None else empty.expand(2, -1, -1), None)):
        z, ladj = star_density(state, x, heard)
        found, total = blocks(x, model.check_context(given, 2))
        theirs = found.reshape(2, 9, 2, 2, 2).permute(0, 1, 3, 4, 2).reshape(2, 9, 8)
        torch.testing.assert_close(theirs.flip(1), z)
        torch.testing.assert_close(total, ladj)
    torch.testing.assert_close(blocks.to_data(found, model.check_context(None, 2)), x)
    guided = model.sample(2, words, torch.Generator().manual_seed(0), **({"guidance": 2.5} if text else {}))
    assert guided.shape == (2, 2, 6, 6) and guided.isfinite().all()


def test_checkpoints_of_something_else() -> None:
    state = tar()
    for change, message in (
        ({"blocks.0.attn_blocks.0.attention.query_norm.weight": noise(64)}, "TARFlow, got blocks.0.*query_norm.weight"),
        ({"blocks.4.proj_in.bias": noise(2)}, r"blocks.0 and so on, got blocks \[0, 1, 2, 4\]"),
        ({"blocks.1.attn_blocks.0.mlp.norm.bias": noise(2)}, "tensors of a TARFlow: .*size mismatch"),
        ({"blocks.0.proj_in.weight": noise(2)}, r"TARFlow, with proj_in.weight of 2 dimensions, got \(2,\)"),
        ({"blocks.1.proj_out.bias": noise(2)}, r"TARFlow, with blocks.1.proj_out.bias \(24,\), got \(2,\)"),
        ({"blocks.1.attn_blocks.0.attention.qkv.weight": noise(2)}, r"attention.qkv.weight \(384, 128\), got \(2,\)"),
    ):
        with pytest.raises(ValueError, match=f"(?s){message}"):
            zoo.load_tarflow({**state, **change}, (3, 4, 4))
    with pytest.raises(ValueError, match=r"shape: expected images of 4 tokens of 12 numbers, got \(3, 8, 8\)"):
        zoo.load_tarflow(state, (3, 8, 8))
    with pytest.raises(ValueError, match="expected the tensors of a STARFlow, got none that is sos_embed"):
        zoo.load_starflow({k: v for k, v in star(False).items() if "sos_embed" not in k}, (2, 6, 6))
    with pytest.raises(ValueError, match=r"STARFlow, with proj_in.weight of 2 dimensions, got \(2,\)"):
        zoo.load_starflow({"blocks.0.proj_in.weight": torch.ones(2)}, (3, 8, 8))
    with pytest.raises(ValueError, match=r"shape: expected \(C, H, W\), got \(8,\)"):
        zoo.load_starflow(star(), (8,))
    for strange in ("x.pt", {"blocks.0.proj_in.weight": "x.pt"}):
        with pytest.raises(TypeError, match=r"state: expected tensors by name, as .*load_file reads them, got 'x.pt'"):
            zoo.load_tarflow(strange, (3, 8, 8))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"empty: expected \(3, 5\), got \(5,\)"):
        zoo.load_starflow(star(), (2, 6, 6), empty=noise(SIZE))
