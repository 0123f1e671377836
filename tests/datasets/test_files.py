"""Data that come from files: packages' and the user's own."""

import builtins
import gzip
import re

import numpy as np
import pytest
import torch

from pyflowk import datasets
from pyflowk.datasets.sets import fashion_mnist, patches
from pyflowk.space import Context, Space


def without(monkeypatch, *packages):
    """Make packages look uninstalled."""
    real = builtins.__import__

    def fake(name, *args, **kwargs):
        if name.partition(".")[0] in packages:
            raise ImportError(f"No module named {name!r}", name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fake)


def test_a_wrong_name_lists_the_right_ones():
    with pytest.raises(ValueError, match=r"set 'digit' \(did you mean 'digits'\?\): expected one of brackets, digits"):
        datasets.load("digit")
    assert set(datasets.describe()) == set(datasets.names())


def test_digits():
    data = datasets.load("digits")
    assert (len(data.train), len(data.valid), len(data.test)) == (1437, 180, 180)
    assert data.space == Space((1, 8, 8), levels=17, context=Context("labels", 10))
    assert torch.equal(data.train, data.train.round()) and data.train.max() == 16
    assert not torch.equal(datasets.load("digits", seed=1).test, data.test)
    same, other = (datasets.load("digits", seed=seed).fingerprint for seed in (0, 1))
    assert same == data.fingerprint != other  # the split is a part of it
    whole = torch.cat([data.train, data.valid, data.test]).flatten(1).sum(1)
    assert whole.sum() == datasets.load("digits", seed=1).train.sum() + sum(
        part.sum() for part in (datasets.load("digits", seed=1).valid, datasets.load("digits", seed=1).test)
    )


def test_digits_without_scikit_learn(monkeypatch):
    without(monkeypatch, "sklearn")
    with pytest.raises(ImportError, match=re.escape("pip install 'pyflowk[train]'")):
        datasets.load("digits")


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return gzip.compress(header + array.tobytes())


@pytest.fixture
def fashion(tmp_path):
    """A folder laid out as Fashion-MNIST's, with small pictures."""
    random = np.random.default_rng(0)
    for part, count in (("train", 5100), ("t10k", 30)):
        pictures = random.integers(0, 256, (count, 4, 4), dtype=np.uint8)
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(idx(pictures))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx(pictures[:, 0, 0] % 10))
    return tmp_path


def test_fashion_mnist_from_a_folder(fashion):
    data = datasets.load("fashion-mnist", data_dir=str(fashion))
    assert (len(data.train), len(data.valid), len(data.test)) == (100, 5000, 30)
    assert data.space.shape == (1, 4, 4) and data.space.levels == 256 and data.space.classes == 10
    assert torch.equal(data.train[:, 0, 0, 0].long() % 10, data.train_context)  # pictures and labels stay together
    before = data.fingerprint
    path = fashion / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(idx(np.zeros((30, 4, 4), np.uint8)))
    assert datasets.load("fashion-mnist", data_dir=str(fashion)).fingerprint != before


def test_fashion_mnist_names_the_install_command(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"apt-get install dataset-fashion-mnist.*--data-dir"):
        datasets.load("fashion-mnist", data_dir=str(tmp_path))


@pytest.mark.parametrize(
    "raw",
    [b"", b"not gzip", idx(np.zeros((3, 4, 4), np.uint8))[:-9], gzip.compress(b"\0\0\x08\x01")],
    ids=["empty", "not gzip", "truncated", "header only"],
)
def test_damaged_idx_files_are_refused(fashion, raw):
    path = fashion / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte\.gz: expected"):
        datasets.load("fashion-mnist", data_dir=str(fashion))


def test_idx_of_the_wrong_length():
    with pytest.raises(ValueError, match="expected an IDX file"):
        raise_from(fashion_mnist.read_idx, gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 5, 1, 2])))


def raise_from(reader, raw):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.gz"
        path.write_bytes(raw)
        reader(path)


def save_pictures(folder, sizes, mode="RGB", values=None):
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for i, size in enumerate(sizes):
        value = i if values is None else values[i]
        Image.new(mode, size, value if mode == "L" else (value, 0, 255)).save(folder / f"{i:02}.png")


def test_a_folder_of_pictures(tmp_path):
    save_pictures(tmp_path, [(6, 4)] * 20)
    data = datasets.load(str(tmp_path))
    assert data.space.shape == (3, 4, 6) and data.space.levels == 256 and data.space.classes is None
    assert (len(data.train), len(data.valid), len(data.test)) == (16, 2, 2)
    everything = torch.cat([data.train, data.valid, data.test])
    assert sorted(everything[:, 0, 0, 0].tolist()) == list(range(20)) and bool((everything[:, 2] == 255).all())


def test_subfolders_are_classes_and_grey_stays_grey(tmp_path):
    for name, value in (("cats", 10), ("dogs", 200)):
        save_pictures(tmp_path / name, [(4, 4)] * 10, mode="L", values=[value + i for i in range(10)])
    data = datasets.load(str(tmp_path))
    assert data.space.shape == (1, 4, 4) and data.space.classes == 2
    assert torch.equal(data.train_context == 1, data.train[:, 0, 0, 0] >= 200)


def test_pictures_that_cannot_be_used(tmp_path):
    with pytest.raises(ValueError, match="expected pictures"):
        datasets.load(str(tmp_path))
    save_pictures(tmp_path, [(4, 4)] * 19 + [(5, 4)])
    with pytest.raises(ValueError, match=r"one size, got 00\.png \(4, 4\) and 19\.png \(5, 4\)"):
        datasets.load(str(tmp_path))
    (tmp_path / "19.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"19\.png: not a readable picture"):
        datasets.load(str(tmp_path))


def test_npy_of_bytes_is_a_set_of_images(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (30, 5, 5), dtype=np.uint8)
    np.save(tmp_path / "x.npy", x)
    data = datasets.load(str(tmp_path / "x.npy"))
    assert data.space.shape == (1, 5, 5) and data.space.levels == 256 and data.space.is_image


def test_patches_have_no_mean_and_are_small():
    x = patches.prepare(torch.full((5, 64), 255.0), torch.Generator().manual_seed(0))
    assert x.shape == (5, 63) and x.abs().max() < 1 / 256


def test_patches_name_their_packages(monkeypatch):
    without(monkeypatch, "skimage")
    with pytest.raises(ImportError, match="pip install scikit-image"):
        datasets.load("patches")


def test_patches():
    pytest.importorskip("skimage")
    data = datasets.load("patches")
    assert (len(data.train), len(data.valid), len(data.test)) == (110_000, 10_000, 24_000)
    assert data.space.shape == (63,) and data.space.levels is None and bool(data.train.isfinite().all())
    assert data.train.abs().max() < 1
