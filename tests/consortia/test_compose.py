"""A scenario as containers: what the command writes. What it runs is in test_federation.py."""

from __future__ import annotations

import difflib
import json
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import tomli_w
import yaml

from consortia.common.errors import InputError
from consortia.deploy import prepare
from consortia.deploy.compose import compose_text, mounted, starts_of
from consortia.deploy.prepare import make_homes
from consortia.participant.home import Home
from consortia.participant.identity import load_identity, public_hex
from consortia.terms.policy import load_policy
from consortia.terms.scenario import Scenario, find_scenario, load_scenario

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = (
    "cross-industry",
    "cross-industry-network",
    "hospitals",
    "hospitals-network",
    "banks",
    "banks-network",
    "factories",
    "factories-network",
    "linear",
    "secure-banks",
    "secure-banks-network",
    "shared-customers",
    "shared-trunk",
    "digits",
    "intrusions",
    "intrusions-unlabelled",
    "heartbeats",
    "imaging",
    "recommendations",
    "survival",
    "turbofans",
    "turbofans-life",
)
STEPS = {"keys", "homes"}  # start as root to hand files to their owner, without a network


@pytest.mark.parametrize("name", COMMITTED)
def test_the_committed_file_is_what_the_command_writes(name: str) -> None:
    assert (ROOT / "scenarios" / f"{name}.compose.yml").read_text(encoding="utf-8") == compose_text(load_scenario(name))


def _starting(tmp_path: Path, *files: str) -> Scenario:
    """Return cross-industry-network, whose industries start from these files, in their order."""
    text = (ROOT / "scenarios" / "cross-industry-network.toml").read_text(encoding="utf-8")
    data = tomllib.loads(text)
    for industry, file in zip(data["contract"]["industries"].values(), files, strict=False):
        industry["init"] = {"file": file, "sha256": "0" * 64}
    (tmp_path / "cross-industry-network.toml").write_text(tomli_w.dumps(data), encoding="utf-8")
    return load_scenario(str(tmp_path / "cross-industry-network.toml"))


def test_a_file_to_start_from_is_mounted_for_the_coordinator_and_who_trains_it(tmp_path: Path) -> None:
    scenario = _starting(tmp_path, "public/trunk.safetensors")
    (industry,) = [name for name, terms in scenario.contract.industries.items() if terms.init is not None]
    mine = [one.name for one in scenario.roster if one.industry == industry]
    assert 0 < len(mine) < len(scenario.roster)
    before = compose_text(load_scenario("cross-industry-network")).splitlines()
    new = [line for line in difflib.ndiff(before, compose_text(scenario).splitlines()) if line[0] in "+-"]

    def mount(target: str) -> str:
        return (
            f'+       - {{type: bind, source: "./public/trunk.safetensors", target: "{target}", read_only: true, '
            "bind: {create_host_path: false}}"
        )

    golden = ["+       CONSORTIA_HOME: /start", mount("/start/trunk.safetensors")]
    assert new == golden + [mount("/home/trunk.safetensors")] * len(mine)
    services = yaml.load(compose_text(scenario), Loader=yaml.CSafeLoader)["services"]
    there = {
        name
        for name, terms in services.items()
        if any(isinstance(one, dict) and one["read_only"] for one in terms.get("volumes", []))
    }
    assert there == {"superexec", *(f"{name}-app" for name in mine)}
    for service in there:  # where the code in it looks
        home = services[service]["environment"]["CONSORTIA_HOME"]
        (found,) = [one["target"] for one in services[service]["volumes"] if isinstance(one, dict)]
        assert found == f"{home}/trunk.safetensors"


def test_paths_of_files_to_start_from_are_taken_as_they_are(tmp_path: Path) -> None:
    assert mounted({"a b$c": "/srv/a b$c"}, "/start") == (
        '      - {type: bind, source: "/srv/a b$$c", target: "/start/a b$$c", read_only: true, '
        "bind: {create_host_path: false}}\n"
    )
    one = starts_of(
        _starting(tmp_path, "x/same", "x/same"), load_scenario("cross-industry-network").contract.industries
    )
    assert one == {"same": "x/same"}
    with pytest.raises(InputError, match="wanted a name of its own"):
        compose_text(_starting(tmp_path, "x/same", "y/same"))


