"""Kubernetes manifests: valid, behind the walls of the compose files, golden. No cluster is called."""

from __future__ import annotations

import base64
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from command_line import APP
from kubernetes_validate import utils
from typer.testing import CliRunner

from consortia.common.errors import InputError
from consortia.deploy.compose import compose_text
from consortia.deploy.kubernetes.cluster import Cluster, services_of
from consortia.deploy.kubernetes.manifests import manifests
from consortia.terms.scenario import load_scenario

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "kubernetes"
#: The oldest version with claims of one pod, and the newest whose schemas the validator has.
VERSIONS = ("1.29", kubernetes_validate.latest_version())
ADDRESS = "fed.example.org:8443"
NAME = "app.kubernetes.io/name"

Documents = list[dict[str, Any]]


def _call(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(APP, ["kubernetes", *arguments])
    return done.exit_code, done.output


def _read(path: Path) -> Documents:
    return list(yaml.load_all(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader))


def _pods(documents: Documents) -> dict[str, dict[str, Any]]:
    found = [d for d in documents if d["kind"] in {"Deployment", "Job"}]
    return {d["spec"]["template"]["metadata"]["labels"][NAME]: d["spec"]["template"]["spec"] for d in found}


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A coordinator's folder, and the kit of `va` with its manifests."""
    root: Path = tmp_path_factory.mktemp("town")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        code, said = _call("hospitals", "--address", ADDRESS)
        assert code == 0, said
        assert "no key of va yet" in said
        kit = root / "kubernetes" / "hospitals" / "kits" / "va"
        code, said = _call("--participant", "va", "--kit", str(kit), "--service-ip", "10.96.0.50")
        assert code == 2
        assert "FILL IN" in said
        text = (kit / "policy.toml").read_text(encoding="utf-8").replace("FILL IN", "record")
        (kit / "policy.toml").write_text(text, encoding="utf-8")
        code, said = _call("--participant", "va", "--kit", str(kit), "--service-ip", "10.96.0.50", "--gpus", "1")
        assert code == 0, said
        code, said = _participant_key(kit)
        assert code == 0, said
        code, said = _call("hospitals", "--address", ADDRESS, "--registry", "registry.example.org/fed")
        assert code == 0, said
        assert "no key of va yet" not in said
    return root


def _participant_key(kit: Path) -> tuple[int, str]:
    words = ["participant", "key", "va", "--public-key", str(kit / "va.pub"), "--scenario", "hospitals"]
    done = CliRunner().invoke(APP, words)
    return done.exit_code, done.output


def _coordinator(town: Path) -> Documents:
    folder = town / "kubernetes" / "hospitals"
    return [d for path in (folder / "coordinator.yaml", *sorted((folder / "jobs").iterdir())) for d in _read(path)]


def _participant(town: Path) -> Documents:
    return _read(town / "kubernetes" / "hospitals" / "kits" / "va" / "kubernetes" / "participant.yaml")


def test_every_object_is_valid(town: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The validator reads some megabytes of definitions for each object.
    monkeypatch.setattr(utils, "schema_contents", cache(utils.schema_contents))
    monkeypatch.setattr(utils, "all_versions", cache(utils.all_versions))
    files = sorted(town.glob("kubernetes/**/*.yaml"))
    assert len(files) == 6
    for path in files:
        for document in _read(path):
            for version in VERSIONS:
                kubernetes_validate.validate(document, version, strict=True)


def test_the_validator_would_see_a_mistake(town: Path) -> None:
    wrong = next(d for d in _coordinator(town) if d["kind"] == "Deployment")
    wrong["spec"]["replica"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)


@pytest.mark.parametrize("side", [_coordinator, _participant])
def test_every_pod_is_behind_walls(town: Path, side: Any) -> None:
    documents = side(town)
    pods = _pods(documents)
    assert set(pods) == ({"va", "va-app"} if side is _participant else
                         {"superlink", "superexec", "proxy", "register", "runner"})  # fmt: skip
    for name, pod in pods.items():
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["enableServiceLinks"] is False, name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["runAsUser"] > 0, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        (container,) = pod["containers"]
        walls = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
        assert container["securityContext"] == walls, name
        assert {"cpu", "memory"} <= set(container["resources"]["limits"]), name
        assert ("readinessProbe" in container) == (name not in {"register", "runner"}), name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod), name
        assert not any("hostPath" in volume for volume in pod["volumes"]), name
        for mount in container["volumeMounts"]:
            assert mount.get("readOnly") or mount["name"] in {"tmp", "state", "runs", "home"}, (name, mount)
    policies = {d["metadata"]["name"]: d["spec"] for d in documents if d["kind"] == "NetworkPolicy"}
    assert policies.pop("deny-all")["podSelector"] == {}
    assert set(policies) == set(pods)
    claims = {
        d["metadata"]["name"]: d["spec"]["accessModes"] for d in documents if d["kind"] == "PersistentVolumeClaim"
    }
    one = {"home": ["ReadWriteOncePod"], "data": ["ReadWriteOnce"]}
    assert claims == (one if side is _participant else {"runs": ["ReadWriteOnce"], "state": ["ReadWriteOncePod"]})
    (namespace,) = (d for d in documents if d["kind"] == "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {d["metadata"]["namespace"] for d in documents if d is not namespace} == {namespace["metadata"]["name"]}


def test_pods_are_as_bounded_as_their_compose_services(town: Path) -> None:
    """Memory, commands and what is writable are the compose file's, not a second opinion."""
    plan = services_of(compose_text(load_scenario("hospitals")))
    for name, pod in _pods(_coordinator(town)).items():
        (container,) = pod["containers"]
        assert container.get("command") == plan[name].get("command"), name
        memory = {"256m": "256Mi", "1g": "1Gi", "2g": "2Gi"}[plan[name]["mem_limit"]]
        assert container["resources"]["limits"]["memory"] == memory, name
        assert container["image"] == f"registry.example.org/fed/{plan[name]['image']}", name


def test_who_reaches_whom(town: Path) -> None:
    """The launcher reaches its SuperNode and nothing else: not even a name server."""
    policies = {d["metadata"]["name"]: d["spec"] for d in _participant(town) if d["kind"] == "NetworkPolicy"}
    to_supernode = {
        "to": [{"podSelector": {"matchLabels": {NAME: "va"}}}],
        "ports": [{"protocol": "TCP", "port": 9094}],
    }
    assert policies["va-app"]["egress"] == [to_supernode]
    assert policies["va-app"]["ingress"] == []
    app = _pods(_participant(town))["va-app"]
    assert app["hostAliases"] == [{"ip": "10.96.0.50", "hostnames": ["va"]}]
    assert app["dnsPolicy"] == "None"
    assert app["dnsConfig"] == {"nameservers": ["127.0.0.1"]}
    (service,) = (d for d in _participant(town) if d["kind"] == "Service")
    assert service["spec"]["clusterIP"] == "10.96.0.50"
    assert policies["va"]["ingress"] == [
        {"from": [{"podSelector": {"matchLabels": {NAME: "va-app"}}}], "ports": [{"protocol": "TCP", "port": 9094}]}
    ]
    assert {"ports": [{"protocol": "TCP", "port": 8443}]} in policies["va"]["egress"]
    inside = {d["metadata"]["name"]: d["spec"] for d in _coordinator(town) if d["kind"] == "NetworkPolicy"}
    callers = {peer["podSelector"]["matchLabels"][NAME] for peer in inside["superlink"]["ingress"][0]["from"]}
    assert callers == {"superexec", "proxy", "register", "runner"}
    assert inside["proxy"]["ingress"] == [{"ports": [{"protocol": "TCP", "port": 8000}]}]


def test_rows_and_the_node_key_are_never_in_one_pod(town: Path) -> None:
    mounted = {name: {volume["name"] for volume in pod["volumes"]} for name, pod in _pods(_participant(town)).items()}
    assert mounted == {"va": {"tmp", "keys"}, "va-app": {"tmp", "keys-app", "home", "policy-toml", "data", "clients"}}


def test_a_run_that_failed_is_not_begun_again(town: Path) -> None:
    jobs = {d["metadata"]["generateName"]: d["spec"] for d in _coordinator(town) if d["kind"] == "Job"}
    assert set(jobs) == {"register-", "runner-"}
    assert {job["backoffLimit"] for job in jobs.values()} == {0}
    affinity = jobs["runner-"]["template"]["spec"]["affinity"]["podAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["labelSelector"]["matchExpressions"][0]["values"] == ["superexec"]


def test_a_probe_never_goes_through_its_own_service(town: Path) -> None:
    """A Service has no pod before the first probe succeeded."""
    pod = _pods(_coordinator(town))["superlink"]
    env = {item["name"]: item["value"] for item in pod["containers"][0]["env"]}
    assert env["CONSORTIA_HEALTH_URL"] == "https://localhost:8000/health"
    launcher = _pods(_participant(town))["va-app"]["containers"][0]
    assert {"name": "CONSORTIA_HEALTH_URL", "value": "https://va:9094/health"} in launcher["env"]


def test_gpus_are_reserved_where_asked(town: Path) -> None:
    pods = _pods(_participant(town))
    assert pods["va-app"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert "nvidia.com/gpu" not in pods["va"]["containers"][0]["resources"]["limits"]


def test_secrets_hold_what_pods_mount_and_lie_where_only_their_owner_reads(town: Path) -> None:
    folder = town / "kubernetes" / "hospitals"
    for documents, file in (
        (_coordinator(town), folder / "secrets.yaml"),
        (_participant(town), folder / "kits" / "va" / "kubernetes" / "secrets.yaml"),
    ):
        assert file.stat().st_mode & 0o077 == 0
        held = {d["metadata"]["name"]: d["data"] for d in _read(file)}
        mounted = [
            volume["secret"] for pod in _pods(documents).values() for volume in pod["volumes"] if "secret" in volume
        ]
        assert {secret["secretName"] for secret in mounted} == set(held)
        for secret in mounted:
            assert {item["key"] for item in secret["items"]} == set(held[secret["secretName"]])
    public = {d["metadata"]["name"]: d["data"] for d in _read(folder / "secrets.yaml")}["keys-public"]
    assert "va.pub" in public
    assert not any(b"PRIVATE" in base64.b64decode(value) for value in public.values())


@pytest.mark.parametrize("file", ["coordinator.yaml", "jobs/register.yaml", "jobs/runner.yaml", "participant.yaml"])
def test_manifests_are_the_golden_ones(town: Path, file: str) -> None:
    """To write them again: copy the folder that this test prints."""
    folder = town / "kubernetes" / "hospitals"
    written = folder / ("kits/va/kubernetes" if file.startswith("participant") else "") / file
    assert written.read_text(encoding="utf-8") == (GOLDEN / Path(file).name).read_text(encoding="utf-8"), written


def test_an_unknown_key_of_compose_is_refused() -> None:
    text = compose_text(load_scenario("hospitals")).replace(
        "  pids_limit: 256\n", "  pids_limit: 256\n  privileged: true\n"
    )
    with pytest.raises(InputError, match=r"service superlink: .*got privileged"):
        services_of(text)


def test_a_mount_without_a_claim_or_a_secret_is_refused() -> None:
    services = services_of(compose_text(load_scenario("hospitals")))
    with pytest.raises(InputError, match="wanted a claim or a secret for the mount"):
        manifests(services, Cluster(namespace="n", secrets={}, storage={}))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "either a scenario or --participant"),
        (("hospitals", "--participant", "va"), "either a scenario or --participant"),
        (("hospitals",), "wanted HOST:PORT"),
        (("--participant", "va"), "--service-ip: wanted a free address"),
        (("--participant", "va", "--service-ip", "10.96.0.50"), "wanted the join kit of va"),
    ],
)
def test_bad_input_is_named(
    arguments: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, output = _call(*arguments)
    assert code == 2
    assert said in " ".join(output.split())
    assert list(tmp_path.iterdir()) == []


def test_kubectl_reads_the_files(town: Path) -> None:
    """`kubectl` parses every object, offline: kustomize needs no cluster."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    folder = town / "kubernetes" / "hospitals"
    (folder / "kustomization.yaml").write_text("resources: [coordinator.yaml, secrets.yaml]\n", encoding="utf-8")
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    (folder / "kustomization.yaml").unlink()
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("kind: Deployment") == 3
