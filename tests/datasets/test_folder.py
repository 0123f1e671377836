"""Folders of pictures: whatever was saved comes back as the grey values or colours that a viewer shows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from pyflowk import datasets
from pyflowk.cli import main
from pyflowk.datasets.base import split
from pyflowk.space import Space

RAMP = np.arange(0, 256, 17, dtype=np.uint8).reshape(4, 4)  # black in one corner, white in the other


def fill(folder, make, count=12, suffix="png", **options):
    """A folder of pictures, each told apart from the others by one grey pixel, and `make` of those arrays."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        grey = RAMP.copy()
        grey[1, 1] = 20 * i
        make(grey).save(folder / f"{i:02}.{suffix}", **options)


def everything(data):
    x = torch.cat([data.train, data.valid, data.test])
    return x[x[:, 0, 1, 1].argsort()]


def expected(count=12, value=20):
    x = torch.from_numpy(RAMP).float().repeat(count, 1, 1, 1)
    x[:, 0, 1, 1] = value * torch.arange(count)
    return x


def with_alpha(mode):
    return lambda grey: Image.merge(
        mode, [Image.fromarray(grey)] * (len(mode) - 1) + [Image.new("L", grey.shape[::-1], 255)]
    )


GREY = {
    "8 bits": (Image.fromarray, "png", ()),
    "16 bits": (lambda g: Image.fromarray(g.astype(np.uint16) * 257), "png", ("12 pictures of more than 8 bits",)),
    "16 bits, TIFF": (lambda g: Image.fromarray(g.astype(np.uint16) * 257), "tiff", ("of more than 8 bits",)),
    "32 bits": (lambda g: Image.fromarray(g.astype(np.int32)), "tiff", ("of more than 8 bits",)),
    "32 bits of 16": (lambda g: Image.fromarray(g.astype(np.int32) * 257), "tiff", ("of more than 8 bits",)),
    "floats": (lambda g: Image.fromarray(g.astype(np.float32) / 255), "tiff", ("of more than 8 bits",)),
    "floats of 255": (lambda g: Image.fromarray(g.astype(np.float32)), "tiff", ("of more than 8 bits",)),
    "LA": (with_alpha("LA"), "png", ()),
    "RGBA": (with_alpha("RGBA"), "png", ()),
    "RGB": (lambda g: Image.fromarray(g).convert("RGB"), "png", ()),
    "palette": (lambda g: Image.fromarray(g).convert("P"), "png", ()),
    "GIF": (Image.fromarray, "gif", ()),
}


@pytest.mark.parametrize("kind", list(GREY))
def test_grey_pictures_have_one_channel_and_their_values(tmp_path, kind):
    make, suffix, notes = GREY[kind]
    fill(tmp_path, make, suffix=suffix)
    data = datasets.load(str(tmp_path))
    assert data.space.shape == (1, 4, 4) and data.space.levels == 256 and len(data.notes) == len(notes)
    assert torch.equal(everything(data), expected()) and all(part in note for part, note in zip(notes, data.notes))


def test_black_and_white_pictures_keep_both(tmp_path):
    for i in range(12):
        Image.fromarray(np.arange(16).reshape(4, 4) > i).save(tmp_path / f"{i}.png")
    assert datasets.load(str(tmp_path)).train.unique().tolist() == [0, 255]


def test_one_coloured_pixel_makes_three_channels(tmp_path):
    fill(tmp_path, Image.fromarray)
    colour = Image.fromarray(RAMP).convert("RGB")
    colour.putpixel((0, 0), (255, 0, 0))
    colour.save(tmp_path / "99.png")
    data = datasets.load(str(tmp_path))
    x = torch.cat([data.train, data.valid, data.test])
    assert data.space.shape == (3, 4, 4) and (x[:, :, 0, 0] == torch.tensor([255, 0, 0])).all(1).sum() == 1


