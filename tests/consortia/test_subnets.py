"""Every network has a subnet of its own. A taken one is an error that names who has it and the setting to change."""

from __future__ import annotations

import io
import ipaddress
import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from consortia.common.errors import InputError
from consortia.deploy import subnets
from consortia.deploy.compose import compose_text
from consortia.deploy.subnets import check, main, read_routes
from consortia.terms.roster import RosterParticipant
from consortia.terms.scenario import Scenario, load_scenario

ROOT = Path(__file__).resolve().parents[2]
OWN = "10.213.4.16/28"


def _text_networks(text: str, first_two: str = "10.213") -> dict[str, ipaddress.IPv4Network]:
    text = text.replace("${CONSORTIA_SUBNETS:-10.213}", first_two)
    found = yaml.load(text, Loader=yaml.CSafeLoader)["networks"]
    return {
        name: ipaddress.IPv4Network(part["subnet"])
        for name, network in found.items()
        for part in network["ipam"]["config"]
    }


def _of(count: int) -> Scenario:
    scenario = load_scenario("hospitals")
    one = scenario.roster[0].model_dump(mode="python", by_alias=True)
    roster = tuple(RosterParticipant(**{**one, "name": f"clinic-{number}"}) for number in range(count))
    return scenario.model_copy(update={"roster": roster})


def test_committed_scenarios_run_beside_each_other() -> None:
    files = sorted((ROOT / "scenarios").glob("*.compose.yml"))
    each = [subnet for file in files for subnet in _text_networks(file.read_text(encoding="utf-8")).values()]
    assert len(each) > 130
    assert not [pair for pair in combinations(each, 2) if pair[0].overlaps(pair[1])]


def test_forty_participants_fit_into_one_range_and_one_more_moves_nobody() -> None:
    forty, more = (_text_networks(compose_text(_of(count)), "172.20") for count in (40, 41))
    assert len(set(forty.values())) == len(forty) == 84
    assert all(subnet.subnet_of(ipaddress.IPv4Network("172.20.0.0/16")) for subnet in forty.values())
    assert all(subnet.num_addresses == 16 for subnet in forty.values())
    assert forty.items() < more.items()


def test_more_than_a_range_holds_is_refused() -> None:
    with pytest.raises(InputError, match="wanted at most 4096 networks"):
        subnets.subnets("crowd", [str(number) for number in range(4097)])
    assert len(set(subnets.subnets("crowd", [str(number) for number in range(4096)]).values())) == 4096


def _config(subnet: str = OWN) -> dict[str, Any]:
    fleet = {"name": "consortia-x_va-fleet", "ipam": {"config": [{"subnet": subnet}]}}
    return {"name": "consortia-x", "networks": {"va-fleet": fleet, "plain": {}}}


def _network(project: str, subnet: str = OWN, **more: Any) -> dict[str, Any]:
    labels = {"com.docker.compose.project": project}
    parts = [{"Subnet": "fd00::/64"}, {"Subnet": subnet}]
    return {"Id": "c0ffee" * 10, "Name": f"{project}_net", "Labels": labels, "IPAM": {"Config": parts}} | more


@pytest.mark.parametrize(
    ("existing", "routes", "said"),
    [
        ([_network("other", "10.213.4.0/24")], [], "the network other_net has as 10.213.4.0/24"),
        ([], [("tun0", "10.213.0.0/16")], "the host's route by tun0 has as 10.213.0.0/16"),
        ([], [("eth0", "10.213.4.24/32")], "the host's route by eth0"),
    ],
)
def test_a_taken_subnet_names_who_has_it_and_a_free_range(
    existing: list[dict[str, Any]], routes: list[tuple[str, str]], said: str
) -> None:
    with pytest.raises(InputError) as caught:
        check(_config(), existing, [(name, ipaddress.IPv4Network(text)) for name, text in routes])
    assert said in str(caught.value)
    assert "got 10.213.4.16/28 (network va-fleet)" in str(caught.value)
    assert str(caught.value).endswith("such as CONSORTIA_SUBNETS=10.214")


def test_a_project_may_have_its_own_networks_already() -> None:
    """Their bridges are routes of the host, too: `make up` a second time is no collision."""
    existing = [
        _network("consortia-x", Name="consortia-x_va-fleet"),
        _network("consortia-x", "10.213.4.32/28", Name="consortia-x_va-left"),  # of a former roster, in nobody's way
        _network("bridge", "172.17.0.0/16", Options={"com.docker.network.bridge.name": "docker0"}),
        {"Id": "0" * 64, "Name": "host", "Labels": None, "IPAM": {"Config": None}, "Options": None},
    ]
    routes = [(f"br-{existing[0]['Id'][:12]}", OWN), ("docker0", "172.17.0.0/16"), ("eth0", "10.213.4.0/28")]
    assert check(_config(), existing, [(name, ipaddress.IPv4Network(text)) for name, text in routes]) == 1


def test_networks_of_another_roster_are_named_with_what_removes_them() -> None:
    """`docker compose down` by the file leaves them: it removes the networks that the file names, and no other."""
    existing = [
        _network("consortia-x", Name="consortia-x_va-second"),
        _network("consortia-x", "10.213.4.0/28", Name="consortia-x_va-far"),
        _network("consortia-x", "10.213.4.16/29", Name="consortia-x_va-first"),
    ]
    with pytest.raises(InputError) as caught:
        check(_config(), existing, [])
    said = str(caught.value)
    assert "project consortia-x" in said
    assert "consortia-x_va-first (10.213.4.16/29), consortia-x_va-second (10.213.4.16/28)" in said
    assert "va-far" not in said
    assert said.endswith("docker compose --project-name consortia-x down --remove-orphans")


@pytest.mark.parametrize(
    ("value", "said"), [("10.213.0.0/16", "makes the subnet"), ("8.8", "public subnet"), ("10.300", "makes the subnet")]
)
def test_a_range_that_is_none_is_named(value: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        check(_config(f"{value}.4.16/28"), [], [])


def test_routes_are_read_as_the_kernel_writes_them(tmp_path: Path) -> None:
    file = tmp_path / "route"
    head = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n"
    lines = ["eth0 00000000 0102000A 0003 0 0 0 00000000 0 0 0", "tun0 0000D50A 00000000 0001 0 0 0 0000FFFF 0 0 0"]
    file.write_text(head + "\n".join(lines) + "\n", encoding="ascii")
    assert read_routes(file) == [("tun0", ipaddress.IPv4Network("10.213.0.0/16"))]


def test_the_check_reads_two_values_and_exits_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(subnets, "read_routes", list)
    for existing, status in (([], 0), ([_network("other")], 2)):
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{json.dumps(_config())}\n{json.dumps(existing)}\n"))
        assert main() == status
    assert capsys.readouterr().err.startswith("CONSORTIA_SUBNETS=10.213: wanted free subnets for the project")