@pytest.mark.parametrize("name", COMMITTED)
def test_every_service_is_behind_walls(name: str) -> None:
    scenario = load_scenario(name)
    plan = yaml.load(compose_text(scenario), Loader=yaml.CSafeLoader)
    names = [one.name for one in scenario.roster]
    for service, terms in plan["services"].items():
        assert terms["read_only"] is True, service
        assert terms["cap_drop"] == ["ALL"], service
        assert terms["mem_limit"], service
        assert terms["cpus"], service
        # One way in and out, for participants on other hosts, and only under a profile: it has no volume, hence no key.
        # Another for who looks, on this host alone, from a service that meets no other one and only reads.
        assert ("ports" in terms) == ("profiles" in terms) == (service in {"door", "dashboard"}), service
        assert ("outside" in terms.get("networks", [])) == (service == "door"), service
        assert ("watch" in terms.get("networks", [])) == (service == "dashboard"), service
        assert ("cap_add" in terms) == (service in STEPS), service
    assert "volumes" not in plan["services"]["door"]
    assert set(plan["services"]["door"]["networks"]) & set(plan["services"]["proxy"]["networks"]) == {"door"}
    assert {name for name, network in plan["networks"].items() if not network.get("internal")} == {"outside", "watch"}
    isolated = {"com.docker.network.bridge.gateway_mode_ipv4": "${CONSORTIA_GATEWAY:-isolated}"}
    assert all(network.get("driver_opts") == isolated for network in plan["networks"].values() if "internal" in network)
    watcher = plan["services"]["dashboard"]
    assert watcher["networks"] == ["watch"]
    assert all(port.startswith("127.0.0.1:") for port in watcher["ports"])
    assert all(mount.endswith(":ro") for mount in watcher["volumes"])
    secret = "${CONSORTIA_OIDC_SECRET_FILE:-/dev/null}"
    mounts = {mount.split(":/")[0] for mount in watcher["volumes"]}
    assert mounts == {"${CONSORTIA_RUNS:-./runs}", "keys-public", secret}
    for participant in names:
        app = plan["services"][f"{participant}-app"]
        assert plan["services"][participant]["networks"] == [f"{participant}-fleet", f"{participant}-private"]
        assert app["networks"] == [f"{participant}-private"]
        mounts = [*app["volumes"], *plan["services"][participant]["volumes"]]
        own = {f"keys-{participant}", f"keys-{participant}-app"}
        assert {mount.split(":")[0] for mount in mounts if mount.startswith("keys-")} == own
        assert all(f"/{participant}" in mount for mount in mounts if mount.startswith("${CONSORTIA"))


