"""The report: every number in it is in a record, nothing that a participant planted is, and it needs no network."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from command_line import APP
from finished_run import PLANTED, write_result, write_run
from typer.testing import CliRunner, Result

from consortia.reports.live_runs import Run
from consortia.reports.page.facts import gather
from consortia.reports.page.render import as_html, as_markdown
from consortia.terms.scenario import load_scenario
from consortia.trust.trusted_coordinator import account
from privacy.accounting import epsilon

#: Numbers of our own sentences.
OURS = ("95 %", "SHA-256", "sha256")
NUMBER = re.compile(r"(?<![\w.])[+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?")


class Page(HTMLParser):
    """Collects the words of a page; the scale marks of a plot are no values and are left out."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._inside: list[str] = []
        self.words: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        named = tag == "text" and ("class", "level-name") in attrs
        if tag in {"style", "text"} and not named:
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._inside and self._inside[-1] == tag:
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.words.append(data)


def _flat(value: Any) -> Iterator[Any]:
    """Yield every value of a record, and how many there are in each list: a count of its lines."""
    if isinstance(value, dict):
        yield from (each for item in value.items() for part in item for each in _flat(part))
        yield len(value)
    elif isinstance(value, list):
        yield from (each for item in value for each in _flat(item))
        yield len(value)
    else:
        yield value


def _records(folder: Path) -> list[Any]:
    """Return every value of the run's records, the time of its events in UTC, and epsilon counted anew."""
    found: list[Any] = []
    for file in folder.rglob("*.json*"):
        text = file.read_text(encoding="utf-8")
        lines = text.splitlines() if file.suffix == ".jsonl" else [text]
        found += [value for line in lines for value in _flat(json.loads(line))]
    times = [v for v in found if isinstance(v, float) and 1e9 < v < 4e9]
    found += [f"{datetime.datetime.fromtimestamp(t, datetime.UTC):%Y-%m-%d %H:%M:%S}" for t in times]
    run = Run(folder)
    run.refresh()
    for participant in run.participants.values():
        events = [event for n in range(1, len(participant.contributed) + 1) if (event := run.event(participant, n))]
        found += [epsilon([event], participant.delta, grid=1e-3) for event in events]
    return found


def strange_numbers(text: str, records: list[Any]) -> list[str]:
    """Return the numbers of a text that are no rounded number, no count and no text of a record."""
    texts = {v for v in records if isinstance(v, str) and re.search(r"\d", v)} | set(OURS)
    for each in sorted(texts, key=len, reverse=True):
        text = re.sub(rf"(?<![\w.,]){re.escape(each)}(?!\w)(?![.,]\d)", " ", text)
    numbers = {float(v) for v in records if isinstance(v, int | float) and not isinstance(v, bool)}
    return [token for token in NUMBER.findall(text) if not _is_one_of(token, numbers)]


def _is_one_of(token: str, numbers: set[float]) -> bool:
    plain = token.replace(",", "")
    digits = len(plain.partition(".")[2]) if "e" not in plain else 0
    wanted = float(plain)
    near = [n for n in numbers if abs(n - wanted) <= 1]
    return any(f"{n:g}" == f"{wanted:g}" or f"{n:.{digits}f}" == f"{wanted:.{digits}f}" for n in near)


def _call(*arguments: object) -> Result:
    return CliRunner().invoke(APP, [str(a) for a in arguments], env={"COLUMNS": "200"})


@pytest.mark.parametrize("simulation", [True, False])
def test_every_number_is_in_a_record_and_nothing_planted_is_there(tmp_path: Path, simulation: bool) -> None:
    folder = write_run(tmp_path)
    write_result(folder, simulation=simulation)
    facts = gather(folder)
    records = _records(folder)
    for text in (" ".join(Page(as_html(facts)).words), as_markdown(facts)):
        assert strange_numbers(text, records) == []
        for wanted in ("2.72", "15,321 B", "1e-05", "record", "BAD_REPLY", "0.654", "0.550 to 0.770", "this run"):
            assert wanted in text
        assert ("0.611" in text) == simulation  # the receipt
        for part in ("Lovelace", "4711471147"):
            assert part not in text
    assert "4711471147" in str(records)


