"""What is read at once and what on demand: one rule for files of numbers and folders of pictures."""

from __future__ import annotations

import os
from pathlib import Path

SHARE = 8
"""Data may take an eighth of the memory: there are up to four copies while they are prepared."""


def fits(size: int, memory: int | None = None) -> bool:
    """Whether data of so many bytes are kept in memory: where they are at most `memory`, by default an `allowance`."""
    return size <= (allowance() if memory is None else memory)


def allowance() -> int:
    """Bytes that a data set may take: an eighth of the least of what the machine has, what the container may have, and
    what is left below the limits of this process."""
    return min(_machine(), _container(), _process()) // SHARE


def _machine() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _container() -> int:
    """The limit of the control group as it is seen from inside, in either version."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            text = (Path("/sys/fs/cgroup") / name).read_text()
        except OSError:
            continue
        if text.strip().isdigit():
            return int(text)
    return _machine()


def _process() -> int:
    import resource

    used = {"VmSize": 0, "VmData": 0}
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            key, _, value = line.partition(":")
            if key in used:
                used[key] = 1024 * int(value.split()[0])
    except OSError:
        pass  # no such file on this system: the whole limit counts
    limits = ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData"))
    left = [resource.getrlimit(limit)[0] - used[key] for limit, key in limits if _limited(limit)]
    return max(0, min(left, default=_machine()))


def _limited(limit: int) -> bool:
    import resource

    return resource.getrlimit(limit)[0] != resource.RLIM_INFINITY
