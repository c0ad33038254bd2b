"""A kind of event is known everywhere or nowhere: half-known, unknown, shadowing and broken ones are refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from privacy.accounting import RDP_ORDERS, epsilon, merge, rdp
from privacy.egress import Release, gate
from privacy.errors import MechanismError, PlanError, UnknownEventError
from privacy.events import (
    RELATION,
    Event,
    GaussianRelease,
    Repeated,
    check_known,
    check_positive,
    event_from_json,
    event_size,
    event_to_json,
    kinds,
    register,
    registry,
    relation_of,
    resized,
)
from privacy.filters import LifetimeFilter, run_epsilon_bound
from privacy.ledger import Budget, Ledger, RunPlan

ROOT = Path(__file__).resolve().parents[2]
TRAIN: dict[str, Any] = {"partition": "train", "unit": "record"}
LAWS: dict[str, Any] = {
    "relation": RELATION,
    "validate": lambda self: check_positive("noise_multiplier", self.noise_multiplier),
    "describe": lambda self: "nobody's",
    "pure_epsilon": lambda self: None,
    "pld": lambda self, grid: GaussianRelease(noise_multiplier=5.0, count=self.count, **TRAIN).pld(grid),
    "loss_span": lambda self: 1.0,
    "rdp": lambda self, orders: tuple(0.1 * self.count for _ in orders),
}


def nobodys(base: type[Event] = Repeated, frozen: bool = True, **changes: Any) -> type[Any]:
    """Make a class of events with all laws, but for what is changed (None leaves a law out)."""
    body = {
        "kind": "nobodys",
        "__annotations__": {"noise_multiplier": float, "count": int},
        "count": 1,
        **LAWS,
        **changes,
        "__module__": __name__,
    }
    cls = type("NobodysRelease", (base,), {name: value for name, value in body.items() if value is not None})
    return dataclass(frozen=frozen, kw_only=True)(cls) if frozen else cls


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is known to that test only."""
    monkeypatch.setattr(registry, "_added", {})


def _plan(*events: Event) -> RunPlan:
    return RunPlan(
        run_id="run",
        dataset="heart",
        contract_sha256="c" * 64,
        unit="record",
        declared_units=100,
        allowance=Budget(5.0, 1e-5),
        noise_multiplier=0.0,
        sampling_rate=1.0,
        steps_per_round=1,
        rounds=3,
        clip=1.0,
        non_private=False,
        other_events=events,
        listed=True,
    )


GAUSSIAN = GaussianRelease(noise_multiplier=9.0, **TRAIN)
COUNTERS: dict[str, Callable[[Event], Any]] = {
    "merge": lambda event: merge([event]),
    "epsilon": lambda event: epsilon([event], 1e-5),
    "rdp": lambda event: rdp([event], RDP_ORDERS),
    "json": event_to_json,
    "size": event_size,
    "resized": lambda event: resized(event, 2),
    "relation": relation_of,
    "plan": _plan,
    "run filter": lambda event: run_epsilon_bound(_plan(GAUSSIAN), [event]),
    "lifetime filter, rule A": lambda event: LifetimeFilter(Budget(5.0, 1e-3)).allows([Budget(1.0, 1e-5)], [event]),
    "lifetime filter, infinite": lambda event: LifetimeFilter(Budget(float("inf"), 0.0)).allows([], [event]),
    "gate": lambda event: gate([Release("metrics", {}, event)], {}, allowed=["metrics"], charged=[event], shared=[]),
}


@pytest.mark.parametrize("counter", COUNTERS)
def test_an_event_that_nobody_registered_is_refused_wherever_events_are_counted(counter: str) -> None:
    cls = nobodys()
    stranger = cls(noise_multiplier=5.0, **TRAIN)
    with pytest.raises(UnknownEventError, match="NobodysRelease"):
        COUNTERS[counter](stranger)


