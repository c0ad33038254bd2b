"""Whoever counts on its own, with nothing of `privacy.events`, calls a kind that it does not know a violation."""

from __future__ import annotations

import json
import math
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from noise_contexts import TEST

from consortia.audit import recount
from consortia.messages import size_release
from privacy.errors import UnknownEventError
from privacy.events import GaussianRelease, NonPrivate

SCRIPT: dict[str, Any] = runpy.run_path(str(Path(__file__).resolve().parents[2] / "benchmarks" / "recount_ledger.py"))
TRAIN = {"partition": "train", "unit": "record", "relation": "add_or_remove_one"}
GAUSSIAN = {"kind": "gaussian", "noise_multiplier": 5.0, "count": 1, **TRAIN}
NOBODYS = {**GAUSSIAN, "kind": "nobodys"}
ASK = "every event is of a kind that the recount counts"


def test_the_audits_recount_gives_an_unknown_kind_an_infinite_epsilon() -> None:
    assert recount.recounted([GAUSSIAN], 1e-5) == pytest.approx(0.8, abs=0.1)
    assert recount.recounted([GAUSSIAN, NOBODYS], 1e-5) == math.inf


@pytest.mark.parametrize(("event", "passes"), [(GAUSSIAN, True), (NOBODYS, False)])
@pytest.mark.parametrize("partition", ["train", "evaluation"])
def test_the_audit_names_an_unknown_kind_in_any_partition(event: dict[str, Any], passes: bool, partition: str) -> None:
    bench: Any = SimpleNamespace(captured=[], unit="record")
    entry = {"reply_sha256": None, "state": "reserved", "events": [{**event, "partition": partition}]}
    checks = {check.law: check for check in recount.accounted(bench, {"entries": [entry]}, "bank-a")}
    assert (checks[ASK].p == 1.0) is passes
    assert ("nobodys" in checks[ASK].got) is not passes


def test_an_auditors_script_counts_what_it_knows_and_refuses_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    count = SCRIPT["recount_epsilon"]
    label = {"kind": "randomized_response", "epsilon": 1.5, "rows_per_unit": 2, "count": 3, **TRAIN}
    assert count([label], 1e-5) == 9.0
    assert count([label, GAUSSIAN], 1e-5) == pytest.approx(9.0 + count([GAUSSIAN], 1e-5))
    with pytest.raises(ValueError, match="got 'nobodys'"):
        count([NOBODYS], 1e-5)
    export = {
        "participant": "p",
        "salt": "s",
        "runs": [],
        "notes": [],
        "chain": [],
        "head": "0",
        "entries": [{"dataset": "d", "run_id": "r", "events": [NOBODYS]}],
        "accounts": [{"dataset": "d", "horizon": "run r", "delta": 1e-5, "non_private": False, "epsilon": 0.8}],
    }
    (tmp_path / "ledger.json").write_text(json.dumps(export))
    SCRIPT["main"].__globals__["recount_chain"] = lambda _: 0  # the chain is another test's
    assert SCRIPT["main"]([str(tmp_path / "ledger.json")]) == 1
    assert "nobodys" in capsys.readouterr().out


def test_a_size_leaves_exactly_for_a_non_private_event_only() -> None:
    table: Any = SimpleNamespace(n_units=7)
    exact = NonPrivate(what="training units", partition="train", unit="record")
    (left,) = size_release.release((exact,), table, TEST)
    assert left.tensors[size_release.SIZE].item() == 7
    other = GaussianRelease(noise_multiplier=5.0, partition="train", unit="record")
    with pytest.raises(UnknownEventError, match="GaussianRelease"):
        size_release.release((other,), table, TEST)
