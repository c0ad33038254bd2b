"""The sources `npz` and `png`: columns of images and sequences, other arrays and folders beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image as Pillow
from shaped_rows import IMAGE, of

from clients import registry
from clients.arrays import array_frame
from clients.dataset import prepare
from clients.errors import SourceError
from clients.shapes import Image, Sequence
from clients.sources import parse_source, read, read_table

GREY = Image(channels=1, height=3, width=2)
STEPS = Sequence(length=4, channels=2)


def _saved(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "rows.npz", **arrays)
    return folder / "rows.npz"


def test_arrays_become_the_columns_of_a_shape(tmp_path: Path) -> None:
    grey = np.arange(30, dtype=np.uint8).reshape(5, 3, 2)
    file = _saved(tmp_path, x=grey, label=np.array(list("abcab"))[:, None], patient=np.arange(5), other=np.arange(9))
    found = read_table(parse_source(f"npz:{file}?values=x"))
    wanted = array_frame(GREY, "pixel", grey[:, None], label=list("abcab"), patient=np.arange(5))
    pd.testing.assert_frame_equal(found, wanted, check_dtype=False)
    beats = np.arange(40.0).reshape(5, 4, 2)
    found = read_table(parse_source(f"npz:{_saved(tmp_path, x=beats)}?values=x&prefix=beat&steps=true"))
    pd.testing.assert_frame_equal(found, array_frame(STEPS, "beat", beats.transpose(0, 2, 1)))
    colour = np.arange(5 * 32).reshape(5, 4, 4, 2)
    found = read_table(parse_source(f"npz:{_saved(tmp_path, x=colour)}?values=x&prefix=v"))
    pd.testing.assert_frame_equal(found, array_frame(IMAGE, "v", colour.transpose(0, 3, 1, 2)))


def test_an_npz_file_feeds_a_client(tmp_path: Path) -> None:
    values = np.random.default_rng(0).uniform(-2, 2, (6, 4, 4, 2))
    file = _saved(tmp_path, v=values, y=np.array(list("abcabc")))
    table = prepare(of(IMAGE), read(parse_source(f"npz:{file}?values=v&prefix=v"), of(IMAGE), "one"))
    assert np.allclose(table.inputs["features"].numpy(), values.transpose(0, 3, 1, 2).reshape(6, -1) / 2, atol=1e-6)
    assert table.target.tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"y": np.zeros((2, 3))}, "option values: wanted the name of an array"),
        ({"x": np.array([["secret"]])}, "wanted an array of numbers"),
        ({"x": np.zeros(3)}, "got 1 dimensions"),
        ({"x": np.array([object()])}, "wanted an npz file of arrays without pickled objects; got ValueError"),
    ],
)
def test_a_wrong_array_is_named_without_a_value(arrays: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=words) as caught:
        read_table(parse_source(f"npz:{_saved(tmp_path, **arrays)}?values=x"))
    assert "secret" not in str(caught.value)


def test_folders_of_png_become_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for mode, channels in (("L", 1), ("RGB", 3)):
        images = {}
        for folder, name in (("ill", "b"), ("well", "a"), ("well", "c")):
            place = tmp_path / mode / folder
            place.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (3, 2, channels) if channels > 1 else (3, 2)).astype(np.uint8)
            Pillow.fromarray(pixels).save(place / f"{name}.png")
            images[name] = pixels.reshape(3, 2, channels).transpose(2, 0, 1)
        found = read_table(parse_source(f"png:{tmp_path / mode}"))
        wanted = array_frame(
            Image(channels=channels, height=3, width=2),
            "pixel",
            np.stack([images["b"], images["a"], images["c"]]),
            folder=["ill", "well", "well"],
            file=["b.png", "a.png", "c.png"],
        )
        pd.testing.assert_frame_equal(found, wanted, check_dtype=False)
    Pillow.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "L" / "well" / "d.png")
    with pytest.raises(SourceError, match="images of one size and one number of channels, got 2 kinds"):
        read_table(parse_source(f"png:{tmp_path / 'L'}"))
    (tmp_path / "L" / "well" / "d.png").write_bytes(b"no image")
    with pytest.raises(SourceError, match="wanted a folder of PNG files of one size; got"):
        read_table(parse_source(f"png:{tmp_path / 'L'}"))
    with pytest.raises(SourceError, match="found none"):
        read_table(parse_source(f"png:{tmp_path / 'nothing'}"))


def test_the_digits_come_from_the_installed_package() -> None:
    client = registry.get("digits")
    frames = [read(parse_source("public:installed"), client, site) for site in client.sites]
    assert [len(frame) for frame in frames] == [600, 450, 350, 250, 147]
    assert not any(frame.attrs["synthetic"] for frame in frames)
    table = prepare(client, frames[-1])
    assert table.inputs["features"].shape == (147, 64)
    assert table.quarantine.rows_kept == 147
    from sklearn.datasets import load_digits

    every = load_digits()
    assert np.allclose(table.inputs["features"].numpy(), every.data[-147:] / 8 - 1)
    assert table.target.tolist() == every.target[-147:].tolist()
    with pytest.raises(SourceError, match="wanted a folder"):  # the bank has no package with its rows
        read(parse_source("public:installed"), registry.get("bank"), "other")
