"""Survival: follow-up as rows, the likelihood and the index that these rows give, the public file's format."""

from __future__ import annotations

import importlib.util
import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from clients import registry, survival
from clients.dataset import prepare
from clients.errors import SchemaError, SourceError
from clients.metrics import get
from clients.models import loss_for
from clients.schema import Column, Schema, Target
from clients.sources import parse_source, read
from consortia.participant.evaluation import headline
from consortia.terms.scenario import load_scenario

CLIENT = registry.get("survival")
ROOT = Path(__file__).resolve().parents[2]
LINES = (
    "'no',70,'Post',21,'II',3,48,66,800,1",
    "'yes',56,'Pre',12,'I',7,61,77,2300,0",
    "'yes',58,'Post',35,'III',9,52,271,100,0",
    "'no', 59, 'Post', 17, 'II', 4, 60, 29, 2200, 1",
)


def _patients(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Days, whether it came back, and a risk of each patient."""
    rng = np.random.default_rng(seed)
    return rng.uniform(10, 2600, count), rng.random(count) < 0.5, rng.normal(size=count).round(1)


def test_a_row_is_a_year_that_was_seen_to_its_end_or_to_the_event() -> None:
    days = np.array([800.0, 800.0, 100.0, 100.0, 365.25, 2300.0, 2300.0])
    patient, year, came = survival.at_risk(days, np.array([True, False, True, False, True, True, False]))
    rows = [(int(p), int(y), int(c)) for p, y, c in zip(patient, year, came, strict=True)]
    assert rows[:3] == [(0, 1, 0), (0, 2, 0), (0, 3, 1)]  # in the third year
    assert rows[3:5] == [(1, 1, 0), (1, 2, 0)]  # lost in the third year, which is no row
    assert rows[5:6] == [(2, 1, 1)]
    assert 3 not in patient  # lost in the first year
    assert rows[6:8] == [(4, 1, 0), (4, 2, 1)]  # a year is over when its last day is
    assert rows[8:] == [(p, y, 0) for p in (5, 6) for y in range(1, 7)]  # nothing after six years


def test_the_loss_of_the_rows_is_the_likelihood_of_discrete_hazards_with_censoring() -> None:
    days, recurred, risk = _patients(40)
    patient, year, came = survival.at_risk(days, recurred)
    logits = torch.tensor(risk[patient] + 0.3 * year - 2)
    loss = loss_for(CLIENT.schema.target)(logits.unsqueeze(-1), torch.tensor(came, dtype=torch.float32)).sum()
    wanted = 0.0
    for days_, recurred_, risk_ in zip(days, recurred, risk, strict=True):
        hazard = [torch.sigmoid(torch.tensor(risk_ + 0.3 * k - 2)) for k in range(1, survival.YEARS + 1)]
        free = min(int(days_ // 365.25), survival.YEARS)
        wanted -= sum(float(torch.log(1 - h)) for h in hazard[:free])
        if recurred_ and free < survival.YEARS:
            wanted -= float(torch.log(hazard[free]))
    assert float(loss) == pytest.approx(wanted)
    assert functional.softplus(logits).sum() > 0


def _harrell(times: np.ndarray, events: np.ndarray, risk: np.ndarray) -> float:
    """Count every pair: of two, one has the event, and the other is seen to have none by then."""
    right = pairs = 0.0
    for i, j in itertools.permutations(range(len(times)), 2):
        if events[i] and (times[i] < times[j] or (times[i] == times[j] and not events[j])):
            pairs += 1
            right += 1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0
    return right / pairs


def _in_years(days: np.ndarray, recurred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Times in years: of the event, or the last one that was seen to its end."""
    free = np.minimum(days // 365.25, survival.YEARS).astype(int)
    events = recurred & (free < survival.YEARS)
    return free + events, events


def test_concordance_within_years_is_harrells_of_times_told_in_years() -> None:
    days, recurred, risk = _patients(60, seed=3)
    patient, year, came = survival.at_risk(days, recurred)
    # Proportional odds: the year moves everybody's hazard, and orders nobody within it.
    scores = 1 / (1 + np.exp(2 - 0.5 * year - risk[patient]))
    found = get("concordance").value(scores, np.column_stack([came, year]))
    times, events = _in_years(days, recurred)
    assert found == pytest.approx(_harrell(times, events, risk), abs=1e-12)
    assert found != pytest.approx(get("concordance").value(scores, came), abs=1e-3)  # all rows with one another
    assert get("concordance").value(scores, came) == pytest.approx(get("auc").value(scores, came), abs=1e-12)


def test_it_is_the_index_of_scikit_survival() -> None:
    theirs = pytest.importorskip("sksurv.metrics")
    days, recurred, risk = _patients(80, seed=4)
    patient, year, came = survival.at_risk(days, recurred)
    times, events = _in_years(days, recurred)
    wanted = theirs.concordance_index_censored(events, times, risk)[0]
    assert get("concordance").value(risk[patient], np.column_stack([came, year])) == pytest.approx(wanted, abs=1e-12)


def test_weights_and_metrics_that_do_not_compare_rows_take_strata() -> None:
    rng = np.random.default_rng(5)
    strata, y, scores = rng.integers(3, size=50), rng.integers(2, size=50), rng.random(50).round(1)
    counts = rng.integers(0, 3, 50)
    target, many = np.column_stack([y, strata]), np.repeat(np.arange(50), counts)
    metric = get("concordance")
    assert metric.values(scores, target, counts[None].astype(float))[0] == pytest.approx(
        metric.value(scores[many], target[many])
    )
    for name in ("auc", "brier", "accuracy"):
        assert get(name).value(scores, target) == get(name).value(scores, y)
        units, chance = np.arange(50), np.random.default_rng
        assert get(name).gain(scores, y, target, units, chance(1)) == get(name).gain(scores, y, y, units, chance(1))
    alone = np.column_stack([y, np.arange(50)])  # nobody to compare with
    assert metric.value(scores, alone) is None


def test_rows_keep_their_stratum() -> None:
    frame = CLIENT.synthesise(np.random.default_rng(1), 60, "city")
    table = prepare(CLIENT, frame, unit="patient")
    assert table.strata is not None
    assert (table.strata + 1).tolist() == frame["year"].astype(int).tolist()
    chosen = table.take([5, 3, 50])
    assert chosen.measured.tolist() == table.measured[[5, 3, 50]].tolist()
    assert headline(CLIENT, table.measured) == "concordance"
    first = table.take(np.flatnonzero(np.asarray(table.strata) == 0))
    nobody = np.zeros((len(first), 2))
    assert headline(CLIENT, nobody) == "brier"  # no event, no pair: an industry's next metric that is defined


def test_a_stratum_is_a_column_that_the_model_sees() -> None:
    target = Target(name="y", kind="binary", classes=("a", "b"), within="place")
    columns = (Column(name="x", dtype="number", low=0, high=1), Column(name="place", dtype="text"))
    with pytest.raises(SchemaError, match=r"target.within: wanted a column that is a feature, got 'place'"):
        Schema(name="s", version=1, columns=columns, target=target)
    numbers = replace(target, within="x")
    frame = prepare(
        replace(CLIENT, schema=Schema(name="s", version=1, columns=columns[:1], target=numbers), metrics=("auc",)),
        CLIENT.synthesise(np.random.default_rng(1), 3, "city").assign(x=[0.5, 0.1, 0.5], y=["a", "b", "a"]),
    )
    assert frame.strata is not None
    assert frame.strata.tolist() == [1, 0, 1]


@pytest.fixture
def public(tmp_path: Path) -> Path:
    folder = tmp_path / CLIENT.dataset
    folder.mkdir(parents=True)
    head = "% a comment\n\n@relation GBSG2\n@attribute horTh {'no','yes'}\n@DATA\n"
    (folder / "GBSG2.arff").write_text(head + "\n".join(LINES * 25) + "\n", encoding="utf-8")
    return tmp_path


def test_the_published_file_is_read_and_each_patient_is_at_one_hospital(public: Path) -> None:
    tables = {
        site: prepare(CLIENT, read(parse_source(f"public:{public}"), CLIENT, site), unit="patient")
        for site in CLIENT.sites
    }
    assert sum(table.n_units for table in tables.values()) == 75  # one of four was lost in the first year
    seen = [survival.read(public / CLIENT.dataset, site) for site in CLIENT.sites]
    assert len({name for frame in seen for name in frame["patient"]}) == 75
    first = seen[0][seen[0]["patient"] == "GBSG2 1"]
    assert first[["year", "recurrence"]].to_numpy().tolist() == [["1", "no"], ["2", "no"], ["3", "yes"]]
    columns = ["horTh", "age", "menostat", "tsize", "tgrade", "pnodes", "progrec", "estrec"]
    assert first[columns].to_numpy()[0].tolist() == ["no", "70", "Post", "21", "II", "3", "48", "66"]
    shares = np.array(list(survival.HOSPITALS.values()))
    assert shares.sum(0) == pytest.approx(1)


def test_another_file_is_refused_without_a_value(tmp_path: Path) -> None:
    folder = tmp_path / CLIENT.dataset
    folder.mkdir(parents=True)
    with pytest.raises(SourceError, match="wanted a file that exists"):
        read(parse_source(f"public:{tmp_path}"), CLIENT, "city")
    for text in ("secret word\n", "@data\nsecret word\n", "@data\n'no',70,'Post',21,'secret',3,48,66,800,1\n"):
        (folder / "GBSG2.arff").write_text(text)
        with pytest.raises(SourceError, match="own format; got") as caught:
            read(parse_source(f"public:{tmp_path}"), CLIENT, "city")
        assert "secret" not in str(caught.value)


def test_the_public_patients_are_those_that_the_scenario_declares(tmp_path: Path) -> None:
    package = importlib.util.find_spec("sksurv")  # found, never imported
    if package is None or not package.submodule_search_locations:
        pytest.skip("scikit-survival, which holds the file, is not installed: pip install 'consortia[survival]'")
    folder = tmp_path / CLIENT.dataset
    folder.mkdir(parents=True)
    shutil.copy(Path(package.submodule_search_locations[0]) / "datasets" / "data" / "GBSG2.arff", folder)
    for line in load_scenario("survival").roster:
        rows = prepare(CLIENT, read(parse_source(f"public:{tmp_path}"), CLIENT, line.site), unit="patient")
        assert rows.n_units == line.units
        assert rows.quarantine.rows_kept == rows.quarantine.rows_read


def test_made_up_patients_can_be_told_apart_and_not_too_easily() -> None:
    from sklearn.linear_model import LogisticRegression

    tables = [
        prepare(CLIENT, CLIENT.synthesise(np.random.default_rng(seed), 500, "university"), unit="patient")
        for seed in (1, 2)
    ]
    (x, y), (x_new, y_new) = ((t.inputs["features"].double().numpy(), t.measured) for t in tables)
    fitted = LogisticRegression(C=1, solver="newton-cholesky").fit(x, y[:, 0])
    found = get("concordance").value(fitted.decision_function(x_new), y_new)
    assert found is not None
    assert 0.6 < found < 0.85


def test_nothing_of_the_product_imports_the_package() -> None:
    for folder in ("platform", "clients", "privacy", "strategies"):
        for file in (ROOT / folder).rglob("*.py"):
            assert "sksurv" not in file.read_text(encoding="utf-8"), file
