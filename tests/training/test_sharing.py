"""A run becomes a folder that others load, by name or from the Hub, and no file of anybody's is unpickled."""

from __future__ import annotations

import json
import pickle
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import LocalEntryNotFoundError

from pyflowk import zoo
from pyflowk.cli import main
from pyflowk.datasets import load
from pyflowk.training import Checkpoint, CheckpointError, Pretrained, load_model, sharing
from pyflowk.zoo import FlowModel


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps on a table in a folder of somebody's."""
    home = tmp_path_factory.mktemp("home")
    rows = torch.randn(60, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 10.0, 100.0])
    np.savetxt(home / "weather.csv", rows.numpy(), delimiter=",", header="temp,wind,rain", comments="")
    options = ("--given", "temp", "--steps", "2", "--cpu", "--no-tensorboard", "--set", "width=8")
    assert main(["train", "nice", "--data", str(home / "weather.csv"), "--out", str(home / "run"), *options]) == 0
    return home / "run"


def test_a_run_is_shared(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared = tmp_path / "shared"
    assert main(["share", str(run), "--out", str(shared)]) == 0
    assert {path.name for path in shared.iterdir()} == {*sharing.FILES}
    texts = [(shared / name).read_text() for name in ("config.json", "README.md")]
    assert not any(str(run.parent) in text for text in texts) and "weather.csv" in texts[0]
    for words in ("library_name: pyflowk", "2 steps of 128", "best validation loss", "nats", "one full Gaussian"):
        assert words in texts[1]
    again = Pretrained.from_pretrained(shared)
    model, saved = load_model(run)
    x, context = torch.randn(5, 2), torch.randn(5, 1)
    assert torch.equal(again.model.log_prob(x, context), model.log_prob(x, context))
    assert again.preparation == saved.preparation and again.preparation is not None
    with pytest.raises(CheckpointError, match="without what a run needs to go on"):
        Checkpoint.open(shared).state()
    rows = tmp_path / "rows.csv"
    assert main(["sample", str(shared), "--given", "temp=1", "-n", "4", "--out", str(rows)]) == 0
    assert rows.read_text().splitlines()[0] == "temp,wind,rain"
    config = json.loads(texts[0])
    (shared / "config.json").write_text(json.dumps({**config, "model": {**config["model"], "width": 16}}))
    with pytest.raises(CheckpointError, match="do not fit"):
        Pretrained.from_pretrained(shared)


def test_the_hub_gets_and_gives_these_files_alone(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = tmp_path / "hub"

    def upload(self: HfApi, *, repo_id: str, folder_path: Path, **options: object) -> str:
        Path(folder_path).rename(hub / repo_id.replace("/", "--"))
        return repo_id

    def download(name: str, *, allow_patterns: list[str], revision: str | None, **options: object) -> str:
        assert allow_patterns == [*sharing.FILES] and revision == "v1"
        return str(hub / name.replace("/", "--"))

    hub.mkdir()
    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, **_: type("Url", (), {"repo_id": repo_id}))
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    monkeypatch.setattr(sharing, "snapshot_download", download)

    model = zoo.create("nice", (2,), width=8)
    Pretrained(model).push_to_hub("me/moons")
    again = Pretrained.from_pretrained("me/moons", revision="v1")
    x = torch.randn(3, 2)
    assert torch.equal(again.model.log_prob(x), model.log_prob(x)) and again.preparation is None

    def refuse(name: str, **options: object) -> str:
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(sharing, "snapshot_download", refuse)
    with pytest.raises(CheckpointError, match=r"runs/moons: no such folder, and the Hub .*: no connection"):
        Pretrained.from_pretrained("runs/moons")
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=r"nothere: no such folder, and no name of a repository"):
        Pretrained.from_pretrained(tmp_path / "nothere")
    with pytest.raises(ValueError, match="expects a model of the zoo"):
        Pretrained(FlowModel(model.space, model.flow.base, model.flow.transform))


def test_a_damaged_folder_is_told_by_its_file(tmp_path: Path) -> None:
    Pretrained(zoo.create("nice", (2,), width=8)).save_pretrained(tmp_path)
    file, weights = tmp_path / "config.json", tmp_path / "best.safetensors"
    whole, numbers = json.loads(file.read_text()), weights.read_bytes()
    for text, message in (
        (b"[]", "not a checkpoint of pyflowk"),
        (b"{", "expected JSON"),
        (b"\xff\xfe\0", "expected JSON"),
        (b"[" * 100_000, "expected JSON"),
        (json.dumps({**whole, "files": {"best.safetensors": 5}}).encode(), "expected size and CRC-32"),
        (json.dumps({**whole, "sampling": 5}).encode(), "expected an object for sampling"),
        (json.dumps({**whole, "preparation": 5}).encode(), "no preparation of a table"),
    ):
        file.write_bytes(text)
        with pytest.raises(CheckpointError, match=f"{tmp_path}.*{message}"):
            Pretrained.from_pretrained(tmp_path)
    file.write_text(json.dumps(whole))
    for content, reason in (
        (numbers[:1000], r"truncated\?"),
        (numbers + bytes(72), r"got \d+ .another file in its place"),
        (pickle.dumps([0.5] * 10), "another kind of file"),
    ):
        weights.write_bytes(content)
        with pytest.raises(CheckpointError, match=reason):
            Pretrained.from_pretrained(tmp_path)


class Planted:
    """Whoever unpickles it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


def test_a_planted_pickle_is_not_run(run: Path, tmp_path: Path) -> None:
    mark = tmp_path / "run-by-a-pickle"
    evil = pickle.dumps(Planted(mark))
    shared = tmp_path / "shared"
    Pretrained.from_run(run).save_pretrained(shared)
    torch.save({"optimizer": Planted(mark)}, shared / "trainer.pt")
    with pytest.raises(CheckpointError, match="expected tensors and plain values"):
        Checkpoint.open(shared).state()
    config = json.loads((shared / "config.json").read_text())
    for planted in (evil, torch.save({"a": Planted(mark)}, tmp_path / "w.pt") or (tmp_path / "w.pt").read_bytes()):
        (shared / "best.safetensors").write_bytes(planted)
        config["files"] = {"best.safetensors": [len(planted), zlib.crc32(planted)]}
        (shared / "config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match="not readable"):
            Pretrained.from_pretrained(shared)
    np.save(tmp_path / "rows.npy", np.array([Planted(mark)], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError):
        load(str(tmp_path / "rows.npy"))
    assert not mark.exists()
    pickle.loads(evil)
    assert mark.exists()  # it would have
