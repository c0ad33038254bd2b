"""One person, one lifetime: two data sets of a policy with the same source or the same rows share it or are refused."""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from clients import registry
from clients.sources import parse_source, read
from consortia.common.errors import InputError
from consortia.messages.envelope import Envelope, decode
from consortia.participant import lifetimes
from consortia.participant.account import LIFETIME, history, summary
from consortia.participant.handle import handle
from consortia.preflight.home import check_home
from consortia.terms.policy import load_policy

SCENARIO = "cross-industry-network"


def rows(count: int, seed: int = 1) -> pd.DataFrame:
    source = parse_source(f"synthetic:{count}?seed={seed}")
    frame = read(source, registry.get("hospital"), "cleveland").astype(object).reset_index(drop=True)
    frame.attrs = {}
    return frame.drop(columns=[name for name in ("patient_id",) if name in frame])


class Ward:
    """A hospital with two data sets, `heart` and `copy`, of its own files."""

    def __init__(self, site: Any, folder: Path) -> None:
        self.site, self.folder = site, folder

    def offer(self, heart: str, copy: str, **terms: Any) -> None:
        def change(data: dict[str, Any]) -> None:
            one = {**data["dataset"]["heart"], "source": heart, "declared_units": 303}
            if unit := terms.pop("unit", None):
                one |= {"unit": unit}
            data["dataset"] = {"heart": one, "copy": {**one, "source": copy, **terms}}

        self.site.policy(change)

    def train(self, dataset: str, run: str = "", **changes: str) -> Envelope:
        header = dict(changes)
        header["proposal"] = f'{{"dataset": "{dataset}", "epsilon": 1.0, "delta": 1e-5}}'
        return decode(handle(self.site.message(run=run or f"run-{dataset}", **header), self.site.home))


@pytest.fixture
def ward(make_site: Any, tmp_path: Path) -> Ward:
    return Ward(make_site("hospital-a", SCENARIO, rounds=1), tmp_path)


def written(frame: pd.DataFrame, path: Path) -> Path:
    frame.to_parquet(path) if path.suffix == ".parquet" else frame.to_csv(path, index=False)
    return path


def _pairs(folder: Path) -> dict[str, tuple[str, str]]:
    """The same rows under two sources: by path, link, copy, file kind, database."""
    whole = rows(120)
    csv = written(whole, folder / "heart.csv")
    (folder / "link.csv").symlink_to(csv)
    os.link(csv, folder / "hard.csv")
    (folder / "again.csv").write_bytes(csv.read_bytes())
    written(whole, folder / "heart.parquet")
    written(whole.sample(frac=1, random_state=3), folder / "shuffled.csv")
    database = folder / "heart.db"
    with sqlite3.connect(database) as connection:
        whole.to_sql("heart", connection, index=False)
    c, d = f"csv:{csv}", f"sql:sqlite:///{database}"
    return {
        "path": (c, f"csv:{folder}/./heart.csv"),
        "symlink": (c, f"csv:{folder / 'link.csv'}"),
        "hard link": (c, f"csv:{folder / 'hard.csv'}"),
        "copy": (c, f"csv:{folder / 'again.csv'}"),
        "database": (f"{d}?table=heart", f"{d}?query=select *  from HEART;"),
        "parquet": (c, f"parquet:{folder / 'heart.parquet'}"),
        "shuffled": (c, f"csv:{folder / 'shuffled.csv'}"),
        "query": (f"{d}?table=heart", f"{d}?query=SELECT * FROM heart WHERE age < 60"),
        "both": (c, f"{d}?table=heart"),
    }


