from __future__ import annotations

import json

import pytest

from pyflowk import zoo


def test_names_and_descriptions() -> None:
    assert {"nice", "realnvp"} <= set(zoo.names()) and zoo.names() == sorted(zoo.names())
    for name in zoo.names():
        assert zoo.describe(name).endswith(".") and "arXiv" in zoo.describe(name)
        assert {"levels", "classes", "context_dim"} <= set(zoo.defaults(name))


def test_a_wrong_name_lists_the_right_ones() -> None:
    with pytest.raises(ValueError, match=r"no system named 'realnpv' \(did you mean 'realnvp'\?\); there are .*nice, "):
        zoo.create("realnpv", (2,))
    with pytest.raises(ValueError, match="there are"):
        zoo.create("", (2,))


def test_a_wrong_option_lists_the_right_ones() -> None:
    with pytest.raises(TypeError, match=r"realnvp has no option widht; it has levels, .*width"):
        zoo.create("realnvp", (2,), widht=3)


def test_config_is_json_and_complete() -> None:
    model = zoo.create("realnvp", (1, 4, 4), levels=17, width=8)
    assert json.loads(json.dumps(model.config)) == model.config
    assert model.config["name"] == "realnvp" and model.config["shape"] == [1, 4, 4]
    assert set(model.config) == {"name", "shape", *zoo.defaults("realnvp")}
    assert zoo.nice((3,), width=8).config == zoo.create("nice", [3], width=8).config
