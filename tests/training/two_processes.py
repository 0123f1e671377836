"""`python -m tests.training.two_processes FILE`: a STARFlow in two processes as in one, by several ways to share work.

Each line that it prints is a way and its losses. The second process is a fork of the first, which has loaded all.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from pyflowk import zoo
from pyflowk.nets import CausalLayer
from pyflowk.zoo import StarFlow

STEPS = 3


def events() -> Tensor:
    return torch.randn(8, 6, generator=torch.Generator().manual_seed(0))


def model(memory_flat: bool = False) -> StarFlow:
    torch.manual_seed(0)
    made = zoo.starflow((6,), blocks=2, width=8, deep=2, patch=1, memory_flat=memory_flat)
    with torch.no_grad():
        for p in made.parameters():
            p += 0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    made.initialize(events())
    return made


def is_layer(module: nn.Module) -> bool:
    return isinstance(module, CausalLayer)


def sharded(made: StarFlow) -> nn.Module:
    """Weights of every layer apart, each layer computed again in the backward pass."""
    apply_activation_checkpointing(made, check_fn=is_layer)
    mesh = init_device_mesh("cpu", (2,))
    for layer in [module for module in made.modules() if is_layer(module)]:
        fully_shard(layer, mesh=mesh)
    return fully_shard(made, mesh=mesh)  # type: ignore[return-value]


def losses(net: nn.Module, x: Tensor, mean: Callable[[Tensor], Tensor]) -> str:
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    found = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = net(x).mean()
        loss.backward()
        optimizer.step()
        found.append(mean(loss.detach()).item())
    return " ".join(f"{loss:.5f}" for loss in found)


def over_both(loss: Tensor) -> Tensor:
    dist.all_reduce(loss)
    return loss / 2


def main(store: str) -> None:
    rank = 0 if (other := os.fork()) else 1
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    half, whole = events()[rank::2], model()
    ways = {"ddp": DistributedDataParallel(model()), "ddp-flat": DistributedDataParallel(model(memory_flat=True))}
    ways["fsdp"] = sharded(model())
    assert all(isinstance(p, DTensor) for p in ways["fsdp"].parameters())
    found = {name: losses(net, half, over_both) for name, net in ways.items()}
    found["one"] = losses(whole, events(), lambda loss: loss)
    if not rank:
        print("\n".join(f"{name}: {numbers}" for name, numbers in found.items()))
    dist.destroy_process_group()
    if not rank:
        os.waitpid(other, 0)


if __name__ == "__main__":
    main(sys.argv[1])