def test_the_ledger_reserves_no_unregistered_event(ledger_path: Path) -> None:
    with Ledger.open(ledger_path, "hospital-a") as ledger:
        life = Budget(9.0, 1e-4)
        ledger.open_run(_plan(GAUSSIAN), life)
        with pytest.raises(UnknownEventError, match="NobodysRelease"):
            ledger.reserve("run", 1, "k", [nobodys()(noise_multiplier=5.0, **TRAIN)], lifetime=life)
        assert ledger.entries() == []


def test_a_registered_event_is_counted_everywhere() -> None:
    event = register(nobodys())(noise_multiplier=5.0, **TRAIN)
    for name, count in COUNTERS.items():
        if name not in {"run filter", "gate"}:  # not of that plan; releases nothing
            count(event)
    assert event_from_json(event_to_json(event)) == event
    assert event_to_json(event) == {
        "schema": 1, "kind": "nobodys", "relation": RELATION, "partition": "train", "unit": "record",
        "noise_multiplier": 5.0, "count": 1,
    }  # fmt: skip
    assert merge([event, event]) == (resized(event, 2),)
    # A law of its own is counted on a grid, that of a Gaussian release in closed form.
    counted, gaussian = epsilon([event], 1e-5), epsilon([GaussianRelease(noise_multiplier=5.0, **TRAIN)], 1e-5)
    assert gaussian <= counted < gaussian + 1e-6
    assert "nobodys" in kinds()


@pytest.mark.parametrize("law", sorted(LAWS))
def test_an_event_that_lacks_a_law_can_neither_be_made_nor_registered(law: str) -> None:
    cls = nobodys(**{law: None})
    with pytest.raises(TypeError, match=law):
        cls(noise_multiplier=5.0, **TRAIN)
    with pytest.raises(MechanismError, match=f"got none for {law};"):
        register(cls)
    assert "nobodys" not in kinds()


def test_all_missing_laws_are_named_at_once() -> None:
    with pytest.raises(MechanismError, match="got none for pld, rdp, relation, resized, size;"):
        register(nobodys(base=Event, pld=None, rdp=None, relation=None))


@pytest.mark.parametrize(
    ("cls", "told"),
    [
        (lambda: int, "subclass of privacy.events.Event"),
        (lambda: nobodys(kind="gaussian"), "taken .built in."),
        (lambda: nobodys(kind="Nobody s"), "wanted a name"),
        (lambda: nobodys(kind=""), "wanted a name"),
        (lambda: nobodys(releases=["metrics"]), "tuple"),
        (lambda: nobodys(base=GaussianRelease), "GaussianRelease, whose laws are not its own"),
        # Without the decorator its noise would be no field: all noise multipliers would be one mechanism.
        (lambda: nobodys(frozen=False), "dataclass"),
        (lambda: nobodys(noise_multiplier=field(compare=False)), "compared and given, got noise_multiplier"),
        (lambda: nobodys(__post_init__=lambda self: None), "__post_init__"),
        (lambda: nobodys(non_private=False), "non_private"),
    ],
)
def test_half_a_kind_is_refused_by_name(cls: Callable[[], type[Any]], told: str) -> None:
    with pytest.raises(MechanismError, match=told):
        register(cls())


def test_a_kind_belongs_to_one_class() -> None:
    first = register(nobodys())
    assert register(first) is first
    with pytest.raises(MechanismError, match="taken"):
        register(nobodys())
    with pytest.raises(UnknownEventError):
        check_known(nobodys()(noise_multiplier=5.0, **TRAIN))  # the name alone does not make it known


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"pld": lambda self, grid: _Nan()}, "pld"),
        ({"rdp": lambda self, orders: (0.1,)}, "rdp: wanted 15 numbers, got 1"),
        ({"rdp": lambda self, orders: (float("nan"),) * len(orders)}, "rdp: wanted a number >= 0, got nan"),
        ({"rdp": lambda self, orders: (-1.0,) * len(orders)}, "rdp: wanted a number >= 0, got -1.0"),
        ({"loss_span": lambda self: float("nan")}, "loss_span"),
        ({"pure_epsilon": lambda self: -2.0}, "pure_epsilon"),
        ({"resized": lambda self, size: self}, "with size 1"),
        ({"canonical": lambda self: GAUSSIAN}, "canonical: wanted size 2, got 1"),
        ({"canonical": lambda self: nobodys()(noise_multiplier=5.0, **TRAIN)}, "not registered"),
    ],
)  # fmt: skip
def test_a_law_that_gives_nonsense_is_refused_when_it_is_used(changes: dict[str, Any], told: str) -> None:
    event = register(nobodys(**changes))(noise_multiplier=5.0, count=2, **TRAIN)
    with pytest.raises(UnknownEventError, match=told):
        _ = epsilon([event], 1e-5), rdp([event], RDP_ORDERS)


