"""The certificate that a participant left: what it says, forgeries, and folders that it no longer fits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from left_runs import BANK, LEAVER, NAMES, RUN, STAY, banks, everybody, finished, model_of
from passports import key_of, payload, pins

from consortia.coordinator.leaving import leave
from consortia.trust.passport.envelope import signed
from consortia.trust.passport.verify import check

KEY = key_of("coordinator")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return finished(tmp_path / "runs" / RUN, banks(), everybody())


def test_the_certificate_says_what_was_deleted_and_what_stays(run: Path) -> None:
    old = model_of(run)["head.weights"]
    made = leave(run, LEAVER, KEY)
    verdict = check((run / "left" / f"{LEAVER}.json").read_bytes(), pins(), run)
    assert verdict.problems == []
    said = verdict.left
    assert said == made.stated
    assert said is not None
    assert said.contract_sha256 == banks().contract.sha256()
    assert [one.file for one in said.erased] == [f"checkpoints/round-00000{n}.safetensors" for n in (1, 2)]
    assert [len(one.tensors) for one in said.erased] == [2, 4]
    assert said.remaining == tuple(sorted(STAY))
    assert (said.shaped.centre, said.shaped.radius, said.shaped.columns, said.shaped.learner) == (
        True,
        True,
        False,
        False,
    )
    assert said.withdrawn_metrics == dict.fromkeys(NAMES, ("auc",))
    new = model_of(run)["head.weights"]
    assert said.change.distance == pytest.approx(float((new - old).norm()))
    assert said.change.norm_before == pytest.approx(float(old.norm()))
    text = json.dumps(payload(json.loads((run / "left" / f"{LEAVER}.json").read_text())))
    assert not [value for value in old.ravel().tolist() if repr(value)[:12] in text]  # no coefficient of the old model
    record = json.loads((run / "result.json").read_text())
    assert record["left"][LEAVER]["certificate_sha256"] == made.sha256
    assert record["files"][f"left/{LEAVER}.json"] == made.sha256


def _forge(change: Callable[[Any], Any], signer: str = "coordinator") -> Callable[[Path], bytes]:
    def forged(run: Path) -> bytes:
        stated = payload(json.loads((run / "left" / f"{LEAVER}.json").read_text()))
        change(stated)
        return json.dumps(signed(stated, key_of(signer))).encode()

    return forged


def _erased(stated: Any) -> None:
    stated["predicate"]["erased"][0]["tensors"] = ["memory/bank/other/sums.gram"]


@pytest.mark.parametrize(
    ("forged", "problem"),
    [
        (_forge(lambda stated: None, "clinic-a"), "signed with another key"),
        (_forge(lambda stated: stated["predicate"].update(participant="other")), "said to remain"),
        (_forge(_erased), "somebody else"),
        (_forge(lambda stated: stated["predicate"].update(participant="../other")), "not of its format"),
        (_forge(lambda stated: stated["predicate"]["model"].update(file="../model")), "not of its format"),
        (_forge(lambda stated: stated["subject"].pop()), "subjects are not the files"),
        (_forge(lambda stated: stated["predicate"].update(secret=1)), "not of its format"),
        (_forge(lambda stated: stated["predicate"]["shaped"].update(columns=True)), "not of its format"),
    ],
)
def test_a_forged_certificate_is_found(forged: Callable[[Path], bytes], problem: str, run: Path) -> None:
    leave(run, LEAVER, KEY)
    assert problem in " ".join(check(forged(run), pins(), run).problems)


def test_a_folder_that_still_holds_something_is_found(run: Path) -> None:
    kept = {file: file.read_bytes() for file in (run / "checkpoints").glob("*")}
    passport = run / "passport.json"
    passport.write_text("{}")
    leave(run, LEAVER, KEY)
    data = (run / "left" / f"{LEAVER}.json").read_bytes()
    assert not passport.exists()
    assert (run / f"passport-before-{LEAVER}-left.json").read_text() == "{}"
    for change, problem in (
        (
            lambda: (run / "checkpoints" / "copy.safetensors").write_bytes(next(iter(kept.values()))),
            "copy.safetensors: holds",
        ),
        (lambda: [file.write_bytes(content) for file, content in kept.items()], "is not the file of the certificate"),
        ((run / "model" / f"{BANK}.safetensors").unlink, "is missing"),
        (lambda: passport.write_text("{}"), "passport.json: is the withdrawn one"),
    ):
        change()
        assert problem in " ".join(check(data, pins(), run).problems)
