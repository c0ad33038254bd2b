"""A run of steps that grows: it goes on from the last model, and each unit is in the updates of one release."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tomli_w
import torch
from growing import BANK, NAMES, Array, Banks, customers
from safetensors.torch import load_file

from clients._values import pseudonym
from clients.dataset import assign
from consortia.cli.budget import allow
from consortia.common.errors import InputError, RunRefusedError
from consortia.engines.options import Options
from consortia.engines.runner import execute, prepare
from consortia.messages.envelope import Envelope, decode, encode
from consortia.participant import cohort
from consortia.participant.handle import handle
from consortia.terms.contract import contract_from_json
from consortia.terms.growing import start_of
from consortia.terms.scenario import load_scenario
from privacy import claims
from privacy.ledger import Ledger

NAME = "new-car"
quiet = pytest.mark.usefixtures("quiet_participants")


@pytest.fixture
def banks(tmp_path: Path) -> Banks:
    return Banks(tmp_path / "banks", names=(NAME,), steps={})


def months(banks: Banks) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return a customer that trains, and those of two months, some of whom stay in the file."""
    everybody, key = customers(NAME, 0, 40), banks.home(NAME).split_key()
    units = [pseudonym(key, "unit", "customer_id", pseudonym(key, "customer_id", c)) for c in everybody["customer_id"]]
    one = everybody[assign(units, key, {"train": 0.6, "validation": 0.1, "test": 0.3}) == "train"].iloc[:1]
    others = everybody.drop(one.index)
    return one, others.iloc[:20], others.iloc[8:]


def played(tmp_path: Path, world: str, files: list[pd.DataFrame]) -> list[Array]:
    """Play a world on a ledger of its own; return the clipped sums of each release."""
    return Banks(tmp_path / world, names=(NAME,), steps={}).months(NAME, files)


def moved(one: list[Array], other: list[Array]) -> list[float]:
    """Return how far each release moved between two worlds."""
    return [float(np.linalg.norm(a - b)) for a, b in zip(one, other, strict=True)]


@quiet
def test_one_unit_moves_the_updates_of_its_release_and_no_other(tmp_path: Path, banks: Banks) -> None:
    one, january, february = months(banks)
    both = [pd.concat([january, one]), pd.concat([february, one])]  # it stays in the file
    without = played(tmp_path, "without", [january, february])
    first = moved(played(tmp_path, "early", both), without)
    assert first[0] > 0.1
    assert first[1] == 0.0
    last = moved(played(tmp_path, "late", [january, both[1]]), without)
    assert last[0] == 0.0
    assert 0.1 < last[1] <= np.sqrt(2) + 1e-6  # two rounds, each by the clip at most


@quiet
def test_what_is_charged_goes_by_the_release_and_not_by_who_arrived(banks: Banks) -> None:
    """Nobody new: noise alone is released, and charged; an old unit's entries and its lifetime do not move."""
    _, january, _ = months(banks)
    banks.months(NAME, [january])
    home = banks.home(NAME)
    with Ledger.open(home.ledger, NAME) as ledger:
        before, spent = ledger.entries(), ledger.spent("credit", 1e-5)
    header, (exact,) = banks.ask(NAME, "growing-2", 1, 2)
    assert (header["status"], np.abs(exact).max()) == ("OK", 0.0)
    with Ledger.open(home.ledger, NAME) as ledger:
        assert ledger.entries()[: len(before)] == before
        assert claims.cohort(ledger, "growing-2") == frozenset()
        assert ledger.spent("credit", 1e-5) == pytest.approx(spent)
        first, second = ledger.plan("growing-1"), ledger.plan("growing-2")
    assert first is not None
    assert second is not None
    # Batches are reckoned with the public number of new units, and delta is checked against it.
    assert (first.declared_units, second.declared_units) == (round(0.6 * 150), round(0.6 * 90))
    assert first.noise_multiplier == pytest.approx(second.noise_multiplier)


