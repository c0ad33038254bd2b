"""`consortia data get` against a server of this test: ranges, cut connections, wrong files, no network."""

from __future__ import annotations

import hashlib
import io
import os
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from command_line import APP
from typer.testing import CliRunner

from clients import public_data
from clients.public_data import DATA_SETS, PublicData
from consortia.cli import data_get
from consortia.common import download as downloading
from consortia.common.errors import ConsortiaError, InputError

CONTENTS = {"a.data": b"1,2,3\n" * 20_000, "b.data": b"4,5,6\n" * 10}
FOUND = PublicData(
    title="Made up",
    folder="hospital/made_up",
    path="/static/public/7/made+up.zip",
    files={name: hashlib.sha256(content).hexdigest() for name, content in CONTENTS.items()},
    citation="Nobody (2020). Made up. https://doi.org/10.0/X",
)
REAL = Path(os.environ.get("CONSORTIA_DATA") or Path(__file__).parents[2].parent / "shared" / "data")


def packed(contents: dict[str, bytes], inside: str = "folder/") -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as made:  # stored, so that it is large enough to be cut
        for name, content in {"read.me": b"?", **contents}.items():
            made.writestr(inside + name, content)
    return held.getvalue()


@dataclass
class Publisher:
    """What the server has, how it behaves, and what it was asked for."""

    archive: bytes = packed(CONTENTS)
    ranges: bool = True
    tag: str = '"one"'
    status: int = 200
    #: How many bytes of an answer are sent before the connection is cut, one for each answer; then whole ones.
    cuts: list[int] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range", "")
        self.asked.append((request.path, wanted))
        if self.status != 200:
            request.send_error(self.status)
            return
        body, first = self.archive, 0
        if self.ranges and wanted and request.headers.get("If-Range", self.tag) == self.tag:
            first = int(wanted.removeprefix("bytes=").rstrip("-"))
            body = body[first:]
        if first >= len(self.archive):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(self.archive)}")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        request.send_response(206 if first else 200)
        if first:
            request.send_header("Content-Range", f"bytes {first}-{len(self.archive) - 1}/{len(self.archive)}")
        request.send_header("ETag", self.tag)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body[: self.cuts.pop(0)] if self.cuts else body)
        request.close_connection = True


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    made = Publisher()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.answer(self)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    made.url = f"http://127.0.0.1:{server.server_port}"
    yield made
    server.shutdown()
    server.server_close()
    thread.join()


def fetch(publisher: Publisher, data: Path) -> str:
    return data_get.fetch(FOUND, data, publisher.url, pause=0.0)


def kept(data: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (data / FOUND.folder).iterdir() if path.name != data_get.LICENCE}


def test_files_come_with_their_licence_and_once(publisher: Publisher, tmp_path: Path) -> None:
    assert "2 file(s)" in fetch(publisher, tmp_path)
    assert kept(tmp_path) == CONTENTS
    licence = (tmp_path / FOUND.folder / data_get.LICENCE).read_text()
    for part in (FOUND.citation, "CC BY 4.0", "https://creativecommons.org/licenses/by/4.0/legalcode"):
        assert part in licence
    assert "already" in fetch(publisher, tmp_path)
    assert publisher.asked == [(FOUND.path, "")]


def test_a_cut_connection_goes_on_where_it_was_cut(publisher: Publisher, tmp_path: Path) -> None:
    publisher.cuts = [50_000, 30_000]
    fetch(publisher, tmp_path)
    assert kept(tmp_path) == CONTENTS
    assert [wanted for _, wanted in publisher.asked] == ["", "bytes=50000-", "bytes=80000-"]


def test_the_next_call_goes_on_after_all_tries_failed(publisher: Publisher, tmp_path: Path) -> None:
    publisher.cuts = [10_000] * 4
    with pytest.raises(ConsortiaError, match=r"wanted an answer, got .*Call it again: it goes on where it stopped"):
        fetch(publisher, tmp_path)
    assert set(kept(tmp_path)) == {"made+up.zip.part", "made+up.zip.mark"}
    fetch(publisher, tmp_path)
    assert publisher.asked[-1][1] == "bytes=40000-"
    assert kept(tmp_path) == CONTENTS


