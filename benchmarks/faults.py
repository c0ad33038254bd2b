"""The fault table: what a run on real Flower processes does when something breaks.

    python benchmarks/fault_table.py [--write docs/faults.md] [--parts Containers ...]

Every process is real: a SuperLink, SuperNodes and launchers on loopback with TLS and node keys. Signals come from the
kernel. Full disks are small tmpfs file systems, so the benchmark needs root. Certificates are out of date. Other clocks
are Debian's libfaketime, and left out where it is not installed. Containers are killed by a signal from the host, as in
a crash: `docker kill` counts as the user's own stop, after which nothing restarts. Their CPU time is taken by the
kernel's limit, their links are slowed by a TCP relay and cut at the engine's networks. All of them are left out without
a Docker engine.

The scenario is `linear` without privacy. So a run that was disturbed must give, bit for bit, the model of one that was
not (the embedded engine's).

*Seconds to recover* are from a fault's beginning to the first round committed after it, or to the end of the failed
command. With `--resume` they are from its start to the next committed round.

A SuperNode that was killed is let in again when its last heartbeat is old enough. Until then the supervisor of
`--engine flower` (in containers `restart: unless-stopped`) keeps starting it. Not measured: a second `make up` that
resumes a run while the first one's ServerApp still goes on.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import shutil
import signal
import sqlite3
import threading
import time
import tomllib
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import safetensors.torch
import tomli_w
import torch
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from consortia.cli.budget import init
from consortia.common.disk import no_room, write_secret
from consortia.common.errors import RunFailedError
from consortia.common.pki import Authority, make_server, write_node_key, write_server
from consortia.engines.base import Job
from consortia.engines.flower import Federation, flower_environment
from consortia.engines.options import Options
from consortia.engines.runner import execute, prepare
from consortia.participant.home import Home
from consortia.terms.scenario import find_scenario, load_scenario
from privacy.ledger import Ledger

Fault = Callable[["Faulty"], None]
#: Debian's libfaketime: what a process with another clock is made of.
OTHER_CLOCK = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
#: How a participant is started wrongly. *Slow clock*: its own certificate is not yet valid to it. *Wrong clock*: its
#: SuperNode and launcher live a day ago.
STARTS = ("wrong key", "slow clock", "expired certificate", "full disk", "old ledger") + (
    ("wrong clock",) if OTHER_CLOCK.is_file() else ()
)


@dataclass
class Line:
    """One line of the table."""

    fault: str
    saw: str
    seconds: float
    model: str


@dataclass(frozen=True)
class World:
    """A scenario of our own with homes, policies and ledgers."""

    folder: Path
    scenario: Path
    names: tuple[str, ...]

    def options(self, **changes: Any) -> Options:
        """Return the options of a deployed run."""
        return Options(**{"scenario": str(self.scenario), "engine": "flower", "out": self.folder / "runs", **changes})

    def home(self, name: str) -> Path:
        return self.folder / "homes" / name


@contextlib.contextmanager
def world(folder: Path, names: tuple[str, ...], **terms: Any) -> Iterator[World]:
    """Lay out `linear` with these participants, alternating between its two sites, and their homes.

    With `epsilon` its policies and its roster are private ones.
    """
    scenario = tomllib.loads(find_scenario("linear").read_text())
    round_terms = {key: terms.pop(key) for key in ("quorum", "deadline_seconds", "attempts") if key in terms}
    steps, epsilon = terms.pop("local_steps", 5), terms.pop("epsilon", None)
    scenario["contract"].update(terms, round=round_terms)
    scenario["contract"]["industries"]["linear"]["local_steps"] = steps
    scenario.pop("expect")
    participants = scenario["roster"]
    policies = find_scenario("linear").parent / "policies" / "linear"
    scenario.update(name="faults", roster=[])
    target = folder / "policies" / "faults"
    target.mkdir(parents=True)
    for number, name in enumerate(names):
        participant = participants[number % 2]
        private = {} if epsilon is None else {"epsilon": epsilon}
        scenario["roster"].append({**participant, "name": name, **private})
        policy = tomllib.loads((policies / f"{participant['name']}.toml").read_text())
        policy["allow"]["non_private"] = not private
        (target / f"{name}.toml").write_text(tomli_w.dumps({**policy, "participant": name}))
    file = folder / "faults.toml"
    file.write_text(tomli_w.dumps(scenario))
    made = World(folder, file, names)
    with (
        mock.patch.dict(os.environ, CONSORTIA_HOME=str(folder / "homes")),
        mock.patch("consortia.common.console.out"),
    ):
        seed = load_scenario(str(file)).contract.seed
        for name in names:  # the same split key as a simulation's, so that the same rows train
            Home(made.home(name), name).create(split_seed=seed)
        init("", scenario=str(file))
        yield made


def undisturbed(world: World, names: tuple[str, ...] = ()) -> dict[str, torch.Tensor]:
    """Return the model of a run without faults, of these participants alone, by the embedded engine."""
    scenario = tomllib.loads(world.scenario.read_text())
    scenario["roster"] = [one for one in scenario["roster"] if one["name"] in (names or world.names)]
    folder = world.folder / "-".join(("undisturbed", *names))
    shutil.copytree(world.folder / "policies", folder / "policies")
    (folder / "faults.toml").write_text(tomli_w.dumps(scenario))
    options = Options(scenario=str(folder / "faults.toml"), out=folder)
    return model(execute(prepare(options), options).job.folder)


def model(folder: Path) -> dict[str, torch.Tensor]:
    """Return the model that a run left."""
    return safetensors.torch.load((folder / "model" / "linear.safetensors").read_bytes())


def equal(left: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor]) -> bool:
    """Whether two models are the same bit for bit."""
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def rounds_done(folder: Path) -> dict[int, float]:
    """Return when each round was committed (first time)."""
    file = folder / "events.jsonl"
    lines = file.read_text().split("\n")[:-1] if file.is_file() else []
    found: dict[int, float] = {}
    for event in map(json.loads, lines):
        if event["event"] == "round":
            found.setdefault(event["round"], event["time"])
    return found


def account(home: Path, name: str) -> tuple[int, int]:
    """Return how many reservations were committed and how many abandoned; check that nothing else is there.

    Invariant 2: what left was reserved before, and committed together with its bytes once a round; what was reserved
    and did not leave stays spent.
    """
    with Ledger.open(home / "ledger.db", name) as ledger:
        ledger.verify()
        entries = ledger.entries()
    committed = [entry for entry in entries if entry.state == "committed"]
    abandoned = [entry for entry in entries if entry.state == "reserved"]
    if len(committed) + len(abandoned) != len(entries):
        raise AssertionError(f"{name}: {entries}")
    if len({(entry.run_id, entry.round) for entry in committed}) != len(committed):
        raise AssertionError(f"{name}: a round was committed twice")
    with contextlib.closing(sqlite3.connect(home / "ledger.db")) as connection:
        (stored,) = connection.execute("SELECT COUNT(*) FROM outbox").fetchone()
    if stored != len(committed):
        raise AssertionError(f"{name}: {len(committed)} committed, {stored} in the outbox")
    return len(committed), len(abandoned)


class Faulty(Federation):
    """The engine's federation, with faults while it runs or in how some participants start.

    Parameters
    ----------
    job : Job
    after : dict of int to (str, Fault)
        Fault by the committed round that it follows.
    starts : dict of str to str
        By participant, one of `STARTS`.
    """

    def __init__(self, job: Job, after: Mapping[int, tuple[str, Fault]], starts: Mapping[str, str]) -> None:
        super().__init__(job)
        self.after, self.starts = dict(after), starts
        self.injected: dict[str, tuple[int, float]] = {}
        self.error: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._inject, daemon=True)

    def submit(self) -> None:
        super().submit()
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(60)
        super().__exit__(*error)

    def _inject(self) -> None:
        seen = set(rounds_done(self.job.folder))
        try:
            while not self._stop.wait(0.01):
                for number in set(rounds_done(self.job.folder)) - seen:
                    seen.add(number)
                    if number in self.after:
                        name, fault = self.after[number]
                        started = time.time()
                        fault(self)
                        self.injected[name] = (number, started)
        except BaseException as error:  # noqa: BLE001 - raised again in the main thread
            self.error = error

    def _spawn(self, who: str, command: str, *arguments: str) -> None:
        if self.starts.get(who.removesuffix("-app")) != "wrong clock":
            super()._spawn(who, command, *arguments)
            return

        def a_day_ago(home: Path) -> dict[str, str]:
            other = {"LD_PRELOAD": str(OTHER_CLOCK), "FAKETIME": "-1d", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
            return {**flower_environment(home), **other}

        # A fork has the clock of the process that it comes from.
        with (
            mock.patch("consortia.engines.flower.flower_environment", a_day_ago),
            mock.patch.object(self, "nursery", None),
        ):
            super()._spawn(who, command, *arguments)

    def _start_participant(self, name: str, key: Path) -> None:
        start = self.starts.get(name)
        if start == "wrong key":
            key, _ = write_node_key(self.folder / "pki" / "other", name)
        dates = {"expired certificate": (-2, -1), "slow clock": (1, 3)}.get(start or "")
        if dates is None:
            super()._start_participant(name, key)
            return

        def dated(folder: Path, authority: Authority, hosts: Any, days: int) -> None:
            write_server(folder, authority, hosts, days)
            if folder.name.endswith("-own"):
                redate(folder, authority, hosts, *dates)

        with mock.patch("consortia.engines.flower.write_server", dated):
            super()._start_participant(name, key)


def redate(folder: Path, authority: Authority, hosts: Any, first_day: int, last_day: int) -> None:
    """Replace a server's certificate by one that is valid from and to so many days from now."""
    certificate, key = make_server(authority, hosts, 1)
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(certificate.subject)
        .issuer_name(certificate.issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=first_day))
        .not_valid_after(now + datetime.timedelta(days=last_day))
    )
    for extension in certificate.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    (folder / "server.pem").write_bytes(builder.sign(authority.key, hashes.SHA384()).public_bytes(pem))
    write_secret(folder / "server.key", key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))


