"""The control of a trunk shared between industries: labels that know nothing, and what may be said after it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clients import registry
from clients.dataset import prepare as prepare_rows
from clients.errors import SchemaError, SourceError
from clients.schema import Target
from clients.sources import numpy_generator, parse_source
from consortia.common.errors import InputError, RefusedError
from consortia.engines.options import Options
from consortia.engines.runner import execute
from consortia.participant import receipt
from consortia.participant.data import load_partitions
from consortia.participant.placebo_labels import with_placebo_labels
from consortia.studies import placebo
from consortia.studies.controlled_run import control, prepare
from consortia.terms.policy import load_policy
from consortia.terms.scenario import load_scenario

FACTORY = registry.get("factory")


def _table(rows: int, *, all_fail: bool = False) -> Any:
    frame = FACTORY.synthesise(numpy_generator("placebo test"), rows, "L")
    if all_fail:
        frame[FACTORY.schema.target.name] = 1
    return prepare_rows(FACTORY, frame)


def test_labels_come_from_the_public_prior_and_from_nothing_of_the_site() -> None:
    table, odd = _table(5000), _table(5000, all_fail=True)
    target = FACTORY.schema.target
    drawn = with_placebo_labels(table, target, "a", 0)
    assert float(drawn.target.mean()) == pytest.approx(target.prior[1], abs=0.01)  # 3 standard errors are .008
    assert drawn.target.dtype == table.target.dtype
    # A site where everything fails gets the very same labels.
    assert torch.equal(with_placebo_labels(odd, target, "a", 0).target, drawn.target)
    assert not torch.equal(with_placebo_labels(table, target, "a", 1).target, drawn.target)
    assert not torch.equal(with_placebo_labels(table, target, "b", 0).target, drawn.target)
    even = with_placebo_labels(table, dataclasses.replace(target, prior=()), "a", 0)
    assert float(even.target.mean()) == pytest.approx(0.5, abs=0.03)
    values = with_placebo_labels(table, Target(name="y", kind="regression", low=2.0, high=4.0), "a", 0).target
    assert (float(values.min()) >= 2, float(values.max()) <= 4) == (True, True)
    with pytest.raises(SchemaError, match="public bounds"):
        with_placebo_labels(table, Target(name="y", kind="regression"), "a", 0)
    with pytest.raises(SchemaError, match="prior: wanted a share for each class"):
        dataclasses.replace(target, prior=(0.5, 0.6))


def test_only_public_and_synthetic_rows_may_have_placebo_labels(make_site: Any) -> None:
    assert parse_source("placebo:3:synthetic:40").placebo == 3
    assert parse_source("placebo:3:public:/x").kind == "public"
    for text in ("placebo:3:csv:/data/heart.csv", "placebo:synthetic:40", "placebo:1:placebo:2:synthetic:4"):
        with pytest.raises(SourceError):
            parse_source(text)
    site = make_site("bank-a")
    terms = load_policy(site.home.policy, simulation=True).dataset["credit"]
    terms = terms.model_copy(update={"source": "placebo:0:synthetic:60"})
    keys = (terms, "credit", site.scenario.contract, "run")
    plain = load_partitions(site.home, terms.model_copy(update={"source": "synthetic:60"}), *keys[1:])
    false = load_partitions(site.home, *keys)
    assert plain.train.row_ids == false.train.row_ids  # rows and split stay
    assert not torch.equal(plain.train.target, false.train.target)
    with pytest.raises(RefusedError, match="for simulations"):
        load_partitions(dataclasses.replace(site.home, simulation=False), *keys[:3], "run-2")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scenario": "cross-industry-network"}, "wanted a part shared with the whole consortium"),
        ({"draws": 1}, "--draws: wanted at least 2"),
        ({"ledger": Path("homes")}, "wanted a simulation"),
        ({"resume": Path("x")}, "wanted a run from its start"),
    ],
)
def test_what_has_no_control_is_refused_before_it_runs(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        prepare(Options(**{"scenario": "shared-trunk", "placebo": True, "out": tmp_path, **options}))
    assert not list(tmp_path.iterdir())


def test_a_run_across_industries_says_what_it_owes() -> None:
    assert "shows no transfer" in str(placebo.owed(load_scenario("shared-trunk")))
    assert placebo.owed(load_scenario("cross-industry-network")) is None


def _participant(gain: float, control: float, *draws: float, rows: float = 0.01) -> dict[str, Any]:
    transfer = {"rows_error": rows, "draws": list(draws), "value": float(np.mean(draws))}
    return {
        "metric": "auc",
        "transfer": transfer,
        "federated_gain": {"value": gain},
        "placebo_gain": {"value": control},
    }


def test_the_verdict_by_hand() -> None:
    # Two participants, draws .10 and .12, .20 and .22: means over participants .15 and .17, their mean .16.
    # Rows: sqrt(2 x .01^2) / 2 = .00707, x 1.96 = .0139. Draws: sd .01414 / sqrt 2 = .01, x t(1) 12.706 = .1271.
    # Half = sqrt(.0139^2 + .1271^2) = .1278: [.032, .288].
    (yes,) = placebo.verdicts([_participant(0.2, 0.09, 0.10, 0.12), _participant(0.3, 0.09, 0.20, 0.22)])
    assert "(+0.250 over local) exceeds that with placebo partners (+0.090): +0.160 [+0.032, +0.288]" in yes
    (no,) = placebo.verdicts([_participant(0.2, 0.09, 0.10, 0.15), _participant(0.3, 0.09, 0.20, 0.25)])
    assert "does not exceed" in no  # a wider spread of the draws: .025 x 12.706 > .175
    assert "no transfer between industries is shown" in no


@pytest.mark.end_to_end
def test_a_whole_control_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = Options(scenario="shared-trunk", out=tmp_path, rounds=1, epsilon=("inf",), placebo=True, draws=2)
    job = prepare(options)
    roster = tuple(participant for participant in job.scenario.roster if participant.name in {"hospital-a", "bank-a"})
    small = job.scenario.model_copy(update={"roster": roster})
    job = dataclasses.replace(job, scenario=small)
    monkeypatch.setattr("consortia.engines.runner.load_scenario", lambda _: small)
    execute(job, options)
    written: list[str] = []
    monkeypatch.setattr(receipt.baseline, "of_run", lambda *_: pytest.fail("a control run needs no receipt"))
    result = control(job, options, written.append)
    assert len(written) == 4  # two industries, two draws; without noise the real run repeats itself
    assert json.loads((job.folder / "result.json").read_text())["placebo"] == result["placebo"]
    for name, participant in result["placebo"]["participants"].items():
        assert participant["federated"] == pytest.approx(result["participants"][name]["metrics"]["auc"]["federated"])
        assert participant["local"] == pytest.approx(result["participants"][name]["metrics"]["auc"]["local"])
        assert result["participants"][name]["metrics"]["auc"]["placebo"] == participant["placebo"]
        assert participant["transfer"]["low"] <= participant["transfer"]["value"] <= participant["transfer"]["high"]
    assert len(result["placebo"]["verdicts"]) == 1
