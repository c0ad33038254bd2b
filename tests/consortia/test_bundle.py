"""A bundle is names and numbers: whatever else it holds, a participant refuses it before anything of it runs."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
import tomli_w
from hostile_bundles import COMPONENTS, fab

from consortia.common.errors import RefusedError
from consortia.messages import bundle
from consortia.messages.bundle import check_announced, check_bundle
from consortia.terms.policy import load_policy
from consortia.terms.scenario import load_scenario

PROJECT = {
    "project": {"name": "consortia-run", "version": "1.0.0", "license": "Apache-2.0"},
    "tool": {"flwr": {"app": {"publisher": "consortia", "components": COMPONENTS, "config": {"scenario": "{}"}}}},
}


def project(**components: str) -> bytes:
    """Return pyproject.toml, naming other components where given."""
    app = {**PROJECT["tool"]["flwr"]["app"], "components": {**COMPONENTS, **components}}
    return tomli_w.dumps({**PROJECT, "tool": {"flwr": {"app": app}}}).encode()


GOOD = {"pyproject.toml": project(), "scenarios/linear.toml": b'name = "linear"\n'}
CODE = b"raise SystemExit('this ran')\n"
HOSTILE = {
    "a module of ours": {**GOOD, "privacy/__init__.py": CODE},
    "our ClientApp": {**GOOD, "consortia/client_app.py": CODE},
    "sitecustomize": {**GOOD, "sitecustomize.py": CODE},
    "a path file": {**GOOD, "evil.pth": b"import os\n"},
    "conftest": {**GOOD, "conftest.py": CODE},
    "a foreign component": {"pyproject.toml": project(clientapp="evil:app")},
    "a foreign server component": {"pyproject.toml": project(serverapp="evil:app")},
    "a component more": {"pyproject.toml": project(agentapp="evil:app")},
    "code beside a scenario": {**GOOD, "scenarios/linear.py": CODE},
    "a path upwards": {**GOOD, "scenarios/../privacy.py": CODE},
    "a scenario upwards": {**GOOD, "../scenarios/linear.toml": b""},
    "an absolute path": {**GOOD, "/scenarios/linear.toml": b""},
    "a folder": {**GOOD, "scenarios/": b""},
    "another case": {**GOOD, "PyProject.toml": project()},
    "no project": {"scenarios/linear.toml": b""},
    "no TOML": {**GOOD, "scenarios/linear.toml": CODE},
    "no components": {"pyproject.toml": b"[project]\n"},
    "too large": {**GOOD, "scenarios/big.toml": b"#" * (5 * 2**20)},
    "too many": {**GOOD, **{f"scenarios/s{i}.toml": b"" for i in range(70)}},
}


def test_a_good_bundle_passes() -> None:
    check_bundle(fab(GOOD))
    check_bundle(fab({"pyproject.toml": project()}))


@pytest.mark.parametrize("files", HOSTILE.values(), ids=HOSTILE.keys())
def test_anything_else_is_refused(files: dict[str, bytes]) -> None:
    with pytest.raises(RefusedError) as refusal:
        check_bundle(fab(files))
    assert refusal.value.code == "BUNDLE_REFUSED"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04 not a zip",
        fab(GOOD)[:-30],
        fab(GOOD, listed={"pyproject.toml": project()}),
        fab({"pyproject.toml": project()}, listed=GOOD),
        fab(GOOD, listed={**GOOD, "scenarios/linear.toml": b"another"}),
        # A null byte ends the name for some readers: what is shown is not what is stored.
        fab(GOOD).replace(b"scenarios/linear.toml", b"scenarios/l.toml\0.py/"),
    ],
)
def test_a_broken_or_lying_archive_is_refused(content: bytes) -> None:
    with pytest.raises(RefusedError, match="BUNDLE_REFUSED"):
        check_bundle(content)


def test_a_name_twice_is_refused() -> None:
    buffer = io.BytesIO(fab(GOOD))
    with zipfile.ZipFile(buffer, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("pyproject.toml", project(clientapp="evil:app"))
    with pytest.raises(RefusedError, match="twice"):
        check_bundle(buffer.getvalue())


def test_the_announced_contract_is_one_that_the_policy_lists(tmp_path: Path) -> None:
    scenario = load_scenario("linear")
    listed = tmp_path / "policy.toml"
    text = (Path(bundle.__file__).parents[3] / "scenarios" / "policies" / "linear" / "line-a.toml").read_text()
    text = text.replace("demo = true", "demo = false").replace(
        'contracts = "any"', f'contracts = ["sha256:{scenario.contract.sha256()}"]'
    )
    listed.write_text(text)
    policy = load_policy(listed, simulation=False)
    check_announced({"scenario": scenario.to_json()}, policy)
    other = scenario.with_overrides(rounds=3)
    with pytest.raises(RefusedError) as refusal:
        check_announced({"scenario": other.to_json()}, policy)
    assert refusal.value.code == "CONTRACT_NOT_ALLOWED"
    for config in ({}, {"scenario": 5}, {"scenario": "{}"}, {"scenario": "no json"}):
        with pytest.raises(RefusedError) as refusal:
            check_announced(config, policy)
        assert refusal.value.code == "BUNDLE_REFUSED"
