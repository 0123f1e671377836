"""Threads are torch's: set_num_threads is obeyed, forked workers live, no OpenMP runtime of our own is loaded."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pyflowk import _cpu

SETUP = """
import os, time, torch, pyflowk
x, p = torch.randn(20000, 64), torch.randn(20000, 64)
def busy_threads():
    # how many threads of this process worked on the kernel; an OpenMP worker that was used before still spins a while
    time.sleep(0.5)
    def nanoseconds():
        return {t: int(open(f"/proc/self/task/{t}/schedstat").read().split()[0]) for t in os.listdir("/proc/self/task")}
    before = nanoseconds()
    for _ in range(60):
        pyflowk.ops.affine_coupling(x, p)
    spent = [n - before.get(t, 0) for t, n in nanoseconds().items()]
    return sum(n > max(spent) / 5 for n in spent)
"""


def run(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", SETUP + script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("before, threads", [("", 1), ("", 2), ("torch.set_num_threads(2); busy_threads(); ", 1)])
def test_set_num_threads_is_obeyed(before: str, threads: int) -> None:
    assert run(f"{before}torch.set_num_threads({threads}); print(busy_threads())").strip() == str(threads)


def test_forked_dataloader_workers() -> None:
    """The parent has used several threads; its forked workers call the op too (torch gives them one thread each)."""
    script = """
torch.set_num_threads(2)
pyflowk.ops.affine_coupling(x, p)
class Rows(torch.utils.data.Dataset):
    def __len__(self): return 4
    def __getitem__(self, i): return pyflowk.ops.affine_coupling(x, p)[1].sum()
loader = torch.utils.data.DataLoader(Rows(), num_workers=2, multiprocessing_context="fork")
print(len(list(loader)))
"""
    assert run(script).strip() == "4"


def test_one_openmp_runtime() -> None:
    loaded = run('print(*sorted({l.split()[-1] for l in open("/proc/self/maps") if "omp" in l.rsplit("/", 1)[-1]}))')
    assert len(loaded.split()) <= 1
    needed = subprocess.run(["readelf", "-d", _cpu.__file__], capture_output=True, text=True, check=True).stdout
    libraries = {line.split("[")[1].rstrip("]\n") for line in needed.splitlines() if "NEEDED" in line}
    assert all(name.split(".so")[0] in {"libc", "libm", "libstdc++", "libgcc_s", "libdl"} or name.startswith("ld-linux")
               for name in libraries), libraries  # fmt: skip


def test_python_goes_on_while_a_kernel_runs_elsewhere() -> None:
    """A call from another thread gives the same result."""
    script = """
import threading
expected, got = pyflowk.ops.affine_coupling(x, p), []
workers = [threading.Thread(target=lambda: got.append(pyflowk.ops.affine_coupling(x, p))) for _ in range(4)]
for w in workers: w.start()
for w in workers: w.join()
print(len(got), all(torch.equal(a, b) for g in got for a, b in zip(g, expected)))
"""
    assert run(script).split() == ["4", "True"]
