"""The measure of peak memory on calls whose allocations are known."""

from __future__ import annotations

import torch

from benchmarks.memory import peak_bytes

MARGIN = 64 * 12  # the allocator rounds up to 64 bytes


def close(measured: int, known: int) -> bool:
    return known <= measured <= known + MARGIN


def test_what_is_live_together_counts_together() -> None:
    def call() -> None:
        a, b = torch.ones(10_000), torch.ones(20_000)
        del a
        c = torch.ones(5_000)  # fits where a was
        del b, c

    assert close(peak_bytes(call), 4 * 30_000)


def test_what_was_live_before_does_not_count() -> None:
    before = [torch.ones(10_000)]
    x = torch.ones(50_000)

    def call() -> None:
        before.clear()
        before.append(x * 2)

    assert close(peak_bytes(call), 4 * 50_000 + 0)


def test_autograd_keeps_what_backward_needs() -> None:
    x = torch.ones(100_000, requires_grad=True)

    def call(layers: int) -> None:
        h = x
        for _ in range(layers):
            h = h.sigmoid()
        torch.autograd.grad(h.sum(), x)

    few, many = (peak_bytes(lambda n=n: call(n)) for n in (4, 16))
    assert close(many - few, 4 * 100_000 * 12)