CHANGES: dict[str, Any] = {
    "rounds": lambda terms: terms.update(rounds=3),
    "a rate": lambda terms: terms["industries"][BANK].update(learning_rate=0.1),
    "the split": lambda terms: terms["split"].update(train=0.7, test=0.2),
    "the first contract": lambda terms: terms["steps"]["builds_on"].update(contract="0" * 64),
    "the first run": lambda terms: terms["steps"]["builds_on"].update(run="another"),
    "no units here": lambda terms: terms["steps"]["builds_on"].update(units={"used-car": 90}),
    "more units than declared": lambda terms: terms["steps"]["builds_on"].update(units={NAME: 151}),
    "another model": lambda terms: terms["steps"]["builds_on"].update(model={BANK: "0" * 64}),
}


@quiet
def test_a_coordinator_changes_nothing_of_a_line(banks: Banks) -> None:
    _, january, _ = months(banks)
    banks.months(NAME, [january])
    message = decode(banks.message(NAME, "growing-2", 1, 2))
    for what, change in CHANGES.items():
        terms = json.loads(message.header["contract"])
        change(terms)
        header = {**message.header, "contract": contract_from_json(json.dumps(terms)).canonical()}
        answer = decode(handle(encode(Envelope(header, dict(message.tensors))), banks.home(NAME))).header
        code = "BAD_MESSAGE" if what == "another model" else "CONTRACT_NOT_ALLOWED"
        assert (answer["status"], answer.get("code")) == ("REFUSED", code), what
        with Ledger.open(banks.home(NAME).ledger, NAME) as ledger:
            assert len(ledger.entries()) == 2


@quiet
@pytest.mark.parametrize("terms", [{"unit": "record"}, {"arrivals_by_themselves": False}])
def test_what_cannot_be_composed_in_parallel_is_refused(terms: dict[str, Any], tmp_path: Path) -> None:
    banks = Banks(tmp_path / "refused", names=(NAME,), terms=terms, steps={})
    for release in (1, 2):
        header, exact = banks.ask(NAME, f"growing-{release}", 1, release)
        assert (header["status"], header["code"], exact) == ("REFUSED", "CONTRACT_NOT_ALLOWED", [])


# Broken variants: each loses the game, or does not run


@quiet
def test_old_rows_used_again_lose_the_game(tmp_path: Path, banks: Banks, monkeypatch: pytest.MonkeyPatch) -> None:
    """Claims are written, but the steps go over everybody in the file."""
    real = cohort.chosen
    monkeypatch.setattr(cohort, "chosen", lambda work, ledger, parts: (parts, real(work, ledger, parts)[1]))
    one, january, february = months(banks)
    assert min(_twice(tmp_path, one, january, february)) > 0.1


def _twice(tmp_path: Path, one: pd.DataFrame, *files: pd.DataFrame) -> list[float]:
    """Return how far a unit that stays in the file moves each release."""
    with_it = played(tmp_path, "with", [pd.concat([frame, one]) for frame in files])
    return moved(with_it, played(tmp_path, "without", list(files)))


@quiet
def test_a_claim_after_the_reservation_loses_the_game(
    tmp_path: Path, banks: Banks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Marks that were to be written after the reply left, in a process that died before: the unit is used twice."""
    real = claims.write

    def later(connection: Any, plan: Any, entry: int, given: Any) -> tuple[str, ...]:
        return real(connection, plan, entry, claims.Claims(given.key, given.first, frozenset()))

    monkeypatch.setattr(claims, "write", later)
    monkeypatch.setattr(claims, "check", lambda *_: None)
    monkeypatch.setattr(claims, "cohort", lambda *_: None)
    one, january, february = months(banks)
    assert min(_twice(tmp_path, one, january, february)) > 0.1


def test_a_round_without_claims_is_refused_by_the_ledger(
    banks: Banks, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Round 2 of a run that claimed in round 1 cannot reserve without its units."""
    real = cohort.chosen

    def forgetful(work: Any, ledger: Ledger, parts: Any) -> Any:
        kept, made = real(work, ledger, parts)
        return kept, made if work.request.round == 1 else None

    monkeypatch.setattr(cohort, "chosen", forgetful)
    customers(NAME, 0, 20).to_csv(banks.folder / f"{NAME}.csv", index=False)
    assert banks.ask(NAME, "growing-1", 1)[0]["status"] == "OK"
    header, exact = banks.ask(NAME, "growing-1", 2)
    assert (header["status"], exact) == ("FAILED", [])
    assert "got both kinds" in caplog.text


# The contract and the run


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"trust": "aggregate"}, 'trust = "local"'),
        ({"strategy": {"name": "scaffold"}}, "not scaffold"),
        ({"strategy": {"name": "fedbuff"}, "max_participations": 2}, "not fedbuff"),
        ({"scopes": {"head": "private"}}, "no private parameters"),
        ({"steps": {"grows": False}}, "grows = true"),
    ],
)
def test_terms_that_cannot_grow_are_refused(change: dict[str, Any], wanted: str) -> None:
    data = json.loads(load_scenario("banks-network").contract.canonical())
    with pytest.raises(InputError, match=wanted):
        contract_from_json(json.dumps({**data, "steps": {"grows": True}, **change}))


