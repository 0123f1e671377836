"""README.md and docs/: every block of Python runs, in the order of its page, and every command is one that is known."""

from __future__ import annotations

import importlib.util
import re
import shlex
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from pyflowk import ops, zoo
from pyflowk.cli.commands import Train, parse
from pyflowk.ops import registry

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "docs/python.md", "docs/matching.md", "docs/command-line.md")


@pytest.mark.parametrize("page", PAGES[:-1])
def test_blocks_run(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        torch, "compile", partial(torch.compile, backend="eager")
    )  # whole graphs, without minutes of C++
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL):
        if "import zuko" not in block or importlib.util.find_spec("zuko"):
            exec(compile(block, page, "exec"), names)
    assert names["torch"] is torch


def test_commands_are_known() -> None:
    text = "".join((ROOT / page).read_text() for page in PAGES)
    fenced = [block for kind, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL) if not kind]
    lines = [line.partition("#")[0] for line in "".join(fenced).splitlines() if line.startswith("pyflowk ")]
    commands = [shlex.split(command) for line in lines for command in line.split(";")]
    trained = [command for command in (parse(words[1:]) for words in commands) if isinstance(command, Train)]
    systems = {command.model for command in trained if command.model is not None}
    assert len(commands) > 20 and len(systems) > 5 and systems <= {*zoo.names()}
    assert {"consistency", "drifting", "generator_matching"} <= systems
    page = (ROOT / "docs/python.md").read_text()
    aside = {"assignment_of_points", "sinkhorn_draw"}  # told of by assignment and sinkhorn
    assert [op for op in registry() if op in ops.__all__ and f"`{op}`" not in page and op not in aside] == []
