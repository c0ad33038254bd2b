"""An evidence pack: every sentence has a source that is there, nothing private is in it, it is honest about its run."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import APP
from doc_blocks import ROOT
from finished_run import write_result, write_run
from typer.testing import CliRunner

from consortia.common.errors import InputError
from consortia.reports.evidence.facts import collect
from consortia.reports.evidence.render import Document, resolve, write
from consortia.reports.evidence.sources import SOURCES
from consortia.terms.scenario import load_scenario
from consortia.trust.trusted_coordinator import account

END = pytest.mark.end_to_end
CANARY = "CANARY7f3"
LINK = re.compile(r" \[(record|contract|test|source)\]\((facts\.json|sources\.md)#([^)]*)\)")
#: An ε with a number, wherever it stands.
EPSILON = re.compile(r"ε = [\d.]")


def _line(**changes: Any) -> dict[str, Any]:
    """Return a participant's line as a simulation's record has it, with all that must not be in a pack."""
    spent = {
        "run": 0.987,
        "lifetime": CANARY,
        "budget": 1.0,
        "delta": 1e-5,
        "lifetime_delta": CANARY,
        "unit": "record",
        "non_private": False,
        "metrics_non_private": False,
        "metrics": None,
        "runs_left": CANARY,
    }
    own = {"majority": CANARY, "local": CANARY, "federated": CANARY, "joined": CANARY}
    return {
        "state": "ACTIVE",
        "rounds_contributed": 2,
        "noise_multiplier": 3.5,
        "rows": CANARY,
        "bytes": CANARY,
        "seconds": CANARY,
        "units": CANARY,
        "gain": CANARY,
        "net_gain": CANARY,
        "verdict": CANARY,
        "synthetic": True,
        "joining": CANARY,
        "quarantine": CANARY,
        "headline": CANARY,
        "metrics": {
            "auc": {**own, "release": "dp", "released_value": 0.654, "interval": [0.55, 0.77]},
            "brier": {**own, "release": None, "released": False},
        },
        "failures": [{"round": 1, "code": "BAD_REPLY", "detail": CANARY}],
        "epsilon": {**spent, **changes.pop("epsilon", {})},
        **changes,
    }


def run_of(name: str, root: Path, *, line: dict[str, Any] | None = None, **changes: Any) -> Path:
    """Write the folder of a finished run of a committed scenario."""
    scenario = load_scenario(name)
    folder = root / f"{name}-1"
    folder.mkdir(parents=True)
    (folder / "scenario.json").write_text(scenario.to_json())
    industries = scenario.contract.industries
    result = {
        "schema": 1,
        "run_id": folder.name,
        "scenario": name,
        "contract_sha256": scenario.contract.sha256(),
        "engine": "embedded",
        "observer": "simulation",
        "charged": False,
        "synthetic": True,
        "noise": "entropy",
        "status": "completed",
        "reason": "",
        "rounds": 2,
        "seconds": CANARY,
        "history": [CANARY],
        "participants": {each.name: {**(line or _line()), "industry": each.industry} for each in scenario.roster},
        "environment": {"python": "3.11", "consortia": "0.1.0"},
        "files": {f"model/{industry}.safetensors": "a" * 64 for industry in industries},
        **changes,
    }
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def pack_of(folder: Path, into: Path) -> dict[str, str]:
    return {file.name: file.read_text(encoding="utf-8") for file in write(collect(folder), into)}


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("evidence")
    return pack_of(run_of("hospitals", root), root / "pack")


def documents(pack: dict[str, str]) -> dict[str, str]:
    return {name: text for name, text in pack.items() if name.endswith(".md") and name != "sources.md"}


def unfounded(text: str) -> list[str]:
    """Return the lines that say something without a link, as no heading, table or metadata does."""
    body = text.split("---\n", 2)[2] if text.startswith("---\n") else text
    said = [line for line in body.splitlines() if line and not line.startswith(("#", "|"))]
    return [line for line in said if not LINK.search(line) and not line.startswith("* **Open question** for ")]


#: By learner: sums, gradients, histograms, several industries, secure sums.
@pytest.mark.parametrize(
    "name",
    ["hospitals", "linear", *(pytest.param(n, marks=END) for n in ("factories", "cross-industry", "secure-banks"))],
)
def test_every_sentence_has_a_source_and_nothing_private_is_there(name: str, tmp_path: Path) -> None:
    folder = run_of(name, tmp_path)
    pack = pack_of(folder, tmp_path / "pack")
    facts = json.loads(pack["facts.json"])
    anchors = set(re.findall(r"^## (.+)$", pack["sources.md"], re.MULTILINE))
    for file, text in documents(pack).items():
        assert unfounded(text) == [], file
        for _, where, what in LINK.findall(text):
            if where == "facts.json":
                resolve(facts, what)
            else:
                assert what in anchors
        for line in text.splitlines():
            if EPSILON.search(line):
                assert all(word in line for word in ("δ = ", "unit: ", "this run")), line
    assert CANARY not in json.dumps(pack)
    assert "0.654" in pack["ai_act.md"]


def test_a_private_value_that_is_let_through_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consortia.reports.evidence.facts._ACCOUNT", ("run", "delta", "non_private", "lifetime"))
    line = {"industry": "hospital", **_line()}
    monkeypatch.setattr("consortia.reports.evidence.render.account_words", lambda *_: "")
    from consortia.reports.evidence import facts

    assert CANARY in json.dumps(facts._participant(load_scenario("hospitals"), "va", line))


def test_a_sentence_without_a_source_is_not_made() -> None:
    document = Document({"run": {"status": "x"}})
    with pytest.raises(ValueError, match="what the sentence rests on"):
        document.say("Everything is safe.")
    for link in ("record:/run/nowhere", "no-such-test"):
        with pytest.raises(KeyError):
            document.say("Everything is safe.", link)
    assert unfounded("Everything is safe.") == ["Everything is safe."]


def test_sources_are_in_the_tree() -> None:
    for source in SOURCES.values():
        path, _, part = source.where.partition(", ")
        if path.startswith(("docs/", "tests/")):
            text = (ROOT / path).read_text(encoding="utf-8")
            headings = [line.lstrip("# ") for line in text.splitlines() if line.startswith("#")]
            assert not part or path == "docs/reference/cli.md" or any(one.startswith(part) for one in headings), part
        assert source.test == path.startswith("tests/")


@pytest.mark.parametrize("simulation", [True, False])
def test_what_a_participant_planted_is_not_there(simulation: bool, tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    write_result(folder, simulation=simulation)
    pack = pack_of(folder, tmp_path / "pack")
    text = json.dumps(pack)
    for planted in ("Lovelace", "4711471147", "0.6111", "3.14", "0.0432"):
        assert planted not in text
    assert "0.654" in text
    assert "other: 3 failures or refusals (BAD_REPLY)" in pack["dpia.md"]
    assert ("All rows are synthetic" in pack["dpia.md"]) == simulation
    assert ("Were the rows of each participant real or synthetic?" in pack["dpia.md"]) != simulation


def test_it_is_honest_about_what_has_no_guarantee(tmp_path: Path) -> None:
    line = _line(epsilon={"run": None, "budget": None, "non_private": True, "metrics_non_private": True})
    pack = pack_of(run_of("hospitals", tmp_path, line=line), tmp_path / "pack")
    for file, text in documents(pack).items():
        assert "va took part without privacy: ε = ∞" in text, file
    assert "right with probability" not in json.dumps(pack)
    assert "Exact metrics left va: ε of its evaluation units is ∞." in pack["hipaa.md"]
    assert "conditional on the published split flamby" in pack["dpia.md"]
    head = yaml.safe_load(pack["model_card-hospital.md"].split("---\n")[1])
    assert "non-private" in head["tags"]
    assert "differential-privacy" not in head["tags"]


def test_a_failed_run_has_a_pack_that_says_so(tmp_path: Path) -> None:
    line = _line(state="BUDGET_EXHAUSTED", rounds_contributed=0, epsilon={"run": None}, metrics={})
    folder = run_of(
        "hospitals", tmp_path, line=line, status="failed", rounds=0, files={}, reason="no quorum (BUDGET_EXHAUSTED)"
    )
    pack = pack_of(folder, tmp_path / "pack")
    assert "ended failed after 0 of 2 rounds" in pack["README.md"]
    assert "The reason: no quorum (BUDGET_EXHAUSTED)." in pack["README.md"]
    assert "No model of hospital was released" in pack["model_card-hospital.md"]
    assert "va: no ε, since no release of it was taken in this run." in pack["dpia.md"]
    assert "No metric was released" in pack["ai_act.md"]


def test_the_twelve_questions_are_answered_or_open(pack: dict[str, str]) -> None:
    asked = re.findall(r"^## (\d+)\. ", pack["dpia.md"], re.MULTILINE)
    assert asked == [str(number) for number in range(1, 13)]
    for part in pack["dpia.md"].split("\n## ")[1:]:
        assert "**Open question**" in part or LINK.search(part), part.splitlines()[0]
    for part in ("6. Who is consulted?", "7. What is the lawful basis?"):  # nobody but the controller knows
        assert f"| [{part}](dpia.md) | 0 | 1 |" in pack["README.md"]
    for line in re.findall(r"\*\*Open question\*\* for [^:]+: (.+)", pack["dpia.md"]):
        assert line in pack["README.md"]


def test_the_bound_on_a_guess_is_that_of_the_theorem(pack: dict[str, str]) -> None:
    found = json.loads(pack["facts.json"])["participants"]["va"]["epsilon"]["guess"]
    for errors in ((1 - 1e-5) / (1 + math.exp(0.987)),):  # on the line e^ε FPR + FNR = 1 - δ, where both are equal
        assert math.exp(0.987) * errors + errors == pytest.approx(1 - 1e-5)
        assert found == pytest.approx(1 - errors)


@END  # a roster of a thousand
def test_a_trusted_coordinator_has_its_own_sentence(tmp_path: Path) -> None:
    scenario = load_scenario("smart-home")
    line = _line(epsilon={"run": None, "non_private": True, "unit": None})
    folder = run_of("smart-home", tmp_path, line=line, central=account(scenario.contract, 3))
    pack = pack_of(folder, tmp_path / "pack")
    assert "towards the coordinator ε = ∞ (not protected)" in pack["dpia.md"]
    assert "took part without privacy" not in pack["dpia.md"]
    assert unfounded(pack["dpia.md"]) == []


def test_the_model_card_has_the_metadata_of_the_hub(pack: dict[str, str]) -> None:
    head = yaml.safe_load(pack["model_card-hospital.md"].split("---\n")[1])
    assert head["pipeline_tag"] == "tabular-classification"
    assert {"federated-learning", "differential-privacy", "synthetic"} == set(head["tags"])
    (entry,) = head["model-index"]
    assert [one["dataset"]["name"] for one in entry["results"]] == [
        f"test rows of {name}" for name in ("cleveland", "hungarian", "switzerland", "va")
    ]
    (metric,) = entry["results"][0]["metrics"]
    assert (metric["type"], metric["value"], metric["args"]) == ("auc", 0.654, {"interval_95": [0.55, 0.77]})


def test_the_croissant_metadata_is_valid(pack: dict[str, str], tmp_path: Path) -> None:
    for industry, line in json.loads(pack["facts.json"])["industries"].items():
        file = tmp_path / "croissant.json"
        file.write_text(pack[f"croissant-{industry}.json"])
        data = json.loads(file.read_text())
        (rows, *lists) = data["recordSet"]
        names = [field["name"] for field in rows["field"]]
        assert names == [*(column["name"] for column in line["schema"]["columns"]), line["schema"]["target"]["name"]]
        assert all("data" in one for one in lists)
        assert "data" not in rows


@END  # these libraries take seconds to import
@pytest.mark.filterwarnings("ignore:ConjunctiveGraph is deprecated:DeprecationWarning")  # rdflib's own
def test_the_libraries_of_the_formats_read_them(pack: dict[str, str], tmp_path: Path) -> None:
    from huggingface_hub import ModelCard
    from mlcroissant import Dataset

    file = tmp_path / "croissant.json"
    file.write_text(pack["croissant-hospital.json"])
    found = Dataset(str(file)).metadata
    assert not found.ctx.issues.errors
    assert len(found.record_sets) == 6  # the rows, and the values of five columns
    card = ModelCard(pack["model_card-hospital.md"])
    assert (card.data.eval_results[0].metric_type, card.data.pipeline_tag) == ("auc", "tabular-classification")


def test_texts_of_a_scenario_stay_texts(tmp_path: Path) -> None:
    folder = run_of("hospitals", tmp_path, reason="a <b>tag</b> | [link](https://example.org)\nline")
    text = pack_of(folder, tmp_path / "pack")["README.md"]
    assert "a &lt;b&gt;tag&lt;/b&gt; \\| \\[link\\](https://example.org) line." in text


def test_the_command_and_what_it_refuses(tmp_path: Path) -> None:
    def call(folder: Path) -> tuple[int, str]:
        arguments = ["evidence", str(folder), "--out", str(tmp_path / "pack")]
        result = CliRunner().invoke(APP, arguments, env={"COLUMNS": "300"})
        return result.exit_code, result.output

    code, output = call(run_of("hospitals", tmp_path))
    assert code == 0
    assert "dpia.md" in output
    assert call(tmp_path)[0] == 2
    with pytest.raises(InputError, match="wanted the contract that result"):
        collect(run_of("hospitals", tmp_path / "b", contract_sha256="b" * 64))
    vertical = run_of("shared-heart", tmp_path)
    with pytest.raises(InputError, match="wanted a horizontal run, got a vertical one"):
        collect(vertical)
