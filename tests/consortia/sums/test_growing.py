"""A growing run at a participant: each unit is in one release, and one unit more moves that release alone."""

from __future__ import annotations

import hmac
import json
import os
import random
import runpy
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from doc_blocks import ROOT
from growing import Array, Banks, customers

from clients._values import pseudonym
from clients.dataset import assign
from consortia.common.latest import Latest
from consortia.messages.envelope import Envelope, decode, encode
from consortia.participant import account, cohort, data
from consortia.participant.handle import handle
from consortia.terms.contract import contract_from_json
from privacy import claims
from privacy.failpoints import listening
from privacy.ledger import Ledger

pytestmark = pytest.mark.usefixtures("quiet_participants")
NAME = "new-car"
RECOUNT: Any = runpy.run_path(str(ROOT / "benchmarks" / "recount_ledger.py"))["main"]


@pytest.fixture
def banks(tmp_path: Path) -> Banks:
    return Banks(tmp_path / "banks", names=(NAME,))


def trained(banks: Banks, frame: pd.DataFrame) -> pd.DataFrame:
    """Return the customers of a frame that the split trains on."""
    key = banks.home(NAME).split_key()
    units = [unit_of(key, customer) for customer in frame["customer_id"]]
    where = assign(units, key, {"train": 0.6, "validation": 0.1, "test": 0.3})
    return frame[where == "train"]


def unit_of(key: bytes, customer: str) -> str:
    return pseudonym(key, "unit", "customer_id", pseudonym(key, "customer_id", customer))


def moved(tmp_path: Path, one: list[pd.DataFrame], other: list[pd.DataFrame], **terms: Any) -> list[float]:
    """Play two worlds, each on a ledger of its own; return how far each release moved."""
    worlds: list[list[Array]] = []
    for number, files in enumerate((one, other)):
        banks = Banks(tmp_path / f"world-{number}", names=(NAME,), terms=terms)
        worlds.append(banks.months(NAME, files))
    return [float(np.linalg.norm(a - b)) for a, b in zip(*worlds, strict=True)]


