"""The dashboard: who may look, what the two views show, and that the coordinator's shows released values only."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import APP
from dashboard_pages import TOKEN, counted, crawl, get, reply, signed
from fastapi import FastAPI
from typer.testing import CliRunner

from consortia.common.errors import RunFailedError
from consortia.coordinator.rounds import Coordinator
from consortia.dashboard.app import build
from consortia.dashboard.background import Background
from consortia.dashboard.coordinator import CoordinatorView
from consortia.dashboard.owner import OwnerView
from consortia.messages.exchange import Answer
from consortia.reports.charts import Level, Line, gauge, line_chart, ticks
from consortia.terms.scenario import load_scenario
from privacy.accounting import epsilon
from privacy.events import PoissonGaussian
from privacy.ledger import Budget, RunPlan

PLANTED = "Ada<b>Lovelace-4711"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one finished and one failed run; in both a participant writes a planted text where it can."""
    scenario = load_scenario("banks-network").with_overrides(rounds=2)
    tmp_path = tmp_path_factory.mktemp("dashboard")
    for name, spoiled in (("run-good", {scenario.roster[0].name}), ("run-bad", {s.name for s in scenario.roster})):

        def exchange(kind: str, envelopes: Mapping[str, bytes], _: float, spoiled: Any = spoiled) -> Iterator[Answer]:
            for participant, data in envelopes.items():
                changes = {"kind": PLANTED} if participant in spoiled else {}
                yield Answer(participant, reply(data, scenario, **changes))

        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "scenario.json").write_text(scenario.to_json())
        coordinator = Coordinator(scenario, name, folder, exchange)
        if name == "run-good":
            coordinator.run()
        else:
            with pytest.raises(RunFailedError):
                coordinator.run()
    return tmp_path / "runs"


@pytest.fixture(scope="module")
def app(runs: Path) -> FastAPI:
    receipt = runs / "run-good" / "participants" / "other" / "runs" / "run-good" / "receipt.json"
    receipt.parent.mkdir(parents=True)
    receipt.write_text('{"headline": "Lovelace"}')  # a participant's: not the coordinator's to show
    (runs / "run-good" / "result.json").write_text('{"headline": "Lovelace"}')
    return build(CoordinatorView(runs, None), TOKEN)


@pytest.fixture(scope="module")
def pages(app: FastAPI) -> dict[str, str]:
    """Every page of the coordinator's view."""
    return crawl(app, "/compare?run=run-good&run=run-bad")


# Who may look


@pytest.mark.parametrize("path", ["/", "/runs/run-good", "/participants", "/compare", "/nothing", "/openapi.json"])
def test_without_the_token_every_page_leads_to_the_sign_in(app: FastAPI, path: str) -> None:
    answer = get(app, path)
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in")


@pytest.mark.parametrize("path", ["/metrics", "/live"])
@pytest.mark.parametrize("given", ["", "Bearer ", "Bearer wrong", f"Basic {TOKEN}"])
def test_machines_get_401(app: FastAPI, path: str, given: str) -> None:
    assert get(app, path, headers={"Authorization": given}).status_code == 401


