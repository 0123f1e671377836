"""Permute, Flip, Reshape, Squeeze, Split, Compose, Invert: where elements go, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pyflowk.transforms import Compose, Dequantize, Flip, Invert, Permute, Reshape, Scale, Split, Squeeze


def test_permute() -> None:
    x = torch.arange(6.0).reshape(1, 3, 2)
    assert torch.equal(Permute([1, 2, 0])(x)[0], x[:, [1, 2, 0]])
    with pytest.raises(ValueError, match=r"each of 0\.\.n-1 once"):
        Permute([0, 0, 1])
    with pytest.raises(ValueError, match=r"\(B, 3, \*rest\)"):
        Permute([1, 2, 0])(torch.zeros(2, 4))


def test_random_permutation_comes_from_its_generator() -> None:
    a, b, c = (Permute.random(50, torch.Generator().manual_seed(s)).permutation for s in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_flip() -> None:
    assert Flip()(torch.tensor([[1, 2, 3]]))[0].tolist() == [[3, 2, 1]]
    with pytest.raises(ValueError, match="got"):
        Flip()(torch.zeros(3))


def test_reshape_refuses_other_counts_and_shapes() -> None:
    with pytest.raises(ValueError, match="equal numbers"):
        Reshape((2, 3), (5,))
    with pytest.raises(ValueError, match=r"expects \(B, 2, 3\), got \(1, 3, 2\)"):
        Reshape((2, 3), (6,))(torch.zeros(1, 3, 2))


def test_half_of_the_squeezed_channels_is_one_colour_of_a_checkerboard() -> None:
    h, w = torch.meshgrid(torch.arange(4), torch.arange(6), indexing="ij")
    colour = ((h + w) % 2).float().expand(1, 3, 4, 6)
    z, _ = Squeeze()(colour)
    assert z.shape == (1, 12, 2, 3) and (z[:, :6] == 0).all() and (z[:, 6:] == 1).all()


def test_squeeze_refuses_odd_sides() -> None:
    with pytest.raises(ValueError, match=r"even H and W, got \(1, 1, 3, 4\)"):
        Squeeze()(torch.zeros(1, 1, 3, 4))
    with pytest.raises(ValueError, match="4C"):
        Squeeze().inverse(torch.zeros(1, 3, 2, 2))


def test_split_maps_the_first_half_and_flattens() -> None:
    x = torch.arange(10.0).reshape(1, 5, 2)
    z, ladj = Split(Scale(2.0), (5, 2))(x)
    assert z.tolist() == [[0.0, 2.0, 4.0, 6.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]]
    torch.testing.assert_close(ladj, torch.tensor([4 * torch.log(torch.tensor(2.0)).item()]))


def test_split_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="two channels"):
        Split(Scale(2.0), (1, 4, 4))
    with pytest.raises(ValueError, match="inner_shape"):
        Split(Scale(2.0), (4, 2, 2), (9,))
    with pytest.raises(ValueError, match=r"Split.forward expects \(B, 4, 2, 2\)"):
        Split(Scale(2.0), (4, 2, 2))(torch.zeros(1, 4, 2))
    with pytest.raises(ValueError, match=r"Split.inverse expects \(B, 16\)"):
        Split(Scale(2.0), (4, 2, 2)).inverse(torch.zeros(1, 4))


def test_compose_is_a_sequence_and_refuses_plain_modules() -> None:
    chain = Compose(Scale(2.0), Flip())
    assert len(chain) == 2 and isinstance(chain[1], Flip) and [type(t) for t in chain] == [Scale, Flip]
    with pytest.raises(TypeError, match="Linear"):
        Compose(nn.Linear(2, 2))


def test_compose_passes_the_generator_down() -> None:
    chain = Compose(Split(Compose(Dequantize(4)), (2,)), Scale(2.0))
    x = torch.randint(0, 4, (5, 2))
    a, b = (chain(x, generator=torch.Generator().manual_seed(0))[0] for _ in range(2))
    assert torch.equal(a, b) and not torch.equal(a, chain(x, generator=torch.Generator().manual_seed(1))[0])


def test_invert_refuses_random_maps() -> None:
    with pytest.raises(ValueError, match="Compose"):
        Invert(Compose(Dequantize(4)))
    with pytest.raises(TypeError, match="Invert expects a Transform, got Linear"):
        Invert(torch.nn.Linear(2, 2))  # type: ignore[arg-type]