def test_gpus_are_reserved_for_launchers_where_asked(tmp_path: Path) -> None:
    plan = yaml.load(compose_text(load_scenario("linear"), gpus=2), Loader=yaml.CSafeLoader)["services"]
    device = {"driver": "nvidia", "count": 2, "capabilities": ["gpu"]}
    wanted = {"resources": {"reservations": {"devices": [device]}}}
    assert {name: terms["deploy"] for name, terms in plan.items() if "deploy" in terms} == {
        "line-a-app": wanted,
        "line-b-app": wanted,
    }
    file = tmp_path / "linear.compose.yml"
    file.write_text(compose_text(load_scenario("linear"), gpus=2), encoding="utf-8")
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        return  # compose checks a file against its schema without an engine, and a docker command may lack it
    command = ["docker", "compose", "--file", str(file), "config", "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)["services"]["line-a-app"]["deploy"]
    assert read["resources"]["reservations"]["devices"] == [device]


def test_the_homes_of_secure_sums_have_pinned_each_other(tmp_path: Path) -> None:
    """Identity, pins and the allowed contract: what a launcher needs at the first `up`; another changes nothing."""
    scenario = load_scenario("secure-banks-network")
    names = [participant.name for participant in scenario.roster]
    assert make_homes("secure-banks-network", scenario, tmp_path) == names
    homes = {name: Home(tmp_path / name, name) for name in names}
    keys = {name: public_hex(load_identity(home)) for name, home in homes.items()}
    assert len(set(keys.values())) == len(names)
    for name, home in homes.items():
        policy = load_policy(home.policy, simulation=False)
        assert policy.secure.peers == {peer: key for peer, key in keys.items() if peer != name}
        assert list(policy.allow.contracts) == [f"sha256:{scenario.contract.sha256()}"]
        assert (home.folder / "identity.pem").stat().st_mode & 0o077 == 0
    assert make_homes("secure-banks-network", scenario, tmp_path) == []
    assert {name: public_hex(load_identity(home)) for name, home in homes.items()} == keys


def test_make_up_passes_the_run_status_on(tmp_path: Path) -> None:
    """GNU make itself ends with 2 whatever a recipe's status is; 1 is a run that failed, 2 is bad input."""

    def up(waited: str, scenario: str = "linear") -> int:
        docker = tmp_path / "docker"
        docker.write_text(f"#!/bin/sh\ncase $1 in wait) echo {waited} ;; *) echo x ;; esac\n")
        docker.chmod(0o755)
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "CONSORTIA_TAG": "test"}
        command = ["make", "up", f"SCENARIO={scenario}"]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False).returncode

    assert [up(status) for status in ("0", "1", "2", "137")] == [0, 1, 2, 1]
    assert up("0", "nowhere") == 2


def test_homes_that_root_made_go_to_the_user_of_the_containers_and_others_stay(tmp_path, monkeypatch) -> None:
    names = [participant.name for participant in load_scenario("banks").roster]
    for folder, constant in (("homes", "HOMES"), ("runs", "RUNS"), ("members", "MEMBERS")):
        (tmp_path / folder).mkdir()
        monkeypatch.setattr(prepare, constant, tmp_path / folder)
    monkeypatch.setenv("CONSORTIA_UID", "1234")
    monkeypatch.setenv("CONSORTIA_GID", "1235")
    given: dict[str, tuple[int, int]] = {}
    monkeypatch.setattr(prepare.os, "chown", lambda path, uid, gid, **_: given.update({str(path): (uid, gid)}))
    # Who made them on the host: `stat` says root of all but one, whose owner somebody chose.
    monkeypatch.setattr(prepare, "_made_by_root", lambda home: home.name != names[1])
    assert prepare.main(["homes", "banks"]) == 0
    for name in names:
        home = tmp_path / "homes" / name
        wanted = set() if name == names[1] else {str(path) for path in (home, *home.rglob("*"))}
        assert {path for path in given if path == str(home) or path.startswith(f"{home}/")} == wanted
    assert set(given.values()) == {(1234, 1235)}
    assert {str(tmp_path / "runs"), str(tmp_path / "members")} <= set(given)


def test_the_homes_of_a_crowd_have_its_policy_under_their_own_names(tmp_path: Path) -> None:
    text = find_scenario("linear").read_text(encoding="utf-8").replace("[[roster]]", "[[crowd]]\ncount = 2")
    (tmp_path / "linear.toml").write_text(text, encoding="utf-8")
    shutil.copytree(find_scenario("linear").parent / "policies" / "linear", tmp_path / "policies" / "linear")
    scenario = load_scenario(str(tmp_path / "linear.toml"))
    names = [participant.name for participant in scenario.roster]
    assert make_homes(str(tmp_path / "linear.toml"), scenario, tmp_path / "homes") == names
    for participant in scenario.roster:
        home = Home(tmp_path / "homes" / participant.name, participant.name)
        policy = load_policy(home.policy, simulation=False)
        assert policy.participant == participant.name
        assert [terms.site for terms in policy.dataset.values()] == [participant.site]
        assert list(policy.allow.contracts) == [f"sha256:{scenario.contract.sha256()}"]
    assert len(names) == 4