def test_the_token_opens_and_a_session_is_not_the_token(app: FastAPI) -> None:
    assert get(app, "/sign-in", "POST", data={"token": "wrong"}).status_code == 403
    answer = get(app, "/sign-in", "POST", data={"token": TOKEN})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert TOKEN not in cookie
    pair = cookie.split(";")[0]
    assert get(app, "/", headers={"Cookie": pair}).status_code == 200
    assert get(app, "/", headers={"Cookie": pair + "x"}).status_code == 303
    assert get(app, "/", headers={"Cookie": f"{pair.split('=')[0]}={TOKEN}"}).status_code == 303
    other = build(CoordinatorView(Path(), None), TOKEN)  # the next start of the same server
    assert get(other, "/", headers={"Cookie": pair}).status_code == 303


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_it_only_reads(app: FastAPI, method: str) -> None:
    answer = get(app, "/runs/run-good", method, headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 405


@pytest.mark.parametrize("path", ["/", "/sign-in", "/nothing", "/assets/style.css", "/metrics"])
def test_every_answer_has_the_headers(app: FastAPI, path: str) -> None:
    headers = signed(app, path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "*" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["cache-control"] == "no-store"


def test_no_page_has_a_style_or_a_script_of_its_own_or_names_another_host(pages: dict[str, str]) -> None:
    for text in pages.values():
        assert not re.search(r"style=|<style|<script>|javascript:| on\w+=", text)
        assert not re.search(r"(src|href|action)=\"(?!/|#)", text)


def test_a_name_does_not_lead_out_of_the_folder(app: FastAPI, runs: Path) -> None:
    (runs.parent / "secret").mkdir()
    (runs.parent / "secret" / "scenario.json").write_text((runs / "run-good" / "scenario.json").read_text())
    for path in (
        "/runs/..%2Fsecret",
        "/runs/../secret",
        "/runs/run-good/..",
        "/assets/../app.py",
        "/assets/%2e%2e/app.py",
    ):
        assert signed(app, path).status_code == 404


# The coordinator's view


def test_the_coordinators_pages(pages: dict[str, str]) -> None:
    assert len([path for path in pages if path.startswith("/runs/run-good/")]) == 5
    assert "completed" in pages["/"]
    assert "failed" in pages["/"]
    assert "BAD_REPLY" in pages["/runs/run-good"]
    assert re.search(r"<div><dt>Failures and late replies</dt><dd>\d", pages["/runs/run-good"])  # calm
    assert re.search(r'<div class="over"><dt>Failures and late replies</dt><dd>\d', pages["/runs/run-bad"])
    assert 'consortia_run_rounds_done{run="run-good",scenario="banks-network"} 2.0' in pages["/metrics"]


def test_epsilon_is_counted_as_in_the_record(app: FastAPI) -> None:
    text = counted(app, "/runs/run-good", 'aria-label="ε spent')
    terms = load_scenario("banks-network").contract.industries["bank"]
    event = PoissonGaussian(
        noise_multiplier=1.5,
        sampling_rate=terms.sampling_rate,
        steps=2 * terms.local_steps,
        partition="train",
        unit="record",
    )
    assert f"{epsilon([event], 1e-5, grid=1e-3):.3g} of 3" in text


def test_neither_what_a_participant_wrote_nor_a_receipt_is_on_any_page(pages: dict[str, str], runs: Path) -> None:
    assert "Lovelace" in (runs / "run-good" / "events.jsonl").read_text()
    for path, text in pages.items():
        assert "Lovelace" not in text, path


# A participant's own view


@pytest.fixture
def own(make_site: Callable[..., Any]) -> tuple[FastAPI, Any]:
    """A home with a real ledger and one run; the end-to-end test shows homes of real runs."""
    site = make_site()
    plan = RunPlan(
        run_id="run-1", dataset="credit", contract_sha256="c" * 64, unit="record", declared_units=200,
        allowance=Budget(3.0, 1e-5), noise_multiplier=20.0, sampling_rate=0.2, steps_per_round=1, rounds=2, clip=1.0,
        non_private=False,
    )  # fmt: skip
    with site.ledger() as ledger:
        ledger.open_run(plan, Budget(12.0, 4e-5))
        ledger.commit(ledger.reserve("run-1", 1, "k" * 64, plan.round_events(), lifetime=Budget(12.0, 4e-5)), b"reply")
    folder = site.home.run_folder("run-1")
    (folder / "progress.jsonl").write_text('{"round": 1, "metric": "auc", "value": 0.5}\nhalf a li')
    metric = {"majority": 0.5, "local": 0.61, "federated": 0.7, "personal": 0.65, "kept": 0.65}
    (folder / "receipt.json").write_text(
        json.dumps(
            {
                "headline": "auc", "metrics": {"auc": metric}, "gain": {"value": 0.09, "low": 0.01, "high": 0.2},
                "keeps": "centred", "rows": 199, "synthetic": True, "epsilon": {
                    "run": 0.1, "budget": 3.0, "lifetime": 0.1, "lifetime_budget": 12.0, "delta": 1e-5,
                    "unit": "record", "relation": "add_or_remove_one", "non_private": False,
                },
                "quarantine": {"rows_read": 200, "rows_kept": 199, "reasons": {"amount: not a number": 1}},
            }
        )
    )  # fmt: skip
    return build(OwnerView.of(site.home.folder, None), TOKEN), site


def test_a_participants_own_pages(own: tuple[FastAPI, Any]) -> None:
    app, site = own
    text = counted(app, "/", "What credit was spent on")
    assert "run run-1" in text
    counted(app, "/ledger", "run opened")
    pages = crawl(app)
    assert "alone" in pages["/runs/run-1"]
    assert "amount: not a number" in pages["/runs/run-1"]
    assert "1 of 200" in pages["/runs"]
    assert 'consortia_receipt_metric{metric="auc",model="local",run="run-1"}' in pages["/metrics"]
    assert "bank-a, own view" in pages["/policy"]
    assert "Runs like the last one left: 3 (ε 3 at δ 1e-05 each)." in pages["/"]
    assert "ε 3 of 12 reserved: each run sets its whole allowance aside" in pages["/"]
    assert "All runs together spent less, about ε 0." in pages["/"]
    assert "Joining paid clearly: gain +0.090" in pages["/runs/run-1"]  # federated minus alone: it has no joined model
    assert 'class="name">run-1<' in pages["/runs"]  # receipts over runs
    site.home.ledger.write_bytes(b"broken")
    assert "cannot be read" in signed(app, "/").text


def test_a_source_with_a_password_is_shown_without_it(own: tuple[FastAPI, Any]) -> None:
    app, site = own
    secret = "sql:postgresql://ada:lovelace@db/loans?query=select"
    site.policy(lambda data: data["dataset"]["credit"].update(source=secret))
    text = signed(app, "/policy").text
    assert "db/loans" in text
    assert "lovelace" not in text


# The command


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--runs", ".", "--home", "."], "wanted one of them, got both"),
        (["--runs", "no-such-folder"], "wanted a folder of runs"),
        (["--home", "no-such-folder"], "wanted a participant's home"),
    ],
)
def test_bad_input_is_named(arguments: list[str], sentence: str) -> None:
    result = CliRunner().invoke(APP, ["dashboard", *arguments], env={"COLUMNS": "500"})
    assert result.exit_code == 2
    assert sentence in result.output


