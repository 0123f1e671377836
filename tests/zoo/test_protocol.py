"""What every system keeps of the protocol that trainer and command line know, and what models of one's own may say."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from types import FunctionType
from typing import Annotated, Any, Optional

import pytest
import torch
from torch import Generator, Tensor
from typing_extensions import TypedDict, Unpack

from pyflowk import zoo
from pyflowk.space import Context, Events, Ragged, Space
from pyflowk.zoo import Ability, FlowMapModel, FlowModel, GenerativeModel, SamplingOptions
from pyflowk.zoo.option import Option
from tests.zoo import test_compile
from tests.zoo.test_systems import SEQUENCES, SMALL, build, conditions, context, data, seeded, systems

ROOMS = {"__init__", "blocks", "matching_sampling", "model", "option", "registry", "published"}
ROOMS |= {f"{kind}_model" for kind in ("discrete", "edit", "flow", "matching", "starflow", "tarflow")}
DOORS = {"check", "condition", "create", "defaults", "describe", "names", "options", "register", "sampling", "takes"}
DOORS |= {"load_tarflow", "load_starflow"}

#: how each ability is used, on a model, its events and contexts
USES: dict[Ability, Callable[[GenerativeModel, Tensor, Tensor | None], Any]] = {
    Ability.LIKELIHOOD: lambda model, x, c: model.log_prob(x, c, seeded()),
    Ability.QUICK_LIKELIHOOD: lambda model, x, c: (
        model.require(Ability.QUICK_LIKELIHOOD),
        model.log_prob(x, c, seeded(), steps=2),  # type: ignore[call-arg]
    )[1],
    Ability.LATENT: lambda model, x, c: model.decode(model.encode(x, c, seeded()), c, seeded()),
    Ability.TRAJECTORY: lambda model, x, c: model.trajectory(len(x), (0.0, 0.5, 1.0), c, seeded()),
    Ability.MARGINAL: lambda model, x, c: model.marginal(1.0, x, c, seeded()),
    Ability.RECONSTRUCTION: lambda model, x, c: model.reconstruct(x),
    Ability.EDITING: lambda model, x, c: (
        model.edit(x, 0.5, c, seeded()),
        model.inpaint(x, torch.ones(x.shape[1:], dtype=torch.bool), c, seeded()),
    ),
}


def test_files_registry_exports_and_the_lists_of_the_tests_name_the_same_systems() -> None:
    files = {path.stem for path in Path(zoo.__file__).parent.glob("*.py")} - ROOMS
    exported = {name for name in zoo.__all__ if isinstance(getattr(zoo, name), FunctionType)} - DOORS
    tried, compiled = ({name for name, _, _ in rows.values()} for rows in (SMALL, test_compile.TINY))
    assert files == exported == tried | SEQUENCES == compiled | SEQUENCES == set(zoo.names())


@conditions
def test_abilities_that_are_claimed_work_and_others_say_so(system: str, condition: str) -> None:
    model = build(system, condition)
    x, c = data(model, 4), context(model, 4)
    results = {}
    for ability, use in USES.items():
        if ability in model.abilities:
            results[ability] = use(model, x, c)
        else:
            with pytest.raises(NotImplementedError, match=f"^{model.name} has no {ability}$"):
                use(model, x, c)
            with pytest.raises(NotImplementedError, match=f"^{model.name} has no {ability}$"):
                model.require(ability)
    jumps = isinstance(model, FlowMapModel)  # which end elsewhere than its velocity does
    solved: dict[str, Any] = {"method": "rk4", "steps": model.config["steps"]} if jumps else {}
    if Ability.LIKELIHOOD in model.abilities:
        drawn, log_prob = model.sample_and_log_prob((2, 2), c, seeded(), **solved)
        torch.testing.assert_close(drawn.flatten(0, 1), model.sample(4, c, seeded(), **solved), rtol=1e-4, atol=1e-4)
        assert log_prob.shape == (2, 2) and log_prob.isfinite().all()
        if isinstance(model, FlowModel) and model.space.levels is None and not model.flow.transform.estimates_ladj:
            known = model.log_prob(drawn.flatten(0, 1), c, seeded())
            torch.testing.assert_close(log_prob.flatten(), known, rtol=1e-3, atol=1e-3)
    if Ability.LATENT in model.abilities:
        torch.testing.assert_close(results[Ability.LATENT], x, rtol=1e-3, atol=1e-3)
        assert model.round_trip(x, c, seeded()).max_error < 1e-3
    if Ability.TRAJECTORY in model.abilities:
        path = results[Ability.TRAJECTORY]
        assert path.shape == (3, *x.shape)
        torch.testing.assert_close(path[2], model.sample(4, c, seeded(), **solved), rtol=1e-3, atol=1e-3)
    if Ability.EDITING in model.abilities:
        edited, kept = results[Ability.EDITING]
        assert edited.shape == x.shape and torch.equal(kept, x) and not torch.equal(edited, x)
    if Ability.MARGINAL in model.abilities:
        torch.testing.assert_close(results[Ability.MARGINAL].log_prob, model.log_prob(x, c, seeded()))


def test_what_does_not_fit_is_named_by_every_ability() -> None:
    model = build("neural-ode")
    for call in (model.encode, model.decode, model.round_trip, lambda x: model.marginal(0.5, x)):
        with pytest.raises(TypeError, match=r"torch.float32, the model's dtype, got torch.float64"):
            call(torch.zeros(2, 3, dtype=torch.float64))
        with pytest.raises(ValueError, match=r"expected [xz] \(B, 3\), got \(2, 4\)"):
            call(torch.zeros(2, 4))
    with pytest.raises(TypeError, match="expected a number of samples"):
        model.trajectory((2, 3), (1.0,))  # type: ignore[arg-type]
    assert model.trajectory(0, (0.0, 1.0)).shape == (2, 0, 3) and model.trajectory(2, ()).shape == (0, 2, 3)
    assert model.decode(model.encode(torch.zeros(0, 3))).shape == model.marginal(0.5, torch.zeros(0, 3)).velocity.shape


def test_who_has_which_ability() -> None:
    both = {Ability.TRAJECTORY, Ability.MARGINAL}
    assert both <= build("neural-ode").abilities and both <= build("ffjord-steer").abilities
    assert not both & (build("realnvp-vector").abilities | build("ffjord-vector").abilities)  # which has two fields
    whole = zoo.neural_ode((2,), levels=4, width=4, steps=2)
    assert Ability.TRAJECTORY in whole.abilities and Ability.MARGINAL not in whole.abilities
    assert GenerativeModel(Space((2,))).abilities == frozenset()


@pytest.mark.parametrize("condition", ["plain", "classes"])
def test_marginals_are_those_of_the_trajectory(condition: str) -> None:
    """The velocity is the path's derivative; densities along it change by the divergence: they integrate to one."""
    model = build("neural-ode-adaptive", condition).double()
    c = None if condition == "plain" else torch.tensor([1])
    before, at, after = model.trajectory(6, (0.499, 0.5, 0.501), c, seeded())
    marginal = model.marginal(0.5, at, c)
    torch.testing.assert_close(marginal.velocity, (after - before) / 0.002, rtol=1e-3, atol=1e-4)
    side = torch.linspace(-8, 8, 81, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    mass = model.marginal(0.5, grid, c).log_prob.exp().sum() * 0.2**2
    assert mass.item() == pytest.approx(1, abs=0.01)
    start = model.flow.base.sample(6, c, seeded())
    for layer in model.flow.transform.layers()[::-1]:
        start = start if layer.moves_in_time else layer.to_data(start, c)
    torch.testing.assert_close(model.trajectory(6, (0.0,), c, seeded())[0], start)
    with pytest.raises(ValueError, match=r"time: expected 0 \(noise\) to 1 \(data\), got 1.5"):
        model.trajectory(2, (0.5, 1.5), c)


def test_latents_are_standard_normal_whatever_the_class() -> None:
    model = build("realnvp-vector", "classes")
    labels = torch.arange(600) % 3
    with torch.no_grad():
        model.flow.base.mean += 5 * torch.arange(3.0)[:, None]
        model.flow.base.log_std += 1
        z = model.encode(model.sample(600, labels, seeded()), labels)
    assert z.mean().abs() < 0.1 and (z.std() - 1).abs() < 0.1


@systems
def test_sampling_options_are_checked(system: str) -> None:
    model = build(system)
    known = zoo.sampling(model.name)
    assert known == model.sampling_options
    listed, usual = ", ".join(known) or "none", model.sample(2, None, seeded())
    with pytest.raises(TypeError, match=f"{model.name} has no sampling option xyz; it has {listed}"):
        model.sample(2, xyz=0.5)
    for key, option in known.items():
        with pytest.raises(TypeError, match=rf"{model.name} has no .* {key}s \(did you mean '{key}'\?\); it has"):
            model.sample(2, **{key + "s": option.default})
        with pytest.raises(TypeError, match=f"{key}: expected {option.expected}, got"):
            model.sample(2, **{key: [1]})
        assert torch.equal(model.sample(2, None, seeded(), **{key: option.default}), usual)


def test_a_temperature_narrows_what_is_drawn() -> None:
    model = build("realnvp-vector")
    cold = model.sample(64, None, seeded(), temperature=1e-3)
    assert 500 * cold.std(0).mean() < model.sample(64, None, seeded()).std(0).mean()
    with pytest.raises(ValueError, match="temperature: expected a number above 0, got nan"):
        model.sample(2, temperature=float("nan"))


SPACES = {
    "symbols": (Space((12,), symbols=4), "{} takes real numbers or levels of one length; got 12 of 4 symbols"),
    "ragged": (
        Space((12,), symbols=4, variable=True),
        "{} takes real numbers or levels of one length; got up to 12 of 4 symbols",
    ),
    "rows": (
        Space((12, 2), variable=True),
        "{} takes real numbers or levels of one length; got real events of up to 12x2",
    ),
    "sphere": (
        Space((3,), manifold="sphere"),
        "{} takes real numbers or levels of one length; got real events of 3 on the sphere",
    ),
    "tokens": (
        Space((3,), context=Context("tokens", 9, 5)),
        "{} takes labels or numbers as context; got up to 5 tokens below 9",
    ),
}


@pytest.mark.parametrize("name", [name for name in zoo.names() if zoo.takes(name) == zoo.takes("nice")])
@pytest.mark.parametrize("kind", list(SPACES))
def test_spaces_that_a_system_is_not_for(name: str, kind: str) -> None:
    space, message = SPACES[kind]
    with pytest.raises(ValueError) as caught:
        zoo.create(name, space)
    assert str(caught.value) == message.format(name)


def test_a_space_has_a_short_form() -> None:
    space = Space((2,), levels=5, context=Context("numbers", 3))
    models = [
        zoo.create("nice", space, width=4),
        zoo.nice(space, width=4),
        zoo.nice((2,), levels=5, context_dim=3, width=4),
    ]
    assert all(model.space == space and model.config == models[0].config for model in models)
    again = json.loads(json.dumps(models[0].config))
    assert zoo.create(again.pop("name"), **again).space == space
    with pytest.raises(TypeError, match="nice: expected a Space by itself, or a shape with levels=5; got both"):
        zoo.create("nice", space, levels=5)
    for both, got in (({}, "neither"), ({"space": space, "shape": (2,)}, "both")):
        with pytest.raises(TypeError, match=f"nice: expected a space or the shape of one event, got {got}"):
            zoo.create("nice", **both)


# ---- models of one's own ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Repeats(SamplingOptions):
    times: Annotated[int, Option("how often the value is written", 1, 9)] = 2
    loud: Annotated[bool, Option("whether it is written in large letters")] = False


class Echo(GenerativeModel):
    """Rows of symbols of several lengths: 3, as often as one asks for, under a context of tokens."""

    Sampling = Repeats

    def loss(self, x: Events, context: Events | None = None, generator: Generator | None = None) -> Tensor:
        self.check_batch(x, context)
        return torch.zeros(len(x))

    def _sample(self, rows: int, context: Any, generator: Generator | None, chosen: Any) -> Ragged:
        assert len(context) == rows
        return Ragged(torch.full((rows, 9), 3 + chosen.loud), torch.full((rows,), chosen.times))


def echo(space: Space, *, height: Annotated[int, Option("what nobody asks for", 1)] = 1) -> Echo:
    """Echo."""
    return Echo(space)


WORDS = Space((9,), symbols=5, variable=True, context=Context("tokens", 9, 5))


def test_events_and_contexts_of_several_lengths() -> None:
    model = Echo(WORDS)
    c = Ragged.of([torch.tensor([1]), torch.tensor([2, 3])])
    assert model.sample(2, c, times=5).lengths.tolist() == [5, 5]
    one = model.sample(4, c[:1], loud=True)
    assert len(one) == 4 and one.row(3).tolist() == [4, 4]
    assert model(one, c[:1]).shape == (4,) and model.sample(0, c[:0]).values.shape == (0, 9)
    with pytest.raises(ValueError, match=r"context of 3 rows .* got 2 rows"):
        model.sample(3, c)
    with pytest.raises(TypeError, match="context: expected a Ragged, as it is up to 5 tokens below 9, got Tensor"):
        model.sample(3, torch.zeros(3))
    with pytest.raises(TypeError, match="expected a number of samples"):
        model.sample((2, 3), c)
    with pytest.raises(TypeError, match="expected x to be a Ragged"):
        model.loss(torch.zeros(2, 9), c)


def test_what_a_registered_system_must_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyflowk.zoo.registry._SYSTEMS", {})
    made = zoo.register("echo", takes=("symbols", "variable", "tokens"))(echo)(WORDS, height=2)
    assert made.config == {"name": "echo", "space": WORDS.as_json(), "height": 2} and made.name == "echo"
    assert list(zoo.sampling("echo")) == ["times", "loud"] and zoo.names() == ["echo"]
    with pytest.raises(ValueError, match="echo takes symbols of one length or several; got real events of 2"):
        zoo.create("echo", (2,))
    with pytest.raises(ValueError, match="times: expected an integer from 1 to 9, got 10"):
        zoo.check("echo", {}, {"times": 10})

    def unnamed(space: Space, *, size: int = 3) -> Echo:
        return Echo(space)

    def unclear(space: Space) -> Any:
        return Echo(space)

    def clashing(space: Space, *, levels: Annotated[int, Option("steps of a stair", 1)] = 3) -> Echo:
        return Echo(space)

    for builder, message in (
        (unnamed, "size: expected a default, and an Option in the annotation"),
        (unclear, "unclear: expected a GenerativeModel as annotated result"),
        (clashing, "x: expected other names than levels for options"),
    ):
        with pytest.raises(TypeError, match=message):
            zoo.register("x")(builder)
    zoo.register("echo", takes=("symbols", "variable", "tokens"))(echo)  # a cell of a notebook that runs again
    with pytest.raises(ValueError, match=r"the system 'echo' is there already, by .*echo; .*unnamed needs another"):
        zoo.register("echo")(unnamed)
    with pytest.raises(ValueError, match=r"takes: expected real, levels, symbols, variable, .*; got 'images'"):
        zoo.register("x", takes=("images",))
    assert zoo.names() == ["echo"]


class Voice(TypedDict, total=False):
    """What several systems share."""

    pitch: Annotated[int, Option("of the voice", 1, 9, default=4)]
    owner: Annotated[str | None, Option("whose it is")]


class Silence(TypedDict, total=False):
    """An option that has no default, nor may be None."""

    pitch: Annotated[int, Option("of the voice", 1, 9)]


def singing(space: Space, *, height: Annotated[int, Option("steps", 1)] = 2, **shared: Unpack[Voice]) -> Echo:
    """Sings."""
    assert shared["pitch"] == 3
    return Echo(space)


def silent(space: Space, **shared: Unpack[Silence]) -> Echo:
    """Does not."""
    return Echo(space)


def test_systems_share_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyflowk.zoo.registry._SYSTEMS", {})
    build: Any = zoo.register("singing")(singing)
    used = {"height": 2, "pitch": 3, "owner": None}
    assert build((2,), pitch=3).config == {"name": "singing", "space": {"shape": [2]}, **used}
    shown = [(p.name, p.default) for p in inspect.signature(build).parameters.values()][1:]
    assert shown == [*zoo.defaults("singing").items()] == [("height", 2), ("pitch", 4), ("owner", None)]
    with pytest.raises(TypeError, match=r"singing has no option pich \(did you mean 'pitch'"):
        build((2,), pich=3)
    with pytest.raises(ValueError, match="pitch: expected an integer from 1 to 9, got 10"):
        build((2,), pitch=10)
    with pytest.raises(TypeError, match="the default of pitch: expected an integer from 1 to 9, got None"):
        zoo.register("silent")(silent)


def test_options_of_samples_are_declared_so_that_they_can_be_asked_for() -> None:
    times = Option("how often", 1, 9)
    for fields, message in (
        ({"n": (Annotated[int, times], 1)}, "Loud.Sampling: expected other names than n, which sample takes"),
        ({"context": (Annotated[int, times], 1)}, "other names than context"),
        ({"times": (Annotated[tuple, times], 1)}, "times: expected one of bool, int, float and str, or None beside it"),
        ({"times": (Annotated[int | float, times], 1)}, "times: expected one of bool, int"),
        ({"times": (Annotated[int, times], 10)}, "the default of times: expected an integer from 1 to 9, got 10"),
        ({"times": (Annotated[int, times], None)}, "the default of times: expected an integer from 1 to 9, got None"),
    ):
        options = make_dataclass("Options", [(k, *v) for k, v in fields.items()], bases=(SamplingOptions,), frozen=True)
        with pytest.raises((TypeError, ValueError), match=message):
            type("Loud", (GenerativeModel,), {"Sampling": options})
    forgotten = type("Forgotten", (Repeats,), {"__annotations__": {"pitch": Annotated[int, times]}, "pitch": 3})
    with pytest.raises(TypeError, match="expected a subclass of SamplingOptions under @dataclass"):
        type("Loud", (GenerativeModel,), {"Sampling": forgotten})
    kind = Annotated[Optional[int], times]  # noqa: UP045
    maybe = make_dataclass("Maybe", [("times", kind, None)], bases=(SamplingOptions,), frozen=True)
    loud = type("Loud", (GenerativeModel,), {"Sampling": maybe})
    assert loud.sampling_options["times"].expected == "an integer from 1 to 9, or None"


def test_a_model_says_what_it_lacks() -> None:
    model, x = GenerativeModel(Space((2,))), torch.zeros(1, 2)
    for ability, use in USES.items():
        with pytest.raises(NotImplementedError, match=f"^GenerativeModel has no {ability}$"):
            use(model, x, None)
    boast = type("Boast", (GenerativeModel,), {"abilities": frozenset(Ability)})(Space((2,)))
    with pytest.raises(NotImplementedError, match="Boast has no likelihood, though it claims one: its class does not"):
        boast.log_prob(x)
    with pytest.raises(NotImplementedError, match="no loss"):
        model.loss(x)
    with pytest.raises(NotImplementedError, match="no sampler"):
        model.sample(1)
    with pytest.raises(TypeError, match="GenerativeModel has no sampling option steps; it has none"):
        model.sample(1, steps=3)
    with pytest.raises(TypeError, match=r"GenerativeModel expects a Space, got \(2,\)"):
        GenerativeModel((2,))  # type: ignore[arg-type]
