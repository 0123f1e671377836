"""How `activation_tangents` is tried."""

from __future__ import annotations

from ..trial import Large, Trial, noise

__all__ = ["TRIALS"]


TRIALS = {
    "activation_tangents": Trial(
        [(1,), (0,)],
        lambda config, rows: (2 * noise(rows, 65), noise(rows, 2, 65)),
        conditioning=lambda config: 8.0,
        large=Large((1,), lambda rows: (2 * noise(rows, 2048), noise(rows, 2, 2048))),
    )
}