KINDS = ["path", "symlink", "hard link", "copy", "database", "parquet", "shuffled", "query", "both"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_rows_under_two_names_are_refused_or_share(kind: str, ward: Ward, caplog: Any) -> None:
    heart, copy = _pairs(ward.folder)[kind]
    ward.offer(heart, copy)
    first = ward.train("heart")
    same_source = KINDS.index(kind) <= KINDS.index("database")
    if same_source:
        assert first.header["code"] == "BAD_POLICY"  # before a row is read
    else:
        assert first.header["status"] == "OK"
        second = ward.train("copy")
        assert second.header["code"] == "PARTICIPANT_ERROR"  # it depends on rows, so no code of its own
        assert not second.tensors
    assert 'write lifetime = "' in caplog.text
    assert not (ward.site.home.folder / "units-copy.npy").exists()

    ward.offer(heart, copy, lifetime="heart")
    for dataset, run in (("heart", "run-a"), ("copy", "run-b")):
        assert ward.train(dataset, run).header["status"] == "OK", caplog.text[-500:]
    with ward.site.ledger() as ledger:
        left = ledger.lifetime_left(
            "heart", load_policy(ward.site.home.policy, simulation=True).budget.lifetime.budget()
        )
        assert left.epsilon == pytest.approx(4.0 - (2 if same_source else 3))
        assert ledger.sharing("copy") == ("copy", "heart")


def test_a_published_split_that_differs_is_refused_in_a_shared_lifetime(make_site: Any, tmp_path: Path) -> None:
    """FLamby's split goes by places: fewer rows of the same file are tested on others."""
    ward = Ward(make_site("cleveland", "hospitals-network", rounds=1), tmp_path)
    ward.offer(*_pairs(tmp_path)["query"], lifetime="heart")
    assert ward.train("heart").header["status"] == "OK"
    assert ward.train("copy").header["status"] == "FAILED"


def test_a_shared_lifetime_ends_for_both_and_dropping_the_key_changes_nothing(ward: Ward) -> None:
    heart, copy = _pairs(ward.folder)["parquet"]
    ward.offer(heart, copy, lifetime="heart")
    ran = [ward.train(dataset, f"run-{n}").header["status"] for n, dataset in enumerate(["heart", "copy"] * 2)]
    assert ran == ["OK"] * 4
    ward.offer(heart, copy)  # the owner changes its mind: the ledger does not
    for dataset in ("heart", "copy"):
        assert ward.train(dataset, f"run-5-{dataset}").header["status"] == "RECEIVE_ONLY"
    with ward.site.ledger() as ledger:
        lines = summary(ledger, load_policy(ward.site.home.policy, simulation=True), "hospital-a")["accounts"]
        told = history(ledger)
    shared = [line for line in lines if line["horizon"] == LIFETIME and line["dataset"] in {"heart", "copy"}]
    assert [line["shares_with"] for line in shared] == [["heart"], ["copy"]]
    assert [line["left"] for line in shared] == [0.0, 0.0]
    assert [line["releases"] for line in shared] == [4, 4]
    assert "copy and heart share one lifetime" in [line["detail"] for line in told]


def test_one_common_row_is_enough_and_none_is_none(ward: Ward) -> None:
    one, other = rows(100, seed=1), rows(100, seed=2)
    heart = f"csv:{written(one, ward.folder / 'one.csv')}"
    ward.offer(heart, f"csv:{written(other, ward.folder / 'other.csv')}")
    assert ward.train("heart").header["status"] == "OK"
    assert ward.train("copy").header["status"] == "OK"
    more = pd.concat([rows(100, seed=3), one.iloc[[41]]])
    ward.offer(heart, f"csv:{written(more, ward.folder / 'more.csv')}")
    assert ward.train("copy", "run-3").header["status"] == "FAILED"


def test_a_new_name_does_not_make_a_new_lifetime(ward: Ward) -> None:
    """The data set leaves the policy; its file comes back under another name."""
    frame = rows(100)
    heart = f"csv:{written(frame, ward.folder / 'one.csv')}"
    ward.offer(heart, "synthetic:200")
    assert ward.train("heart").header["status"] == "OK"

    def rename(data: dict[str, Any]) -> None:
        data["dataset"] = {"copy": data["dataset"]["heart"]}

    ward.site.policy(rename)
    assert ward.train("copy").header["status"] == "FAILED"
    ward.site.policy(lambda data: data["dataset"]["copy"].update(lifetime="heart"))
    assert ward.train("copy").header["status"] == "OK"


def test_the_same_patients_with_other_rows_are_found(ward: Ward) -> None:
    one, other = rows(90, seed=1), rows(90, seed=2)
    for frame, start in ((one, 0), (other, 60)):
        frame["patient_id"] = [f"p{(start + n) % 100}" for n in range(90)]
    sources = [f"csv:{written(f, ward.folder / n)}" for f, n in ((one, "one.csv"), (other, "other.csv"))]
    ward.offer(*sources, unit="patient_id", max_rows_per_unit=3)
    assert ward.train("heart").header["status"] == "OK"
    assert ward.train("copy").header["status"] == "FAILED"
    ward.offer(*sources, unit="patient_id", lifetime="heart", max_rows_per_unit=3)
    assert ward.train("copy").header["status"] == "OK"


def test_a_ledger_of_before_is_compared_by_its_source(ward: Ward) -> None:
    """A data set that was charged when there were no marks is read again."""
    heart, copy = _pairs(ward.folder)["parquet"]
    ward.offer(heart, copy)
    assert ward.train("heart").header["status"] == "OK"
    (ward.site.home.folder / "units-heart.npy").unlink()
    assert ward.train("copy").header["status"] == "FAILED"
    ward.offer("csv:/nowhere.csv", copy)  # it cannot be compared: it fails closed
    assert ward.train("copy").header["status"] == "FAILED"


def test_the_marks_stay_with_the_owner_and_say_nothing(ward: Ward) -> None:
    frame = rows(60)
    ward.offer(f"csv:{written(frame, ward.folder / 'one.csv')}", "synthetic:200")
    assert ward.train("heart").header["status"] == "OK"
    file = ward.site.home.folder / "units-heart.npy"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    marks = np.load(file)
    assert marks.dtype == np.uint64
    assert len(marks) == len(frame.drop_duplicates())
    file.write_bytes(b"broken")
    assert ward.train("heart", "run-2").header["status"] == "FAILED"


def test_units_that_one_trains_on_and_the_other_measures_on_are_refused() -> None:
    left = lifetimes._tagged(np.array([[8, 8], [16, 16]], dtype=np.uint64), measured=False)
    assert not lifetimes._crossed(left, left)
    right = lifetimes._tagged(np.array([[16, 16]], dtype=np.uint64), measured=True)
    assert lifetimes._crossed(left, right)
    assert lifetimes._crossed(right, left)
    # The content of a row is no unit where units have identifiers: two persons' equal rows may lie anywhere.
    others = lifetimes._tagged(np.array([[16, 32]], dtype=np.uint64), measured=True)
    assert not lifetimes._crossed(left, others)
    assert len(lifetimes._both(left, others)) == 1


def test_preflight_says_so_before_anything_is_charged(ward: Ward) -> None:
    heart, copy = _pairs(ward.folder)["parquet"]
    ward.offer(heart, copy)
    assert ward.train("copy").header["status"] == "OK"
    findings = {finding.check: finding for finding in check_home(ward.site.home, ward.site.scenario)}
    assert findings["units"].status == "failed"
    assert "data set copy" in findings["units"].found
    ward.offer(heart, copy, lifetime="heart")
    findings = {finding.check: finding for finding in check_home(ward.site.home, ward.site.scenario)}
    assert "one lifetime" not in findings["units"].found


def test_synthetic_rows_are_nobodys(ward: Ward) -> None:
    ward.offer("synthetic:303", "synthetic:303")
    assert ward.train("heart").header["status"] == "OK"
    assert ward.train("copy").header["status"] == "OK"


def test_a_lifetime_is_another_data_set(ward: Ward) -> None:
    ward.offer("synthetic:303", "synthetic:303", lifetime="copy")
    with pytest.raises(InputError, match=r"another data set at dataset\.copy\.lifetime, got its own"):
        load_policy(ward.site.home.policy, simulation=True)
