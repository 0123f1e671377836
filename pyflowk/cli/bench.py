"""`pyflowk bench`: no figure without a green test, so the ops' own tests run first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .._hints import did_you_mean

if TYPE_CHECKING:
    from .commands import Bench


def source_root() -> Path:
    """The source checkout that this package was imported from, or the working directory when it is one."""
    for folder in (Path(__file__).resolve().parents[2], Path.cwd()):
        if (folder / "benchmarks").is_dir() and (folder / "tests" / "ops").is_dir():
            return folder
    raise FileNotFoundError("bench needs a source checkout, with its benchmarks/ and tests/: run it in its root folder")


def bench(command: Bench) -> int:
    """Run the tests of the ops, then `python -m benchmarks`; the exit status is that of the first that fails."""
    root = source_root()
    names = [path.stem.removeprefix("bench_") for path in sorted((root / "benchmarks").glob("bench_*.py"))]
    if not any(command.only in name for name in names):
        hint = did_you_mean(command.only, names)
        raise ValueError(f"no benchmark named {command.only!r}{hint}: there are {', '.join(names) or 'none'}")
    if run(root, "pytest", "-q", "tests/ops"):
        print("pyflowk: tests/ops failed; no figures are reported on a red test", file=sys.stderr)
        return 1
    return run(root, "benchmarks", *(["--only", command.only] if command.only else []))


def run(root: Path, module: str, *arguments: str) -> int:
    """The exit status of `python -m module` in the checkout."""
    return subprocess.run([sys.executable, "-m", module, *arguments], cwd=root, check=False).returncode