def test_a_port_that_is_taken_is_named(runs: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(APP, ["dashboard", "--runs", str(runs), "--port", port])
    assert result.exit_code == 2
    assert "try another port" in " ".join(result.output.split())


def test_a_short_token_is_refused(runs: Path) -> None:
    result = CliRunner().invoke(APP, ["dashboard", "--runs", str(runs)], env={"CONSORTIA_DASHBOARD_TOKEN": "short"})
    assert result.exit_code == 2
    assert "got 5" in result.output


# Parts


def test_board_and_alerts_ask_for_metrics_and_labels_that_exist(
    pages: dict[str, str], own: tuple[FastAPI, Any], runs: Path
) -> None:
    counted(own[0], "/metrics", "consortia_ledger_epsilon{")
    told = set(re.findall(r"# TYPE (\w+)", pages["/metrics"] + signed(own[0], "/metrics").text))
    file = Path(__file__).resolve().parents[2] / "docs" / "grafana.json"
    asked = {
        name
        for panel in json.loads(file.read_text(encoding="utf-8"))["panels"]
        for target in panel["targets"]
        for name in re.findall(r"consortia_\w+", target["expr"])
    }
    assert asked == told  # all of them are shown
    alerts = yaml.safe_load((file.parent / "alerts.yml").read_text(encoding="utf-8"))
    alarmed = {name for rule in rules_of(alerts) for name in re.findall(r"consortia_\w+", rule["expr"])}
    assert len(alarmed) >= 6
    assert alarmed <= told
    views = (CoordinatorView(runs, None), OwnerView.of(own[1].home.folder, None))
    labels = {family.name: set(family._labelnames) for view in views for family in view.collector.collect()}
    panels = json.loads(file.read_text(encoding="utf-8"))["panels"]
    lines = [(target["expr"], target["legendFormat"]) for panel in panels for target in panel["targets"]]
    lines += [(rule["expr"], " ".join(rule["annotations"].values())) for rule in rules_of(alerts)]
    for expression, text in lines:
        wanted = set(re.findall(r"[{,]\s*(\w+)\s*=~?", expression)) | set(
            re.findall(r"{{\s*(?:\$labels\.)?(\w+)", text)
        )
        for name in re.findall(r"consortia_\w+", expression):
            assert wanted <= labels[name], (expression, name)


def rules_of(alerts: Any) -> list[dict[str, Any]]:
    return [rule for group in alerts["groups"] for rule in group["rules"]]


def test_every_alert_says_what_happened_and_what_to_do(tmp_path: Path) -> None:
    file = Path(__file__).resolve().parents[2] / "docs" / "alerts.yml"
    rules = rules_of(yaml.safe_load(file.read_text(encoding="utf-8")))
    for rule in rules:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert set(rule["annotations"]) == {"summary", "description"}
    assert len({rule["alert"] for rule in rules}) == len(rules)
    if shutil.which("promtool") is None:
        return
    cases = [
        ("consortia_ledger_left{dataset='d'}", "0.3", "consortia_ledger_budget{dataset='d'}", "4", 1),
        ("consortia_ledger_left{dataset='d'}", "1", "consortia_ledger_budget{dataset='d'}", "4", 0),
        ("consortia_ledger_left{dataset='d'}", "0", "consortia_ledger_budget{dataset='d'}", "4", 2),
        ("consortia_participant_waited_for{run='r',participant='p'}", "1", "x", "1", 1),
        ("consortia_participant_waited_for{run='r',participant='p'}", "0", "x", "1", 0),
        ("consortia_certificate_end_timestamp_seconds{file='a'}", str(20 * 86400), "x", "1", 1),
        ("consortia_certificate_end_timestamp_seconds{file='a'}", str(2 * 86400), "x", "1", 2),
        ("consortia_certificate_end_timestamp_seconds{file='a'}", str(40 * 86400), "x", "1", 0),
    ]
    tests = [
        {
            "interval": "1m",
            "input_series": [
                {"series": series.replace("'", '"'), "values": f"{value}x30"},
                {"series": other.replace("'", '"'), "values": f"{second}x30"},
            ],
            "promql_expr_test": [
                {
                    "expr": "count(ALERTS) or vector(0)",
                    "eval_time": "20m",
                    "exp_samples": [{"labels": "{}", "value": found}],
                }
            ],
        }
        for series, value, other, second, found in cases
    ]
    asked = tmp_path / "cases.yml"
    asked.write_text(yaml.safe_dump({"rule_files": [str(file)], "tests": tests}), encoding="utf-8")
    done = subprocess.run(["promtool", "test", "rules", str(asked)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ticks_are_round_and_within() -> None:
    assert ticks(0.0, 1.0) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(0.61, 0.84) == pytest.approx([0.65, 0.7, 0.75, 0.8])
    assert ticks(0, 500, 6) == pytest.approx([0, 100, 200, 300, 400, 500])


def test_a_plot_draws_intervals_and_levels_and_escapes_names() -> None:
    line = Line(PLANTED, [(1, 0.5, 0.4, 0.6), (2, 0.6, 0.5, 0.7)])
    plot = str(line_chart("t", "round", "AUC", [line, Line("other", [(1, 0.5, None, None)])], [Level(PLANTED, 0.9)]))
    assert 'class="band c0"' in plot
    assert "<b>" not in plot
    assert line_chart("t", "round", "AUC", [Line("empty", [])]) == ""
    assert len(re.findall(r'cx="[\d.]+%"', plot)) == 3


def test_a_gauge_never_runs_over() -> None:
    assert 'class="fill over" x="0" y="0.5" width="100.0%"' in gauge(5.0, 1.0, "over")
    assert 'class="fill " x="0" y="0.5" width="100.0%"' in gauge(1.0, 1.0, "as planned")  # calm
    assert 'width="50.0%"' in gauge(0.5, 1.0, "half")
    assert 'width="0.0%"' in gauge(1.0, None, "no budget")


def test_the_background_gives_the_last_value_while_it_counts() -> None:
    background = Background()
    assert background.take("slot", 1, lambda: "one") == (None, False)
    tries = (background.take("slot", 1, lambda: "one") for _ in range(60_000) if not time.sleep(0.001))  # type: ignore[func-returns-value]
    assert ("one", True) in tries
    assert background.take("slot", 2, lambda: "two") == ("one", False)
