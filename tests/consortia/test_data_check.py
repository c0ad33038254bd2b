"""The readiness report, the rows set apart and drift: what is seen, and that no value of a row is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tomli_w
from command_line import APP
from typer.testing import CliRunner

from clients import registry
from clients._apart import set_apart
from clients.dataset import prepare
from clients.errors import QuarantineError
from consortia.participant.drift import psi, since_last_run
from consortia.participant.home import Home
from consortia.participant.partitions import Partitions
from consortia.preflight.disguised import kind_of
from consortia.preflight.rows import Look, look_at, told_by

_SECRET = "Zaphod"


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    client = registry.get("hospital")
    return client.synthesise(np.random.default_rng(1), 300, client.sites[0]).astype(object)


def _looks(frame: pd.DataFrame, **options: Any) -> list[Look]:
    return look_at(registry.get("hospital"), frame, **options).looks


def _found(looks: list[Look], topic: str, about: str) -> Look | None:
    return next((look for look in looks if (look.topic, look.about) == (topic, about)), None)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["anna@example.org", "b.c@mail.example.com"], "e-mail"),
        (["DE89370400440532013000", "GB82WEST12345698765432"], "IBAN"),
        (["+49 30 12345678", "+44 20 7946 0958"], "phone number"),
        (["4111 1111 1111 1111", "5500000000000004"], "payment card"),
        (["1971-03-02", "02.11.1988"], "date"),
        (["12345", "67890"], ""),
        (["radio-tv", "used-car"], ""),
        (["0.25", "1200"], ""),
    ],
)
def test_identifiers_in_disguise_are_known_by_their_form(values: list[str], kind: str) -> None:
    assert kind_of(values)[0] == kind


def test_good_rows_are_ready_and_what_is_wrong_is_named(rows: pd.DataFrame) -> None:
    assert look_at(registry.get("hospital"), rows).ready
    bad = rows.copy()
    bad["visit"] = "2999-01-01"
    bad["note"] = f"{_SECRET} came in with a very long story"
    bad = pd.concat([bad, bad.iloc[:30]], ignore_index=True)
    looks = _looks(bad)
    for topic, about in [("duplicates", "rows"), ("dates", "visit"), ("free text", "note")]:
        assert _found(looks, topic, about) is not None, (topic, about)
    assert "not read" in _found(looks, "free text", "note").found  # type: ignore[union-attr]
    assert _SECRET not in json.dumps([vars(look) for look in looks])


def test_a_column_that_tells_the_target_is_a_suspect_and_an_honest_one_is_none(rows: pd.DataFrame) -> None:
    target = rows["num"].astype(str)
    assert (
        told_by(target.map({value: float(i) for i, value in enumerate(target.unique())}), target, regression=False)
        > 0.9
    )
    assert told_by(pd.Series(np.random.default_rng(2).random(len(rows))), target, regression=False) < 0.2
    leaky = rows.copy()
    classes = sorted(target.unique())
    leaky["oldpeak"] = [float(classes.index(value) > 0) * 4 for value in target]
    look = _found(_looks(leaky), "leakage", "oldpeak")
    assert look is not None
    assert look.level == "stop"


def test_persons_who_are_alone_in_their_group_are_counted(rows: pd.DataFrame) -> None:
    look = _found(_looks(rows, quasi=["age", "sex", "chol"]), "re-identification", "rows")
    assert look is not None
    assert "k = 1" in look.found


def _apart_of(frame: pd.DataFrame) -> Any:
    schema = registry.get("hospital").schema
    return set_apart(schema, frame, schema.check(frame)[1])


def test_one_spelling_is_told_by_its_line_and_never_by_its_text(rows: pd.DataFrame) -> None:
    bad = rows.reset_index(drop=True)
    bad.loc[7:36, "sex"] = _SECRET
    apart = _apart_of(bad)
    assert apart.rows == 30
    assert "data row 8" in apart.spellings["sex"]
    assert _SECRET not in json.dumps([apart.sentence(), apart.spellings, apart.bias])
    two = bad.copy()
    two.loc[7:20, "sex"] = "other"
    assert not _apart_of(two).spellings


def test_a_word_among_numbers_is_one_spelling_and_many_unknown_classes_are_none(rows: pd.DataFrame) -> None:
    bad = rows.reset_index(drop=True)
    bad["num"] = bad["num"].where(bad.index > 9, [f"code {n}" for n in range(len(bad))])
    assert not _apart_of(bad).spellings
    bad.loc[3:40, "age"] = _SECRET
    lines = _apart_of(bad).spellings
    assert lines == {"age": 'map it below [dataset.….mapping.age]: missing = ["<what data row 4 says>"]'}
    with pytest.raises(QuarantineError, match=r"column 'age': 38 of 300 rows have one spelling.*data row 4") as caught:
        prepare(registry.get("hospital"), bad)
    assert _SECRET not in str(caught.value)
    assert len(prepare(registry.get("hospital"), bad, quarantine_threshold=1.0)) == 300 - 41


def test_rows_set_apart_that_are_others_are_said_to_be(rows: pd.DataFrame) -> None:
    bad = rows.reset_index(drop=True)
    sick = bad.index[bad["num"].astype(str) != "0"][:60]
    bad.loc[sick, "age"] = "unknown"
    assert any("num" in sentence for sentence in _apart_of(bad).bias)
    even = rows.reset_index(drop=True)
    even.loc[np.random.default_rng(4).permutation(300)[:60], "age"] = "unknown"
    assert not any("num" in sentence for sentence in _apart_of(even).bias)


def test_drift_is_seen_at_home_and_equal_rows_have_none(tmp_path: Path, rows: pd.DataFrame) -> None:
    assert psi(np.array([50.0, 50.0]), np.array([50.0, 50.0])) == 0.0
    assert psi(np.array([90.0, 10.0]), np.array([10.0, 90.0])) > 1
    client = registry.get("hospital")

    def parts(frame: pd.DataFrame) -> Partitions:
        table = prepare(client, frame)
        none = table.take(np.zeros(len(table), dtype=bool))
        return Partitions(table, none, none, table.quarantine, synthetic=False, conditional_on_split=False)

    home = Home(tmp_path, "clinic")
    again = client.synthesise(np.random.default_rng(8), 300, client.sites[0])
    old = again.copy()
    old["age"] = 80.0
    assert since_last_run(home, "heart", "hospital", "", parts(rows)) == {}
    same = since_last_run(home, "heart", "hospital", "", parts(again))
    assert same["stale"] == []
    moved = since_last_run(home, "heart", "hospital", "", parts(old))
    assert moved["stale"][0] == "age"
    assert (tmp_path / "drift" / "heart.json").stat().st_mode & 0o077 == 0


def test_the_command_says_what_to_mend_and_prints_no_value(tmp_path: Path, rows: pd.DataFrame) -> None:
    bad = rows.reset_index(drop=True)
    bad.loc[:40, "sex"] = _SECRET
    bad["contact"] = [f"{_SECRET}{i}@example.org" for i in range(len(bad))]
    file, page = tmp_path / "rows.csv", tmp_path / "report.html"
    bad.to_csv(file, index=False)
    told = CliRunner().invoke(
        APP, ["data", "check", "--rows", str(file), "--client", "hospital", "--report", str(page)]
    )
    assert told.exit_code == 1, told.output
    assert "one spelling makes up its failures" in told.output
    assert "e-mail; not read" in told.output
    for text in (told.output, page.read_text(encoding="utf-8")):
        assert _SECRET not in text
    assert CliRunner().invoke(APP, ["data", "check"]).exit_code == 2
    none = CliRunner().invoke(APP, ["data", "check", "--rows", f"{file}.no", "--client", "hospital"])
    assert none.exit_code == 2
    assert "wanted a file that exists" in none.output


def test_the_command_reads_rows_through_the_policys_mapping(tmp_path: Path, rows: pd.DataFrame) -> None:
    own = rows.rename(columns={"sex": "Geschlecht"})
    own["Geschlecht"] = ["m" if str(value) in {"1", "1.0"} else "w" for value in rows["sex"]]
    own.to_csv(tmp_path / "rows.csv", index=False, sep=";")
    home = Home(tmp_path / "homes" / "clinic", "clinic")
    home.create()
    policy: dict[str, Any] = {
        "schema": 1,
        "participant": "clinic",
        "dataset": {
            "heart": {
                "industry": "hospital",
                "source": f"csv:{tmp_path}/rows.csv?separator=;",
                "declared_units": 300,
                "mapping": {"sex": {"column": "Geschlecht", "values": {"m": "1", "w": "0"}}},
            }
        },
        "budget": {part: {"epsilon": 1.0, "delta": 1e-5} for part in ("run", "lifetime")},
    }
    home.policy.write_text(tomli_w.dumps(policy))
    call = ["data", "check", "clinic", "--home", str(tmp_path / "homes"), "--json"]
    told = CliRunner().invoke(APP, call)
    assert told.exit_code == 0, told.output
    assert json.loads(told.output)["kept"] == 300
    policy["dataset"]["heart"]["mapping"]["sex"]["values"] = {"m": "1"}
    home.policy.write_text(tomli_w.dumps(policy))
    told = CliRunner().invoke(APP, call)
    assert told.exit_code == 1
    assert {"sex"} == {look["about"] for look in json.loads(told.output)["looks"] if "one spelling" in look["found"]}
