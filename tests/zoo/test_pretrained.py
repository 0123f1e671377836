"""What others have trained inside of ours: a language model as the deep network, an autoencoder of diffusers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyflowk import zoo
from pyflowk.nets import PretrainedDecoder, PretrainedEncoder
from pyflowk.space import Context, Ragged, Space
from pyflowk.transforms import Causal
from pyflowk.zoo import Autoencoder, Latent

WORDS = Space((4,), context=Context("tokens", 11, length=3))
SIZES = {"blocks": 2, "width": 8, "patch": 1, "dropout": 0.1}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_language_model_is_the_deep_network(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=11, **sizes)).save_pretrained(tmp_path)
    model = zoo.starflow(WORDS, language_model=str(tmp_path), **SIZES)
    deep = [layer for layer in model.flow.transform.layers() if isinstance(layer, Causal)][-1]
    said = Ragged.of([torch.tensor([1, 2, 3]), torch.tensor([10]), torch.tensor([4, 4])])
    x = torch.randn(3, 4, generator=seeded())
    model.initialize(x, said)
    model(x, said, seeded()).sum().backward()  # which moves nothing yet but the last layer
    nn.init.normal_(deep.net.last.weight, std=0.3)  # type: ignore[union-attr,arg-type]
    model.zero_grad()
    model(x, said, seeded()).sum().backward()
    gradients = {name: p.grad for name, p in deep.net.named_parameters()}
    assert all(g is not None and g.isfinite().all() for g in gradients.values())
    assert sum(g.abs().sum() > 0 for g in gradients.values() if g is not None) > 20  # all of the language model learns
    model.eval()
    with torch.no_grad():
        tokens, heard = torch.randn(3, 4, 1, generator=seeded(1)), model.check_context(said, 3)
        z = deep(tokens, heard)[0]
        torch.testing.assert_close(deep.inverse(z, heard)[0], tokens)  # by keys and values that are taken back
        walked = deep.decoded(type(deep.decoding)("sequential")).inverse(z, heard)[0]
        torch.testing.assert_close(walked, tokens)
        ways = [model.sample(3, said, seeded(), guidance=1.0, decoding=how) for how in ("sequential", "jacobi")]
    torch.testing.assert_close(*ways, rtol=1e-3, atol=1e-4)
    again = zoo.create("starflow", **{key: value for key, value in model.config.items() if key != "name"}).eval()
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again.log_prob(x, said), model.log_prob(x, said))
    with pytest.raises(ValueError, match="at most the 11 symbols that the language model knows, got 12"):
        zoo.starflow(Space((4,), context=Context("tokens", 12, length=3)), language_model=str(tmp_path), **SIZES)
    with pytest.raises(ValueError, match="language_model: expected a context of tokens, its text; got none"):
        zoo.starflow((4,), language_model=str(tmp_path), **{**SIZES, "dropout": 0.0})


def autoencoder_of(state: Any) -> Any:
    """A module of the interface of diffusers' AutoencoderKL, and its own way of encoding."""

    class KL(nn.Module):
        config = SimpleNamespace(
            in_channels=1, latent_channels=2, block_out_channels=(4, 4), scaling_factor=0.2, shift_factor=state
        )

        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(nn.Conv2d(1, 4, 2, 2), nn.SiLU(), nn.Conv2d(4, 4, 1))
            self.decoder = nn.Sequential(nn.Conv2d(2, 4, 1), nn.SiLU(), nn.ConvTranspose2d(4, 1, 2, 2))
            self.quant_conv, self.post_quant_conv = nn.Conv2d(4, 4, 1), nn.Conv2d(2, 2, 1)

    torch.manual_seed(0)
    return KL()


@pytest.mark.parametrize("shift", [None, 0.3])
def test_codes_are_in_the_scale_of_the_config(shift: float | None) -> None:
    model, x = autoencoder_of(shift), torch.rand(3, 1, 4, 4, generator=seeded()) * 2 - 1
    encoder, decoder = PretrainedEncoder(model, (1, 4, 4)), PretrainedDecoder(model)
    mean, log_variance = model.quant_conv(model.encoder(x)).chunk(2, 1)
    found = encoder(x)
    torch.testing.assert_close(found[:, 0], (mean - (shift or 0)) * 0.2)
    torch.testing.assert_close(found[:, 1].exp(), 0.2 * torch.exp(0.5 * log_variance))
    torch.testing.assert_close(decoder(found[:, 0]), model.decoder(model.post_quant_conv(mean)))
    with pytest.raises(
        ValueError, match=r"pretrained: expected images \(1, H, W\) of sides that are multiples of 2, got"
    ):
        PretrainedEncoder(model, (1, 5, 4))
    space = Space((1, 4, 4), levels=16)
    whole = Autoencoder(space, encoder, decoder, fixed=False, pretrained=True)
    _latent(whole, torch.randint(0, 16, (40, 1, 4, 4), generator=seeded()))


def _latent(coder: Autoencoder, x: Tensor) -> None:
    """Inside of a latent model: nothing of it learns, and its decoder's law is as wide as what it leaves."""
    inner = zoo.starflow(coder.code, blocks=2, width=8, patch=1)
    model = Latent(coder.space, coder, inner)
    before = {name: p.clone() for name, p in coder.named_parameters() if name != "log_scale"}
    model.initialize(x, None, seeded())
    own, code = coder.log_scale.data.clone(), coder.posterior(x)[0]
    found = []
    for wider in (-0.7, 0.0, 0.7):
        coder.log_scale.data[:] = own + wider
        found.append(coder.log_likelihood(x, code).mean().item())
    coder.log_scale.data[:] = own
    assert found[1] > max(found[0], found[2])
    model.train().loss(x, None, seeded()).sum().backward()
    assert all(p.grad is None for name, p in coder.named_parameters() if name != "log_scale")
    assert all(torch.equal(p, before[name]) for name, p in coder.named_parameters() if name in before)
    assert model.eval().sample(2, None, seeded()).shape == (2, *coder.space.shape)


@pytest.mark.parametrize("name", ["autoencoder", "latent"])
def test_weights_of_16_bits_are_refused_in_one_line(name: str) -> None:
    model = zoo.create(name, (6,), **({"system": "nice"} if name == "latent" else {})).bfloat16()
    for use in (lambda: model.loss(torch.zeros(2, 6)), lambda: model.sample(2)):
        with pytest.raises(TypeError, match=r"weights are torch\.bfloat16, too coarse for log-scales"):
            use()


def test_an_autoencoder_of_diffusers_is_one_of_the_zoo(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    ends = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    sizes = {"block_out_channels": (4, 4), "latent_channels": 2, "norm_num_groups": 2, "layers_per_block": 1}
    torch.manual_seed(0)
    theirs = diffusers.AutoencoderKL(1, 1, **ends, **sizes).eval()
    theirs.save_pretrained(tmp_path)
    options = {"options": "width=8 blocks=2", "coder": f"pretrained={tmp_path}"}
    model = zoo.latent((1, 8, 8), levels=16, system="starflow", **options)
    x = torch.randint(0, 16, (40, 1, 8, 8), generator=seeded())
    code = theirs.encode((x + 0.5) / 8 - 1).latent_dist.mean
    coder = model.autoencoder.eval()
    torch.testing.assert_close(coder.posterior(x)[0], code * theirs.config.scaling_factor)
    torch.testing.assert_close(coder.decoded(coder.posterior(x)[0]), theirs.decode(code).sample)
    again = zoo.create("latent", **{key: value for key, value in model.config.items() if key != "name"})
    again.load_state_dict(model.state_dict())
    _latent(coder, x)
