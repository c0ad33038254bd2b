"""No error, log, page or record shows a secret or a row: canaries in each field of each file, then everything is read.

`SECRET` is a database's password, `ROW` the value of somebody's row. Neither may stand in anything printed or written,
apart from the files that they were planted in.
"""

from __future__ import annotations

import copy
import json
import logging
import sqlite3
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tomli_w
import typer
from command_line import APP
from typer.testing import CliRunner

from clients.errors import ClientError
from clients.masking import SourceText, masked
from clients.sources import parse_source, read_table
from consortia.participant.home import Home
from consortia.common import console
from consortia.common.errors import InputError, RefusedError
from consortia.common.logs import OwnFile
from consortia.common.strict import listed, shown
from consortia.dashboard.background import Background
from consortia.dashboard.own import Own
from consortia.engines.demonstration import demo_policy_file
from consortia.participant.handle import handle
from consortia.terms.policy import parse_policy
from consortia.terms.scenario import find_scenario, load_scenario
from privacy.ledger import Ledger

SECRET, ROW = "CANARYsecret7f3", "CANARYrow9b1"
URL = f"postgresql+psycopg://ward:{SECRET}@db.local/clinic?table=heart"
#: A short text in place of a name or a number may be repeated in an error about a scenario; what is longer, or in a
#: container that is wrong as a whole, may not.
PLANTED = [
    URL,
    f"sql:{URL}",
    f"host=db.local password={SECRET} user=ward",
    [URL, f"{ROW} {'x' * 40}"],
    {"password": SECRET, "row": f"{ROW} {'x' * 40}"},
    [{"a": {"b": [ROW, SECRET]}}],
]
SCENARIO = "hospitals-network"


