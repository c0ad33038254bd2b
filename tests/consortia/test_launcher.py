"""A hostile coordinator on real Flower: its bundles run at a participant with Flower's launcher, never with ours."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import pytest
import tomli_w
from flwr.common.serde import fab_to_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from hostile_bundles import COMPONENTS, fab

from consortia.cli.budget import init
from consortia.engines import flower
from consortia.engines.control import flower_environment, tool
from consortia.engines.options import Options
from consortia.engines.runner import prepare

pytestmark = pytest.mark.end_to_end

OURS, STOCK = "line-a", "line-b"

#: The coordinator's own side: it sends one message to one participant and writes down what comes back.
SERVER = """
import time
from pathlib import Path
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp
app = ServerApp()

@app.main()
def main(grid, context):
    name, out = context.run_config["victim"], Path(context.run_config["answer"])
    end = time.monotonic() + 150
    while not (nodes := [n for n in grid.get_nodes() if n.name == name and n.status == "online"]):
        assert time.monotonic() < end
        time.sleep(.2)
    content = RecordDict({"consortia": ConfigRecord({"envelope": b"nothing"})})
    ids = list(grid.push_messages([Message(content, nodes[0].node_id, "train", ttl=150)]))
    while time.monotonic() < end and not (replies := list(grid.pull_messages(ids))):
        time.sleep(.2)
    said = replies[0]
    text = str(said.error) if said.has_error() else said.content["consortia"]["envelope"].decode("latin1")
    out.with_suffix(".tmp").write_text(text)
    out.with_suffix(".tmp").rename(out)
"""


class Mixed(flower.Federation):
    """One participant with our launcher, one with Flower's own, and a coordinator with another ServerApp."""

    def _start_participant(self, name: str, key: Path) -> None:
        if name == OURS:
            super()._start_participant(name, key)
            return
        self._spawn(
            name,
            "flower-supernode",
            *("--superlink", f"127.0.0.1:{self.port}"),
            *("--root-certificates", str(self.folder / "pki" / "ca.crt")),
            *("--auth-supernode-private-key", str(key)),
            *("--host", "127.0.0.1", "--port", str(flower._free_port())),
            *("--node-config", flower.tomli_inline(self.job.node_config(name))),
        )

    def _spawn(self, who: str, command: str, *arguments: str) -> None:
        if who != "coordinator":
            super()._spawn(who, command, *arguments)
            return
        package = self.folder / "coordinator" / "consortia"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "server_app.py").write_text(SERVER)
        environment = {**flower_environment(self._home(who)), "PYTHONPATH": str(package.parent)}
        # Flower's own: it unpacks each run's bundle and starts a process for it.
        rest = arguments[arguments.index("--runtime-api-address") :]
        command, log = tool("flower-superexec"), self.folder / f"{who}.log"
        self.processes[who] = flower.spawn([command, *rest], environment, self.folder, log)

    def send(self, bundle: bytes) -> None:
        """Start a run with these bytes as its bundle: no tool that builds bundles checks them first."""
        client = ControlHttpClient.from_server_address(
            f"127.0.0.1:{self.port}",
            insecure=False,
            root_certificates=(self.folder / "pki" / "ca.crt").read_bytes(),
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
        )
        made = Fab(hashlib.sha256(bundle).hexdigest(), bundle, {})
        client.StartRun(StartRunRequest(fab=fab_to_proto(made)))
        client.close()


@pytest.mark.long
def test_no_line_of_a_hostile_bundle_runs_at_a_participant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSORTIA_HOME", str(tmp_path / "homes"))
    init("", scenario="linear")
    job = prepare(Options(scenario="linear", engine="flower", out=tmp_path / "runs"))
    marks = tmp_path / "marks"
    marks.mkdir()

    def code(name: str) -> bytes:
        """Leave a mark, except at the coordinator, whose processes may run whatever it likes."""
        mark = f"pathlib.Path({str(marks)!r}, {name!r}).touch()"
        return f"import os, pathlib\nif not os.environ['FLWR_HOME'].endswith('coordinator'): {mark}\n".encode()

    def project(name: str, victim: str, clientapp: str = COMPONENTS["clientapp"]) -> bytes:
        config = {"victim": victim, "answer": str(tmp_path / f"{name}.txt"), "scenario": job.scenario.to_json()}
        components = {**COMPONENTS, "clientapp": clientapp}
        app = {"publisher": "consortia", "components": components, "config": config}
        head = {"name": "consortia-run", "version": "1.0.0", "license": "Apache-2.0"}
        return tomli_w.dumps({"project": head, "tool": {"flwr": {"app": app}}}).encode()

    def bundle(name: str, victim: str, files: dict[str, bytes], **named: str) -> bytes:
        return fab({"pyproject.toml": project(name, victim, **named), **files})

    package = {"consortia/__init__.py": code("client_app"), "consortia/server_app.py": SERVER.encode()}
    hostile = {
        "privacy": bundle("privacy", OURS, {"privacy/__init__.py": code("privacy")}),
        "client_app": bundle("client_app", OURS, {**package, "consortia/client_app.py": code("client_app")}),
        "sitecustomize": bundle("sitecustomize", OURS, {"sitecustomize.py": code("sitecustomize")}),
        "component": bundle("component", OURS, {}, clientapp="evil:app"),
        "path-file": bundle("path-file", OURS, {"evil.pth": b"import evil", "evil.py": code("path-file")}),
        "conftest": bundle("conftest", OURS, {"conftest.py": code("conftest")}),
    }
    others = {
        "good": bundle("good", OURS, {}),
        "stock": bundle("stock", STOCK, {"privacy/__init__.py": code("stock")}),
    }
    with Mixed(job) as federation:
        federation.start()
        # One after the other: a ServerApp that waits for a processor for a minute loses its claim on the run.
        for name, sent in (hostile | others).items():
            federation.send(sent)
            end = time.monotonic() + 100
            while not (tmp_path / f"{name}.txt").is_file() and time.monotonic() < end:
                time.sleep(0.1)
        wanted = {*hostile, *others}
        there = {file.stem for file in tmp_path.glob("*.txt")}
        answers = {name: (tmp_path / f"{name}.txt").read_text() for name in there}
        unpacked = [file for home in federation.folder.glob(f"home-{OURS}*") for file in home.rglob("pyproject.toml")]

    assert set(answers) == wanted
    assert [name for name in hostile if "BUNDLE_REFUSED" not in answers[name]] == []
    assert "BAD_MESSAGE" in answers["good"]  # it passed the launcher, and the participant read the message
    assert {file.name for file in marks.iterdir()} == {"stock"}  # 0 of 6 with ours, and Flower's own runs it
    assert unpacked == []
    log = job.homes[OURS].log.read_text()
    assert log.count("BUNDLE_REFUSED") == len(hostile)
    assert all(
        name in log for name in ("privacy/__init__.py", "sitecustomize.py", "evil.pth", "conftest.py", "evil:app")
    )
