"""A hostile coordinator, a hostile file and a hostile moment against a run of steps that grows."""

from __future__ import annotations

import json
import os
import signal
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tomli_w
import torch
from growing import BANK, NAMES, Array, Banks, customers
from torch import Tensor

from clients._values import pseudonym
from clients.dataset import assign
from consortia.common.errors import InputError
from consortia.common.latest import Latest
from consortia.messages.envelope import Envelope, decode, encode
from consortia.participant import data
from consortia.participant.agreeing import terms_in_words, terms_of
from consortia.participant.handle import handle
from consortia.terms.growing import start_of
from consortia.terms.policy import load_policy
from consortia.terms.scenario import load_scenario
from privacy import claims
from privacy.failpoints import listening
from privacy.ledger import Ledger
from privacy.observation import observing

NAME = "new-car"
CLIP = 1.0
quiet = pytest.mark.usefixtures("quiet_participants")
Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def banks(tmp_path: Path) -> Banks:
    return Banks(tmp_path / "banks", names=(NAME,), steps={})


def asked(
    banks: Banks, run: str, number: int, release: int, change: Change | None = None, **other: Any
) -> tuple[dict[str, str], list[Array]]:
    """Ask for what a coordinator of its own mind makes of a message: another contract, model or kind."""
    message = decode(banks.message(NAME, run, number, release))
    model: Mapping[str, Tensor] = other.pop("model", message.tensors)
    header = {**message.header, **other}
    if change is not None:
        terms = json.loads(header["contract"])
        change(terms)
        header["contract"] = json.dumps(terms, sort_keys=True, separators=(",", ":"))
    with observing() as notes:
        reply = handle(encode(Envelope(header, dict(model))), banks.home(NAME))
    return dict(decode(reply).header), [np.asarray(note.exact) for note in notes]


def steps_of(change: Mapping[str, Any]) -> Change:
    return lambda terms: terms["steps"]["builds_on"].update(change)


def rules_of(**change: Any) -> Change:
    return lambda terms: terms["industries"][BANK].update(change)


LIES: dict[str, Change] = {
    "rounds": lambda terms: terms.update(rounds=3),
    "sampling rate": rules_of(sampling_rate=0.5),
    "clip": rules_of(clip=5.0),
    "local steps": rules_of(local_steps=3),
    "frozen parts": rules_of(freeze=["trunk"]),
    "lora": rules_of(lora={"rank": 2}),
    "seed": lambda terms: terms.update(seed=99),
    "a trusted coordinator": lambda terms: terms.update(trust="coordinator"),
    "secure sums": lambda terms: terms.update(trust="aggregate"),
    "asynchronous": lambda terms: terms.update(strategy={"name": "fedbuff"}, max_participations=2),
    "another strategy": lambda terms: terms.update(strategy={"name": "median"}),
    "private parts": lambda terms: terms.update(scopes={"head": "private"}),
    "exact metrics": lambda terms: terms.update(releases=["update", "metrics"], evaluation={"metrics": "exact"}),
    "another learner": lambda terms: terms.update(learner="sums"),
    "no claims": lambda terms: terms["steps"].update(grows=False),
    "a second first release": lambda terms: terms["steps"].pop("builds_on"),
    "another first run": steps_of({"run": "another"}),
    "another first contract": steps_of({"contract": "0" * 64}),
    "no new units": steps_of({"units": {NAME: 0}}),
    "units of others": steps_of({"units": {"used-car": 90}}),
    "more units than declared": steps_of({"units": {NAME: 151}}),
    "another model": steps_of({"model": {BANK: "0" * 64}}),
    "no model": steps_of({"model": {}}),
}


@quiet
@pytest.mark.end_to_end
def test_lies_about_the_first_run_are_refused_before_a_row_is_read(banks: Banks) -> None:
    """The file is gone, so whatever looked at it would end in FAILED."""
    banks.months(NAME, [customers(NAME, 0, 40)])
    (banks.folder / f"{NAME}.csv").unlink()
    data._cache = Latest(1)
    for place, (what, change) in enumerate(LIES.items()):
        header, exact = asked(banks, f"lie-{place}", 1, 2, change)
        assert (header["status"], exact) == ("REFUSED", []), what
    assert asked(banks, "honest", 1, 2)[0]["status"] == "FAILED"
    with Ledger.open(banks.home(NAME).ledger, NAME) as ledger:
        assert len(ledger.entries()) == 2
        assert [run.run_id for run in ledger.runs()] == ["growing-1"]


