"""Sphinx: `make docs` installs the extra `docs` and builds the site into build/docs, warnings being errors.

The pictures of the gallery are made here by its scripts, with their own numbers of steps, or as many as
PYFLOWK_GALLERY_STEPS says; the pages of the API are written here, one for each room of the package, and that of the
benchmarks from their results.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from pathlib import Path
from typing import Any

import pyflowk

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "benchmarks" / "results"
GALLERY, MADE, API = HERE.parent / "examples" / "gallery", HERE / "_made", HERE / "api"
ROOMS = (
    "ops", "transforms", "distributions", "flows", "nets", "paths", "objectives", "solvers", "manifolds", "metrics",
    "zoo", "space", "shapes", "datasets", "training", "compat", "compat.torchdiffeq", "compat.torchcfm",
    "compat.flow_matching", "compat.diffusers", "compat.sklearn", "compat.sbi", "selfcheck",
)  # fmt: skip

project, author, release = "pyflowk", "The pyflowk developers", pyflowk.__version__
copyright = "The pyflowk developers, MIT licence"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
html_theme, html_title = "furo", f"pyflowk {release}"
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0072b2", "color-brand-content": "#0072b2"},
    "dark_css_variables": {"color-brand-primary": "#56b4e9", "color-brand-content": "#56b4e9"},
}
default_role = "code"
autodoc_member_order = "groupwise"
napoleon_use_ivar = True
autodoc_typehints = "none"  # signatures say them
exclude_patterns = ["_made/*.md"]
add_module_names = False
#: what of a docstring is an example, or markup: its own rules hold inside
MARKUP = re.compile(r"(^ *>>>.*(?:\n(?! *$).*)*|``[^`]+``|(?::\w+:)?`[^`]+`)", re.MULTILINE)


def write_api(app: Any) -> None:
    """One page for each room: its own docstring, then what it exports."""
    API.mkdir(exist_ok=True)
    seen: set[int] = set()
    for room in ROOMS:
        name, module = f"pyflowk.{room}", importlib.import_module(f"pyflowk.{room}")
        exported = {key: id(getattr(module, key)) for key in getattr(module, "__all__", ())}
        again = ", ".join(key for key, thing in exported.items() if thing in seen)
        seen |= set(exported.values())
        text = f"{name}\n{'=' * len(name)}\n\n.. automodule:: {name}\n   :members:\n"
        keep(API / f"{room}.rst", text + (f"   :exclude-members: {again}\n" if again else ""))
    keep(API / "index.rst", "API\n===\n\n.. toctree::\n\n" + "".join(f"   {room}\n" for room in ROOMS))


def write_benchmarks(app: Any) -> None:
    """The page of the result files, with its charts in place of links to them."""
    text = (RESULTS / "README.md").read_text().partition("\n")[2]
    text = re.sub(r"\(\[chart\]\((.+?)\)\)", r"\n\n![chart](../benchmarks/results/\1)", text)
    keep(MADE / "benchmarks.md", re.sub(r"\[(audit\.md)\]\(.+?\)", r"`benchmarks/results/\1`", text))


def keep(path: Path, text: str) -> None:
    """Write a file that is not so already: Sphinx builds again what is new."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def draw_gallery(app: Any) -> None:
    """The pictures that are older than their scripts, or not there."""
    sys.path.insert(0, str(GALLERY))
    for script in sorted(GALLERY.glob("*.py")):
        picture = MADE / f"{script.stem}.png"
        if script.stem != "drawn" and not (picture.exists() and picture.stat().st_mtime > script.stat().st_mtime):
            module = importlib.import_module(script.stem)
            module.main(int(os.environ.get("PYFLOWK_GALLERY_STEPS", module.STEPS)), picture)


def as_rst(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Shapes such as (B, *event) and absolute values |s| are read as they are in a terminal, not as markup, and code as
    code where a letter or a power stands beside it."""
    parts = MARKUP.split("\n".join(lines))
    for i in range(0, len(parts), 2):
        text = re.sub(r"(?<![\\*])\*(?=\w[\w. ]*[),\]])|(?<!\\)\|", r"\\\g<0>", parts[i])
        before = "\\ " if i and re.match(r"\w", text) else ""
        after = "\\ " if i + 1 < len(parts) and re.search(r"[^\s([{<\-/:'\"]\Z", text) else ""
        parts[i] = before + text + after
    lines[:] = "".join(parts).split("\n")


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", as_rst)
    MADE.mkdir(exist_ok=True)
    app.connect("builder-inited", write_api)
    app.connect("builder-inited", write_benchmarks)
    app.connect("builder-inited", draw_gallery)
