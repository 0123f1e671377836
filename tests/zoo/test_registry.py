from __future__ import annotations

import json
import math
import sys
from types import ModuleType
from typing import Annotated, Any, get_origin

import pytest

from pyflowk import distributions, nets, solvers, transforms, zoo
from pyflowk.space import Space
from tests.zoo.test_systems import SEQUENCES


def test_names_and_descriptions() -> None:
    assert {"nice", "realnvp"} <= set(zoo.names()) and zoo.names() == sorted(zoo.names())
    for name in zoo.names():
        assert zoo.describe(name).endswith(".") and "arXiv" in zoo.describe(name)


def test_a_wrong_name_lists_the_right_ones() -> None:
    with pytest.raises(ValueError, match=r"no system named 'realnpv' \(did you mean 'realnvp'\?\); there are .*nice, "):
        zoo.create("realnpv", (2,))
    with pytest.raises(ValueError, match="there are"):
        zoo.create("", (2,))


def test_a_wrong_option_lists_the_right_ones() -> None:
    with pytest.raises(TypeError, match=r"realnvp has no option widht .did you mean .width.*; it has arch.*, width"):
        zoo.create("realnvp", (2,), widht=3)
    with pytest.raises(
        TypeError, match=r"context .did you mean 'context_dim'.*and beside a shape levels, classes, con"
    ):
        zoo.flow_matching((2,), context=1)


@pytest.mark.parametrize("name", zoo.names())
def test_every_system_says_how_it_is_conditioned(name: str) -> None:
    words = {"labels": "classes=", "numbers": "context_dim="}
    said = zoo.condition(name)
    assert all((way in said) == (kind in zoo.takes(name)) for kind, way in words.items())
    assert said in (getattr(zoo, name).__doc__ or "")


def test_config_is_json_and_complete() -> None:
    model = zoo.create("realnvp", (1, 4, 4), levels=17, width=8)
    assert json.loads(json.dumps(model.config)) == model.config
    assert model.config["name"] == "realnvp" and model.config["space"] == {"shape": [1, 4, 4], "levels": 17}
    assert set(model.config) == {"name", "space", *zoo.defaults("realnvp")}
    assert zoo.nice((3,), width=8).config == zoo.create("nice", [3], width=8).config


SMALL: dict[str, Any] = {"width": 4, "couplings": 1, "blocks": 1, "layers": 1, "depth": 1, "scales": 1, "steps": 2}


def small(name: str) -> dict[str, Any]:
    plain = {"levels": 5} if "levels" in zoo.takes(name) and "real" not in zoo.takes(name) else {}
    return plain | {key: value for key, value in SMALL.items() if key in zoo.defaults(name)}


@pytest.mark.parametrize("name", zoo.names())
def test_every_option_says_what_it_means_and_takes_its_default(name: str) -> None:
    assert set(zoo.options(name)) == set(zoo.defaults(name))
    for key, option in zoo.options(name).items():
        assert len(option.meaning) > 10 and option.default == zoo.defaults(name)[key]
        assert option.check(key, option.default) == option.default


@pytest.mark.parametrize("room", [distributions, nets, solvers, transforms], ids=lambda room: room.__name__)
def test_no_kind_of_option_bears_the_name_of_a_thing(room: ModuleType) -> None:
    modules = [module for key, module in sys.modules.items() if key.startswith("pyflowk.zoo.")]
    kinds = {key for module in modules for key, value in vars(module).items() if get_origin(value) is Annotated}
    assert "Nonlinearity" in kinds and not kinds & set(room.__all__)


def space_of(name: str, shape: tuple[int, ...]) -> Any:
    """Events of a shape or, of a system of sequences alone, as many symbols in a row."""
    return Space((math.prod(shape),), symbols=4, variable="variable" in zoo.takes(name)) if name in SEQUENCES else shape


@pytest.mark.parametrize("name", zoo.names())
@pytest.mark.parametrize("shape", [(2,), (1, 8, 8)])
def test_no_value_of_an_option_ends_in_an_error_from_inside(name: str, shape: tuple[int, ...]) -> None:
    """Either the model is built, or one line names the option and tells what it takes."""
    refused = 0
    for key in zoo.options(name):
        for value in (0, -1, 10**30, 1e300, float("nan"), float("inf"), "abc", "", None, True, [1], {}):
            try:
                zoo.create(name, space_of(name, shape), **{**small(name), key: value})
            except (TypeError, ValueError) as error:
                refused += 1
                assert key in str(error) and "expected" in str(error) and "\n" not in str(error), (key, value, error)
    assert refused > 5 * len(zoo.options(name))


def test_options_that_exclude_each_other_are_named() -> None:
    with pytest.raises(ValueError, match="depth: expected an odd number of hidden layers if residual, got 2"):
        zoo.create("maf", (2,), residual=True)
    with pytest.raises(ValueError, match="expected components=1 beside classes"):
        zoo.create("maf", (2,), components=2, classes=3)


@pytest.mark.parametrize("shape", [(2,), (5,), (1, 8, 8), (3, 5, 5), (2, 3)])
def test_the_config_holds_what_was_chosen(shape: tuple[int, ...]) -> None:
    """A later change of what "auto" or None mean leaves saved models alone."""
    for name in zoo.names():
        config = zoo.create(
            name, space_of(name, shape), **{k: v for k, v in small(name).items() if k != "width"}
        ).config
        assert not [key for key, value in config.items() if value is None or value == "auto"]


def test_numbers_of_other_libraries_are_taken_and_stored_as_json() -> None:
    import numpy as np

    model = zoo.create("nice", np.array([3, 2]), width=np.int64(4), couplings=np.int32(1))
    assert json.loads(json.dumps(model.config)) == model.config and model.config["width"] == 4


@pytest.mark.parametrize("shape", [3, "ab", (2.5,), (2, 0)])
def test_wrong_shapes_say_what_a_shape_is(shape: Any) -> None:
    with pytest.raises(ValueError, match="an event shape of positive sizes"):
        zoo.create("nice", shape)
