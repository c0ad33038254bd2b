"""Today's code opens the files in `v0.1`, which version 0.1 made: ledgers, runs, receipts, models, kits, a wheel.

Everything goes through the command line, and what comes back is compared with what version 0.1 printed: a later version
may say more, and never less. No module of the platform is imported here, so modules may move.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import importlib
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import safetensors.numpy
import yaml

from consortia.deploy.prepare import make_keys
from consortia.terms.scenario import load_scenario

ROOT = Path(__file__).resolve().parents[2]
FILES = Path(__file__).parent / "v0.1"
CONTRACTS: dict[str, str] = json.loads((FILES / "contracts.json").read_text())
#: Scenarios whose contract has another name today: the name is no part of what was agreed.
RENAMED = {name: f"{name}-network" for name in ("banks", "cross-industry", "factories", "hospitals", "secure-banks")}


@dataclass(frozen=True)
class Answer:
    """What one command printed."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def ok(self) -> Answer:
        assert self.status == 0, self.out + self.err
        return self


@functools.cache
def _main() -> Callable[[], None]:
    """Return the console script's function, wherever it lies today."""
    script = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["consortia"]
    module, _, name = script.partition(":")
    return getattr(importlib.import_module(module), name)


def consortia(*arguments: object) -> Answer:
    """Run `consortia ARGUMENTS…` in this process."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    before, sys.argv = sys.argv, ["consortia", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            _main()()
    except SystemExit as end:
        status = int(end.code or 0)
    finally:
        sys.argv = before
    return Answer(status, out.getvalue(), err.getvalue())


def expected(name: str) -> Any:
    return json.loads((FILES / "expected" / name).read_text())


def holds(old: Any, new: Any, at: str = "") -> None:
    """Require that `new` says what `old` says; it may have more keys, word its prose anew and round its numbers."""
    if isinstance(old, dict):
        assert isinstance(new, dict), at
        for key in old:
            assert key in new, f"{at}: {key} is gone"
            holds(old[key], new[key], f"{at}.{key}")
    elif isinstance(old, list):
        assert len(old) == len(new), at
        for number, (left, right) in enumerate(zip(old, new, strict=True)):
            holds(left, right, f"{at}[{number}]")
    elif isinstance(old, float) and not isinstance(new, bool):
        assert new == pytest.approx(old, rel=0.01, abs=1e-9), at
    elif not (isinstance(old, str) and " " in old):
        assert new == old, at


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the files that may be changed, with its path filled in, as the working directory."""
    folder = tmp_path / "v0.1"
    shutil.copytree(FILES, folder)
    for file in folder.glob("*/*/job.json"):
        file.write_text(file.read_text().replace("@FIXTURES@", str(folder)))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("CONSORTIA_HOME", str(tmp_path / "nobody"))
    return folder


def _run(files: Path, kind: str, name: str) -> Path:
    (folder,) = (files / kind).glob(f"{name}-*")
    return folder


