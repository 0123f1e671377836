"""Soft scales: their closed form, and tokens that are moved by them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pyflowk.nets import CausalTransformer
from pyflowk.transforms import Causal, Decoding, SoftplusAffine


@pytest.mark.parametrize("clip", [0.0, 2.0])
def test_scale_and_shift_by_hand(clip: float) -> None:
    x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    params = 3 * torch.randn(3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    raw = clip * torch.tanh(params / clip) if clip else params
    scale = torch.log1p(torch.exp(raw[:, 0::2] + math.log(math.e - 1)))
    y, ladj = SoftplusAffine(clip)(x, params, mask="all")
    torch.testing.assert_close(y, x * scale + raw[:, 1::2])
    torch.testing.assert_close(ladj, scale.log().sum(1))
    back, other = SoftplusAffine(clip)(y, params, mask="all", inverse=True)
    torch.testing.assert_close((back, other), (x, -ladj))
    log_scale, shift = SoftplusAffine(clip).gaussian(params)
    torch.testing.assert_close((log_scale, shift), (scale.log(), raw[:, 1::2]))
    with pytest.raises(ValueError, match="clip"):
        SoftplusAffine(-1.0)


def test_log_determinant_of_tokens_and_the_way_back() -> None:
    net = CausalTransformer(2, 3, width=8, depth=1, heads=2, start=True)
    for p in net.parameters():
        nn.init.normal_(p, std=0.4, generator=torch.Generator().manual_seed(len(p)))
    layer = Causal(net, SoftplusAffine(), flip=True).double()
    x = torch.randn(1, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z, ladj = layer(x)
    slopes = torch.autograd.functional.jacobian(lambda x: layer(x)[0], x).reshape(6, 6)
    torch.testing.assert_close(torch.linalg.slogdet(slopes)[1], ladj[0])
    for how in ("auto", "sequential", "jacobi"):  # the kernel, where there is one, and walks
        with torch.no_grad():
            back, other = layer.decoded(Decoding(how)).inverse(z)
        torch.testing.assert_close((back, other), (x, -ladj.detach()))