def test_a_number_of_no_record_is_found(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    write_result(folder, simulation=True)
    text = as_markdown(gather(folder)).replace("2.72", "2.79").replace("15,321", "15,322")
    assert set(strange_numbers(text, _records(folder))) == {"2.79", "15,322"}


def test_the_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    write_result(folder, simulation=True)
    html = as_html(gather(folder))
    page = Page(html)
    assert not {"script", "link", "iframe", "img", "object"} & (set(page.tags) - {"link"})
    links = [value for name, value in page.attributes if name in {"href", "src", "srcset", "action"}]
    assert all(link.startswith("#") or link == "data:," for link in links)
    assert "default-src 'none'" in html
    assert not re.search(r"url\(|@import|https?://", html.replace("http://www.w3.org", ""))
    for rule in ("prefers-color-scheme: dark", "@media print"):
        assert rule in html
    for axis in ("round", "ε of the run", "gain in the metric", "seconds"):
        assert f">{axis}</text>" in html
    assert 'class="band' in html  # the intervals of the released metric


def test_names_of_a_record_are_escaped(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    write_result(folder)
    result = json.loads((folder / "result.json").read_text())
    result["reason"] = PLANTED
    (folder / "result.json").write_text(json.dumps(result))
    assert "<b>Lovelace" not in as_html(gather(folder))
    assert "<b>Lovelace" not in as_markdown(gather(folder))


def test_the_command_writes_both_files_and_names_what_is_missing(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    result = _call("report", folder)
    assert result.exit_code == 2
    assert "wanted the folder of a finished run" in result.output
    write_result(folder)
    result = _call("report", folder, "--out", tmp_path / "there")
    assert result.exit_code == 0, result.output
    assert {file.name for file in (tmp_path / "there").iterdir()} == {"report.html", "report.md"}
    result = _call("report", folder, "--participant", "used-car")
    assert result.exit_code == 2
    assert "wanted a run with a receipt of 'used-car'" in result.output


@pytest.mark.end_to_end  # a roster of a thousand
def test_a_crowd_under_a_trusted_coordinator_is_told_as_such(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    write_result(folder)
    scenario = load_scenario("smart-home")
    (folder / "scenario.json").write_text(scenario.to_json())
    result = json.loads((folder / "result.json").read_text())
    participant = result["participants"]["used-car"]
    result["participants"] = {each.name: participant for each in scenario.roster}
    result["central"] = account(scenario.contract, 3)
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "events.jsonl").unlink()
    text = " ".join(Page(as_html(gather(folder))).words)
    assert "Trusted coordinator, unit: home" in text
    assert "towards the coordinator ε = ∞ (not protected)" in text
    assert "Tables and plots show the first of a crowd ... and 990 more" in text
    assert scenario.roster[0].name in text
    assert scenario.roster[20].name not in text


@pytest.mark.end_to_end
@pytest.mark.filterwarnings("ignore")  # TensorBoard's own
def test_the_report_of_a_real_run_and_what_is_planted_in_its_rows(tmp_path: Path) -> None:
    for site in ("a", "b"):
        rows = [f"{x / 40 - 0.5},{3 * x / 40 + 0.5},Lovelace {x}" for x in range(40)] + ["0.1,Lovelace,4711471147"]
        file = tmp_path / "data" / "linear" / "line" / f"{site}.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(["x,y,name", *rows]))
    result = _call(
        *("run", "linear", "--rounds", 3, "--data", tmp_path / "data", "--out", tmp_path / "runs"),
        *("--track", "tensorboard"),
    )
    assert "after 3 rounds" in result.output, result.output
    (folder,) = (tmp_path / "runs").iterdir()
    assert _call("report", folder).exit_code == 0
    text = " ".join(Page((folder / "report.html").read_text()).words)
    # Bars and curves of the released model come from that model and the public schema.
    why = _flat(json.loads(_call("explain", folder, "--json").stdout))
    assert strange_numbers(text, [*_records(folder), *why]) == []
    for section in ("Under which guarantee", "What it cost", "Model card", "Environment and hashes"):
        assert section in text
    outside = [path for path in folder.rglob("*") if path.is_file() and "participants" not in path.parts]
    assert {"report.html", "report.md", "events.jsonl", "result.json"} <= {path.name for path in outside}
    assert any("tfevents" in path.name for path in outside)
    assert all(b"Lovelace" not in path.read_bytes() + result.output.encode() for path in outside)
