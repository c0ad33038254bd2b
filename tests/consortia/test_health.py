"""A container's health check tells whether its loop gets on; commands find the home that a container has."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import yaml
from command_line import APP
from typer.testing import CliRunner

from consortia.common import disk
from consortia.common.errors import InputError
from consortia.deploy import health
from consortia.deploy.compose import compose_text
from consortia.participant.home import Home
from consortia.terms.scenario import load_scenario


def test_a_loop_that_stands_still_is_unhealthy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "alive"
    monkeypatch.setenv(health.ALIVE, str(file))
    monkeypatch.delenv("CONSORTIA_HEALTH_URL", raising=False)
    assert health.main() == 1
    health.alive()
    assert health.main() == 0
    long_ago = time.time() - 61
    os.utime(file, (long_ago, long_ago))
    assert health.main() == 1


def test_nothing_to_ask_is_healthy_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (health.ALIVE, "CONSORTIA_HEALTH_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    health.alive()
    assert health.main() == 0
    assert list(tmp_path.iterdir()) == []


def test_every_service_that_stays_up_has_a_health_check() -> None:
    plan = yaml.load(compose_text(load_scenario("hospitals")), Loader=yaml.CSafeLoader)
    for name, service in plan["services"].items():
        image = service["image"].partition(":")[0]
        assert (image == "consortia-proxy") == (name in {"proxy", "door"}), name
        asks = {"CONSORTIA_ALIVE", "CONSORTIA_HEALTH_URL"} & set(service.get("environment", {}))
        if image != "consortia-proxy" and (service.get("restart") or name == "runner"):
            assert asks or "test" in service["healthcheck"], name
            assert service.get("healthcheck") != {"disable": True}, name


def test_a_participants_commands_need_no_folder_in_its_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = yaml.load(compose_text(load_scenario("hospitals")), Loader=yaml.CSafeLoader)
    app = plan["services"]["va-app"]
    assert any(mount.endswith(f":{app['environment']['CONSORTIA_HOME']}/va") for mount in app["volumes"])
    monkeypatch.setenv("CONSORTIA_HOME", str(tmp_path))
    home = Home(tmp_path / "va", "va")
    code, said = _call("home", "log", "va")
    assert (code, "wanted the home of va" in said) == (2, True)
    home.create()
    assert _call("home", "log", "va") == (0, "no refusal and no incident")
    code, said = _call("receipt", "va")
    assert (code, f"{home.folder}: wanted the folder of a participant" in said) == (2, True)


def _call(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(APP, words, env={"COLUMNS": "400"})
    return done.exit_code, " ".join(done.output.split())


def test_a_mounted_policy_says_where_to_change_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_: object) -> None:
        raise OSError(16, "Device or resource busy")

    home = Home(tmp_path, "va")
    monkeypatch.setattr(disk.Path, "replace", busy)
    with pytest.raises(InputError, match="mounted read-only; change the file on the host"):
        home.write_policy("x = 1\n")
    assert list(tmp_path.iterdir()) == []