def test_transparent_parts_are_white_and_said(tmp_path):
    def make(grey):
        picture = with_alpha("RGBA")(grey)
        picture.putpixel((0, 0), (0, 0, 0, 0))
        picture.putpixel((0, 1), (0, 0, 0, 51))
        return picture

    fill(tmp_path, make)
    data = datasets.load(str(tmp_path))
    assert data.train[:, 0, 0, 0].unique().tolist() == [255] and data.train[:, 0, 1, 0].unique().tolist() == [204]
    assert data.notes == ("12 pictures with transparent parts: laid on white",)
    for path in tmp_path.iterdir():  # a palette with a transparent colour, as in most GIFs
        Image.open(path).convert("RGB").convert("P").save(path, transparency=0)
    assert "transparent" in datasets.load(str(tmp_path)).notes[0]


def test_pictures_are_turned_upright(tmp_path):
    """Orientation 6: the camera was held on its side, and what is stored must be turned clockwise."""
    exif = Image.Exif()
    exif[0x0112] = 6
    fill(tmp_path, lambda grey: Image.fromarray(np.rot90(grey)), exif=exif)
    assert torch.equal(everything(datasets.load(str(tmp_path))), expected())


@pytest.mark.parametrize("suffix", ["gif", "tiff"])
def test_the_first_of_several_frames_is_taken_and_said(tmp_path, suffix):
    second = Image.fromarray(255 - RAMP)
    fill(tmp_path, Image.fromarray, suffix=suffix, save_all=True, append_images=[second])
    data = datasets.load(str(tmp_path))
    assert torch.equal(everything(data), expected())
    assert data.notes == ("12 pictures of several frames or pages: the first is taken",)


def test_hidden_files_are_passed_over(tmp_path):
    for kind in ("cats", "dogs", ".ipynb_checkpoints", "__MACOSX"):
        fill(tmp_path / kind, Image.fromarray)
    (tmp_path / "cats" / "._00.png").write_bytes(b"resource fork")
    fill(tmp_path / "cats" / ".thumbnails", Image.fromarray)
    data = datasets.load(str(tmp_path))
    assert data.space.classes == 2 and len(data.train) + len(data.valid) + len(data.test) == 24


def test_a_loose_picture_beside_classes_is_named(tmp_path):
    for kind in ("cats", "dogs"):
        fill(tmp_path / kind, Image.fromarray)
    Image.fromarray(RAMP).save(tmp_path / "stray.png")
    with pytest.raises(ValueError, match=r"folder of its class \(cats, dogs\), but stray\.png lies beside"):
        datasets.load(str(tmp_path))


