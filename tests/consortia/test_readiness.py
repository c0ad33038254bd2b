"""Before round 1 everybody is asked who can take part: a run that cannot succeed charges nobody."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from command_line import APP
from typer.testing import CliRunner

from clients.errors import ClientError
from consortia.cli.budget import allow, init
from consortia.common.errors import InputError, RunRefusedError
from consortia.coordinator.rounds import Coordinator
from consortia.engines.options import Options
from consortia.engines.runner import execute, prepare
from consortia.messages.envelope import Envelope, decode, encode
from consortia.messages.exchange import Answer
from consortia.participant import context
from consortia.terms.scenario import Scenario, find_scenario, load_scenario
from privacy.ledger import Budget, Ledger, RunPlan

Say = Callable[[str, int], dict[str, str] | None]


def _exchange(say: Mapping[str, Say], asked: list[tuple[str, str]]) -> Any:
    """Answer READY, unless `say` has words of its own for a participant: header values by attempt, None for silence."""
    attempts: dict[str, int] = {}

    def exchange(kind: str, envelopes: Mapping[str, bytes], deadline: float) -> list[Answer]:
        answers = []
        for name, data in envelopes.items():
            header = decode(data).header
            asked.append((name, header["kind"]))
            assert decode(data).tensors == {}
            attempts[name] = attempts.get(name, 0) + 1
            same = {key: header[key] for key in ("kind", "participant", "run", "round")}
            good = {"status": "READY", "contract": _sha(header["contract"]), **same}
            words = say[name](name, attempts[name]) if name in say else good
            if words is not None:
                answers.append(Answer(name, encode(Envelope({**good, **words}))))
        return answers

    return exchange


def _sha(contract: str) -> str:
    from consortia.terms.contract import contract_from_json

    return contract_from_json(contract).sha256()


def _refuses(code: str, status: str = "REFUSED") -> Say:
    return lambda name, attempt: {"status": status, "code": code, "participant": name}


def _coordinator(
    tmp_path: Path, say: Mapping[str, Say], scenario: Scenario
) -> tuple[Coordinator, list[tuple[str, str]]]:
    asked: list[tuple[str, str]] = []
    return Coordinator(scenario, "run-1", tmp_path, _exchange(say, asked)), asked


def test_too_few_for_the_quorum_are_refused_by_name_before_anything_is_trained(tmp_path: Path) -> None:
    scenario = load_scenario("banks-network")
    names = [participant.name for participant in scenario.roster]
    spent = {name: _refuses("BUDGET_EXHAUSTED", "RECEIVE_ONLY") for name in names[1:]}
    coordinator, asked = _coordinator(tmp_path, spent, scenario)
    with pytest.raises(RunRefusedError) as caught:
        coordinator.ask_who_can()
    assert f"got 1 ({names[0]})" in caught.value.problems[0]
    assert "nobody was charged" in caught.value.problems[0]
    assert [line.split(":")[0] for line in caught.value.problems[1:]] == names[1:]
    assert all("BUDGET_EXHAUSTED" in line for line in caught.value.problems[1:])
    assert {kind for _, kind in asked} == {"ready"}
    assert sorted(name for name, _ in asked) == sorted(names)  # a refusal is final: nobody is asked twice
    record = json.loads((tmp_path / "coordinator.json").read_text())
    assert (record["status"], record["refused"], record["rounds"]) == ("failed", True, 0)


def test_enough_go_on_and_who_refused_is_not_asked_again(tmp_path: Path) -> None:
    scenario = load_scenario("banks-network")
    name = scenario.roster[0].name
    coordinator, _ = _coordinator(tmp_path, {name: _refuses("CONTRACT_NOT_ALLOWED")}, scenario)
    coordinator.ask_who_can()
    assert coordinator.participants[name].state == "REFUSED"
    assert {view.state for other, view in coordinator.participants.items() if other != name} == {"ACTIVE"}


def test_what_fails_is_tried_once_more_and_silence_as_often_as_a_round(tmp_path: Path) -> None:
    scenario = load_scenario("banks-network")
    silent, broken = scenario.roster[0].name, scenario.roster[1].name
    failing = {
        **{participant.name: _refuses("NO_LEDGER") for participant in scenario.roster[2:]},
        silent: lambda name, attempt: None,
        broken: lambda name, attempt: {
            "status": "FAILED", "code": "PARTICIPANT_ERROR", "incident": "ab12", "participant": name
        },
    }  # fmt: skip
    coordinator, asked = _coordinator(tmp_path, failing, scenario)
    with pytest.raises(RunRefusedError, match="incident ab12"):
        coordinator.ask_who_can()
    count = {name: sum(each == name for each, _ in asked) for name in (silent, broken)}
    assert count == {silent: scenario.contract.round.attempts, broken: 2}


def test_a_strategy_that_lacks_its_minimum_is_refused(tmp_path: Path) -> None:
    data = json.loads(load_scenario("banks-network").to_json())
    data["contract"]["strategy"] |= {"name": "krum", "weighting": "equal", "options": {"attackers": 1}}
    data["contract"]["round"]["quorum"] = 0.1
    scenario = Scenario.model_validate_json(json.dumps(data))
    names = [participant.name for participant in scenario.roster]
    away = {name: _refuses("NO_POLICY") for name in names[4:]}
    coordinator, _ = _coordinator(tmp_path, away, scenario)
    with pytest.raises(RunRefusedError, match="wanted at least 5 participants that can take part, got 4"):
        coordinator.ask_who_can()


@pytest.mark.parametrize("spoil", [{"status": "OK"}, {"contract": "0" * 64}, {"run": "run-2"}])
def test_an_answer_that_is_not_to_this_question_does_not_count(spoil: dict[str, str], tmp_path: Path) -> None:
    scenario = load_scenario("linear")
    participants = {participant.name: (lambda name, attempt: spoil) for participant in scenario.roster}
    coordinator, _ = _coordinator(tmp_path, participants, scenario)
    with pytest.raises(RunRefusedError, match="BAD_REPLY"):
        coordinator.ask_who_can()


def _spend_all(site: Any) -> None:
    """Open a run that takes the whole lifetime, and charge a round of it."""
    with site.ledger() as ledger:
        life = Budget(4.0, 4e-5)
        plan = RunPlan(
            run_id="before", dataset=site.scenario.participant(site.name).dataset,
            contract_sha256="c" * 64, unit="record",
            declared_units=120, allowance=life, noise_multiplier=4.0, sampling_rate=0.1, steps_per_round=5, rounds=4,
            clip=1.0, non_private=False,
        )  # fmt: skip
        ledger.open_run(plan, life)
        ledger.commit(ledger.reserve("before", 1, "k", plan.round_events(), lifetime=life), b"reply")


def _count(site: Any) -> tuple[int, int]:
    with site.ledger() as ledger:
        return len(ledger.entries()), len(ledger.runs())


def test_saying_ready_charges_nothing_and_opens_nothing(site: Any) -> None:
    answer = site.ask(1, kind="ready")
    assert answer.header["status"] == "READY"
    assert answer.tensors == {}
    assert set(answer.header) == {"wire", "status", "kind", "participant", "run", "round", "contract"}
    assert _count(site) == (0, 0)
    assert site.ask(1).header["status"] == "OK"  # the round is charged as if nobody had asked
    assert _count(site) == (1, 1)


def test_a_spent_budget_is_told_before_a_row_is_read(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    site.policy(lambda policy: policy["budget"].update(lifetime={"epsilon": 4.0, "delta": 4e-5}))
    _spend_all(site)
    monkeypatch.setattr(context, "load_partitions", lambda *_: pytest.fail("a row was read"))
    answer = site.ask(1, kind="ready")
    assert (answer.header["status"], answer.header["code"]) == ("RECEIVE_ONLY", "BUDGET_EXHAUSTED")
    assert _count(site) == (1, 1)


def test_rows_that_cannot_be_read_are_told_as_in_the_first_round(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ClientError("amount: 3 rows above the bound")

    monkeypatch.setattr(context, "load_partitions", broken)
    answer = site.ask(1, kind="ready")
    assert (answer.header["status"], answer.header["code"]) == ("FAILED", "PARTICIPANT_ERROR")
    assert "amount" not in json.dumps(dict(answer.header))


def test_asking_without_end_reads_rows_for_as_many_runs_as_the_owner_bounds(
    site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.policy(lambda policy: policy.update(limits={"unpaid_runs": 2}))
    read: list[str] = []
    real = context.load_partitions
    monkeypatch.setattr(context, "load_partitions", lambda *a: (read.append(a[-1]), real(*a))[1])
    assert {site.ask(1, kind="ready", run=f"new-{n}").header["status"] for n in range(4)} == {"READY"}
    assert read == ["new-0", "new-1"]


def _strict_linear(tmp_path: Path) -> str:
    """Write the linear scenario with a quorum of everybody and its policies; return its path."""
    source = find_scenario("linear")
    text = source.read_text().replace("[contract]\n", "[contract]\nround = { quorum = 1.0 }\n")
    (tmp_path / "strict.toml").write_text(text)
    policies = tmp_path / "policies" / "strict"
    policies.mkdir(parents=True)
    for file in (source.parent / "policies" / "linear").iterdir():
        (policies / file.name).write_text(file.read_text())
    return str(tmp_path / "strict.toml")


def test_one_operator_reads_the_cause_and_nobody_paid(tmp_path: Path) -> None:
    scenario, homes = _strict_linear(tmp_path), tmp_path / "homes"
    init("", scenario=scenario, home=homes)
    policy = homes / "line-a" / "policy.toml"
    policy.write_text(policy.read_text().replace('source = "', 'source = "csv:/nowhere.csv#'))
    options = Options(scenario=scenario, ledger=homes, epsilon=("1",), out=tmp_path / "runs")
    with pytest.raises(InputError) as caught:
        execute(prepare(options), options)
    text = str(caught.value)
    assert "line-a: PARTICIPANT_ERROR incident" in text
    assert "cause at line-a: SourceError" in text
    assert text.count("cause at") == 1
    for name in ("line-a", "line-b"):
        with Ledger.open(homes / name / "ledger.db", name) as ledger:
            assert (ledger.entries(), ledger.runs()) == ([], [])


def _call(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(APP, list(arguments), env={"COLUMNS": "250"})
    assert result.exit_code == code, result.output
    return result.output


def test_check_plans_with_the_homes_and_refuses_what_cannot_succeed(tmp_path: Path) -> None:
    scenario, homes = _strict_linear(tmp_path), tmp_path / "homes"
    init("", scenario=scenario, home=homes)
    policy = homes / "line-a" / "policy.toml"
    text = policy.read_text()
    data = json.loads(_call("check", scenario, "--epsilon", "2", "--ledger", str(homes), "--json"))
    assert [one["problem"] for one in data["homes"]] == ["", ""]
    least = min(2.0, data["homes"][0]["lifetime"])
    assert data["homes"][0]["epsilon"] <= least
    assert data["participants"][0]["epsilon"] == pytest.approx(data["homes"][0]["epsilon"], rel=1e-3)
    policy.write_text(text.replace("sha256:", "sha256:0"))
    told = _call("check", scenario, "--epsilon", "2", "--home", str(homes), code=2)
    assert "line-a: CONTRACT_NOT_ALLOWED" in told
    assert "got 1 (line-b)" in told


def test_check_refuses_a_delta_above_one_over_the_declared_units(tmp_path: Path) -> None:
    scenario = _strict_linear(tmp_path)
    policy = tmp_path / "policies" / "strict" / "line-a.toml"
    policy.write_text(policy.read_text().replace("declared_units = 200", "declared_units = 2000000"))
    assert "1/declared_units" in _call("check", scenario, code=2)


def test_the_owner_finds_the_cause_of_an_incident(tmp_path: Path) -> None:
    home = tmp_path / "clinic"
    home.mkdir()
    line = {"time": 1.0, "level": "ERROR", "run": "r", "round": 1, "message": "clinic: incident 0a1b: SourceError: x"}
    lines = [line, line | {"level": "INFO"}, line | {"message": "clinic: refused: NO_LEDGER: none"}]
    (home / "participant.log").write_text("\n".join(map(json.dumps, lines)) + '\n{"cut')
    told = _call("home", "log", "clinic", "--home", str(tmp_path), "--json")
    assert [each["text"] for each in json.loads(told)] == [line["message"], "clinic: refused: NO_LEDGER: none"]
    assert "SourceError" in _call("home", "log", "clinic", "--incident", "0a1b", "--home", str(tmp_path))
    assert "wanted incident ffff" in _call(
        "home", "log", "clinic", "--incident", "ffff", "--home", str(tmp_path), code=2
    )


def test_several_accept_at_once_and_a_missing_list_is_written(tmp_path: Path) -> None:
    init("", scenario="linear", home=tmp_path)
    policy = tmp_path / "line-a" / "policy.toml"
    head, _, rest = policy.read_text().partition("contracts = [")
    policy.write_text("# mine\n" + head + rest.partition("]")[2])
    allow(["line-a", "line-b", "linear"], rounds=7, home=tmp_path)
    wanted = load_scenario("linear").with_overrides(rounds=7).contract.sha256()
    for name in ("line-a", "line-b"):
        assert f"sha256:{wanted}" in (tmp_path / name / "policy.toml").read_text()
    assert policy.read_text().startswith("# mine")
    before = policy.read_text()
    with pytest.raises(typer.Exit):
        allow(["line-a", "nobody", "linear"], rounds=8, home=tmp_path)
    assert policy.read_text() == before  # all or none


def test_a_contract_is_accepted_by_name_in_a_simulation_and_nowhere_else(site: Any) -> None:
    scenario = site.scenario.name
    site.policy(lambda policy: policy.update(demo=False))
    site.policy(lambda policy: policy["allow"].update(contracts=[f"name:{scenario}"]))
    run = f"{scenario}-20260101T000000-ab12"
    assert site.ask(1, kind="ready", run=run).header["status"] == "READY"
    assert site.ask(1, kind="ready", run=f"other-{run}").header["code"] == "CONTRACT_NOT_ALLOWED"
    site.home = replace(site.home, simulation=False)
    assert site.ask(1, kind="ready", run=run).header["code"] == "CONTRACT_NOT_ALLOWED"


def test_by_name_writes_the_name(tmp_path: Path) -> None:
    init("", scenario="linear", home=tmp_path)
    allow(["line-a", "linear"], by_name=True, home=tmp_path)
    assert '"name:linear"' in (tmp_path / "line-a" / "policy.toml").read_text()
