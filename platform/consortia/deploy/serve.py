"""Runs a participant's SuperNode and launcher from its join kit, as processes of this host instead of containers.

The kit's compose file stays the one description: commands and variables are read from there, with the folders of the
kit in the place of the containers' mounts. Walls between the two are the units' affair (`unit_texts`): as plain
processes of one user they are not kept apart.
"""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from consortia.common.errors import InputError, RunFailedError
from consortia.deploy.compose import template
from consortia.deploy.kubernetes.cluster import mounts, services_of
from consortia.deploy.prepare import make_kit

PARTS: Final = ("supernode", "launcher")
_PORT: Final = 9094
_STOP_SECONDS: Final = 20.0


@dataclass(frozen=True)
class Process:
    """What one of the two processes is started with.

    Attributes
    ----------
    command : sequence of str
        Without the interpreter: `-m MODULE OPTIONS`.
    environment : dict of str to str
        What the compose service sets.
    """

    command: Sequence[str]
    environment: dict[str, str]


def processes(kit: Path, name: str, port: int = _PORT) -> dict[str, Process]:
    """Return both processes by part.

    Raises
    ------
    InputError
        When the kit is not a kit of this participant.
    """
    file = kit / "compose.yml"
    if not file.is_file():
        raise InputError(
            f"{file}: wanted the join kit of {name}, got nothing there; `consortia participant add` writes it"
        )
    services = services_of(file.read_text(encoding="utf-8"))
    if not {name, f"{name}-app"} <= set(services):
        raise InputError(f"{file}: wanted the join kit of {name}, got one with {', '.join(services)}")
    home = {f"/home/{name}": str(kit / "home")}
    found = {}
    for part, service in zip(PARTS, (services[name], services[f"{name}-app"]), strict=True):
        places = {path: str(kit / source) for source, path in mounts(service) if path != f"/home/{name}/policy.toml"}
        changed = {f"{name}:{_PORT}": f"localhost:{port}", f"--port={_PORT}": f"--port={port}"}
        changed |= {"--host=0.0.0.0": "--host=127.0.0.1"}
        words = [changed.get(word, word) for word in service["command"][1:]]
        words = [word.replace(f"={name}:{_PORT}", f"=localhost:{port}") for word in words]
        own = {key: str(value) for key, value in service.get("environment", {}).items()}
        environment = {key: _at(value, places | home) for key, value in own.items() if key.startswith("CONSORTIA_")}
        # Who asks is systemd or the shell; a container's own check has nothing to say here.
        environment = {key: v for key, v in environment.items() if "HEALTH" not in key and not key.endswith("_ALIVE")}
        if part == "launcher":
            environment["CONSORTIA_HOME"] = str(kit)
        found[part] = Process([_at(word, places | home) for word in words], environment)
    return found


def _at(text: str, places: dict[str, str]) -> str:
    """Put the kit's folders in the place of the mounts, the longest path first."""
    for path in sorted(places, key=len, reverse=True):
        for before in ("=", '"'):
            text = text.replace(f"{before}{path}/", f"{before}{places[path]}/")
            text = text.replace(f'{before}{path}"', f'{before}{places[path]}"')
        if text == path:
            return places[path]
    return text


def prepare(kit: Path, name: str) -> list[str]:
    """Make keys, ledger and two links in the kit where they are missing; return what was made.

    `home/policy.toml` leads to the kit's policy, and NAME to `home`, so that `--home KIT` finds the home.
    """
    made = make_kit(name, kit)
    (kit / "tmp").mkdir(mode=0o700, exist_ok=True)
    for link, target in ((kit / "home" / "policy.toml", Path("../policy.toml")), (kit / name, Path("home"))):
        if not link.exists():
            link.symlink_to(target)
            made.append(link.name)
    return made


def serve(kit: Path, name: str, parts: Sequence[str], port: int = _PORT) -> int:
    """Run some parts until one ends or a signal comes; return the status: 0 after a signal.

    Raises
    ------
    RunFailedError
        When a part ended by itself.
    """
    from consortia.engines.control import flower_environment

    plan = processes(kit, name, port)
    temporary = kit / "tmp"
    started: dict[str, subprocess.Popen[bytes]] = {}
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: stopping.append(number))
    try:
        for part in parts:
            environment = {**flower_environment(temporary / part), **plan[part].environment}
            command = [sys.executable, *plan[part].command]
            started[part] = subprocess.Popen(command, env=environment, start_new_session=True)  # noqa: S603 - the kit's own
        while not stopping:
            for part, process in started.items():
                if (status := process.poll()) is not None:
                    raise RunFailedError(f"the {part} of {name} ended with {status}; its lines above say why")
            time.sleep(0.2)
        return 0
    finally:
        for process in started.values():
            process.terminate()
        for process in started.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_SECONDS)
            process.kill()


def unit_texts(kit: Path, name: str, user: str) -> dict[str, str]:
    """Return the two hardened systemd units of a participant, by file name.

    Raises
    ------
    InputError
        When a unit could not name the kit's folder or the user.
    """
    if not re.fullmatch(r"/[A-Za-z0-9/._-]+", str(kit)) or kit.parts[1] in {"home", "root", "run", "tmp"}:
        raise InputError(
            f"--kit: wanted a folder that a unit sees (letters, digits, ._-; none of /home, /root, /run, /tmp), such "
            f"as /srv/consortia/{name}; got {kit}; move the kit"
        )
    if not re.fullmatch(r"[a-z_][a-z0-9_-]{0,30}", user) or user == "root":
        raise InputError(f"--user: wanted the name of a user without rights of its own (not root), got {user!r}")
    terms = {"name": name, "kit": str(kit), "user": user, "command": f"{Path(sys.executable).parent / 'consortia'}"}
    return {f"consortia-{name}-{part}.service": template(f"{part}.service.txt").substitute(terms) for part in PARTS}
