"""One-shot steps of the compose files: `python -m consortia.deploy.prepare keys|homes|register SCENARIO`, `… kit NAME`.

All do only what is not done yet, so every `up` may run them again.

keys
    Certificates in the folder of `consortia.deploy.pki_folder` (made, renewed or, where the user brought them,
    checked), the secrets between a Flower process and its launcher, and a node key for each participant of the
    roster, each on the volume of the one service that needs it. Node keys made here are the demonstration's way:
    who joins from elsewhere makes its own.
homes
    A home for each participant from the scenario's demonstration policies, exactly as
    `consortia budget init --scenario` makes it. A participant that has a ledger is left alone. Notes the images' build.
register
    The SuperLink's keys made those of the roster and its members: what is missing is registered, what left is revoked.
kit
    In a join kit, on the participant's own machine: its node key unless it brought one, the certificates between its
    SuperNode and its launcher, its home.
"""

from __future__ import annotations

import os
import secrets
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from clients import registry
from consortia.common import environment
from consortia.common.disk import write_secret
from consortia.common.errors import ConsortiaError, InputError
from consortia.common.logs import tolerant_streams
from consortia.common.pki import Authority, make_authority, public_half, write_node_key, write_server
from consortia.common.strict import read_toml
from consortia.deploy import members, pki_folder
from consortia.deploy.kit_signature import check_kit, fingerprint
from consortia.terms.scenario import Scenario, load_scenario

KEYS = Path("/keys")
PKI = Path("/pki")
HOMES = Path("/homes")
RUNS = Path("/runs")
STATE = Path("/state")
MEMBERS = Path("/members")
KIT = Path("/kit")
SUPERLINK = "superlink:8000"
_SECRET = "superexec.secret"  # noqa: S105 - a file's name


def rounds_override() -> int | None:
    """Return `$CONSORTIA_ROUNDS`, the effective contract's other number of rounds, or None."""
    text = os.environ.get("CONSORTIA_ROUNDS", "")
    return int(text) if text else None


def effective(name: str) -> Scenario:
    """Load a scenario under the overrides of the environment."""
    return load_scenario(name).with_overrides(rounds=rounds_override())


def with_members(name: str) -> Scenario:
    """Load a scenario with the roster as it is now: who joined, without who left."""
    scenario = effective(name)
    return members.apply(scenario, members.MemberFolder(MEMBERS, scenario.name).load())


def make_keys(scenario: Scenario, root: Path, pki: Path, *, address: str = "", renew: bool = False) -> list[str]:
    """Make what is missing under `root`, one folder for each service; return what was made.

    Parameters
    ----------
    pki : Path
        The folder of certificates.
    address : str
        host:port under which participants elsewhere call the coordinator.
    renew : bool
        Renew the coordinator's certificates, due or not; nobody else's files change.

    Raises
    ------
    InputError
        When the folder of certificates cannot be used.
    """
    made = coordinator_keys(root, pki, address=address, renew=renew)
    authority = (pki / "ca.crt").read_bytes()
    for participant in scenario.roster:
        node = root / participant.name
        made += participant_keys(participant.name, node, root / f"{participant.name}-app", authority)
        _put(root / "public" / f"{participant.name}.pub", public_half((node / "node.key").read_bytes()))
    return made


def coordinator_keys(root: Path, pki: Path, *, address: str = "", renew: bool = False) -> list[str]:
    """Make what the coordinator's own services need; arguments, result and errors are those of `make_keys`."""
    made = pki_folder.ensure(pki, pki_folder.pairs(address), renew=renew)
    authority = (pki / "ca.crt").read_bytes()
    for folder in ("public", "superexec", "superlink", "proxy"):
        _put(root / folder / "ca.crt", authority)
    link, proxy = root / "superlink", root / "proxy"
    _put(link / "server.pem", (pki / "superlink.pem").read_bytes())
    _put_secret(link / "server.key", (pki / "superlink.key").read_bytes())
    _put_secret(proxy / "proxy.pem", (pki / "proxy.pem").read_bytes() + (pki / "proxy.key").read_bytes())
    if not (link / _SECRET).exists():
        secret = secrets.token_bytes(32)
        write_secret(root / "superexec" / _SECRET, secret)
        write_secret(link / _SECRET, secret)
        made.append("secret of the coordinator")
    for name in ("superlink", "proxy"):  # no secret: whoever calls sees it, and the dashboard says when it ends
        _put(root / "public" / f"{name}.pem", (pki / f"{name}.pem").read_bytes())
    return made


