"""Processes that train together find each other and part; others keep out of each other's folders."""

from __future__ import annotations

import atexit
import contextlib
import errno
import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import torch
import torch.distributed as dist
from accelerate import Accelerator

from .checkpoint import CheckpointError

NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
"""What file systems without locks answer."""


def join(*, cpu: bool, mixed_precision: str) -> Accelerator:
    """This process's accelerate object; processes that one launcher has started form a group.

    A group that is founded here is destroyed when the process ends, however that ends short of a kill. Raises
    RuntimeError where the launcher's processes do not see each other.
    """
    founder = not dist.is_initialized()
    # where there is no GPU, accelerate forms a group only when it is told to stay on the CPU
    accelerator = Accelerator(cpu=cpu or not torch.accelerator.is_available(), mixed_precision=mixed_precision)
    if founder and dist.is_initialized():
        atexit.register(_leave)
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != started:
        raise RuntimeError(f"{started} processes were started, of which this one sees {accelerator.num_processes}")
    return accelerator


def agree(accelerator: Accelerator, elapsed: float, halt: bool) -> tuple[float, bool]:
    """The same clock, the latest, and the same decision to stop, if any process wants to, on every process."""
    if accelerator.num_processes == 1:
        return elapsed, halt
    both = torch.tensor([elapsed, float(halt)], dtype=torch.float64, device=accelerator.device)
    dist.all_reduce(both, op=dist.ReduceOp.MAX)
    return both[0].item(), bool(both[1].item())


def end(status: int) -> None:
    """End the process with this status if it belongs to a group; else do nothing.

    DistributedDataParallel keeps gloo's threads beyond destroy_process_group; one that asks for the interpreter while
    that is taken down aborts the process (SIGABRT, one time in six). So it is not taken down.
    """
    if dist.is_initialized():
        dist.destroy_process_group()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


@contextlib.contextmanager
def naming_lost_peers(world: int) -> Iterator[None]:
    """An error that only means that another process of the group has ended says so."""
    try:
        yield
    except RuntimeError as error:
        if world > 1 and ("by peer" in str(error) or isinstance(error, dist.DistError)):
            raise RuntimeError(
                "another process of this training was killed or has ended, for a reason that it says"
            ) from error
        raise


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """No other process trains into `folder` meanwhile; raises CheckpointError, which names it, if one does.

    The system's lock on folder/.lock ends with the process that holds it, even when that is killed: none is ever stale.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    with _locked(path) as file:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)  # the name, while the lock is still held


def _locked(path: Path) -> TextIO:
    """The open file, locked where the file system has locks."""
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read() or "another process"
            file.close()
            raise CheckpointError(f"{path.parent}: {holder} is training into this folder; choose another one") from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                file.close()
                raise
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()  # its holder has ended since it was opened, and its name is gone