def months(banks: Banks) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return a customer that trains, and those of three months, some of which stay in the file."""
    everybody = customers(NAME, 0, 60)
    one = trained(banks, everybody).iloc[:1]
    others = everybody.drop(one.index)
    return one, others.iloc[:25], others.iloc[10:42], others.iloc[5:]


def test_one_unit_moves_the_release_of_its_month_and_no_other(tmp_path: Path, banks: Banks) -> None:
    one, january, february, _ = months(banks)
    without = [january, february]
    first = moved(tmp_path, [pd.concat([frame, one]) for frame in without], without)  # it stays in the file
    assert first[0] > 0.1
    assert first[1] == 0.0


@pytest.mark.end_to_end
def test_one_unit_moves_one_release_whenever_it_comes(tmp_path: Path, banks: Banks) -> None:
    one, january, february, march = months(banks)
    without = [january, february, march]
    early = [pd.concat([frame, one]) for frame in without]
    first = moved(tmp_path / "early", early, without)
    assert first[0] > 0.1
    assert first[1:] == [0.0, 0.0]
    # Another row of it in a later month changes nothing: the unit is used.
    again = [*early[:2], pd.concat([early[2], one.assign(amount=7777)])]
    assert moved(tmp_path / "again", again, early) == [0.0, 0.0, 0.0]
    last = moved(tmp_path / "late", [january, february, early[2]], without)
    assert last[:2] == [0.0, 0.0]
    # By no more than the blocks of message 2 may move: 1 for the Gram matrix, .7 for the products (π₀ = .3).
    assert 0.1 < last[2] <= np.hypot(1.0, 0.7) + 1e-9


def test_what_is_charged_does_not_move_with_arrivals(banks: Banks) -> None:
    """Nobody new: noise alone is released, and charged as ever; the header is the same."""
    _, january, _, _ = months(banks)
    banks.months(NAME, [january, january])
    with Ledger.open(banks.home(NAME).ledger, NAME) as ledger:
        assert [entry.cohort for entry in ledger.entries()] == [True, True, True]
        assert claims.cohort(ledger, "growing-2") == frozenset()
        assert ledger.spent("credit", 1e-5) == pytest.approx(3.0, abs=1e-3)
        told = account.summary(ledger, None, NAME)
        *runs, lifetime = told["accounts"]
        assert (len(runs), lifetime["cohorts"], lifetime["releases"]) == (2, 2, 2)
        assert lifetime["epsilon"] == max(run["epsilon"] for run in runs)
        assert [line["what"] for line in account.history(ledger)].count("claims begun") == 1
        file = banks.folder / "ledger.json"
        file.write_text(json.dumps({**ledger.export(), "accounts": told["accounts"]}), encoding="utf-8")
        assert RECOUNT([str(file)]) == 0
        ledger.share("credit", "copy")  # from now on cohorts add up, and are shown as they are counted
        told = account.summary(ledger, None, NAME)
        assert told["accounts"][-1]["epsilon"] == pytest.approx(ledger.spent("credit", 1e-5))
        assert told["accounts"][-1]["epsilon"] > 4
        file.write_text(json.dumps({**ledger.export(), "accounts": told["accounts"]}), encoding="utf-8")
        assert RECOUNT([str(file)]) == 0


def test_nobody_new_is_noise_alone(banks: Banks) -> None:
    _, january, _, _ = months(banks)
    banks.months(NAME, [january, january])
    header, (gram, slope) = banks.ask(NAME, "growing-3", 2, 3)
    assert (header["status"], np.abs(gram).max(), np.abs(slope).max()) == ("OK", 0.0, 0.0)


def test_a_cohort_is_fixed_by_the_first_message(banks: Banks, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who arrives between two messages of a release is in the next one; who is gone meanwhile is not summed."""
    _, january, february, _ = months(banks)
    february = february.drop(january.index, errors="ignore")
    sums: list[Array] = []
    for between in (january, pd.concat([january.iloc[3:], february])):
        ours = Banks(banks.folder / str(len(sums)), names=(NAME,))
        for number, frame in ((1, january), (2, between)):
            monkeypatch.setattr(data, "_cache", Latest(1))  # as another process
            frame.to_csv(ours.folder / f"{NAME}.csv", index=False)
            header, blocks = ours.ask(NAME, "growing-1", number)
            assert header["status"] == "OK"
        sums.append(blocks[0])
    assert len(trained(banks, january.iloc[:3]))
    gone = Banks(banks.folder / "gone", names=(NAME,))
    for number, frame in ((1, january), (2, january.iloc[3:])):
        monkeypatch.setattr(data, "_cache", Latest(1))
        frame.to_csv(gone.folder / f"{NAME}.csv", index=False)
        _, blocks = gone.ask(NAME, "growing-1", number)
    assert np.array_equal(sums[1], blocks[0])
    assert not np.array_equal(sums[0], sums[1])