class _Nan:
    def get_epsilon_for_delta(self, _: float) -> float:
        return float("nan")


def test_a_value_that_json_does_not_give_back_is_refused() -> None:
    cls = register(nobodys(validate=lambda self: None))
    for value in (float("nan"), float("inf"), [1.0], None):
        with pytest.raises(PlanError, match="noise_multiplier"):
            cls(noise_multiplier=value, **TRAIN)


# Installed kinds


def _install(folder: Path, package: str, points: str, code: str) -> None:
    """Write a package and its metadata, as an installer would leave them."""
    (folder / f"{package}.py").write_text(code)
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[consortia.mechanisms]\n{points}\n")


RECORD = {"schema": 1, "relation": RELATION, "noise_multiplier": 1.0, "count": 1, **TRAIN}


@pytest.mark.parametrize(
    ("points", "code", "told"),
    [
        ("broken = broken_pkg:Release", "raise OSError('moved')", "broken_pkg cannot be loaded.*OSError: moved"),
        ("broken = broken_pkg:Missing", "", "cannot be loaded.*AttributeError"),
        ("broken = broken_pkg:Release", "class Release:\n    kind = 'other'", "of that kind, got 'other'"),
        ("broken = broken_pkg:Release", "class Release:\n    kind = 'broken'", "subclass of privacy.events.Event"),
        (
            "broken = broken_pkg:Release",
            "from privacy.events import Event\nclass Release(Event):\n    kind = 'broken'",
            "got none for describe, loss_span, pld",
        ),
    ],
)  # fmt: skip
def test_a_broken_package_is_one_clear_error_and_hurts_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, points: str, code: str, told: str
) -> None:
    _install(tmp_path, "broken_pkg", points, code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "broken_pkg", raising=False)
    assert "broken" in kinds()
    with pytest.raises(MechanismError, match=told):
        event_from_json({**RECORD, "kind": "broken"})
    assert event_from_json({**RECORD, "kind": "gaussian"}) == GaussianRelease(noise_multiplier=1.0, **TRAIN)
    with pytest.raises(UnknownEventError, match="got 'unheard_of'"):
        event_from_json({**RECORD, "kind": "unheard_of"})


def test_an_installed_kind_never_shadows_a_built_in_one_and_two_packages_never_share_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _install(tmp_path, "shadow_pkg", "gaussian = shadow_pkg:X\ntwice = shadow_pkg:X", "raise AssertionError('loaded')")
    _install(tmp_path, "second_pkg", "twice = second_pkg:X", "raise AssertionError('loaded')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert type(event_from_json({**RECORD, "kind": "gaussian"})) is GaussianRelease
    with pytest.raises(MechanismError, match="second_pkg, shadow_pkg all bring one"):
        event_from_json({**RECORD, "kind": "twice"})


def test_importing_events_imports_nothing_heavy() -> None:
    heavy = "('torch', 'dp_accounting', 'opacus', 'scipy', 'numpy')"
    code = f"import sys, privacy.events; found = [m for m in {heavy} if m in sys.modules]; assert not found, found"
    subprocess.run([sys.executable, "-P", "-c", code], cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, check=True)