# Faults while a run goes on


def kill(who: str) -> Fault:
    """SIGKILL one process of the federation."""
    return lambda federation: federation.processes[who].kill()


def kill_training(name: str) -> Fault:
    """SIGKILL the process of a message after its reservation and before its commit."""

    def fault(federation: Faulty) -> None:
        launcher = federation.processes[f"{name}-app"].pid
        ledger = federation.job.homes[name].ledger
        known = _count(ledger, "reserved")
        while _count(ledger, "reserved") == known:
            time.sleep(0.001)
        (child,) = _children(launcher)[1:]  # the first is the courier
        os.kill(child, signal.SIGKILL)

    return fault


def pause(who: str, seconds: float) -> Fault:
    """SIGSTOP a process and all that it started; SIGCONT after so many seconds."""

    def fault(federation: Faulty) -> None:
        group = federation.processes[who].pid
        os.killpg(group, signal.SIGSTOP)
        time.sleep(seconds)
        os.killpg(group, signal.SIGCONT)

    return fault


def kill_coordinator(federation: Faulty) -> None:
    """SIGKILL the process of the ServerApp."""
    federation.processes["coordinator"].kill()


def _count(ledger: Path, state: str) -> int:
    with contextlib.closing(sqlite3.connect(ledger)) as connection:
        (count,) = connection.execute("SELECT COUNT(*) FROM entries WHERE state = ?", (state,)).fetchone()
    return int(count)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def restore_old_ledger(world: World, name: str) -> None:
    """Let everybody take part in one run, then put this participant's ledger back as it was before."""
    home = world.home(name)
    old = (home / "ledger.db").read_bytes()
    options = Options(scenario=str(world.scenario), ledger=world.folder / "homes", out=world.folder / "before")
    execute(prepare(options), options)
    for file in home.glob("ledger.db*"):
        file.unlink()
    (home / "ledger.db").write_bytes(old)


