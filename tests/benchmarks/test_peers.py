"""The rivals of benchmarks/ do the same mathematical work as we do, and one that is not installed is reported."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks import bench_affine_coupling, peers
from benchmarks.bench_realnvp import OurFlow
from benchmarks.peers import plain
from pyflowk.distributions import DiagonalGaussian
from pyflowk.flows import Flow
from pyflowk.ops import affine_coupling
from pyflowk.transforms import Compose, Coupling, Elementwise, Invert

FOUND, MISSING = peers.load()
NAMES = {"normflows": "normflows", "nflows": "nflows", "zuko": "zuko", "freia": "FrEIA"}


@pytest.fixture(params=peers.PACKAGES)
def peer(request):
    if request.param in MISSING:
        pytest.skip(MISSING[request.param])
    return next(found for found in FOUND if found.name == NAMES[request.param])


def test_a_missing_peer_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "zuko", None)
    monkeypatch.delitem(sys.modules, "benchmarks.peers.zuko", raising=False)
    found, missing = peers.load()
    assert "zuko" in missing["zuko"] and "zuko" not in [other.name for other in found]
    assert len(found) == len(FOUND) - ("zuko" not in MISSING)


@pytest.mark.parametrize("shape", [(5, 6), (3, 4, 2, 5)])
def test_coupling_agrees_with_the_op(peer, shape):
    if len(shape) > 2 and not peer.images:
        pytest.skip("vectors only")
    x, params = torch.randn(shape), torch.randn(shape)
    raw, t = params.chunk(2, 1)
    for bound in peer.bounds:
        expected = affine_coupling(x, torch.cat([peer.log_scale(raw, bound), t], 1), bound="none")
        forward, inverse = peer.coupling(shape[1], bound)
        own = params[:, peer.rows(shape[1] // 2)]
        y, ladj = forward(x, own)
        torch.testing.assert_close((y, ladj), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(inverse(y, own), (x, -ladj), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bound", ["none", "tanh"])
@pytest.mark.parametrize("shape", [(5, 6), (3, 4, 2, 5)])
def test_plain_styles_agree_with_the_op(shape, bound):
    x, params = torch.randn(shape), torch.randn(shape)
    mask, full = plain.mask_of(x), plain.mask_params(params)
    forward = affine_coupling(x, params, bound=bound)
    inverse = affine_coupling(x, params, bound=bound, inverse=True)
    rivals = [
        (plain.chunk_forward(x, params, bound), forward),
        (plain.mask_forward(x, full, mask, bound), forward),
        (plain.chunk_inplace(x.clone(), params, bound), forward),
        (plain.chunk_inverse(x, params, bound), inverse),
        (plain.mask_inverse(x, full, mask, bound), inverse),
    ]
    for got, expected in rivals:
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def copy_weights(source, target, rows):
    """Give the networks of `target` the weights of `source`, the last layer in the target's layout."""
    with torch.no_grad():
        for ours, theirs in zip(source.nets, target.nets, strict=True):
            *inner, weight, bias = ours.parameters()
            weight.normal_(std=0.1), bias.normal_(std=0.1)  # the couplings of some start as the identity
            for own, other in zip((*inner, weight[rows], bias[rows]), theirs.parameters(), strict=True):
                other.copy_(own)


@pytest.mark.parametrize("kind", [plain.LayeredFlow, plain.HalvesFlow])
def test_plain_flows_agree_with_ours(kind):
    ours, other = OurFlow(6, 4), kind(6, 4)
    copy_weights(ours, other, torch.arange(6))
    x = torch.randn(7, 6)
    torch.testing.assert_close(other.log_prob(x), ours.log_prob(x), rtol=1e-5, atol=1e-4)
    torch.manual_seed(0)
    drawn = ours.sample(9)
    torch.manual_seed(0)
    torch.testing.assert_close(other.sample(9), drawn, rtol=1e-4, atol=1e-4)


def test_flow_agrees_with_ours(peer):
    """Same weights, same density, when our couplings are given the peer's bound."""
    bound = peer.bounds[-1]

    def own_map(x, params, inverse=False):
        raw, t = params.chunk(2, 1)
        s = peer.log_scale(raw, bound)
        return ((x - t) * torch.exp(-s), -s) if inverse else (x * torch.exp(s) + t, s)

    nets = [peers.Net(3, 6) for _ in range(4)]
    layers = [Coupling(net, Elementwise(own_map, 2), swap=i % 2 == 0) for i, net in enumerate(nets)]
    ours = Flow(DiagonalGaussian((6,)), Compose(*(Invert(layer) if peer.noise_to_data else layer for layer in layers)))
    ours.nets = nets
    other = peer.flow(6, 4)
    copy_weights(ours, other, peer.rows(3))
    x = torch.randn(7, 6)
    torch.testing.assert_close(other.log_prob(x), ours.log_prob(x), rtol=1e-5, atol=1e-4)
    torch.manual_seed(0)
    drawn = ours.sample(9)
    torch.manual_seed(0)
    torch.testing.assert_close(other.sample(9), drawn, rtol=1e-4, atol=1e-4)


def test_inputs_stay_bounded_in_place():
    x, params = bench_affine_coupling.inputs((8, 6))
    for _ in range(1000):
        affine_coupling(x, params, bound="none", inplace=True)
    assert x.isfinite().all() and x.abs().max() < 1e6