@pytest.mark.parametrize("seed", range(5))
def test_copies_stay_on_one_side_of_the_split(tmp_path, seed):
    fill(tmp_path / "a", Image.fromarray)
    fill(tmp_path / "b", Image.fromarray)  # the same pictures again
    fill(tmp_path / "b", lambda grey: Image.fromarray(grey).convert("RGB"), suffix="bmp")  # and in another format
    data = datasets.load(str(tmp_path), seed=seed)
    assert data.notes == ("24 pictures identical to another: copies stay on one side of the split",)
    parts = [set(x[:, 0, 1, 1].tolist()) for x in (data.train, data.valid, data.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 12 and all(parts)
    assert len(data.train) + len(data.valid) + len(data.test) == 36 and len(data.train) >= 24


def test_copies_in_an_array_stay_on_one_side(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (20, 4, 4), dtype=np.uint8)
    np.save(tmp_path / "x.npy", np.concatenate([pictures, pictures]))
    data = datasets.load(str(tmp_path / "x.npy"))
    parts = [{tuple(x.tolist()) for x in part.flatten(1)} for part in (data.train, data.valid, data.test)]
    assert len(set.union(*parts)) == sum(map(len, parts)) == 20
    assert data.notes == ("20 pictures identical to another: copies stay on one side of the split",)


def test_a_split_of_groups() -> None:
    x, space = torch.arange(100.0)[:, None], Space((1,))
    alone = split("x", space, x, seed=3)
    assert torch.equal(split("x", space, x, seed=3, groups=torch.arange(100)).train, alone.train)
    few = split("x", space, x, seed=3, groups=torch.arange(100) // 20)
    assert [len(part) for part in (few.train, few.valid, few.test)] == [60, 20, 20]
    with pytest.raises(ValueError, match="at least 3 different samples to split, got 2"):
        split("x", space, x, seed=3, groups=torch.arange(100) // 50)


@pytest.mark.parametrize(
    "numbers, error",
    [(-RAMP.astype(np.int32), "got -255 to 0"), (RAMP * 1e4, "got 0 to 2.55e"), (RAMP * np.nan, "got nan")],
)
def test_numbers_of_no_known_range_are_named(tmp_path, numbers, error):
    fill(tmp_path, lambda _: Image.fromarray(numbers.astype(np.float32)), suffix="tiff")
    with pytest.raises(ValueError, match=rf"00\.tiff: expected grey values 0 to 1, 255 or 65535, {error}"):
        datasets.load(str(tmp_path))


@pytest.mark.parametrize("kind", ["8 bits", "16 bits", "floats", "RGBA"])
def test_size_brings_pictures_of_any_size_to_one(tmp_path, kind):
    """A wide and a tall picture of one plain square in the middle, with other things at its sides."""
    for i in range(12):
        middle = np.full((40, 40), 10 * i + 100, np.uint8)
        side = np.full((40, 25), 3, np.uint8)
        whole = np.hstack([side, middle, side])
        GREY[kind][0](whole if i % 2 else np.ascontiguousarray(whole.T)).save(tmp_path / f"{i}.tiff")
    with pytest.raises(ValueError, match=r"one size, got .*; --size 32, size=32 in Python"):
        datasets.load(str(tmp_path))
    data = datasets.load(str(tmp_path), size=8)
    x = torch.cat([data.train, data.valid, data.test])
    assert data.space.shape == (1, 8, 8) and not any("enlarged" in note for note in data.notes)
    assert torch.equal(x[:, 0, 4, 4].sort().values, 10.0 * torch.arange(12) + 100)
    assert (x - x[:, :, 4:5, 4:5]).abs()[..., 2:6, 2:6].max() <= 1
    assert "12 pictures smaller than --size: enlarged" in datasets.load(str(tmp_path), size=64).notes
    for wrong in (0, -8, 2.5, True):
        with pytest.raises(ValueError, match="size: expected a number of pixels"):
            datasets.load(str(tmp_path), size=wrong)


def test_size_is_for_folders():
    with pytest.raises(
        ValueError, match="size: expected a folder of pictures to resize or a text to cut, but digits is none"
    ):
        datasets.load("digits", size=8)


def test_a_run_remembers_its_size(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for i in range(24):
        shape = (20 + i, 30, 3)
        picture = Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8))
        (tmp_path / "mixed").mkdir(exist_ok=True)
        picture.save(tmp_path / "mixed" / f"{i}.png")
    train = ["train", "nice", "--data", "mixed", "--size", "4", "--steps", "2", "--cpu", "--set", "width=8"]
    assert main([*train, "--out", "run", "--batch-size", "8"]) == 0
    assert main(["train", "--out", "run", "--resume", "--steps", "3"]) == 0
    assert main(["sample", "run", "--interpolate", "--n", "8", "--out", "x.npy"]) == 0
    assert np.load("x.npy").shape == (8, 3, 4, 4)
    assert main(["eval", "run"]) == 0 and main(["eval", "run", "--data", "mixed"]) == 0
    capsys.readouterr()
    assert main(["train", "nice", "--data", "mixed", "--cpu"]) == 2 and main(["eval", "run", "--size", "8"]) == 2
    error = capsys.readouterr().err
    assert "--size 32" in error and "--size: expected --data FOLDER" in error
    (tmp_path / "mixed").rename(tmp_path / "elsewhere")
    assert main(["eval", "run"]) == 2 and main(["train", "--out", "run", "--resume", "--steps", "4"]) == 2
    assert capsys.readouterr().err.count("mixed: no such file: the run was trained on it, and it may have moved") == 2
    assert main(["eval", "run", "--data", "elsewhere"]) == 0 and "the run's own data are" in capsys.readouterr().out
    (tmp_path / "elsewhere" / "0.png").unlink()  # others by now, scored without those that the Gaussian was fitted to
    assert main(["eval", "run", "--data", "elsewhere"]) == 0 and "all 23 samples" in capsys.readouterr().out
    assert main(["train", "--data", "elsewhere", "--out", "run", "--resume", "--steps", "4"]) == 2
    assert "elsewhere is not what run was trained on" in capsys.readouterr().err
