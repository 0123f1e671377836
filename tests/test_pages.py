"""README.md and docs/: every block of Python runs, in the order of its page, every command is one that is known, every
link leads somewhere, every page is found, and the gallery draws."""

from __future__ import annotations

import importlib
import importlib.util
import math
import re
import shlex
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from pyflowk import ops, zoo
from pyflowk.cli import main
from pyflowk.cli.commands import Train, parse
from pyflowk.ops import registry

ROOT = Path(__file__).resolve().parent.parent
DOCS, GALLERY = ROOT / "docs", ROOT / "examples" / "gallery"
TEXTS = {str(path.relative_to(ROOT)): path.read_text() for path in (ROOT / "README.md", *sorted(DOCS.rglob("*.md")))}
PAGES = {page: text for page, text in TEXTS.items() if "/_made/" not in page}
PYTHON = re.compile(r"^ *```python\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
FENCED = re.compile(r"^```([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
ELSEWHERE = ("docs/command-line.md", "docs/migrating.md")
"""One wants a run, and tests/test_migrating.py runs the other."""
MADE = re.compile(r"_made/\w+\.png|api/index|_made/benchmarks\.md")
"""What docs/conf.py writes."""


@pytest.mark.parametrize("page", [page for page in PAGES if PYTHON.search(PAGES[page]) and page not in ELSEWHERE])
def test_blocks_run(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        torch, "compile", partial(torch.compile, backend="eager")
    )  # whole graphs, without minutes of C++
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    for block in PYTHON.findall(PAGES[page]):
        if "import zuko" not in block or importlib.util.find_spec("zuko"):
            exec(compile(re.sub(r"(?m)^   ", "", block) if block.startswith("   ") else block, page, "exec"), names)
    assert len(names) > 1


def commands(text: str) -> list[list[str]]:
    """The words of every `pyflowk` line of a page's plain blocks."""
    fenced = "".join(block for kind, block in FENCED.findall(text) if not kind)
    lines = [line.partition("#")[0] for line in fenced.splitlines() if line.startswith("pyflowk ")]
    return [shlex.split(command) for line in lines for command in line.split(";")]


def test_commands_are_known() -> None:
    found = [words for text in PAGES.values() for words in commands(text)]
    trained = [command for command in (parse(words[1:]) for words in found) if isinstance(command, Train)]
    systems = {command.model for command in trained if command.model is not None}
    assert len(found) > 40 and systems <= {*zoo.names()}
    assert {*zoo.names()} - systems <= {"iaf", "latent", "starflow"}  # the last two are trained by `pyflowk latent`
    page = PAGES["docs/python.md"]
    aside = {"assignment_of_points", "sinkhorn_draw"}  # told of by assignment and sinkhorn
    assert [op for op in registry() if op in ops.__all__ and f"`{op}`" not in page and op not in aside] == []


def test_the_five_minutes_go_by_copy_and_paste(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    few = ("--steps", "2", "--cpu", "--no-tensorboard")
    for words in commands(PAGES["docs/start.md"]):
        if "galaxies" not in " ".join(words):  # a larger table
            assert main([*words[1:], *(few if words[1] == "train" else ())]) == 0
    assert (tmp_path / "threes.png").exists() and (tmp_path / "runs/digits/loss.png").exists()


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and MyST make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_links_lead_somewhere() -> None:
    broken = []
    for page, text in PAGES.items():
        prose = FENCED.sub("", text)
        for target in re.findall(r"\]\(([^)#\s]*#?[^)\s]*)\)", prose):
            where, _, anchor = target.partition("#")
            if where.startswith("http") or MADE.search(where):
                continue
            file = (ROOT / page).parent / where if where else ROOT / page
            there = file.exists() and (
                not anchor or anchor in map(slug, re.findall(r"(?m)^#+ (.+)$", FENCED.sub("", file.read_text())))
            )
            broken += [] if there else [f"{page}: {target}"]
        for target in re.findall(r"```\{literalinclude\} (\S+)", text):
            broken += [] if ((ROOT / page).parent / target).exists() else [f"{page}: {target}"]
    assert broken == []


def test_every_page_is_in_one_table_of_contents() -> None:
    listed = [
        re.sub(r".*<(.+)>", r"\1", line)
        for kind, block in FENCED.findall(PAGES["docs/index.md"])
        if kind == "{toctree}"
        for line in block.splitlines()
        if line and not line.startswith(":")
    ]
    pages = {page.removeprefix("docs/").removesuffix(".md") for page in PAGES if page.startswith("docs/")}
    assert sorted(listed) == sorted((pages - {"index"}) | {"api/index"})


def test_the_gallery_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps of each; what is written is a picture, on its page, and its figures are numbers."""
    monkeypatch.syspath_prepend(str(GALLERY))
    scripts = [path.stem for path in sorted(GALLERY.glob("*.py")) if path.stem != "drawn"]
    drawn = importlib.import_module("drawn")
    monkeypatch.setattr(drawn, "BATCH", 32)
    monkeypatch.setattr(drawn, "POINTS", 64)
    families = "".join(text for page, text in PAGES.items() if page.startswith("docs/families/"))
    assert len(scripts) == len([page for page in PAGES if page.startswith("docs/families/")])
    for name in scripts:
        figures = importlib.import_module(name).main(2, tmp_path / f"{name}.png")
        assert figures and all(map(math.isfinite, figures.values()))
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f"_made/{name}.png" in families and f"_made/{name}.png" in PAGES["docs/gallery.md"]
        assert f"gallery/{name}.py" in families
    named = re.findall(r"`(\w+\.\w+)`", PAGES["docs/gallery.md"])
    assert {path.name for path in GALLERY.parent.glob("*.*")} <= {*named}
