"""The page `docs/how_to/mechanisms.md` is true: a stranger's file and an entry point are enough."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from consortia.participant import account as accounts
from consortia.testing import check_mechanism
from consortia.testing._mechanisms import _CHECKS
from privacy import _lifetimes
from privacy.accounting import epsilon
from privacy.egress import Release, gate
from privacy.errors import BudgetExhaustedError, LedgerSchemaError, UnknownEventError
from privacy.events import LaplaceRelease, event_to_json, kinds, registry
from privacy.ledger import Budget, Ledger, RunPlan

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "how_to" / "mechanisms.md").read_text(encoding="utf-8")
LIFE = Budget(2.0, 0.0)


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The page's file and entry point, on the path as an installer leaves them; nobody has called `register`."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    (points,) = re.findall(r"```toml\n\[project\.(entry-points\..*?)```", PAGE, flags=re.DOTALL)
    site = tmp_path / "site"
    info = site / "partner_geometric-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "partner_geometric.py").write_text(code, encoding="utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: partner-geometric\nVersion: 1.0\n")
    # pyproject.toml's table as the build back end writes it.
    lines = re.sub(r'^entry-points\."(.*)"\]', r"[\1]", points).replace('"', "")
    (info / "entry_points.txt").write_text(lines)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(registry, "_added", {})
    monkeypatch.delitem(sys.modules, "partner_geometric", raising=False)
    _forget_read_events()
    yield importlib.import_module("partner_geometric")
    sys.modules.pop("partner_geometric", None)
    _forget_read_events()


def _plan(event: Any) -> RunPlan:
    return RunPlan(
        run_id="run",
        dataset="heart",
        contract_sha256="c" * 64,
        unit="record",
        declared_units=100,
        allowance=LIFE,
        noise_multiplier=0.0,
        sampling_rate=1.0,
        steps_per_round=1,
        rounds=4,
        clip=1.0,
        non_private=False,
        other_events=(event,),
        listed=True,
    )


def test_the_page_is_short_and_its_mechanism_passes_the_suite(stranger: Any) -> None:
    assert len(PAGE.splitlines()) <= 60
    assert "geometric" in kinds()
    assert check_mechanism(stranger.NoisyCount(2.0)) == tuple(_CHECKS)


def test_a_strangers_event_goes_the_whole_way_and_is_known_to_a_new_process(
    stranger: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = stranger.NoisyCount(2.0).event()
    assert epsilon([event] * 3, 0.0) == 1.5
    # Beside another mechanism of the same partition.
    laplace = LaplaceRelease(noise_multiplier=9.0, partition="train", unit="record")
    assert epsilon([event, laplace], 1e-5) == pytest.approx(0.5 + epsilon([laplace], 1e-5))
    gate([Release("size", {}, event)], {}, allowed=["size"], charged=[event], shared=[])
    path = tmp_path / "ledger.db"
    Ledger.create(path, "p").close()
    with Ledger.open(path, "p") as ledger:
        ledger.open_run(_plan(event), LIFE)
        for number in range(4):
            ledger.commit(ledger.reserve("run", number, f"k{number}", [event], lifetime=LIFE), b"a count")
        with pytest.raises(BudgetExhaustedError):
            ledger.reserve("run", 5, "k5", [event], lifetime=LIFE)
        account = accounts.summary(ledger, None, "p")["accounts"][0]
        assert account["epsilon"] == 2.0
        assert account["by"][0]["what"] == "two-sided geometric, b 2 (train)"
        assert ledger.export()["entries"][0]["events"] == [event_to_json(event)]
    # A process that never heard of the class finds it by the entry point.
    monkeypatch.setattr(registry, "_added", {})
    _forget_read_events()
    with Ledger.open(path, "p") as ledger:
        assert ledger.spent("heart", 0.0) == 2.0
    # Where the package is not installed, the ledger is refused rather than read as less.
    monkeypatch.setattr(registry, "_added", {})
    monkeypatch.setattr(registry._installed, "installed", dict)
    _forget_read_events()
    with Ledger.open(path, "p") as ledger, pytest.raises((UnknownEventError, LedgerSchemaError), match="geometric"):
        ledger.spent("heart", 0.0)


def _forget_read_events() -> None:
    for read in (_lifetimes.read_events, _lifetimes.read_plan):
        read.cache_clear()
