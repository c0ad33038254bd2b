"""A real PostgreSQL, started here in a temporary folder, gives the same table as the frame it was filled with."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import omop_export
import pytest
import torch

from clients.dataset import prepare
from clients.errors import SourceError
from clients.hospital import CLIENT
from clients.sources import parse_source, read, read_table

pytestmark = pytest.mark.end_to_end
PASSWORD = "a-secret-of-this-test"


def _tools() -> Path | None:
    """The folder that holds initdb and postgres."""
    places = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    if found := shutil.which("initdb"):
        places.insert(0, Path(found).resolve().parent)
    if config := shutil.which("pg_config"):
        answer = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=False, timeout=30)
        places.insert(0, Path(answer.stdout.strip()))
    return next((p for p in places if (p / "initdb").is_file() and (p / "postgres").is_file()), None)


def _account() -> pwd.struct_passwd | None:
    """PostgreSQL does not run as root: then another account has to own the folder and the process."""
    if os.geteuid():
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    return None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    tools, account = _tools(), _account()
    if tools is None:
        pytest.skip("PostgreSQL (initdb, postgres) is not installed")
    if account is None and not os.geteuid():
        pytest.skip("run as root without an account that PostgreSQL could run as")
    # Not tmp_path: its parents are closed to other accounts.
    base = Path(tempfile.mkdtemp(prefix="pg-"))
    who = {} if account is None else {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    if account is not None:
        os.chown(base, account.pw_uid, account.pw_gid)
    secret = base / "password"
    secret.write_text(PASSWORD)
    secret.chmod(0o644)
    env = {"PATH": os.environ["PATH"], "LC_ALL": "C", "HOME": str(base)}
    port = _free_port()
    server = None
    try:
        subprocess.run(
            [
                tools / "initdb", "-D", base / "data", "-U", "ada", "-A", "scram-sha-256",
                f"--pwfile={secret}", "-E", "UTF8", "--no-sync",
            ],
            check=True, capture_output=True, env=env, cwd=base, timeout=120, **who,
        )  # fmt: skip
        server = subprocess.Popen(
            [
                tools / "postgres", "-D", base / "data", "-p", str(port), "-c", "listen_addresses=127.0.0.1",
                "-c", f"unix_socket_directories={base}", "-F",
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env, cwd=base, **who,
        )  # fmt: skip
        address = f"postgresql+psycopg://ada:{PASSWORD}@127.0.0.1:{port}/postgres"
        _wait(address, server)
        yield address
    finally:
        if server is not None:
            server.terminate()
            server.wait(timeout=30)
        shutil.rmtree(base, ignore_errors=True)


def _wait(address: str, server: subprocess.Popen[bytes]) -> None:
    import psycopg

    plain = address.replace("+psycopg", "")
    for _ in range(200):
        assert server.poll() is None, "postgres ended"
        try:
            psycopg.connect(plain, connect_timeout=2).close()
        except psycopg.OperationalError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError("postgres did not answer within 20 s")


def test_rows_from_postgresql_are_the_rows_that_went_in(url):
    import sqlalchemy

    frame = read(parse_source("synthetic:80?seed=5"), CLIENT, "va")
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        frame.to_sql("heart", connection, index=False)
        # exact decimals, as a bank or a hospital would store them
        connection.exec_driver_sql("ALTER TABLE heart ALTER COLUMN oldpeak TYPE numeric(6, 2)")
        connection.exec_driver_sql("ALTER TABLE heart ALTER COLUMN sex TYPE boolean USING sex = 1")
    engine.dispose()
    expected = prepare(CLIENT, frame)
    # what a driver or SQLAlchemy might take for placeholders
    awkward = "patient_id LIKE 'syn%' AND age::numeric > 0 AND patient_id <> ':x %s'"
    for text in (f"sql:{url}?table=heart", f"sql:{url}?query=SELECT * FROM heart WHERE {awkward}"):
        table = prepare(CLIENT, read(parse_source(text), CLIENT, "va"))
        assert torch.equal(table.inputs["features"], expected.inputs["features"])
        assert torch.equal(table.target, expected.target)
        assert table.row_ids == expected.row_ids


def test_a_wrong_password_is_one_sentence_that_does_not_show_it(url):
    wrong = url.replace(PASSWORD, "another-secret")
    with pytest.raises(SourceError, match="wanted a database that answers the query") as caught:
        read(parse_source(f"sql:{wrong}?table=heart"), CLIENT, "va")
    assert "another-secret" not in str(caught.value)


def test_an_omop_export_in_a_schema_of_its_own(url):
    import sqlalchemy

    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA cdm")
    omop_export.fill(engine, "cdm")
    engine.dispose()
    concept, ill = omop_export.CHOLESTEROL, omop_export.ISCHAEMIC
    columns = f"person_id,gender,birth_date,measurement:{concept},condition:{ill}%2B"
    rows = read_table(parse_source(f"omop:{url}?columns={columns}&cdm=cdm&until=2024-01-15")).to_numpy(object)
    assert len(rows) == omop_export.PERSONS
    assert rows[0].tolist() == ["1", "8507", "1951-03-02", 4.1, 1]
    with pytest.raises(SourceError, match=r"wanted the table person of OMOP 5\.4, got none; see the option cdm"):
        read_table(parse_source(f"omop:{url}?columns=person_id"))
