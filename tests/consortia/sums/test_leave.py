"""A participant leaves a finished run: the model is that of a run without it, and nothing that it sent is left."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from command_line import APP
from left_runs import BANK, LEAVER, NAMES, RUN, STAY, banks, everybody, finished, model_of, multiplier, played
from passports import home_with_run, key_of, payload, pins, private_pem, public_hex
from typer.testing import CliRunner

from consortia.common import disk
from consortia.common.errors import InputError
from consortia.coordinator import coalitions
from consortia.coordinator.checkpoint import load_latest
from consortia.coordinator.leaving import leave
from consortia.coordinator.passport import make_passport
from consortia.engines.options import Options
from consortia.engines.runner import prepare
from consortia.models import registry
from consortia.models.source import Found, of_coordinator
from consortia.participant.account import history
from consortia.reports.decision import decide
from consortia.reports.evidence.facts import collect
from consortia.reports.page.content import sections
from consortia.reports.page.facts import gather
from consortia.terms.scenario import load_scenario
from consortia.trust.passport.verify import check
from privacy.ledger import Ledger

KEY = key_of("coordinator")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return finished(tmp_path / "runs" / RUN, banks(), everybody())


def _all_bytes(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file())


def test_without_noise_the_model_is_that_of_a_run_without_it(tmp_path: Path) -> None:
    together = played(banks(), NAMES, noise=False)
    folder = finished(tmp_path / RUN, banks(), together)
    leave(folder, LEAVER, KEY)
    never = played(banks(), STAY, noise=False, under=together[-1].groups[BANK])[-1].groups[BANK]
    left = model_of(folder)
    assert left.keys() == never.keys()
    for name in left:
        assert torch.allclose(left[name], never[name], rtol=1e-12, atol=1e-13), name
    old = together[-1].groups[BANK]["head.weights"]
    assert (left["head.weights"] - old).norm() > 0.05 * old.norm()  # the leaver was another population


@pytest.mark.end_to_end
def test_with_noise_it_is_distributed_as_in_a_run_without_it(tmp_path: Path) -> None:
    """Two-sample tests of projections, each with noise anew: 120 runs that were left, 120 that it never joined."""
    under = played(banks(), NAMES, noise=False)[-1].groups[BANK]
    left, never = [], []
    for number in range(120):
        folder = finished(tmp_path / str(number), banks(), played(banks(), NAMES, under=under))
        leave(folder, LEAVER, KEY)
        left.append(model_of(folder)["head.weights"].numpy().ravel())
        never.append(played(banks(), STAY, under=under)[-1].groups[BANK]["head.weights"].numpy().ravel())
    one, other = np.array(left), np.array(never)
    away = (one.mean(0) - other.mean(0)) / np.sqrt((one.var(0) + other.var(0)) / len(one))
    # Each is about standard normal: the largest of 60 or so beyond 4.8 has odds of 1 to 10,000.
    assert np.abs(away).max() < 4.8
    spread = np.log(one.var(0) / other.var(0)) / math.sqrt(4 / len(one))
    assert np.abs(spread).max() < 4.8


def test_nothing_that_it_sent_is_left_in_the_files(run: Path) -> None:
    state = load_latest(run)
    assert state is not None
    sent = {name: one for name, one in state.memory[BANK].items() if name.startswith(f"{LEAVER}/")}
    assert {name.partition("/")[2] for name in sent} == {"sums.columns", "sums.gram", "sums.slope", "multiplier"}
    parts = [one.numpy().tobytes()[:64] for one in sent.values() if one.numel() > 1]
    weights = state.groups[BANK]["head.weights"].numpy().tobytes()[:64]
    (run / "checkpoints" / "round-000002.safetensors.tmp").write_bytes(parts[1])  # a crash left this
    before = _all_bytes(run)
    assert all(part in before for part in (*parts, weights))
    leave(run, LEAVER, KEY)
    after = _all_bytes(run)
    assert not any(part in after for part in (*parts, weights))
    files = sorted((run / "checkpoints").glob("*"))
    assert [file.name for file in files] == [
        "history.jsonl",
        "round-000001.safetensors",
        "round-000002.safetensors",
    ]
    for file in files[1:]:
        tensors = safetensors.torch.load(file.read_bytes())
        assert not [name for name in tensors if LEAVER in name]
        assert {name.split("/")[2] for name in tensors if name.startswith("memory/")} == set(STAY)
    # Everything else of the others is as it was.
    now = load_latest(run)
    assert now is not None
    assert all(torch.equal(now.memory[BANK][name], one) for name, one in state.memory[BANK].items() if name not in sent)
    assert torch.equal(now.groups[BANK]["encoder.centre"], state.groups[BANK]["encoder.centre"])
    assert torch.equal(now.groups[BANK]["head.weights"], model_of(run)["head.weights"])


def test_two_may_leave_one_after_the_other(run: Path) -> None:
    leave(run, LEAVER, KEY)
    leave(run, "other", KEY)
    for name in (LEAVER, "other"):
        assert check((run / "left" / f"{name}.json").read_bytes(), pins(), run).problems == []
    state = load_latest(run)
    assert state is not None
    assert {name.partition("/")[0] for name in state.memory[BANK]} == {"new-car", "furniture", "radio-tv"}
    alone = coalitions.of_run(run, banks(), BANK)["head.weights"]
    assert torch.equal(alone, model_of(run)["head.weights"])


class _Died(BaseException):
    pass


@pytest.mark.parametrize("place", range(21))
def test_interrupted_anywhere_it_is_completed_by_the_same_command(
    place: int, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies before the given write, move or removal; nobody can use the run meanwhile; the second call ends whole."""
    (run / "passport.json").write_text("{}")
    untouched = _all_bytes(run)
    count = 0

    def dying(genuine: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            if count == place:
                raise _Died
            count += 1
            return genuine(*arguments, **options)

        return step

    with monkeypatch.context() as patch:
        patch.setattr(disk, "replace", dying(disk.replace))
        patch.setattr(Path, "replace", dying(Path.replace))
        patch.setattr(Path, "unlink", dying(Path.unlink))
        if place == 20:  # every change was a place to die at
            leave(run, LEAVER, KEY)
            assert count == place
            return
        with pytest.raises(_Died):
            leave(run, LEAVER, KEY)
    begun, certificate = (run / "leaving.json").exists(), run / "left" / f"{LEAVER}.json"
    if certificate.exists():  # nothing is certified that was not done
        assert check(certificate.read_bytes(), pins(), run).problems == []
    if begun:
        for use in (
            lambda: of_coordinator(str(run), BANK),
            lambda: make_passport(run, run / "parts", KEY),
            lambda: gather(run),
            lambda: collect(run),
            lambda: coalitions.of_run(run, banks(), BANK),
            lambda: leave(run, "other", KEY),
        ):
            with pytest.raises(InputError, match="interrupted"):
                use()
    else:
        assert model_of(run)["head.weights"].numpy().tobytes() in untouched
    leave(run, LEAVER, KEY)
    assert check((run / "left" / f"{LEAVER}.json").read_bytes(), pins(), run).problems == []
    left = sorted(str(file.relative_to(run)) for file in run.rglob("*") if file.is_file())
    assert left == [
        "checkpoints/history.jsonl",
        "checkpoints/round-000001.safetensors",
        "checkpoints/round-000002.safetensors",
        "coordinator.json",
        "coordinator.lock",
        "events.jsonl",
        f"left/{LEAVER}.json",
        f"model/{BANK}.safetensors",
        f"passport-before-{LEAVER}-left.json",
        "result.json",
        "scenario.json",
    ]
    make_passport(run, run / "parts", KEY)  # the record's hashes are those of the files


def test_who_cannot_leave_is_told_what_to_do_instead(run: Path, tmp_path: Path) -> None:
    def refused(folder: Path, name: str, match: str) -> None:
        before = _all_bytes(folder)
        with pytest.raises(InputError, match=match):
            leave(folder, name, KEY)
        assert _all_bytes(folder) == before

    refused(run, "nobody", "wanted one of new-car")
    with pytest.raises(InputError, match="got none"):
        leave(tmp_path / "nothing", LEAVER, KEY)
    assert not (tmp_path / "nothing").exists()
    leave(run, LEAVER, KEY)
    refused(run, LEAVER, "left it already")
    states = played(banks(), STAY)
    refused(finished(tmp_path / "absent", banks(), states), LEAVER, "which released none")
    refused(finished(tmp_path / "failed", banks(), states, status="failed"), "other", "go on with --resume")
    altered = finished(tmp_path / "altered", banks(), states)
    (altered / "events.jsonl").write_text("{}\n")
    refused(altered, "other", "put the run's own back")
    few = finished(tmp_path / "few", banks(), played(banks(), ("new-car", "other", "furniture")))
    refused(few, "other", "wanted at least 3 participants left")
    last = banks().model_copy(update={"roster": banks().roster[:1]})
    refused(finished(tmp_path / "last", last, played(last, ["new-car"])), "new-car", "the last one")


@pytest.mark.parametrize(
    ("scenario", "match"),
    [
        ("secure-banks", "its own share of the noise.*the others make a fresh release"),
        ("factories", "additive.*train again"),
        ("banks-network", "gradient.*nothing can be replayed.*train again"),
    ],
)
def test_other_runs_are_refused_by_name(scenario: str, match: str, tmp_path: Path) -> None:
    loaded = load_scenario(scenario)
    (tmp_path / "scenario.json").write_text(loaded.to_json())
    (tmp_path / "result.json").write_text(json.dumps({"schema": 1, "status": "completed"}))
    with pytest.raises(InputError, match=match):
        leave(tmp_path, loaded.roster[0].name, KEY)


def test_exact_sums_are_not_subtracted(tmp_path: Path) -> None:
    """By its roster, and by what it really declared: a participant without noise of its own cannot leave."""
    roster = tuple(
        one.model_copy(update={"epsilon": math.inf}) if one.name == LEAVER else one for one in banks().roster
    )
    states = played(banks(), NAMES)
    open_ = finished(tmp_path / "open", banks().model_copy(update={"roster": roster}), states)
    with pytest.raises(InputError, match="exact sums"):
        leave(open_, LEAVER, KEY)
    for state in states:
        state.memory[BANK][f"{LEAVER}/multiplier"] = torch.zeros(1, dtype=torch.float64)
    with pytest.raises(InputError, match="which sent none"):
        leave(finished(tmp_path / "declared", banks(), states), LEAVER, KEY)
    assert multiplier() > 0


def test_what_is_made_after_it_uses_the_newmodel_of(run: Path, tmp_path: Path) -> None:
    leave(run, LEAVER, KEY)
    found = of_coordinator(str(run), BANK)
    assert found.about.detail == f"without {LEAVER}"
    assert torch.equal(found.model.state_dict()["network.head.weights"], model_of(run)["head.weights"])
    stale = Found(found.model, found.about, found.data, {}, withdrawn="used-car left this run")
    with pytest.raises(InputError, match="withdrawn"):
        registry.register(tmp_path / "models", "bank", stale, None)
    first = sections(gather(run))[0]
    assert first.title == "Who left"
    assert "used-car left this run" in first.says[0]
    assert "Since then used-car left" in str(decide(json.loads((run / "result.json").read_text())))
    known = collect(run)
    assert (set(known["left"]), {bool(one["metrics"]) for one in known["participants"].values()}) == ({LEAVER}, {False})
    passport = make_passport(run, run / "parts", KEY)
    stated = payload(passport)
    assert f"left/{LEAVER}.json" in {one["name"] for one in stated["subject"]}
    assert all(seen["metrics"] == {} for seen in stated["predicate"]["participants"].values())
    verdict = check(json.dumps(passport).encode(), pins(*NAMES), run)
    assert verdict.certificates == (f"left/{LEAVER}.json",)
    (run / "job.json").write_text('{"engine": "embedded"}')
    with pytest.raises(InputError, match="used-car left; start a new run"):
        prepare(Options(scenario="", resume=run))


def test_at_home_the_ledger_gets_a_note_and_no_charge(run: Path, tmp_path: Path) -> None:
    contract = banks().contract.sha256()
    homes = {name: home_with_run(tmp_path / "homes", name, run=RUN, contract=contract) for name in (LEAVER, "other")}
    key, pinned = tmp_path / "key.pem", tmp_path / "pins.toml"
    key.write_bytes(private_pem("coordinator"))
    pinned.write_text(f'coordinator = "{public_hex("coordinator")}"\n')
    assert _consortia("leave", str(run), "--participant", LEAVER, "--key", str(key)).exit_code == 0
    file = run / "left" / f"{LEAVER}.json"
    checked = _consortia("verify", str(file), "--keys", str(pinned), "--files", str(run))
    assert checked.exit_code == 0
    assert "accepted as a certificate of leaving, which is no passport: signed by coordinator" in checked.output
    assert (
        "stays though used-car shaped it: centre, radius; not shaped: learner, expectation, columns" in checked.output
    )
    at_home = ["--certificate", str(file), "--keys", str(pinned), "--home", str(tmp_path / "homes")]
    for name, home in homes.items():
        with Ledger.open(home.ledger, name) as ledger:
            before = ledger.entries(), ledger.spent("heart", 1e-5)
        for _ in range(2):
            assert _consortia("leave", RUN, "--participant", name, *at_home).exit_code == 0
        with Ledger.open(home.ledger, name) as ledger:
            assert (ledger.entries(), ledger.spent("heart", 1e-5)) == before
            told = [line["detail"] for line in history(ledger) if line["what"] == "left"]
        assert len(told) == 1
        assert told[0].startswith(f"used-car left run {RUN}")
        assert (home.run_folder(RUN) / "left" / f"{LEAVER}.json").read_bytes() == file.read_bytes()
    stranger = home_with_run(tmp_path / "homes", "furniture", run="another", contract=contract)
    refused = _consortia("leave", RUN, "--participant", "furniture", *at_home)
    assert (refused.exit_code, "wanted one of a run of furniture's ledger" in refused.output) == (2, True)
    home_with_run(tmp_path / "homes", "radio-tv", run=RUN, contract="d" * 64)
    refused = _consortia("leave", RUN, "--participant", "radio-tv", *at_home)
    assert (refused.exit_code, f"wanted the contract of {RUN}" in refused.output) == (2, True)
    pinned.write_text(f'coordinator = "{public_hex("clinic-a")}"\n')
    forged = _consortia("leave", RUN, "--participant", LEAVER, *at_home)
    assert (forged.exit_code, "signed with another key" in forged.output) == (2, True)
    with Ledger.open(stranger.ledger, "furniture") as ledger:
        assert not ledger.notes()


def test_the_command_wants_a_key_and_options_that_fit(run: Path) -> None:
    before = _all_bytes(run)
    for options, said in (
        ((), "--key: wanted the coordinator's private key"),
        (("--keys", "pins.toml"), "wanted none without --certificate"),
        (("--certificate", "x.json"), "wanted --keys with it"),
    ):
        found = _consortia("leave", str(run), "--participant", LEAVER, *options)
        assert (found.exit_code, said in found.output) == (2, True), found.output
    assert _all_bytes(run) == before


def _consortia(*words: str) -> Any:
    return CliRunner().invoke(APP, list(words), env={"COLUMNS": "300"})