def call(*arguments: object) -> str:
    result = CliRunner().invoke(APP, [str(each) for each in arguments], env={"COLUMNS": "300"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.output


def silent(text: str, where: object = "") -> None:
    """Fail, without printing more than needed, when a canary is in the text."""
    for canary in (SECRET, ROW):
        if canary in text:
            at = text.index(canary)
            pytest.fail(f"{where}: {canary} in ...{text[max(0, at - 120) : at + 40]!r}")


def written(folder: Path, *besides: str) -> Iterator[tuple[Path, str]]:
    """Everything below a folder as text, binary files too."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in besides:
            yield path, path.read_bytes().decode("latin-1")


def leaves(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all values and tables of a file."""
    if path:
        yield path
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield from leaves(value, (*path, key))


def planted(data: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    made = copy.deepcopy(data)
    place: Any = made
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return made


VERTICAL = {
    "peers": {"bank": "ed25519:" + "0" * 64}, "label": "sick", "purpose": "care", "set_size_cap": 100,
    "new_persons": "csv:/nowhere", "ids": ["name"], "models": ["logistic"],
}  # fmt: skip
POLICY: dict[str, Any] = {
    **tomllib.loads(demo_policy_file(SCENARIO, "cleveland").read_text(encoding="utf-8")),
    "demo": False,
    "limits": {"unpaid_runs": 3},
    "vertical": VERTICAL,
    "noise": "secure",
}
POLICY["allow"]["contracts"] = ["sha256:" + "0" * 64]
POLICY["dataset"]["heart"] |= {"max_rows_per_unit": 3, "quarantine_threshold": 0.1}
POLICY["budget"]["evaluation"] = {key: dict(POLICY["budget"][key]) for key in ("run", "lifetime")}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    place = Home(tmp_path / "homes" / "cleveland", "cleveland")
    place.create()
    Ledger.create(place.ledger, "cleveland").close()
    return place


@pytest.mark.parametrize("path", list(leaves(POLICY)), ids=lambda path: ".".join(map(str, path)))
def test_no_field_of_a_policy_is_shown(path: tuple[Any, ...]) -> None:
    plain = [] if path[-1] in {"source", "site", "unit", "label", "purpose", "participant", 0} else [ROW]
    for value in [*PLANTED, *plain]:
        text = tomli_w.dumps(planted(POLICY, path, value))
        try:
            policy = parse_policy(text, "policy.toml")
            silent(repr(policy) + str(policy), path) if isinstance(value, str) and path[-1] == "source" else None
        except (InputError, RefusedError) as error:
            silent(f"{error!r} {error}", path)


COMMANDED = [
    ("dataset", "heart", "source"), ("allow", "releases", 0), ("vertical", "new_persons"), ("participant",),
    ("budget", "lifetime", "delta"), ("dataset",),
]  # fmt: skip


@pytest.mark.parametrize("path", COMMANDED, ids=str)
def test_no_command_shows_a_field_of_a_policy(path: tuple[Any, ...], home: Home) -> None:
    folder = home.folder.parent
    for value in (PLANTED[0], PLANTED[4]):
        home.policy.write_text(tomli_w.dumps(planted(POLICY, path, value)), encoding="utf-8")
        silent(call("preflight", "cleveland", "--home", folder, "--scenario", SCENARIO), path)
        silent(call("budget", "show", "cleveland", "--home", folder, "--json"), path)
    for file, body in written(home.folder, "policy.toml"):
        silent(body, file)


def test_an_unknown_key_a_syntax_error_and_a_too_large_delta_show_nothing(home: Home) -> None:
    good = tomli_w.dumps(planted(POLICY, ("dataset", "heart", "source"), f"sql:{URL}"))
    bad = [
        good.replace("0.0004", "0.4"),
        good.replace("declared_units", "declard_units"),
        good + f'\n["{URL}"]\nx = "{ROW}"\n',
        good + f"\nx = {SECRET}\n",
        good + f'\nx = "{SECRET}\n',
        f'"{SECRET}" "{ROW}"\n' + good,
    ]
    for number, text in enumerate(bad):
        home.policy.write_text(text, encoding="utf-8")
        for arguments in (
            ("budget", "show", "cleveland"),
            ("budget", "set", "cleveland", "--run", "0.5"),
            ("budget", "history", "cleveland"),
            ("budget", "export", "cleveland"),
            ("preflight", "cleveland", "--scenario", SCENARIO),
        )[0 if number == 0 else 4 :]:
            said = call(*arguments, "--home", home.folder.parent)
            silent(said, arguments)
    home.policy.write_text(bad[0], encoding="utf-8")
    said = call("preflight", "cleveland", "--scenario", SCENARIO, "--home", home.folder.parent)
    assert "policy: failed" in said
    assert "budget.lifetime.delta < 1/declared_units = 0.0033 of dataset.heart, got 0.4" in said


SCENARIO_DATA = tomllib.loads(find_scenario(SCENARIO).read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", [p for p in leaves(SCENARIO_DATA) if p != ("title",) and p[:2] != ("roster", 2)],
                         ids=lambda path: ".".join(map(str, path)))  # fmt: skip
def test_no_field_of_a_scenario_is_shown(path: tuple[Any, ...], tmp_path: Path) -> None:
    for value in PLANTED:
        file = tmp_path / "planted.toml"
        file.write_text(tomli_w.dumps(planted(SCENARIO_DATA, path, value)), encoding="utf-8")
        try:
            load_scenario(str(file))
        except InputError as error:
            silent(f"{error!r} {error}", path)
    silent(call("check", file), path)
    for name, body in written(tmp_path, "planted.toml"):
        silent(body, name)


def test_a_whole_roster_is_never_printed(tmp_path: Path) -> None:
    data = copy.deepcopy(SCENARIO_DATA)
    data["roster"] = [{**data["roster"][0], "name": f"ward-{n:03d}", "epsilon": -1.0} for n in range(300)]
    file = tmp_path / "many.toml"
    file.write_text(tomli_w.dumps(data), encoding="utf-8")
    said = call("check", file)
    assert said.count("wanted") <= 20
    assert "more mistakes like these" in said
    assert listed(f"n{i}" for i in range(300)).endswith("n7 and 292 more")


@pytest.mark.parametrize("path", [("schema",), ("roster",), ("removed",), ("roster", 0, "epsilon"),
                                  ("roster", 0, "name"), ("roster", 0, "industry")], ids=str)  # fmt: skip
def test_no_field_of_a_membership_is_shown(path: tuple[Any, ...], tmp_path: Path) -> None:
    data = {"schema": 1, "removed": ["va"], "roster": [dict(SCENARIO_DATA["roster"][0], name="new")]}
    folder = tmp_path / SCENARIO
    folder.mkdir()
    for value in PLANTED[1::2]:
        (folder / "members.toml").write_text(tomli_w.dumps(planted(data, path, value)), encoding="utf-8")
        said = call("participant", "list", "--scenario", SCENARIO, "--members", tmp_path)
        assert "members.toml" in said
        silent(said, path)


# Rows


def _rows(**cells: object) -> pd.DataFrame:
    frame = read_public(30)
    for name, value in cells.items():
        frame[name] = frame[name].astype(object)
        frame.loc[3, name] = value
    return frame


def read_public(rows: int) -> pd.DataFrame:
    from clients import registry
    from clients.sources import read

    frame = read(parse_source(f"synthetic:{rows}?seed=1"), registry.get("hospital"), "cleveland").astype(object)
    return frame.astype(str).replace("nan", "")


@pytest.fixture
def ward(make_site: Any) -> Iterator[Any]:
    site = make_site("cleveland", SCENARIO)
    handler = OwnFile(site.home.log, "cleveland")
    logger = logging.getLogger("consortia")
    logger.addHandler(handler)
    yield site
    logger.removeHandler(handler)
    handler.close()


def _told(ward: Any, source: str, tmp_path: Path, capfd: Any, **terms: Any) -> None:
    """Train and preflight on a source that fails; read all that is printed, written and answered."""

    def change(data: dict[str, Any]) -> None:
        data["dataset"]["heart"] |= {"source": source, **terms}

    ward.policy(change)
    for number, kind in enumerate(("train", "evaluate"), start=1):
        silent(handle(ward.message(number, kind), ward.home).decode("latin-1"), source)
    folder = ward.home.folder.parent
    ward.policy(lambda data: data.update(demo=False, allow={**data["allow"], "contracts": ["sha256:" + "0" * 64]}))
    silent(call("preflight", "cleveland", "--home", folder, "--scenario", SCENARIO, "--json"), source)
    ward.policy(lambda data: data.update(demo=True, allow={**data["allow"], "contracts": "any"}))
    captured = capfd.readouterr()
    silent(captured.out + captured.err, source)
    for file, body in written(ward.home.folder, "policy.toml"):
        silent(body, file)


COLUMNS = list(read_public(1).columns)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_no_cell_and_no_header_is_shown(kind: str, ward: Any, tmp_path: Path, capfd: Any) -> None:
    file = tmp_path / f"heart.{kind}"
    whole = read_public(30)
    frames = [_rows(**{name: ROW}) for name in COLUMNS[::4]]
    frames += [whole.assign(**{COLUMNS[0]: ROW}), whole.assign(**dict.fromkeys(COLUMNS, ROW))]
    frames += [
        whole.rename(columns={COLUMNS[0]: ROW}),
        whole.rename(columns={name: f"{ROW}{name}" for name in COLUMNS}),
    ]
    for frame in frames:
        frame.to_csv(file, index=False) if kind == "csv" else frame.to_parquet(file)
        _told(ward, f"{kind}:{file}", tmp_path, capfd, quarantine_threshold=0.0)


def test_no_broken_file_is_shown(ward: Any, tmp_path: Path, capfd: Any) -> None:
    file = tmp_path / "heart.csv"
    good = read_public(20).to_csv(index=False)
    header, first, rest = good.split("\n", 2)
    bodies = [
        f"{header}\n{first},{ROW},{ROW}\n{rest}".encode(),
        f"{first.replace(',', f';{ROW};')}\n{rest}".encode(),
        f"{header},{ROW},{ROW}\n{rest}".encode(),
        f'{header}\n"{ROW}\n{rest}'.encode(),
        f"{header}\n{ROW}é\n{rest}".encode("latin-1"),
        f"{ROW}\n".encode(),
        f"{header}\0{ROW}\n{rest}".encode(),
    ]
    for body in bodies:
        file.write_bytes(body)
        for kind in ("csv", "parquet"):
            _told(ward, f"{kind}:{file}", tmp_path, capfd, quarantine_threshold=0.0)


def test_no_database_is_shown(ward: Any, tmp_path: Path, capfd: Any) -> None:
    database = tmp_path / "heart.db"
    with sqlite3.connect(database) as connection:
        _rows(**{COLUMNS[1]: ROW}).to_sql("heart", connection, index=False)
    for source in (
        f"sql:{URL.replace('db.local', '127.0.0.1:1')}",
        f"sql:nosuchdriver://ward:{SECRET}@db/clinic?table=heart",
        f"sql:{URL.replace('?table=heart', '?table=1 2')}",
        f"sql:{SECRET}",
        f"{SECRET}:{ROW}",
        f"sql:sqlite:///{tmp_path}/none-{SECRET}.db?table=heart",
        f"sql:sqlite:///{database}?query=SELECT * FROM heart WHERE password='{SECRET}'",
        f"sql:sqlite:///{database}?query=SELECT {SECRET} FROM {ROW}",
        f"sql:sqlite:///{database}?table=heart",
        f"sql:sqlite:///{database}?query=SELECT CAST(abs(-9223372036854775807 - 1) AS TEXT) AS {ROW}",
        f"csv:https://x/heart.csv?sig={SECRET}",
    ):
        _told(ward, source, tmp_path, capfd, quarantine_threshold=0.0)
        with pytest.raises(ClientError) as caught:
            read_table(parse_source(source.replace("table=heart", "table=nothing")))
        silent(f"{caught.value!r} {caught.value}", source)


# Pages, text, the last resort


def test_the_page_of_the_policy_hides_every_secret(home: Home) -> None:
    escaped = f"sql:{URL}".replace("@", "\\u0040").replace("://", ":\\u002f/")
    text = tomli_w.dumps(POLICY).replace('"synthetic:303"', f'"{escaped}"').replace("csv:/nowhere", escaped)
    home.policy.write_text(f"# backup: {URL}\n{text}", encoding="utf-8")
    policy, page = Own(home, Background()).policy()
    assert policy.dataset["heart"].source == f"sql:{URL}"
    assert "db.local" in page
    silent(page + repr(policy) + str(policy.dataset["heart"].source) + f"{policy.dataset['heart'].source}")


def test_an_error_of_another_library_is_named_not_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode() -> None:
        try:
            int(ROW)
        except ValueError as error:
            raise RuntimeError(f"could not read {SECRET}") from error

    said: list[str] = []
    monkeypatch.setattr(console.err, "print", lambda text, **_: said.append(text))
    with pytest.raises(typer.Exit) as caught:
        console.friendly(explode)()
    assert caught.value.exit_code == 1
    assert "RuntimeError at explode" in said[0]
    silent(" ".join(said))
    monkeypatch.setenv("CONSORTIA_TRACEBACK", "1")
    with pytest.raises(RuntimeError):
        console.friendly(explode)()


@pytest.mark.parametrize("text", [
    URL, f"sql:{URL}", f"a://u:{SECRET}/w@x@host/db", f"host=h password='{SECRET} {ROW}' user=u", f"PWD={SECRET};x=1",
    f"https://h/f?x=1&access_token={SECRET}&y=2", f"{{'api_key': '{SECRET}'}}", f'{{"secret": "{SECRET}"}}',
    f"AccountKey={SECRET}==;EndpointSuffix=x", f"s3://k:{SECRET}@bucket", f"aws_secret_access_key = {SECRET}",
])  # fmt: skip
def test_secrets_are_masked(text: str) -> None:
    silent(masked(text))
    source = SourceText(text)
    silent(f"{source} {source!r} {[source]} {'%s' % source} {source:>9}")  # noqa: UP031 - as logging does
    assert source == text
    assert json.loads(json.dumps(source)) == text


def test_what_is_no_secret_stays() -> None:
    for text in ("roster.3.epsilon: wanted a number, got 'x'", "budget.run = 3", "see https://x.org/a?b=c", "a@b.org"):
        assert masked(text) == text
    assert shown("x" * 41) == "a text of 41 characters"
    assert shown({"a": 1}) == "a table of 1 keys"
    assert shown(10**50) == "a number of too many digits"
