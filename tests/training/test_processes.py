"""Who trains with whom, and who keeps out of whose folder."""

import errno
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from pyflowk import datasets, zoo
from pyflowk.training import Checkpoint, CheckpointError, TrainConfig, Trainer, processes
from pyflowk.training.trainer import interruptible

CONFIG = TrainConfig(steps=2, batch_size=32, tensorboard=False, cpu=True)
HOLD = "import sys, time; from pathlib import Path; from pyflowk.training.processes import alone_in\n"
HOLD += "with alone_in(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"


def small(out, **options):
    return Trainer(zoo.create("nice", (2,), width=8), datasets.load("moons"), CONFIG, out=out, **options)


def test_a_folder_is_trained_into_by_one_process_and_a_killed_one_leaves_it(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout.readline() == "held\n"
            run = small(tmp_path)
            with pytest.raises(CheckpointError, match=f"{tmp_path}: process {other.pid} on .* is training into this"):
                run.run()
            assert not (tmp_path / "checkpoint").exists()
        finally:
            other.send_signal(signal.SIGKILL)
    assert run.run().step == 2 and Checkpoint.open(tmp_path).meta["step"] == 2
    assert small(tmp_path, resume=True).run().step == 2  # the same process, again
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_file_system_without_locks_is_no_obstacle(tmp_path, monkeypatch):
    def answer(number):
        def flock(file, operation):
            raise OSError(number, "no locks")

        monkeypatch.setattr(processes.fcntl, "flock", flock)
        return processes.alone_in(tmp_path)

    for number in processes.NO_LOCKS:
        with answer(number):
            pass
    with pytest.raises(OSError, match="no locks"), answer(errno.EIO):
        pass


def test_processes_that_do_not_see_each_other_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(processes, "Accelerator", lambda **_: type("One", (), {"num_processes": 1}))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match="2 processes were started, of which this one sees 1"):
        small(tmp_path)


def test_only_a_lost_peer_is_called_one():
    closed = "[gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:31337"
    with pytest.raises(RuntimeError, match="another process of this"), processes.naming_lost_peers(2):
        raise RuntimeError(closed)
    for world, text in ((1, closed), (2, "expected 3 columns")):
        with pytest.raises(RuntimeError) as caught, processes.naming_lost_peers(world):
            raise RuntimeError(text)
        assert str(caught.value) == text


def test_a_signal_that_a_launcher_repeats_is_one_signal_and_a_later_one_acts(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with pytest.raises(KeyboardInterrupt), interruptible() as stop:
        for now[0] in (100.0, 100.5):
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.is_set()
        now[0] = 103.0
        os.kill(os.getpid(), signal.SIGTERM)


def test_who_founds_a_group_ends_it_with_the_process():
    """Also after an error: what is registered first runs last, and finds no group any more."""
    script = """
import atexit, torch.distributed as dist
atexit.register(lambda: print("group" if dist.is_initialized() else "no group"))
from pyflowk.training import processes
assert processes.join(cpu=False, mixed_precision="no").num_processes == 1 and dist.is_initialized()
raise SystemExit(3)
"""
    environment = {**os.environ, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    environment |= {"MASTER_PORT": "0", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=300)
    assert (done.returncode, done.stdout) == (3, "no group\n"), done.stderr
    assert torch.distributed.is_initialized() is False
