"""A participant without containers: processes and hardened units from the kit's compose file."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import APP
from typer.testing import CliRunner

from consortia.common.errors import InputError, RunFailedError
from consortia.deploy import serve as module
from consortia.deploy.kit import write_kit
from consortia.deploy.pki_folder import ensure, pairs
from consortia.deploy.serve import PARTS, Process, prepare, processes, serve, unit_texts
from consortia.terms.scenario import load_scenario

SCENARIO = load_scenario("hospitals")


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    folder = tmp_path / "va"
    pki = tmp_path / "pki"
    ensure(pki, pairs("fed.example.org:8443"))
    write_kit(folder, SCENARIO, "va", "fed.example.org:8443", (pki / "ca.crt").read_bytes(), has_key=False, pki=pki)
    return folder


def test_both_processes_are_those_of_the_compose_file(kit: Path) -> None:
    found = processes(kit, "va", 9100)
    supernode, launcher = (found[part] for part in PARTS)
    assert supernode.command[:2] == ["-m", "consortia.deploy.supernode"]
    for word in (
        "--superlink=fed.example.org:8443",
        f"--root-certificates={kit}/keys/ca.crt",
        f"--auth-supernode-private-key={kit}/keys/node.key",
        f"--ssl-certfile={kit}/keys/runtime/server.pem",
        "--host=127.0.0.1",
        "--port=9100",
        f'--node-config=participant="va" home="{kit}/home" simulation=false',
    ):
        assert word in supernode.command, word
    assert f"--superexec-auth-secret-file={kit}/keys-app/superexec.secret" in launcher.command
    assert "--runtime-api-address=localhost:9100" in launcher.command
    assert launcher.environment == {
        "CONSORTIA_OWN_FILES": f"{kit}/data",
        "CONSORTIA_CLIENTS": f"{kit}/clients",
        "CONSORTIA_HOME": str(kit),
    }
    for process in found.values():  # no path of a container is left
        words = " ".join([*process.command, *process.environment.values()]).replace(str(kit), "KIT")
        assert not [path for path in ("=/keys", '"/home', " /data", "=/clients") if path in words]


def test_the_kit_gets_what_is_missing_and_commands_find_the_home(kit: Path) -> None:
    assert {"ledger", "policy.toml", "va"} <= set(prepare(kit, "va"))
    assert prepare(kit, "va") == []
    policy = (kit / "policy.toml").read_text()
    for what, filled in (
        ("epsilon", "1.0"),
        ("delta", "0.0002"),
        ("source", '"csv:/data/rows.csv"'),
        ("unit", '"record"'),
    ):
        policy = policy.replace(f'{what} = "FILL IN"', f"{what} = {filled}")
    (kit / "policy.toml").write_text(policy)
    assert (kit / "home" / "policy.toml").read_text() == policy
    shown = CliRunner().invoke(APP, ["budget", "history", "va", "--home", str(kit)])
    assert shown.exit_code == 0, shown.output


def test_what_is_no_kit_is_named(kit: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="wanted the join kit of va, got nothing there"):
        processes(tmp_path, "va")
    with pytest.raises(InputError, match="wanted the join kit of other, got one with va, va-app"):
        processes(kit, "other")


def test_a_part_that_ends_ends_the_other_and_is_named(
    kit: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (kit / "tmp").mkdir()
    ended = tmp_path / "ended"
    up = ended.with_suffix(".up")
    stays = (
        "import signal, sys, pathlib, time\n"
        f"signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path({str(ended)!r}).touch(), sys.exit(0)))\n"
        f"pathlib.Path({str(up)!r}).touch(); time.sleep(60)"
    )
    waits = f"import pathlib, sys, time\nwhile not pathlib.Path({str(up)!r}).exists(): time.sleep(.01)\n"
    plan = {"supernode": Process(["-c", stays], {}), "launcher": Process(["-c", f"{waits}sys.exit(3)"], {})}
    monkeypatch.setattr(module, "processes", lambda *_: plan)
    with pytest.raises(RunFailedError, match="the launcher of va ended with 3"):
        serve(kit, "va", PARTS)
    assert ended.exists()


def test_a_unit_keeps_rows_from_the_key(kit: Path) -> None:
    texts = unit_texts(Path("/srv/consortia/va"), "va", "consortia")
    supernode, launcher = (texts[f"consortia-va-{part}.service"] for part in PARTS)
    assert "InaccessiblePaths=/srv/consortia/va/home /srv/consortia/va/data /srv/consortia/va/keys-app" in supernode
    assert "InaccessiblePaths=/srv/consortia/va/keys\n" in launcher
    assert "IPAddressDeny=any\nIPAddressAllow=localhost\n" in launcher
    assert "IPAddressDeny" not in supernode
    for text in texts.values():
        for line in ("NoNewPrivileges=true", "CapabilityBoundingSet=", "ProtectSystem=strict", "User=consortia"):
            assert f"{line}\n" in text
    for where in ("/home/x/va", "/tmp/va", "/srv/with space"):
        with pytest.raises(InputError, match="move the kit"):
            unit_texts(Path(where), "va", "consortia")
    with pytest.raises(InputError, match="not root"):
        unit_texts(Path("/srv/va"), "va", "root")


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    user = "daemon"  # on every Debian; verify wants one that exists
    files = []
    for file, text in unit_texts(Path("/srv/consortia/va"), "va", user).items():
        # The command itself need not be installed for everybody where the test runs.
        files.append(tmp_path / file)
        files[-1].write_text(text.replace(f"{Path(sys.executable).parent}/consortia", "/bin/true"), encoding="utf-8")
    done = subprocess.run(["systemd-analyze", "verify", *map(str, files)], capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if "consortia-va" in line]
    assert (done.returncode, said) == (0, []), done.stderr
    for file in files:
        command = ["systemd-analyze", "security", "--offline=true", "--threshold=35", str(file)]
        rated = subprocess.run(command, capture_output=True, text=True, check=False)
        assert rated.returncode == 0, rated.stdout[-600:]
    broken = tmp_path / "consortia-broken.service"
    broken.write_text(files[0].read_text().replace("ProtectSystem=strict", "ProtectSystem=perhaps"), encoding="utf-8")
    wrong = subprocess.run(["systemd-analyze", "verify", str(broken)], capture_output=True, text=True, check=False)
    assert "perhaps" in wrong.stderr
