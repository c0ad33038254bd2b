"""One-shot steps of the compose file: `python -m consortia.deploy.prepare keys|homes|register SCENARIO`.

All three do only what is not done yet, so every `up` may run them again.

keys
    A certificate authority (its own key is not kept), server certificates, the secrets between a Flower process and its
    launcher, and a node key for each participant, each on the volume of the one service that needs it. This is
    the demonstration's way: between real organisations every participant makes its own key and sends the public half.
homes
    A home for each participant from the scenario's demonstration policies, exactly as
    `consortia budget init --scenario` makes it. A participant that has a ledger is left alone.
register
    Each participant's public key at the SuperLink, under its name.
"""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
from pathlib import Path

from consortia.deploy.pki import Authority, make_authority, write_node_key, write_secret, write_server
from consortia.errors import ConsortiaError
from consortia.scenario import Scenario, load_scenario

KEYS = Path("/keys")
HOMES = Path("/homes")
RUNS = Path("/runs")
STATE = Path("/state")
SUPERLINK = "superlink:8000"
_DAYS = 365
_SECRET = "superexec.secret"  # noqa: S105 - a file's name


def rounds_override() -> int | None:
    """Return `$CONSORTIA_ROUNDS`, the effective contract's other number of rounds, or None."""
    text = os.environ.get("CONSORTIA_ROUNDS", "")
    return int(text) if text else None


def effective(name: str) -> Scenario:
    """Load a scenario under the overrides of the environment."""
    return load_scenario(name).with_overrides(rounds=rounds_override())


def make_keys(scenario: Scenario, root: Path, owner: tuple[int, int]) -> list[str]:
    """Make what is missing under `root`, one folder for each service; return what was made."""
    made = []
    coordinator = root / "superlink"
    if not (coordinator / "server.key").exists():
        authority = make_authority("consortia", _DAYS)
        _server(root / "proxy", authority, ["proxy", "localhost", "127.0.0.1"])
        proxy = root / "proxy"
        joined = (proxy / "server.pem").read_bytes() + (proxy / "server.key").read_bytes()
        write_secret(proxy / "proxy.pem", joined)
        secret = secrets.token_bytes(32)
        write_secret(coordinator / _SECRET, secret)
        write_secret(root / "superexec" / _SECRET, secret)
        # The server's key is the last file: with it, the coordinator's part is complete.
        _server(coordinator, authority, ["superlink", "localhost", "127.0.0.1"])
        made.append("coordinator")
    certificate = (coordinator / "ca.crt").read_bytes()
    for folder in ("public", "superexec"):
        _put(root / folder / "ca.crt", certificate)
    for seat in scenario.roster:
        if not (root / "public" / f"{seat.name}.pub").exists():
            _participant(root, seat.name, certificate)
            made.append(seat.name)
    for path in root.rglob("*"):
        os.chown(path, *owner)
    return made


def _participant(root: Path, name: str, certificate: bytes) -> None:
    """Write a participant's node key, and the certificate and secret between its SuperNode and its launcher."""
    node, app = root / name, root / f"{name}-app"
    # The Runtime API has an authority of the participant's own: the coordinator cannot stand in for it.
    _server(node / "runtime", make_authority(name, _DAYS), [name, "localhost", "127.0.0.1"])
    secret = secrets.token_bytes(32)
    write_secret(node / _SECRET, secret)
    app.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_secret(app / _SECRET, secret)
    _put(app / "ca.crt", (node / "runtime" / "ca.crt").read_bytes())
    _put(node / "ca.crt", certificate)
    private, public = write_node_key(node, "node.key")
    private.chmod(0o600)
    _put(root / "public" / f"{name}.pub", public.read_bytes())


def _server(folder: Path, authority: Authority, hosts: list[str]) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_server(folder, authority, hosts, _DAYS)


def _put(target: Path, data: bytes) -> None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not target.exists() or target.read_bytes() != data:
        target.write_bytes(data)


def make_homes(name: str, scenario: Scenario, root: Path, owner: tuple[int, int]) -> list[str]:
    """Make a home for everybody who has no ledger under `root`; return the names."""
    from consortia.deploy.homes import make_home, owned_policy
    from consortia.home import Home

    made = []
    for seat in scenario.roster:
        home = Home(root / seat.name, seat.name)
        if home.ledger.exists():
            continue
        make_home(home, owned_policy(name, scenario, seat.name), f"from the demonstration policy of {name}; edit it")
        for path in [home.folder, *home.folder.rglob("*")]:
            os.chown(path, *owner)
        made.append(seat.name)
    return made


def register(scenario: Scenario, public: Path) -> list[str]:
    """Register the keys that the SuperLink does not know yet; return the names."""
    from consortia.engines.control import Control

    with tempfile.TemporaryDirectory() as folder:
        control = Control(Path(folder), SUPERLINK, public / "ca.crt")
        names = [seat.name for seat in scenario.roster]
        return [name for name in names if control.register(name, public / f"{name}.pub")]


def main(arguments: list[str]) -> int:
    """Do one step; what was done is the container's log."""
    step, name = arguments
    scenario = effective(name)
    owner = (int(os.environ.get("CONSORTIA_UID", os.getuid())), int(os.environ.get("CONSORTIA_GID", os.getgid())))
    try:
        if step == "keys":
            os.chown(STATE, *owner)
            done = make_keys(scenario, KEYS, owner)
        elif step == "homes":
            os.chown(RUNS, *owner)
            done = make_homes(name, scenario, HOMES, owner)
        else:
            done = register(scenario, KEYS)
    except ConsortiaError as error:
        sys.stderr.write(f"{step}: {error}\n")
        return 1
    sys.stdout.write(f"{step}: made {', '.join(done) or 'nothing new'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