REFUSED = {
    "a record as the unit": ({"unit": "record"}, "CONTRACT_NOT_ALLOWED"),
    "no statement on arrivals": ({"arrivals_by_themselves": False}, "CONTRACT_NOT_ALLOWED"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_composed_in_parallel_is_refused(name: str, tmp_path: Path) -> None:
    terms, code = REFUSED[name]
    banks = Banks(tmp_path / "refused", names=(NAME,), terms=terms)
    for number, release in ((1, 1), (2, 2)):
        header, blocks = banks.ask(NAME, f"growing-{release}", number, release)
        assert (header["status"], header["code"], blocks) == ("REFUSED", code, [])
    with Ledger.open(banks.home(NAME).ledger, NAME) as ledger:
        assert (ledger.entries(), ledger.runs()) == ([], [])


def test_another_line_key_or_message_is_refused_without_a_charge(banks: Banks) -> None:
    _, january, _, _ = months(banks)
    banks.months(NAME, [january])
    home = banks.home(NAME)

    def refused(run_id: str, number: int, release: int, code: str) -> None:
        header, _ = banks.ask(NAME, run_id, number, release)
        assert (header["status"], header["code"]) == ("REFUSED", code)

    refused("another-first-run", 1, 1, "CONTRACT_NOT_ALLOWED")
    refused("growing-2", 1, 2, "BAD_MESSAGE")  # message 1 is not repeated
    file = home.folder / "split.key"
    key = file.read_bytes()
    file.write_bytes(bytes(32))
    refused("growing-2", 2, 2, "CONTRACT_NOT_ALLOWED")
    file.write_bytes(key)
    with Ledger.open(home.ledger, NAME) as ledger:
        assert len(ledger.entries()) == 2
    header, _ = banks.ask(NAME, "growing-2", 2, 2)
    assert header["status"] == "OK"


@pytest.mark.parametrize(
    "change",
    [
        lambda terms: terms["sums"].update(prevalence={"bank": 0.9}),
        lambda terms: terms["split"].update(train=0.7, test=0.2),
        lambda terms: terms["sums"]["builds_on"].update(contract="0" * 64),
    ],
)
def test_a_coordinator_cannot_change_the_contract_of_a_line(banks: Banks, change: Any) -> None:
    """Refused before a row is read: no split is pinned by it, and nothing is charged."""
    _, january, _, _ = months(banks)
    banks.months(NAME, [january])
    home = banks.home(NAME)
    pin = home.kept / "split-credit.json"
    before, _ = pin.read_text(), pin.unlink()
    message = decode(banks.message(NAME, "growing-2", 2, 2))
    terms = json.loads(message.header["contract"])
    change(terms)
    header = {**message.header, "contract": contract_from_json(json.dumps(terms)).canonical()}
    answer = decode(handle(encode(Envelope(header, dict(message.tensors))), home)).header
    assert (answer["status"], answer.get("code")) == ("REFUSED", "CONTRACT_NOT_ALLOWED")
    assert not pin.exists()
    with Ledger.open(home.ledger, NAME) as ledger:
        assert len(ledger.entries()) == 2
    assert banks.ask(NAME, "growing-2", 2, 2)[0]["status"] == "OK"
    assert pin.read_text() == before


# Broken variants: each loses the game


@pytest.mark.end_to_end
def test_a_record_as_the_unit_loses_the_game(tmp_path: Path, banks: Banks, monkeypatch: pytest.MonkeyPatch) -> None:
    """An equal record of January keeps one of February out: one unit moves two releases."""
    monkeypatch.setattr(cohort, "RECORD", "no unit at all")
    one, january, february, _ = months(banks)
    ours = Banks(tmp_path / "x", names=(NAME,), terms={"unit": "record"})
    assert ours.months(NAME, [january])[0].any()  # the variant is taken, else the game below is none
    equal = [[pd.concat([january, row]), pd.concat([february, row])] for row in (one, *_rows(january))]
    lost = 0
    for place, files in enumerate(equal):
        without = [january, files[1]]
        lost += sum(distance > 0 for distance in moved(tmp_path / str(place), files, without, unit="record")) > 1
    assert lost


def _rows(frame: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Rows that are not in the file: a copy is another record only by its number."""
    for place in range(3):
        yield frame.iloc[place : place + 1].assign(amount=4321 + place)


@pytest.mark.end_to_end
def test_a_mark_of_four_bytes_loses_the_game(tmp_path: Path, banks: Banks, monkeypatch: pytest.MonkeyPatch) -> None:
    key = banks.home(NAME).split_key()
    seen: dict[bytes, str] = {}
    of_marks = hmac.digest(key, b"claims\ncredit", "sha256")
    pair = None
    for number in range(2_000_000):
        unit = unit_of(key, f"c{number}")
        if assign([unit], key, {"train": 0.6, "validation": 0.1, "test": 0.3})[0] != "train":
            continue
        short = cohort.mark_of(of_marks, unit)[:4]
        if short in seen:
            pair = seen[short], f"c{number}"
            break
        seen[short] = f"c{number}"
    assert pair is not None
    one, january, february, _ = months(banks)
    old, new = (one.assign(customer_id=customer) for customer in pair)
    worlds = [[pd.concat([january, old]), pd.concat([february, new])], [january, pd.concat([february, new])]]
    right = moved(tmp_path / "right", *worlds)
    assert (right[0] > 0.1, right[1]) == (True, 0.0)
    real = cohort.mark_of
    monkeypatch.setattr(cohort, "mark_of", lambda key, unit: real(key, unit)[:4] + bytes(28))
    assert min(moved(tmp_path / "short", *worlds)) > 0.1  # one unit moves both


def test_a_claim_after_the_reservation_loses_the_game(
    tmp_path: Path, banks: Banks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Marks that were to be written after the reply left, in a process that died before: the unit is used twice."""
    real = claims.write

    def later(connection: Any, plan: Any, entry: int, given: Any) -> tuple[str, ...]:
        return real(connection, plan, entry, claims.Claims(given.key, given.first, frozenset()))

    one, january, february, _ = months(banks)
    without = [january, february]
    monkeypatch.setattr(claims, "write", later)
    monkeypatch.setattr(claims, "check", lambda *_: None)
    monkeypatch.setattr(claims, "cohort", lambda *_: None)
    assert min(moved(tmp_path / "later", [pd.concat([frame, one]) for frame in without], without)) > 0.1


@pytest.mark.end_to_end
def test_sixty_random_kills_use_no_unit_twice(banks: Banks) -> None:
    """A process dies anywhere in a message. Whatever was charged has its claims, and nobody is in two releases."""
    draws, home = random.Random(19), banks.home(NAME)
    used: frozenset[bytes] = frozenset()
    assert banks.months(NAME, [customers(NAME, 0, 30)])
    for kill in range(60):
        release = kill + 2
        customers(NAME, 0, 30 + 4 * release).to_csv(banks.folder / f"{NAME}.csv", index=False)
        places = ("reserve.begun", "reserve.written", "reserve.committed", "commit.begun", "commit.committed")
        place, wait = draws.choice(places), draws.random() < 0.5
        child = os.fork()
        if child == 0:

            def stop(reached: str, place: str = place, wait: bool = wait) -> None:
                if reached == place:
                    if wait:
                        time.sleep(draws.uniform(0, 0.002))
                    os.kill(os.getpid(), signal.SIGKILL)

            try:
                with listening(stop):
                    banks.ask(NAME, f"growing-{release}", 2, release)
            finally:
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        with Ledger.open(home.ledger, NAME) as ledger:
            entries = ledger.entries(f"growing-{release}")
            mine = claims.cohort(ledger, f"growing-{release}")
            assert (mine is not None) == bool(entries) == (place[:6] == "commit" or place == "reserve.committed")
            assert not used & (mine or frozenset())
            used |= mine or frozenset()
            ledger.verify()
            assert ledger.spent("credit", 1e-5) == pytest.approx(3.0, abs=1e-3)
        if draws.random() < 0.3:  # asked again: the same bytes, a fresh charge, or a refusal; never another's units
            banks.ask(NAME, f"growing-{release}", 2, release)
            with Ledger.open(home.ledger, NAME) as ledger:
                mine = claims.cohort(ledger, f"growing-{release}") or frozenset()
            used |= mine
    with Ledger.open(home.ledger, NAME) as ledger:
        assert claims.taken_up(ledger, "credit") == len(used) + len(claims.cohort(ledger, "growing-1") or ())
