"""The clients of images, sequences and items: public formats on small made files, dealing, windows, made-up rows."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from clients import heartbeats, imaging, recommendations, registry, turbofans
from clients._dealing import dealt
from clients.arrays import array_columns, array_frame, item_columns
from clients.dataset import Table, prepare
from clients.errors import SchemaError, SourceError
from clients.industry import ModelSpec
from clients.models import build
from clients.shapes import Items, Sequence
from clients.sources import parse_source, read

RNG = np.random.default_rng(0)
#: Made-up rows of a site. `turbofan_life` has those of `turbofans`.
ROWS = {"heartbeats": 60, "imaging": 120, "turbofans": 170}


def _table(name: str, folder: Path, site: str) -> Table:
    client = registry.get(name)
    return prepare(client, read(parse_source(f"public:{folder}"), client, site), unit=client.schema.unit)


def _scaled(table: Table) -> np.ndarray:
    return table.inputs["features"].double().numpy()


def test_a_site_gets_its_share_of_each_class_and_every_row_is_dealt_once() -> None:
    labels = np.array([0] * 10 + [1] * 20 + [2] * 10)
    shares = {"one": (0.5, 0.1), "two": (0.2, 0.6), "three": (0.3, 0.3)}
    found = {site: dealt(labels, shares, site) for site in shares}
    assert {site: np.bincount(labels[rows]).tolist() for site, rows in found.items()} == {
        "one": [5, 2, 1],
        "two": [2, 12, 6],
        "three": [3, 6, 3],
    }
    assert sorted(np.concatenate(list(found.values()))) == list(range(40))
    assert found["one"].tolist() == [0, 1, 2, 3, 4, 10, 11, 30]  # in the file's order, none drawn


def test_columns_take_bounds_of_their_channel() -> None:
    shape = Sequence(length=2, channels=3, mask=True)
    columns = array_columns(shape, "v", low=(0, -1), high=(5, 1), measure=("K", "Pa"))
    assert [(c.name, c.low, c.high, c.measure) for c in columns[:4]] == [
        ("v_0_0", 0, 5, "K"),
        ("v_0_1", 0, 5, "K"),
        ("v_1_0", -1, 1, "Pa"),
        ("v_1_1", -1, 1, "Pa"),
    ]
    assert [(c.name, c.dtype) for c in columns[4:]] == [("v_2_0", "flag"), ("v_2_1", "flag")]
    with pytest.raises(SchemaError, match="low: wanted one for each of 2 channels, got 3"):
        array_columns(shape, "v", low=(0, 0, 0), high=1)


@pytest.fixture
def beats(tmp_path: Path) -> Path:
    folder = tmp_path / "hospital" / "ecg5000"
    folder.mkdir(parents=True)
    kinds = np.array([1] * 50 + [2] * 30 + [4] * 20)
    values = np.column_stack([kinds, RNG.normal(0, 1, (100, 140))])
    values[0, 3] = -9.0
    np.savetxt(folder / "ECG5000_TRAIN.txt", values, fmt="%16.7e")
    return tmp_path


def test_heartbeats_are_read_from_the_archive_s_text(beats: Path) -> None:
    folder = beats / "hospital" / "ecg5000"
    sizes = {site: len(heartbeats.read(folder, site)) for site in heartbeats.CLINICS}
    assert sum(sizes.values()) == 100
    assert sizes["ambulance"] == round(0.08 * 50) + round(0.08 * 30) + round(0.08 * 20)
    first = _table("heartbeats", beats, "cardiology")
    assert first.target[0] == 0
    assert first.target[-1] == 1  # class 4
    lines = np.loadtxt(folder / "ECG5000_TRAIN.txt")
    assert np.allclose(_scaled(first)[0], np.clip(lines[0, 1:] / 4, -1, 1), atol=1e-6)
    assert first.n_units == len(first)


@pytest.fixture
def xrays(tmp_path: Path) -> Path:
    folder = tmp_path / "hospital" / "pneumonia"
    folder.mkdir(parents=True)
    arrays = {}
    for part, rows in (("train", 60), ("val", 20), ("test", 20)):
        arrays[f"{part}_images"] = RNG.integers(0, 256, (rows, 28, 28)).astype(np.uint8)
        arrays[f"{part}_labels"] = np.arange(rows).reshape(-1, 1).astype(np.uint8) % 2
    np.savez(folder / "pneumoniamnist.npz", **arrays)
    return tmp_path


def test_x_rays_are_read_from_medmnist_s_file_at_half_their_size(xrays: Path) -> None:
    frames = {site: imaging.read(xrays / "hospital" / "pneumonia", site) for site in imaging.HOSPITALS}
    assert sum(map(len, frames.values())) == 100
    assert {site: int((frame["finding"] == "1").sum()) for site, frame in frames.items()} == {
        "university": 24,
        "city": 8,
        "children": 14,
        "rural": 4,
    }
    images = np.load(xrays / "hospital/pneumonia/pneumoniamnist.npz")["train_images"].astype(float)
    wanted = (images[0, :2, :2].mean(), images[0, :2, 2:4].mean(), images[0, 26:, 26:].mean())
    assert np.allclose(
        _scaled(_table("imaging", xrays, "university"))[0][[0, 1, -1]], np.array(wanted) / 127.5 - 1, atol=1e-6
    )


def _log(engines: dict[int, int]) -> np.ndarray:
    """Lines of C-MAPSS: every sensor reads its number plus a thousandth of the cycle."""
    lines = [
        [engine, cycle, 0, 0, 100, *(sensor + cycle / 1000 for sensor in range(1, 22))]
        for engine, cycles in engines.items()
        for cycle in range(1, cycles + 1)
    ]
    return np.array(lines, dtype=float)


@pytest.fixture
def engines(tmp_path: Path) -> Path:
    folder = tmp_path / "factory" / "cmapss"
    folder.mkdir(parents=True)
    np.savetxt(folder / "train_FD001.txt", _log(dict.fromkeys(range(1, 101), 40)), fmt="%.4f")
    np.savetxt(folder / "test_FD001.txt", _log({e: 8 if e == 91 else 25 for e in range(1, 101)}), fmt="%.4f")
    np.savetxt(folder / "RUL_FD001.txt", np.full(100, 119), fmt="%d")
    return tmp_path


def test_windows_of_an_engine_count_back_from_its_last_cycle(engines: Path) -> None:
    folder = engines / "factory/cmapss"
    frame = turbofans.LIFE.read(folder, "cork").assign(fails=turbofans.read(folder, "cork")["fails"])
    assert set(frame["engine"]) == {f"{part} {e}" for part in ("train", "test") for e in range(91, 101)}
    first = frame[frame["engine"] == "train 91"]
    assert first["remaining"].tolist() == [30, 20, 10, 0]
    assert first["fails"].tolist() == ["soon"] * 4
    # Its first window ends at cycle 10: the steps before its first cycle are masked, one has a single cycle.
    mask = first.filter(regex=r"^sensor_14_").to_numpy()
    assert mask[0].tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 1, 1]
    assert mask[-1].tolist() == [1] * 10
    sensor = first.filter(regex=r"^sensor_0_").to_numpy()  # sensor 2
    assert sensor[0, 5:] == pytest.approx([643, 2.001, 2.003, 2.006, 2.009])
    assert sensor[-1, [0, -1]] == pytest.approx([2.012, 2.039])
    assert first.filter(regex=r"^sensor_13_").to_numpy()[-1, -1] == pytest.approx(21.039)
    cut = frame[frame["engine"] == "test 92"]
    assert cut["remaining"].tolist() == [125, 125, 119]  # 139 and 129, capped
    assert cut["fails"].tolist() == ["later"] * 3
    assert frame[frame["engine"] == "test 91"]["remaining"].tolist() == [119]


def test_an_engine_is_one_unit_at_one_factory(engines: Path) -> None:
    frames = [turbofans.LIFE.read(engines / "factory" / "cmapss", site) for site in ("brno", "cork")]
    assert [frame["engine"].nunique() for frame in frames] == [30, 20]
    assert not set(frames[0]["engine"]) & set(frames[1]["engine"])
    assert sum(turbofans.FACTORIES.values()) == turbofans.ENGINES
    table = _table("turbofan_life", engines, "cork")
    assert table.n_units == 20
    assert table.quarantine.rows_kept == len(table) == len(frames[1])
    assert table.target.tolist() == frames[1]["remaining"].tolist()


@pytest.fixture
def ratings(tmp_path: Path) -> Path:
    folder = tmp_path / "media" / "movielens_100k"
    folder.mkdir(parents=True)
    lines = [(850, 7, 4, 30), (850, 1682, 1, 10), (943, 2, 5, 5), (850, 3, 2, 20), (1, 9, 3, 1), (850, 1, 5, 20)]
    (folder / "u.data").write_text("\n".join("\t".join(map(str, line)) for line in lines), encoding="utf-8")
    return tmp_path


def test_a_rating_stands_beside_what_its_user_rated_before(ratings: Path) -> None:
    frame = recommendations.read(ratings / "media/movielens_100k", "festival")
    assert frame["user"].tolist() == ["850"] * 4 + ["943"]
    assert frame[["film", "rating"]].to_numpy().tolist() == [[1682, 1], [1, 5], [3, 2], [7, 4], [2, 5]]
    assert frame[["film_1", "film_2", "film_3", "film_4"]].to_numpy().tolist() == [
        [0, 0, 0, 0],
        [1682, 0, 0, 0],
        [1, 1682, 0, 0],
        [3, 1, 1682, 0],
        [0, 0, 0, 0],  # another user's films are nobody's
    ]
    assert frame[["film_1_value", "film_3_value", "film_4_value"]].to_numpy()[3].tolist() == [2, 1, 3]
    assert recommendations.read(ratings / "media/movielens_100k", "cinema")["film"].tolist() == [9]
    table = _table("recommendations", ratings, "festival")
    assert (table.n_units, len(table), table.quarantine.rows_kept) == (2, 5, 5)
    assert sum(recommendations.PROVIDERS.values()) == 943


def test_ids_outside_the_vocabulary_break_their_row_and_the_network_finds_the_others() -> None:
    shape = Items(vocabulary=1682, earlier=2)
    client = dataclasses.replace(
        registry.get("recommendations"),
        schema=dataclasses.replace(
            recommendations.SCHEMA, columns=item_columns(shape, "film", low=1, high=5), shape=shape, unit="record"
        ),
    )
    ids = np.array([[1, 0, 1682], [1682, 840, 841], [0, 1, 1], [1683, 1, 1], [5, 1683, 1], [1681, 3, 2]])
    frame = array_frame(shape, "film", np.column_stack([ids, np.full((6, 2), 3)]), rating=4)
    table = prepare(client, frame, quarantine_threshold=1)
    assert table.quarantine.rows_kept == 3
    features = table.inputs["features"]
    spec = ModelSpec(kind="two-tower", hidden=(4,))
    items = build(client, spec, 5, torch.Generator().manual_seed(0)).encoder[1]
    seen: list[torch.Tensor] = []
    items.items.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    items(features)
    assert seen[0].tolist() == ids[[0, 1, 5]].tolist()
    items(torch.tensor([[float("nan")] * 5, [9.0] * 5, [-9.0] * 5]))
    assert seen[1].tolist() == [[0] * 3, [1682] * 3, [0] * 3]  # never one that is not there


def test_made_up_ratings_can_be_learned_from_and_not_too_easily() -> None:
    frames = [recommendations.synthesise(np.random.default_rng(seed), 2500, "club") for seed in (1, 2)]
    assert [prepare(recommendations.CLIENT, frame, unit="user").quarantine.rows_kept for frame in frames] == [2500] * 2
    y, y_new = (frame["rating"].to_numpy() for frame in frames)
    mean = frames[0].groupby("film")["rating"].agg(["sum", "size"])
    guess = ((mean["sum"] + 3 * y.mean()) / (mean["size"] + 3)).reindex(frames[1]["film"]).fillna(y.mean()).to_numpy()
    error = [float(np.sqrt(((y_new - each) ** 2).mean())) for each in (y.mean(), guess)]
    assert 0.8 * error[0] < error[1] < 0.99 * error[0]


@pytest.mark.parametrize("name", ["heartbeats", "imaging", "recommendations", "turbofans"])
def test_another_file_is_refused_without_a_value(name: str, tmp_path: Path) -> None:
    client = registry.get(name)
    (tmp_path / client.dataset).mkdir(parents=True)
    with pytest.raises(SourceError, match="wanted a file that exists"):
        read(parse_source(f"public:{tmp_path}"), client, client.sites[0])
    for file in (
        "ECG5000_TRAIN.txt",
        "pneumoniamnist.npz",
        "train_FD001.txt",
        "test_FD001.txt",
        "RUL_FD001.txt",
        "u.data",
    ):
        (tmp_path / client.dataset / file).write_text("secret word\n")
    with pytest.raises(SourceError, match="own format; got") as caught:
        read(parse_source(f"public:{tmp_path}"), client, client.sites[0])
    assert "secret" not in str(caught.value)


@pytest.mark.end_to_end
@pytest.mark.parametrize("name", ROWS)
def test_made_up_rows_can_be_learned_from_and_not_too_easily(name: str) -> None:
    client = registry.get(name)
    tables = []
    for seed, rows in ((1, ROWS[name]), (2, ROWS[name])):
        frame = client.synthesise(np.random.default_rng(seed), rows, client.sites[0])
        table = prepare(client, frame, unit=client.schema.unit)
        assert table.quarantine.rows_kept == rows
        tables.append((_scaled(table), table.target.numpy()))
    (x, y), (x_new, y_new) = tables
    score = roc_auc_score(
        y_new, LogisticRegression(C=0.01, solver="newton-cholesky").fit(x, y).decision_function(x_new)
    )
    assert 0.8 < score < 0.9995
