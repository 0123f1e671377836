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


def test_one_openmp_runtime_forked_workers_and_other_threads() -> None:
    """The parent has used several threads; its forked workers call the op too (torch gives them one thread each), and
    calls from other threads of Python give the same result."""
    script = """
torch.set_num_threads(2)
expected = pyflowk.ops.affine_coupling(x, p)
print(len({l.split()[-1] for l in open("/proc/self/maps") if "omp" in l.rsplit("/", 1)[-1]}))
class Rows(torch.utils.data.Dataset):
    def __len__(self): return 4
    def __getitem__(self, i): return pyflowk.ops.affine_coupling(x, p)[1].sum()
print(len(list(torch.utils.data.DataLoader(Rows(), num_workers=2, multiprocessing_context="fork"))))
import threading
got = []
workers = [threading.Thread(target=lambda: got.append(pyflowk.ops.affine_coupling(x, p))) for _ in range(4)]
for w in workers: w.start()
for w in workers: w.join()
print(len(got), all(torch.equal(a, b) for g in got for a, b in zip(g, expected)))
"""
    runtimes, forked, threads, equal = run(script).split()
    assert int(runtimes) <= 1 and forked == "4" and (threads, equal) == ("4", "True")


def test_needs_no_library_but_the_language_s_own() -> None:
    needed = subprocess.run(["readelf", "-d", _cpu.__file__], capture_output=True, text=True, check=True).stdout
    libraries = {line.split("[")[1].rstrip("]\n") for line in needed.splitlines() if "NEEDED" in line}
    assert all(name.split(".so")[0] in {"libc", "libm", "libstdc++", "libgcc_s", "libdl"} or name.startswith("ld-linux")
               for name in libraries), libraries  # fmt: skip