@pytest.mark.parametrize("change", [{"ranges": False}, {"tag": '"two"'}])
def test_another_version_or_a_server_without_ranges_begins_anew(
    publisher: Publisher, tmp_path: Path, change: dict[str, Any]
) -> None:
    if "tag" in change:
        publisher.archive = packed(CONTENTS, "older/")
    publisher.cuts = [50_000] * 4
    publisher.ranges = False
    with pytest.raises(ConsortiaError):
        fetch(publisher, tmp_path)
    publisher.archive, publisher.ranges = packed(CONTENTS), True
    vars(publisher).update(change)
    fetch(publisher, tmp_path)
    assert kept(tmp_path) == CONTENTS


@pytest.mark.parametrize("extra", [0, 9])
def test_a_part_that_is_whole_or_too_long_is_known_as_such(publisher: Publisher, tmp_path: Path, extra: int) -> None:
    folder = tmp_path / FOUND.folder
    folder.mkdir(parents=True)
    (folder / "made+up.zip.part").write_bytes(publisher.archive + b"?" * extra)
    fetch(publisher, tmp_path)
    assert kept(tmp_path) == CONTENTS


@pytest.mark.parametrize(
    ("archive", "told"),
    [
        (
            packed(CONTENTS | {"b.data": b"4,5,7\n"}),
            "b.data: wanted SHA-256 .*nothing was kept.*put a.data, b.data into",
        ),
        (packed({"a.data": CONTENTS["a.data"]}), "wanted b.data once in the archive, got it 0 times"),
        (packed(CONTENTS | {"other/a.data": b""}), "wanted a.data once in the archive, got it 2 times"),
        (b"<html>sign in</html>", "wanted a zip archive, got another file"),
        (packed(CONTENTS)[:-30], "wanted a zip archive, got another file"),
    ],
)
def test_a_wrong_archive_leaves_nothing(publisher: Publisher, tmp_path: Path, archive: bytes, told: str) -> None:
    publisher.archive = archive
    with pytest.raises(InputError, match=told):
        fetch(publisher, tmp_path)
    assert kept(tmp_path) == {}
    publisher.archive = packed(CONTENTS)
    fetch(publisher, tmp_path)


def test_what_the_publisher_lacks_is_asked_for_once_and_a_busy_one_again(publisher: Publisher, tmp_path: Path) -> None:
    for status, tries in ((404, 1), (503, 4)):
        publisher.status, publisher.asked = status, []
        with pytest.raises(ConsortiaError, match=f"{FOUND.path[-6:]}: wanted the file, got HTTP status {status}"):
            fetch(publisher, tmp_path)
        assert len(publisher.asked) == tries


def test_a_file_that_is_too_large_is_given_up(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloading, "MOST_BYTES", 1000)
    with pytest.raises(ConsortiaError, match="wanted at most 1000 bytes, got more"):
        fetch(publisher, tmp_path)
    assert not any(content for content in kept(tmp_path).values() if len(content) > 10)


def test_no_network_is_one_sentence_that_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloading, "_TRIES", 1)
    call = ["data", "get", "heart", "--data", str(tmp_path), "--mirror", "http://127.0.0.1:9"]
    told = CliRunner().invoke(APP, call)
    assert told.exit_code == 1
    assert "wanted an answer, got ConnectError; is there a network" in " ".join(told.output.split())
    assert "processed.va.data into" in " ".join(told.output.split())


def test_the_command_brings_all_and_never_replaces_a_file(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(public_data, "DATA_SETS", MappingProxyType({"made-up": FOUND}))
    call = ["data", "get", "all", "--data", str(tmp_path), "--mirror", publisher.url]
    assert CliRunner().invoke(APP, call).exit_code == 0
    assert kept(tmp_path) == CONTENTS
    (tmp_path / FOUND.folder / "b.data").write_text("mine")
    told = CliRunner().invoke(APP, call)
    assert told.exit_code == 2
    assert "wanted no file of other content there, got b.data" in " ".join(told.output.split())
    assert CliRunner().invoke(APP, ["data", "get", "hart"]).exit_code == 2


def test_the_pinned_files_are_those_that_the_industries_read() -> None:
    from clients import registry

    folders = {f"{name}/{registry.get(name).dataset}" for name in ("hospital", "bank", "factory", "smart_home")}
    assert {each.folder for each in DATA_SETS.values()} == folders
    if not REAL.is_dir():
        pytest.skip("the public data sets are not here")
    for each in DATA_SETS.values():
        for name, digest in each.files.items():
            assert hashlib.sha256((REAL / each.folder / name).read_bytes()).hexdigest() == digest, name