def in_training(banks: Banks) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a customer that trains, and all others."""
    everybody, key = customers(NAME, 0, 60), banks.home(NAME).split_key()
    units = [pseudonym(key, "unit", "customer_id", pseudonym(key, "customer_id", c)) for c in everybody["customer_id"]]
    one = everybody[assign(units, key, {"train": 0.6, "validation": 0.1, "test": 0.3}) == "train"].iloc[:1]
    return one, everybody.drop(one.index)


def played(folder: Path, files: list[pd.DataFrame], size: float | None = None) -> list[Array]:
    """Return the clipped sums of each release; with `size` all models that are sent have weights of that size."""
    banks, found = Banks(folder, names=(NAME,), steps={}), []
    for release, frame in enumerate(files, start=1):
        frame.to_csv(banks.folder / f"{NAME}.csv", index=False)
        message = decode(banks.message(NAME, "any", 1, release))
        model = message.tensors if size is None else {n: signs(t) * size for n, t in message.tensors.items()}
        change = None if release == 1 else steps_of({"model": {BANK: start_of(model)}})
        blocks: list[Array] = []
        for number in (1, 2):
            header, exact = asked(banks, f"growing-{release}", number, release, change, model=model)
            assert header["status"] == "OK", header
            blocks += exact
        found.append(np.concatenate([block.ravel() for block in blocks]))
    return found


def signs(tensor: Tensor) -> Tensor:
    return (1.0 - 2.0 * (torch.arange(tensor.numel()) % 2)).reshape(tensor.shape)


@quiet
@pytest.mark.end_to_end
@pytest.mark.parametrize("size", [None, 1e6])
def test_many_rows_and_a_model_of_huge_weights_move_one_release_by_the_clip(
    size: float | None, tmp_path: Path, banks: Banks
) -> None:
    one, others = in_training(banks)
    january, february = others.iloc[:20], others.iloc[8:40]
    many = pd.concat([one.assign(amount=500 + 13 * number) for number in range(9)])
    without = played(tmp_path / "without", [january, february], size)
    early = played(tmp_path / "early", [pd.concat([many, january]), pd.concat([one, february])], size)
    late = played(tmp_path / "late", [january, pd.concat([many, february])], size)
    first, last = ([float(np.linalg.norm(a - b)) for a, b in zip(w, without, strict=True)] for w in (early, late))
    assert (first[1], last[0]) == (0.0, 0.0)
    assert max(first[0], last[1]) <= np.sqrt(2) * CLIP + 1e-6  # two rounds of one step


@quiet
def test_an_identifier_that_is_written_otherwise_is_the_same_unit(banks: Banks) -> None:
    """A number as text, float, or with blanks around it."""
    frame = customers(NAME, 0, 20).assign(customer_id=[str(1000 + place) for place in range(20)])
    banks.months(NAME, [frame])
    for release, write in enumerate((lambda one: f"{one}.0", lambda one: f"  {one} ", lambda one: f"\u00a0{one}"), 2):
        frame.assign(customer_id=frame["customer_id"].map(write)).to_csv(banks.folder / f"{NAME}.csv", index=False)
        assert asked(banks, f"growing-{release}", 1, 2)[0]["status"] == "OK"
        with Ledger.open(banks.home(NAME).ledger, NAME) as ledger:
            assert claims.cohort(ledger, f"growing-{release}") == frozenset()


@quiet
@pytest.mark.end_to_end
@pytest.mark.parametrize("place", ["reserve.written", "reserve.committed", "commit.begun", "commit.committed"])
def test_who_was_charged_before_a_crash_is_in_that_release_alone(place: str, banks: Banks) -> None:
    """The process dies, more customers arrive, the round is asked again, and so is another run."""
    banks.months(NAME, [customers(NAME, 0, 40)])
    customers(NAME, 0, 80).to_csv(banks.folder / f"{NAME}.csv", index=False)
    child = os.fork()
    if child == 0:
        try:
            with listening(lambda reached: os.kill(os.getpid(), signal.SIGKILL) if reached == place else None):
                banks.ask(NAME, "growing-2", 1, 2)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    customers(NAME, 0, 120).to_csv(banks.folder / f"{NAME}.csv", index=False)
    for run in ("growing-2", "growing-3"):
        data._cache = Latest(1)  # as another process
        assert asked(banks, run, 1, 2)[0]["status"] == "OK"
    with Ledger.open(banks.home(NAME).ledger, NAME) as ledger:
        cohorts = [claims.cohort(ledger, f"growing-{release}") or frozenset() for release in (1, 2, 3)]
        assert sum(map(len, cohorts)) == len(frozenset().union(*cohorts)) == claims.taken_up(ledger, "credit")
        assert bool(cohorts[2]) == (place != "reserve.written")
        assert ledger.spent("credit", 1e-5) <= 3.0


@quiet
@pytest.mark.end_to_end
def test_evaluation_units_pay_in_every_release(tmp_path: Path) -> None:
    """They are the same each month: their account adds up, and ends the line, while each cohort pays once."""
    metrics = {"releases": ["update", "metrics"], "evaluation": {"metrics": "dp", "every": 1}}
    banks = Banks(tmp_path / "banks", names=(NAME,), steps=metrics, terms={"max_rows_per_unit": 2})
    changed(
        banks,
        NAME,
        lambda policy: policy["budget"].update(
            evaluation={"run": {"epsilon": 2.0, "delta": 1e-5}, "lifetime": {"epsilon": 4.0, "delta": 1e-4}}
        ),
    )
    spent = []
    for release in (1, 2, 3):
        customers(NAME, 0, 20 + 20 * release).to_csv(banks.folder / f"{NAME}.csv", index=False)
        kinds = ((1, "train"), (2, "train"), (3, "evaluate"))
        seen = {asked(banks, f"growing-{release}", n, min(release, 2), kind=kind)[0]["status"] for n, kind in kinds}
        assert seen == ({"OK", "EVALUATED"} if release < 3 else {"RECEIVE_ONLY", "REFUSED"})
        with Ledger.open(banks.home(NAME).ledger, NAME) as ledger:
            spent.append((ledger.spent("credit", 1e-5), ledger.spent("credit/evaluation", 1e-5)))
            assert not any(entry.cohort for entry in ledger.entries(f"growing-{release}/metrics"))
    assert [one for one, _ in spent] == pytest.approx([3.0] * 3, abs=2e-3)
    assert [other for _, other in spent] == pytest.approx([2.0, 4.0, 4.0], abs=2e-3)


def changed(banks: Banks, name: str, change: Change) -> None:
    """Change a bank's policy."""
    file = banks.homes / name / "policy.toml"
    policy = tomllib.loads(file.read_text(encoding="utf-8"))
    change(policy)
    file.write_text(tomli_w.dumps(policy), encoding="utf-8")