def test_contracts_of_before_keep_their_hash() -> None:
    assert "steps" not in json.loads(load_scenario("banks-network").contract.canonical())


@pytest.mark.end_to_end
def test_a_top_up_goes_on_from_the_last_model(tmp_path: Path) -> None:
    """Two top-ups: the ledger's old lines stay, new units pay once, and each starts at the model before it."""
    banks = Banks(tmp_path / "banks", steps={})
    first = banks.begin()
    second, third = banks.twice(first, (1, 2, 1, 2, 1, 2))
    left = load_file(first.job.folder / "model" / f"{BANK}.safetensors")
    told = second.job.scenario.contract.steps
    assert told is not None
    assert told.builds_on is not None
    assert told.builds_on.model == {BANK: start_of(left)}
    assert told.builds_on.units == {"new-car": 90, "used-car": 80}
    assert (told.builds_on.run, told.builds_on.contract) == (first.job.run_id, first.result["contract_sha256"])
    assert second.result["status"] == third.result["status"] == "completed"
    assert [line["run_id"] for line in third.result["releases"]] == [first.job.run_id, second.job.run_id]


@pytest.mark.end_to_end
@pytest.mark.long
@pytest.mark.parametrize("steps", [{}, None], ids=["steps", "sums"])
def test_both_engines_top_up_to_the_same_model(
    steps: dict[str, Any] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Owners accept each release's contract by the scenario.json of its run; without noise the models are equal."""
    here = Banks(tmp_path / "here", epsilon=np.inf, steps=steps)
    there = Banks(tmp_path / "there", epsilon=np.inf, steps=steps)
    monkeypatch.setenv("CONSORTIA_HOME", str(there.homes))
    for name in NAMES:
        file = there.homes / name / "policy.toml"
        policy = tomllib.loads(file.read_text(encoding="utf-8"))
        policy["demo"], policy["allow"]["contracts"] = False, []
        file.write_text(tomli_w.dumps(policy), encoding="utf-8")
    allow([*NAMES, str(there.scenario)])
    first = here.begin()
    options = Options(scenario=str(there.scenario), engine="flower", out=there.folder / "runs")
    deployed = execute(prepare(options), options)
    for name in NAMES:
        here.arrive(name, 50, 300)
        there.arrive(name, 50, 300)
    second = here.top_up(first, units=("90",))
    further = Options(
        scenario="", top_up=deployed.job.folder, units=("90",), engine="flower", out=there.folder / "runs"
    )
    job = prepare(further)
    with pytest.raises(RunRefusedError, match="CONTRACT_NOT_ALLOWED"):
        execute(job, further)
    allow([*NAMES, str(job.folder / "scenario.json")])
    topped = execute(prepare(further), further)
    assert topped.result["status"] == "completed"
    assert topped.result["observer"] == "coordinator"
    for one, other in ((first, deployed), (second, topped)):
        left, right = (load_file(each.job.folder / "model" / f"{BANK}.safetensors") for each in (one, other))
        assert left.keys() == right.keys()
        assert all(torch.equal(left[name], right[name]) for name in left)
