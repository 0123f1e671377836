from __future__ import annotations

import copy
import tempfile
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from pyflowk.transforms import ActNorm, Compose, Coupling, Split


@pytest.mark.parametrize("shape", [(200, 3), (50, 3, 4, 5)])
def test_initialize_gives_mean_zero_and_variance_one(shape: tuple[int, ...]) -> None:
    x = 5 + 3 * torch.randn(shape, dtype=torch.float64)
    norm = ActNorm(3).double()
    z = norm.initialize(x).transpose(0, 1).flatten(1)
    torch.testing.assert_close(z.mean(1), torch.zeros(3, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(z.std(1, correction=0), torch.ones(3, dtype=torch.float64), atol=1e-5, rtol=0)
    assert norm.is_initialized and bool(norm.initialized)


def test_the_first_training_batch_initialises_and_no_other() -> None:
    norm = ActNorm(2)
    norm.eval()
    x = 4 + torch.randn(30, 2)
    assert torch.equal(norm(x)[0], x) and not norm.is_initialized
    norm.train()
    first = norm(x)[0]
    assert first.mean().abs() < 1e-5 and norm.is_initialized
    assert (norm(x + 1)[0] - first).mean() > 0.5


def test_sampling_does_not_initialise() -> None:
    norm = ActNorm(2)
    norm.inverse(torch.randn(5, 2))
    assert not norm.is_initialized


def test_the_flag_travels_with_the_state_dict() -> None:
    trained, fresh = ActNorm(2), ActNorm(2)
    trained.initialize(3 + torch.randn(10, 2))
    nested = Compose(Split(fresh, (4, 1)))
    nested.load_state_dict({f"transforms.0.inner.{k}": v for k, v in trained.state_dict().items()})
    x = torch.randn(6, 2)
    assert fresh.is_initialized and copy.deepcopy(fresh).is_initialized
    assert torch.equal(fresh.train()(x)[0], trained(x)[0])
    trained.load_state_dict(ActNorm(2).state_dict())
    assert not trained.is_initialized


@pytest.mark.parametrize("shape", [(0, 2), (1, 2), (0, 2, 3)])
def test_too_few_numbers_set_nothing(shape: tuple[int, ...]) -> None:
    norm, x = ActNorm(2), torch.randn(shape)
    assert torch.equal(norm.initialize(x), x) and torch.equal(norm.train()(x)[0], x) and not norm.is_initialized
    assert norm(torch.randn(50, *shape[1:]) + 9)[0].mean().abs() < 1e-5 and norm.is_initialized


def test_one_image_is_enough() -> None:
    z = ActNorm(2).initialize(3 + torch.randn(1, 2, 8, 8))
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)


def test_what_does_not_vary_keeps_its_scale() -> None:
    """Columns: ordinary, constant, constant up to rounding, the rounding of a sum that cancels, a huge one, a NaN."""
    x = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    x[:, 1], x[:, 2] = (
        7,
        torch.where(torch.arange(200) % 2 == 0, 7.1, torch.nextafter(torch.tensor(7.1), torch.tensor(8.0))),
    )
    x[:, 3], x[:, 4], x[5, 5] = 1e-8 * x[:, 3], 1e30 * x[:, 4], torch.nan
    norm = ActNorm(6)
    z = norm.initialize(x)
    torch.testing.assert_close(norm.log_scale[1:4].exp(), torch.ones(3))
    assert z[:, 1:4].abs().max() < 1e-5
    torch.testing.assert_close(z[:, [0, 4]].std(0, correction=0), torch.ones(2))
    assert z.isnan().sum() == 1 and z[:, 5].nanmean().abs() < 1e-5
    tiny = 1e-9 * torch.randn(50, 2)  # all of a batch in small units is no rounding
    torch.testing.assert_close(ActNorm(2).initialize(tiny).std(0, correction=0), torch.ones(2))
    assert (ActNorm(2).double().initialize(torch.full((4, 2), 1e300, dtype=torch.float64))).isfinite().all()


def test_wrong_channels_are_named() -> None:
    with pytest.raises(ValueError, match=r"\(B, 3, \*rest\), got \(5, 2\)"):
        ActNorm(3)(torch.zeros(5, 2))


def test_initialize_walks_a_chain_so_that_every_layer_sees_its_own_input() -> None:
    class Shift(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat((0 * x, x + 9), 1)

    chain = Compose(ActNorm(2), Coupling(Shift()), Split(ActNorm(1), (2,)), ActNorm(2))
    z = chain.initialize(torch.randn(400, 2) * 3 + 1)
    torch.testing.assert_close(z.mean(0), torch.zeros(2), atol=1e-4, rtol=0)
    assert all(m.is_initialized for m in chain.modules() if isinstance(m, ActNorm))


def test_forward_reads_no_flag_from_the_device() -> None:
    """On the meta device any read of a value raises."""
    norm = ActNorm(2).to("meta")
    norm.is_initialized = True
    z, ladj = norm.train()(torch.empty(3, 2, device="meta"))
    assert z.shape == (3, 2) and ladj.shape == (3,)


def _worker(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    x = torch.arange(12.0, dtype=torch.float64).reshape(6, 2) ** 2
    norm = ActNorm(2).double()
    norm.initialize(x[:1] if rank == 0 else x[1:])  # one row here, five there
    torch.save(norm.state_dict(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_agree_with_one() -> None:
    x = torch.arange(12.0, dtype=torch.float64).reshape(6, 2) ** 2
    alone = ActNorm(2).double()
    alone.initialize(x)
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_worker, (folder,), nprocs=2)
        for rank in range(2):
            state = torch.load(Path(folder) / f"{rank}.pt")
            torch.testing.assert_close(state["log_scale"], alone.log_scale.detach())
            torch.testing.assert_close(state["bias"], alone.bias.detach())


def test_buffers_copied_without_a_state_dict_say_that_it_is_set() -> None:
    """As a moving average or DistributedDataParallel does it: the first step must not start over."""
    norm, twin = ActNorm(2), ActNorm(2)
    norm.initialize(3 + torch.randn(9, 2))
    with torch.no_grad():
        for mine, other in zip(
            [*twin.parameters(), *twin.buffers()], [*norm.parameters(), *norm.buffers()], strict=True
        ):
            mine.copy_(other)
    x = torch.randn(5, 2)
    assert torch.equal(twin.train()(x)[0], norm(x)[0]) and twin.is_initialized