def _result(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


# Contracts: another hash is another contract, which participants have not accepted.


@pytest.mark.parametrize("name", [name for name in CONTRACTS if name.startswith("contracts/")])
def test_the_contract_of_a_strategy_keeps_its_hash(name: str) -> None:
    assert consortia("check", FILES / name, "--json").ok().json["contract_sha256"] == CONTRACTS[name]


@pytest.mark.parametrize("name", [name for name in CONTRACTS if not name.startswith("contracts/")])
def test_the_contract_of_a_scenario_keeps_its_hash(name: str) -> None:
    place = FILES / name if "/" in name else RENAMED.get(name, name)
    needs_noise = any(word in name for word in ("secure", "few-banks", "homes", "smart-home"))
    quick = () if needs_noise else ("--epsilon", "inf")  # what the roster proposes is no part of these contracts
    assert consortia("check", place, *quick, "--json").ok().json["contract_sha256"] == CONTRACTS[name]


# Ledgers and homes.


@pytest.mark.parametrize("name", ["hungarian", "va"])
def test_a_ledger_says_what_it_said(files: Path, name: str) -> None:
    holds(expected(f"show-{name}.json"), consortia("budget", "show", name, "--home", "homes", "--json").ok().json)
    history = consortia("budget", "history", name, "--home", "homes", "--json").ok().json
    holds(expected(f"history-{name}.json"), history)
    # Exporting recounts the chain and refuses when it does not add up.
    holds(expected(f"export-{name}.json"), consortia("budget", "export", name, "--home", "homes").ok().json)


@pytest.mark.end_to_end
def test_a_new_run_is_charged_on_the_old_ledgers(files: Path) -> None:
    before = expected("export-va.json")
    run = ("run", "scenarios/few-hospitals.toml", "--rounds", 2, "--ledger", "homes", "--out", "new", "--json")
    result = consortia(*run).ok().json
    assert result["status"] == "completed"
    assert not any(seat["failures"] for seat in result["participants"].values())
    after = consortia("budget", "export", "va", "--home", "homes").ok().json
    holds(before["chain"], after["chain"][: len(before["chain"])])  # what was recorded stays as it was
    shown = consortia("budget", "show", "va", "--home", "homes", "--json").ok().json
    assert shown["counter"] > expected("show-va.json")["counter"]
    assert any(result["run_id"] in line["horizon"] and line["releases"] == 2 for line in shown["accounts"])


@pytest.mark.end_to_end
def test_a_coordinator_that_knows_a_newer_ledger_still_refuses_an_older_one(files: Path) -> None:
    heads = json.loads((files / "homes" / "heads.json").read_text())
    newer = {name: [counter + 5, head] for name, (counter, head) in heads.items()}
    (files / "homes" / "heads.json").write_text(json.dumps(newer))
    answer = consortia("run", "scenarios/few-hospitals.toml", "--rounds", 1, "--ledger", "homes", "--out", "new")
    assert answer.status == 2  # refused before it started
    assert "LEDGER_BEHIND" in answer.out + answer.err
    for name in heads:  # nothing was charged
        shown = consortia("budget", "show", name, "--home", "homes", "--json").ok().json
        assert len(shown["accounts"]) == len(expected(f"show-{name}.json")["accounts"])


# Runs.


def _resumes(folder: Path, rounds: int, *, everybody_took_part: bool = True) -> None:
    before = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    done = sum(line.get("event") == "round" for line in before)
    assert 0 < done < rounds
    answer = consortia("run", "--resume", folder)
    result = _result(folder)
    assert result["status"] == "completed"
    assert [line["round"] for line in result["history"]] == list(range(1, rounds + 1))
    after = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert after[: len(before)] == before
    assert sum(line.get("event") == "round" for line in after) == rounds  # no round twice
    if everybody_took_part:
        answer.ok()
        assert not any(seat["failures"] for seat in result["participants"].values())


@pytest.mark.end_to_end
def test_a_run_on_durable_ledgers_goes_on(files: Path) -> None:
    folder = _run(files, "interrupted", "few-hospitals")
    _resumes(folder, 4)
    shown = consortia("budget", "show", "va", "--home", "homes", "--json").ok().json
    (account,) = [line for line in shown["accounts"] if folder.name in line["horizon"]]
    assert account["releases"] == 4
    assert account["epsilon"] == pytest.approx(1.0, abs=0.02)
    consortia("budget", "export", "va", "--home", "homes").ok()
    consortia("report", folder).ok()


@pytest.mark.end_to_end
def test_a_run_with_secure_sums_goes_on(files: Path) -> None:
    _resumes(_run(files, "interrupted", "few-banks"), 3)


@pytest.mark.end_to_end
def test_a_run_with_a_trusted_coordinator_goes_on(files: Path) -> None:
    _resumes(_run(files, "interrupted", "few-homes"), 3, everybody_took_part=False)  # who does is drawn


@pytest.mark.end_to_end
def test_a_vertical_run_scores_its_next_batch(files: Path) -> None:
    folder = _run(files, "finished", "few-customers")
    before = _result(folder)
    consortia("run", "--resume", folder, "--batches", 1).ok()
    after = _result(folder)
    assert after["status"] == "completed"
    holds({"run_id": before["run_id"], "contract_sha256": before["contract_sha256"]}, after)
    assert len(after["history"]) > len(before["history"])
    assert (folder / "participants" / "bank" / "runs" / folder.name / "scored-1.csv").read_text().count("\n") > 10


@pytest.mark.parametrize(
    ("run", "participant"), [("few-hospitals", "va"), ("few-homes", "home-0001"), ("few-customers", "bank")]
)
def test_a_finished_run_makes_the_report_and_shows_its_receipts(files: Path, run: str, participant: str) -> None:
    folder = _run(files, "finished", run)
    consortia("report", folder, "--participant", participant).ok()
    page = "".join((folder / f"report-{participant}.{kind}").read_text() for kind in ("md", "html"))
    for name in (run, participant, _result(folder)["contract_sha256"]):
        assert name in page
    homes = sorted((folder / "participants").iterdir())
    old = expected(f"receipt-{run.removeprefix('few-')}.json")
    holds(old, consortia("receipt", *homes, "--json").ok().json)
    assert consortia("receipt", *homes).ok().out


def test_the_hash_in_a_record_is_still_that_of_its_scenario(files: Path) -> None:
    for file in files.glob("finished/*/result.json"):
        result = json.loads(file.read_text())
        rounds = ("--rounds", result["rounds"]) if result["scenario"] != "few-customers" else ()
        said = consortia("check", f"scenarios/{result['scenario']}.toml", *rounds, "--json").json
        assert said["contract_sha256"] == result["contract_sha256"]


# Models.


def test_models_are_listed_with_their_guarantee_and_predict_as_they_did(files: Path) -> None:
    holds(expected("models.json"), consortia("models", "models", "--json").ok().json)
    tensors = safetensors.numpy.load_file(files / "models" / "hospital" / "1" / "model.safetensors")
    assert tensors
    run = _run(files, "finished", "few-hospitals")
    consortia("predict", run, "rows.csv", "--participant", "va", "--out", "predicted.csv").ok()
    new, old = (_table(Path(name)) for name in ("predicted.csv", "expected/predict-va.csv"))
    assert len(new) == len(old) == 60
    for left, right in zip(new, old, strict=True):
        assert float(left["p(disease)"]) == pytest.approx(float(right["p(disease)"]), abs=1e-6)
    for source in ("models/va/1", "models/hospital/1"):
        consortia("predict", source, "rows.csv", "--out", "again.csv").ok()
        assert len(_table(Path("again.csv"))) == 60
    consortia("export", run, "--participant", "va", "--to", "models", "--no-onnx").ok()
    assert (files / "models" / "va" / "2").is_dir()
    # It exported what it kept, too; what saw rows without DP stays at home now, and is used there.
    refused = consortia("export", run, "--participant", "va", "--model", "kept", "--to", "models", "--no-onnx")
    assert (refused.status, "never leaves" in refused.err) == (2, True)


def _table(file: Path) -> list[dict[str, str]]:
    with file.open() as lines:
        return list(csv.DictReader(lines))


# A kit, and who joined.


@pytest.mark.end_to_end
def test_the_kit_is_accepted(files: Path) -> None:
    # Its scenario is called cross-industry-network now, and a folder of members has its scenario's name.
    (files / "members" / "cross-industry").rename(files / "members" / "cross-industry-network")
    now = ("--scenario", "cross-industry-network")
    listed = consortia("participant", "list", *now, "--json").ok().json
    holds(expected("participants.json") | {"scenario": listed["scenario"]}, listed)
    kit = files / "kits" / "hospital-c"
    hash_ = consortia("check", kit / "scenario.toml", "--json").ok().json["contract_sha256"]
    policy = (kit / "policy.toml").read_text()
    assert hash_ == CONTRACTS["cross-industry"]
    assert f"sha256:{hash_}" in policy
    # As it came it refuses, naming what its owner has to fill in.
    refused = consortia("budget", "init", "hospital-c", "--policy", kit / "policy.toml", "--home", "own")
    assert refused.status == 2
    assert "budget.run.epsilon" in refused.err
    for wanted, given in (
        ('source = "FILL IN"', f'source = "csv:{files / "rows.csv"}"'),
        ('unit = "FILL IN"', 'unit = "record"'),
        ('run = { epsilon = "FILL IN"', "run = { epsilon = 1.0"),
        ('{ epsilon = "FILL IN", delta = "FILL IN" }', "{ epsilon = 4.0, delta = 4e-5 }"),
    ):
        assert wanted in policy
        policy = policy.replace(wanted, given)
    (kit / "policy.toml").write_text(policy)
    consortia("budget", "init", "hospital-c", "--policy", kit / "policy.toml", "--home", "own").ok()
    consortia("budget", "allow", "hospital-c", kit / "scenario.toml", "--home", "own").ok()
    assert hash_ in (files / "own" / "hospital-c" / "policy.toml").read_text()
    consortia("preflight", "hospital-c", "--home", "own", "--scenario", kit / "scenario.toml").ok()
    # Another one joins the same folder, and the first leaves it. The key that signs its kit is not among these files.
    shutil.rmtree(files / "pki")
    make_keys(load_scenario("cross-industry-network"), files / "volumes", files / "pki", address="fed.example.org:8443")
    seat = ("--industry", "bank", "--dataset", "credit", "--site", "other", "--units", 100, "--epsilon", 1)
    consortia("participant", "add", "bank-c", *seat, "--address", "fed.example.org:8443", *now).ok()
    assert consortia("participant", "remove", "hospital-c", *now, "--json").ok().json["removed"] == "hospital-c"


def test_the_services_of_a_kit_start_commands_that_exist() -> None:
    # The image of a kit is named by its version: as long as that is 0.1.0, today's image has to know these modules.
    kit = FILES / "kits" / "hospital-c" / "compose.yml"
    commands = [service["command"] for service in yaml.safe_load(kit.read_text())["services"].values()]
    modules = [command[2] for command in commands if command[:2] == ["python", "-m"]]
    assert len(modules) == 3
    for module in modules:
        assert importlib.util.find_spec(module) is not None, module


# A partner's wheel.


def _python(*arguments: object, cwd: Path, path: list[Path]) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-P", *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.end_to_end
def test_the_partners_wheel_loads_passes_check_client_and_runs(files: Path, tmp_path: Path) -> None:
    package, site = files / "wheel" / "consortia-insurer", tmp_path / "site"
    (wheel,) = (package / "dist").glob("*.whl")
    shutil.unpack_archive(wheel, site, "zip")
    path = [ROOT, ROOT / "platform", site]
    _python("-m", "pytest", "-q", "-p", "no:cacheprovider", package / "tests", cwd=package, path=path)
    main = "import sys; from importlib import import_module as load; m, _, f = sys.argv.pop(1).partition(':'); "
    script = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["consortia"]
    said = _python(
        "-c", main + "getattr(load(m), f)()", script, "run", "insurer", "--rounds", 2, cwd=package, path=path
    )
    assert "insurer-north" in said
    assert "completed" in said


def test_nothing_in_the_files_names_a_machine() -> None:
    found = [
        f"{file.relative_to(FILES)}: {match[0]!r}"
        for file in FILES.rglob("*")
        if file.is_file()
        for match in [re.search(rb"/(?:home|root|tmp|work|Users|mnt|var)/[\w.-]+", file.read_bytes())]
        if match and match[0] not in (b"/home/hospital-c",)  # a path in the kit's containers
    ]
    assert not found