@dataclass
class Play:
    """What came of one command."""

    folder: Path
    result: dict[str, Any] | None
    failure: str
    started: float
    ended: float
    injected: dict[str, tuple[int, float]] = field(default_factory=dict)

    def recovery(self, fault: str) -> float:
        """Return the seconds from a fault to the next committed round, or to the end of the command."""
        number, at = self.injected[fault]
        return rounds_done(self.folder).get(number + 1, self.ended) - at


def play(
    world: World,
    after: Mapping[int, tuple[str, Fault]] | None = None,
    starts: Mapping[str, str] | None = None,
    resume: Path | None = None,
    join_seconds: float = 120.0,
) -> Play:
    """Run, or resume, with faults; a named failure is an outcome."""
    made: list[Faulty] = []

    def federation(job: Job) -> Faulty:
        made.append(Faulty(job, after or {}, starts or {}))
        return made[-1]

    options = world.options(resume=resume)
    started = time.time()
    with (
        mock.patch("consortia.engines.flower.Federation", federation),
        mock.patch("consortia.engines.control.JOIN_SECONDS", join_seconds),
    ):
        job = prepare(options)
        try:
            result = execute(job, options).result
            failure = result["reason"]
        except (RunFailedError, OSError) as error:
            # As the command does: a disk without room is named, any other error of the system is a traceback.
            result, failure = None, no_room(error) if isinstance(error, OSError) else str(error)
            if not failure:
                raise
            traceback.print_exc()  # whose disk it was
    if made and made[0].error is not None:
        raise made[0].error
    return Play(job.folder, result, failure, started, time.time(), made[0].injected if made else {})