def participant_keys(name: str, node: Path, app: Path, authority: bytes) -> list[str]:
    """Make a participant's node key, and the certificate and secret between its SuperNode and its launcher.

    Parameters
    ----------
    node, app : Path
        Folders of the SuperNode and of the launcher.
    authority : bytes
        The certificate that the SuperNode trusts.
    """
    made = []
    app.mkdir(mode=0o700, parents=True, exist_ok=True)
    _put(node / "ca.crt", authority)
    if not (node / "node.key").exists():
        write_node_key(node, "node.key")
        made.append(f"node key of {name}")
    certificate = node / "runtime" / "server.pem"
    due = datetime.now(UTC) + timedelta(days=pki_folder.DUE_DAYS)
    if not certificate.exists() or pki_folder.expiry(certificate) < due:
        # The Runtime API has an authority of the participant's own: the coordinator cannot stand in for it.
        own = make_authority(name, pki_folder.SERVER_DAYS)
        _server(node / "runtime", own, [name, "localhost", "127.0.0.1"])
        secret = secrets.token_bytes(32)
        write_secret(node / _SECRET, secret)
        write_secret(app / _SECRET, secret)
        _put(app / "ca.crt", (node / "runtime" / "ca.crt").read_bytes())
        made.append(f"certificate of {name}")
    return made


def make_kit(name: str, kit: Path) -> list[str]:
    """Make a joining participant's keys and home in its kit; return what was made.

    Raises
    ------
    InputError
        When the kit is not as the coordinator signed it, or not of the authority `$CONSORTIA_AUTHORITY`, or this image
        lacks the client.
    """
    from consortia.deploy.homes import make_home
    from consortia.participant.home import Home

    check_kit(kit, name, os.environ.get("CONSORTIA_AUTHORITY", ""), accepted=True)
    _check_client(name, kit / "scenario.toml")
    made = participant_keys(name, kit / "keys", kit / "keys-app", (kit / "ca.crt").read_bytes())
    _put(kit / f"{name}.pub", public_half((kit / "keys" / "node.key").read_bytes()))
    home = Home(kit / "home", name)
    if not home.ledger.exists():
        make_home(home, None, "")
        made.append("ledger")
    return made


def _check_client(name: str, scenario: Path) -> None:
    """Refuse an image that lacks the industry of the kit's participant: a partner's wheel may be missing in it."""
    industries = [
        participant["industry"] for participant in read_toml(scenario)["roster"] if participant["name"] == name
    ]
    if missing := [each for each in industries if each not in registry.names()]:
        raise InputError(
            f"this image: wanted the client {missing[0]!r}, which {name} needs, got none of that name; take the image "
            f"that the coordinator uses (with the wheel of that client), or a kit with clients/{missing[0]}.toml in it"
        )


def _server(folder: Path, authority: Authority, hosts: list[str]) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_server(folder, authority, hosts, pki_folder.SERVER_DAYS)


def _put(target: Path, data: bytes) -> None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not target.exists() or target.read_bytes() != data:
        target.write_bytes(data)


def _put_secret(target: Path, data: bytes) -> None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not target.exists() or target.read_bytes() != data:
        write_secret(target, data)