@pytest.mark.end_to_end
def test_a_run_that_stopped_before_it_averaged_has_a_model_to_go_on_from(tmp_path: Path) -> None:
    terms = {"rounds": 6, "releases": ["update", "metrics"], "strategy": {"average_last": 2}}
    stopping = {"metric": "auc", "patience": 1, "min_delta": 0.9}
    banks = Banks(
        tmp_path / "banks",
        epsilon=np.inf,
        steps={**terms, "evaluation": {"metrics": "exact", "every": 1}, "stopping": stopping},
    )
    for name in NAMES:
        changed(banks, name, lambda policy: policy["allow"].update(exact_metrics=True))
    first = banks.begin()
    assert first.result["rounds"] < 5
    assert (first.job.folder / "model" / f"{BANK}.safetensors").is_file()
    for name in NAMES:
        banks.arrive(name, 50, 300)
    assert banks.top_up(first, units=("90",)).result["status"] == "completed"


def test_owners_are_not_told_that_somebody_may_leave_a_growing_run(tmp_path: Path) -> None:
    banks = Banks(tmp_path / "banks", names=(NAME,), steps={"keeps_updates": True})
    home, scenario = banks.home(NAME), load_scenario(str(banks.scenario))
    policy = load_policy(home.policy, simulation=True)
    assert not any(
        "until somebody leaves" in line for line in terms_in_words(terms_of(home, policy, scenario), policy, scenario)
    )


def test_a_damaged_scenario_of_a_run_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "scenario.json"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"scenario\.json: wanted the scenario"):
        load_scenario(str(file))
