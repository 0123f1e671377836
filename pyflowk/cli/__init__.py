"""The `pyflowk` command. Only this file and `commands` are read to print help: torch is imported when work begins."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

EXTRA = ("accelerate", "matplotlib", "numpy", "rich", "safetensors", "sklearn", "tyro")
"""What `pip install pyflowk[train]` brings."""
USAGE, FAILURE, INTERRUPTED = 2, 1, 130
TYPEGUARD = 4  # of it tyro needs at least this, and says so only in the middle of its work


def _missing(error: ImportError) -> str:
    """The one line for a missing package: ours as it is, or the name of the extra that brings it."""
    root = (error.name or "").partition(".")[0]
    return f"this command needs {root}: pip install 'pyflowk[train]'" if root in EXTRA else str(error)


def _require_typeguard() -> None:
    """ImportError, in words, where another package holds typeguard back (torchode does, through torchtyping)."""
    try:
        found = version("typeguard")
    except PackageNotFoundError:
        return
    if int(found.split(".")[0]) < TYPEGUARD:
        raise ImportError(
            f"the command line needs typeguard >= {TYPEGUARD}, for tyro; found {found}, which another package holds "
            "back: pip install -U typeguard, or pyflowk in an environment of its own"
        )


def _unread() -> bool:
    """Whether standard output is a pipe that nobody reads any more, as after `| head`; the rest then goes nowhere."""
    output = select.poll()
    output.register(sys.stdout, 0)
    closed = any(event & select.POLLERR for _, event in output.poll(0))
    if closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return closed


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; the process of a group that it was given ends with it at once."""
    status = _run(argv)
    processes = sys.modules.get("pyflowk.training.processes")
    if argv is None and processes is not None:
        processes.end(status)
    return status


def _run(argv: Sequence[str] | None) -> int:
    """Run one command and return its exit status: 0, 1 for a failure, 2 for bad input, 130 when interrupted.

    An error is one line on standard error; `--debug` shows the traceback instead.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    if words == ["--version"]:
        from .. import __version__

        print(f"pyflowk {__version__}")
        return 0
    try:
        _require_typeguard()
        from .commands import parse

        try:
            return parse(words).run()
        finally:
            sys.stdout.flush()  # here, where there is an answer if nobody reads it
    except KeyboardInterrupt:
        print("pyflowk: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _unread():
            return FAILURE
        if "--debug" in words:
            raise
        if isinstance(error, ImportError):
            status, line = USAGE, _missing(error)
        elif isinstance(error, OSError) and error.filename is not None:
            status, line = USAGE, f"{error.filename}: {error.strerror or error}"
        elif isinstance(error, (ValueError, OSError)):
            status, line = USAGE, str(error)
        elif isinstance(error, (NotImplementedError, RuntimeError)):
            status, line = FAILURE, str(error)
        else:
            status, line = FAILURE, f"{type(error).__name__}: {error} (--debug shows where)"
        print(f"pyflowk: {' '.join(line.split())}", file=sys.stderr)
        return status