def make_homes(name: str, scenario: Scenario, root: Path) -> list[str]:
    """Make a home for everybody who has no ledger under `root`; return the names."""
    from consortia.deploy.homes import make_home, owned_policy
    from consortia.participant.home import Home
    from consortia.participant.identity import pin_each_other
    from consortia.vertical.setup import introduce

    made = []
    for participant in scenario.roster:
        home = Home(root / participant.name, participant.name)
        if home.ledger.exists():
            continue
        make_home(
            home, owned_policy(name, scenario, participant.name), f"from the demonstration policy of {name}; edit it"
        )
        made.append(participant.name)
    if any(part.contract.trust == "aggregate" for part in scenario.parts()) and len(made) == len(scenario.roster):
        # The demonstration's way, all homes being made here. Between organisations each pins its peers by hand.
        pin_each_other({name: Home(root / name, name) for name in made})
    if made:
        introduce(
            scenario,
            {participant.name: Home(root / participant.name, participant.name) for participant in scenario.roster},
        )
    return made


def register(scenario: Scenario, public: Path) -> list[str]:
    """Make the SuperLink's keys those of the roster; return what was done.

    A member whose key is not known yet waits: it cannot connect.
    """
    from consortia.engines.nodes import reconcile

    folder = members.MemberFolder(MEMBERS, scenario.name)
    keys = {}
    for participant in scenario.roster:
        for file in (folder.public_key(participant.name), public / f"{participant.name}.pub"):
            if file.is_file():
                keys[participant.name] = file
                break
        else:
            sys.stderr.write(
                f"register: no key of {participant.name} yet; "
                f"`consortia participant key {participant.name} --public-key`\n"
            )
    return reconcile(SUPERLINK, public / "ca.crt", keys)


def _hand_over(*folders: Path) -> None:
    """Give folders and what is in them to the user of the containers."""
    for folder in folders:
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, *_owner(), follow_symlinks=False)


def _made_by_root(home: Path) -> bool:
    return home.is_dir() and home.stat().st_uid == 0


def _owner() -> tuple[int, int]:
    return int(os.environ.get("CONSORTIA_UID", os.getuid())), int(os.environ.get("CONSORTIA_GID", os.getgid()))


def main(arguments: list[str]) -> int:
    """Do one step; what was done is the container's log."""
    tolerant_streams()
    step, name = arguments
    try:
        if step == "keys":
            done = make_keys(
                effective(name),
                KEYS,
                PKI,
                address=os.environ.get("CONSORTIA_ADDRESS", ""),
                renew=os.environ.get("CONSORTIA_RENEW", "") == "1",
            )
            # What the user brought stays the user's.
            _hand_over(STATE, *KEYS.iterdir(), *([PKI] if (PKI / "ca.key").exists() else []))
        elif step == "homes":
            scenario = effective(name)
            done = make_homes(name, scenario, HOMES)
            homes = [HOMES / participant.name for participant in scenario.roster]
            # Also those that root made on the host (`home init`, `budget init`): the containers run as somebody else.
            _hand_over(*(home for home in homes if _made_by_root(home)))
            build = members.build_file(MEMBERS)
            build.write_text(environment.build().get("build", ""), encoding="utf-8")
            for path in (RUNS, MEMBERS, build):
                os.chown(path, *_owner())
        elif step == "kit":
            done = make_kit(name, KIT)
            told = fingerprint((KIT / "ca.crt").read_bytes())
            sys.stdout.write(f"{step}: the kit is whole, of the authority {told}; is it the coordinator's?\n")
            _hand_over(KIT / "keys", KIT / "keys-app", KIT / "home", KIT / f"{name}.pub")
        else:
            done = register(with_members(name), KEYS)
    except ConsortiaError as error:
        problems = error.problems if isinstance(error, InputError) else (str(error),)
        sys.stderr.write("".join(f"{step}: {problem}\n" for problem in problems))
        return 2 if isinstance(error, InputError) else 1
    sys.stdout.write(f"{step}: {', '.join(done) or 'nothing new'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
