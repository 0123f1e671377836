"""What docs/migrating.md says of other packages and of this one: all that stands on the right runs, and is the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pyflowk import objectives, paths, solvers
from pyflowk.paths import BrownianBridge

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "migrating.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
ROWS = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("| ") and "---" not in line]
ARGUMENT = re.compile(r"[a-z_]+=")
"""How a code span begins that is an argument of a call, and no expression."""


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    """What all blocks of the page define, in the order in which they stand there."""
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    for block in BLOCKS:
        exec(compile(block, "docs/migrating.md", "exec"), names)
    return names


def test_all_that_stands_on_the_right_runs(page: dict[str, Any]) -> None:
    expressions = [code for row in ROWS for code in re.findall(r"`([^`]+)`", row[-1]) if not ARGUMENT.match(code)]
    expressions = [code for code in expressions if "(" in code]
    assert len(expressions) > 50 and all(len(row) == 2 for row in ROWS)
    for code in expressions:
        try:
            assert eval(code, dict(page)) is not None
        except Exception as error:
            raise AssertionError(f"docs/migrating.md: {code}") from error


def test_steps_in_place_of_times(page: dict[str, Any]) -> None:
    """DDIM by hand, at the levels of noise that the betas give."""
    kept = (1 - page["betas"]).cumprod(0)
    x, steps = page["x0"].double(), page["steps"].tolist()
    for step, below in zip(steps, [*steps[1:], None]):
        share, then = kept[step], torch.tensor(1.0) if below is None else kept[below]
        noise = page["unet"](x, step)
        x = then.sqrt() * (x - (1 - share).sqrt() * noise) / share.sqrt() + (1 - then).sqrt() * noise
    torch.testing.assert_close(page["drawn"], x, rtol=1e-6, atol=1e-6)


def test_a_velocity_with_the_other_sign_leads_to_the_same_place(page: dict[str, Any]) -> None:
    grid, x = solvers.shifted_grid(8, shift=3.0), page["x0"]
    for sigma, then in zip(1 - grid[:-1], 1 - grid[1:]):
        x = x + (then - sigma).float() * page["transformer"](x, 1000 * sigma.float())
    found = solvers.ddim(page["ours"], page["x0"], paths.CondOT(), grid)
    torch.testing.assert_close(found, x, rtol=1e-5, atol=1e-5)


def test_v_prediction_is_a_velocity(page: dict[str, Any]) -> None:
    x0, x1, t = page["x0"], page["x1"], page["t"]
    sample = paths.AffinePath(paths.Cosine()).sample(x0, x1, t)
    alpha, sigma, *_ = paths.Cosine().at(t).beside(x0)
    torch.testing.assert_close(sample.target, -torch.pi / 2 * (alpha * x0 - sigma * x1))


def same(name: str, theirs: Any, path: paths.Path, x0: Tensor, x1: Tensor, t: Tensor, noise: Tensor) -> None:
    """x_t and target for the same ends, times and noise."""
    found = path.sample(x0, x1, t, torch.Generator().manual_seed(1))
    x_t = theirs.sample_xt(x0, x1, t, noise)
    torch.testing.assert_close(found.x_t, x_t, rtol=1e-5, atol=1e-5, msg=lambda text: f"{name}: x_t {text}")
    target = theirs.compute_conditional_flow(x0, x1, t, x_t)
    torch.testing.assert_close(found.target, target, rtol=1e-4, atol=1e-4, msg=lambda text: f"{name}: target {text}")


def test_torchcfm(page: dict[str, Any]) -> None:
    cfm = pytest.importorskip(
        "torchcfm.conditional_flow_matching", reason="torchcfm is not installed: it is the oracle"
    )
    x0, x1, t = page["x0"].double(), page["x1"].double(), 0.05 + 0.9 * page["t"].double()
    ends = (x0, x1, t)
    noise = objectives.i_cfm(0.1).path.sample(0 * x0, 0 * x1, t, torch.Generator().manual_seed(1)).x_t / 0.1
    same("I-CFM", cfm.ConditionalFlowMatcher(0.1), objectives.i_cfm(0.1).path, *ends, noise)
    same("I-CFM", cfm.ConditionalFlowMatcher(0.0), objectives.i_cfm().path, *ends, noise)
    same("VP-CFM", cfm.VariancePreservingConditionalFlowMatcher(0.1), objectives.vp_cfm(0.1).path, *ends, noise)
    same("target", cfm.TargetConditionalFlowMatcher(0.1), objectives.target_fm(0.1).path, *ends, x0)
    noise = BrownianBridge(0.5).with_noise(*ends, torch.Generator().manual_seed(1))[1]
    same("SB-CFM", cfm.SchrodingerBridgeConditionalFlowMatcher(0.5), objectives.sb_cfm(0.5).path, *ends, noise)

    plan = cfm.OTPlanSampler("exact").get_map(x0, x1)
    assert [*plan.argmax(0)] == paths.OptimalTransport().order(x0, x1).tolist()
    velocity, sample = page["field"].double(), objectives.i_cfm().path.sample(*ends)
    error = velocity(t, sample.x_t) - sample.target
    torch.testing.assert_close(
        page["sample"].x_t, (1 - page["t"][:, None]) * page["a"] + page["t"][:, None] * page["b"]
    )
    taken = objectives.Matching(pairing=paths.Given(x0, x1), times=lambda n, generator, **kind: t)
    torch.testing.assert_close(taken(velocity, x1, reduction="mean"), error.square().mean())


def test_diffusers(page: dict[str, Any]) -> None:
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed: its schedulers are the oracle")
    x = page["x0"].double()
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=[1 - i / 8 for i in range(8)])
    torch.testing.assert_close(1 - scheduler.sigmas.double(), solvers.shifted_grid(8, shift=3.0), rtol=0, atol=1e-6)
    for kind, turned in (("epsilon", "noise"), ("v_prediction", "velocity")):
        scheduler = diffusers.DDIMScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False,
            timestep_spacing="trailing", prediction_type=kind,
        )  # fmt: skip
        scheduler.set_timesteps(20)
        theirs = x
        for step in scheduler.timesteps:
            theirs = scheduler.step(page["unet"](theirs, step), step, theirs).prev_sample
        scale = 1.0 if kind == "epsilon" else -torch.pi / 2

        def field(t: Tensor, x: Tensor, scale: float = scale) -> Tensor:
            return scale * page["unet"](x, page["step_at"](t))

        found = solvers.ddim(field, x, page["schedule"], page["grid"], prediction=turned)
        torch.testing.assert_close(found, theirs, rtol=1e-4, atol=1e-4)

    from diffusers import guiders

    weak, strong = x, 2 * x.flip(0) + 1
    rules: list[tuple[Any, Any]] = [
        (guiders.ClassifierFreeGuidance(7.5), solvers.difference),
        (guiders.ClassifierFreeZeroStarGuidance(7.5, zero_init_steps=0), solvers.zero_star),
        (
            guiders.AdaptiveProjectedGuidance(
                6.5, eta=0.0, adaptive_projected_guidance_rescale=15.0, use_original_formulation=True
            ),
            solvers.projected(parallel=0.0, radius=15.0),
        ),
    ]
    for guider, direction in rules:
        guider.set_state(step=1, num_inference_steps=10, timestep=None)
        found = solvers.Guided(lambda t, x: strong, 6.5, other=lambda t, x: weak, direction=direction)
        given = found(torch.tensor(0.5), x)
        torch.testing.assert_close(given, guider.forward(strong, weak).pred, rtol=1e-5, atol=1e-5)
