"""Every built-in mechanism passes `check_mechanism`, and a broken one fails the check that sees what is broken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from built_in_mechanisms import BUILT_IN
from scipy import stats

from consortia.testing import MechanismCheckError, check_mechanism
from consortia.testing._mechanism_case import Case
from consortia.testing._mechanisms import _CHECKS
from privacy.events import RELATION, GaussianRelease, LaplaceRelease, NonPrivate, Repeated, register, registry
from privacy.mechanism import AdditiveNoise, Array, Data, Rounded

QUICK = {"histogram, Laplace", "labels, two classes"}
WIDTH = 60
TRAIN: dict[str, Any] = {"partition": "train", "unit": "record"}


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.end_to_end) for name in BUILT_IN]
)
def test_every_built_in_mechanism_passes(name: str) -> None:
    assert check_mechanism(BUILT_IN[name]()) == tuple(_CHECKS)


def test_what_a_sampled_step_of_dp_sgd_costs_is_that_of_its_noise() -> None:
    case = Case(BUILT_IN["DP-SGD, sampled"](), 0)
    for name in ("epsilon_covers_the_noise", "composition_covers_many_releases", "renyi_covers_the_noise"):
        _CHECKS[name](case)


class Sums:
    """An honest mechanism: sums of rows, each unit's clipped to 1 in L1, with Laplace noise."""

    norm: Any = "l1"
    sensitivity = 1.0
    sampling_rate = 1.0
    multiplier = 1.5

    @property
    def noise(self) -> Any:
        return AdditiveNoise(stats.laplace(scale=self.multiplier))

    def event(self) -> Any:
        return LaplaceRelease(noise_multiplier=self.multiplier, **TRAIN)

    def query(self, data: Data) -> Array:
        total = np.zeros(data.values.shape[1])
        for unit in np.unique(data.units):
            own = np.nan_to_num(data.values[data.units == unit], posinf=1e9, neginf=-1e9).clip(-1e9, 1e9).sum(axis=0)
            total += own / max(1.0, float(np.abs(own).sum()))
        return total

    def draw(self, shape: tuple[int, ...]) -> Array:
        return np.random.default_rng().laplace(scale=self.multiplier, size=shape)

    def release(self, data: Data) -> Array:
        total = self.query(data)
        return total + self.draw(total.shape)

    def example(self, seed: int) -> Data:
        values = np.random.default_rng(seed).normal(size=(24, WIDTH))
        values[:, 0] += 100  # so that the sum is far above the noise
        return Data(values, np.repeat(np.arange(12), 2))


class GaussianSums(Sums):
    """The same with Gaussian noise; in one dimension more, L1 clipping bounds L2 as well."""

    norm = "l2"

    @property
    def noise(self) -> Any:
        return AdditiveNoise(stats.norm(scale=self.multiplier))

    def event(self) -> Any:
        return GaussianRelease(noise_multiplier=self.multiplier, **TRAIN)

    def draw(self, shape: tuple[int, ...]) -> Array:
        return np.random.default_rng().normal(scale=self.multiplier, size=shape)


@pytest.mark.parametrize("honest", [Sums, pytest.param(GaussianSums, marks=pytest.mark.end_to_end)])
def test_the_honest_mechanism_passes(honest: type[Sums]) -> None:
    assert check_mechanism(honest()) == tuple(_CHECKS)


def mutant(base: type[Sums] = Sums, **changes: Any) -> Sums:
    """Return the honest mechanism with something changed."""
    broken: Sums = type("Mutant", (base,), changes)()
    return broken


def told(**laws: Any) -> Sums:
    """Return the honest mechanism whose event has other laws than it should."""

    def as_laplace(self: Any) -> LaplaceRelease:
        return LaplaceRelease(noise_multiplier=self.noise_multiplier, count=self.count, **TRAIN)

    body: dict[str, Any] = {
        "kind": "mutant",
        "__module__": __name__,
        "__annotations__": {"noise_multiplier": float, "count": int},
        "count": 1,
        "relation": RELATION,
        "validate": lambda self: as_laplace(self).validate(),
        "describe": lambda self: "a mutant",
        "pure_epsilon": lambda self: None,
        "pld": lambda self, grid: as_laplace(self).pld(grid),
        "loss_span": lambda self: as_laplace(self).loss_span(),
        "rdp": lambda self, orders: as_laplace(self).rdp(orders),
    }
    cls = dataclass(frozen=True, kw_only=True)(type("Told", (Repeated,), {**body, **laws}))
    if laws.get("kind") != "unregistered":
        register(cls)
    return mutant(event=lambda self: cls(noise_multiplier=self.multiplier, **TRAIN))


def _without_clipping(self: Sums, data: Data) -> Array:
    return np.nan_to_num(data.values).clip(-10, 10).sum(axis=0)


def _clipped_by_row(self: Sums, data: Data) -> Array:
    rows = np.nan_to_num(data.values, posinf=1e9, neginf=-1e9).clip(-1e9, 1e9)
    return (rows / np.maximum(1.0, np.abs(rows).sum(axis=1, keepdims=True))).sum(axis=0)


def _not_finite(self: Sums, data: Data) -> Array:
    return Sums.query(self, data) + 0.0 * data.values.sum()


def _scaled_by_the_others(self: Sums, data: Data) -> Array:
    rows = np.nan_to_num(data.values, posinf=1e9, neginf=-1e9).clip(-1e9, 1e9)
    return Sums.query(self, Data(rows / max(1.0, float(np.abs(rows).max(initial=0.0))) * 3, data.units))


def _refusing(self: Sums, data: Data) -> Array:
    if not np.isfinite(data.values).all():
        raise ValueError("a row is not finite")
    return Sums.query(self, data)


def _draw(law: Callable[..., Array]) -> Callable[..., Array]:
    return lambda self, shape: law(np.random.default_rng(), self.multiplier, shape)


def _noise(rng: Any, scale: float, shape: tuple[int, ...]) -> Array:
    drawn: Array = rng.laplace(scale=scale, size=shape)
    return drawn


def _one_for_all(rng: Any, scale: float, shape: tuple[int, ...]) -> Array:
    return np.full(shape, rng.laplace(scale=scale))


def _mirrored(rng: Any, scale: float, shape: tuple[int, ...]) -> Array:
    half = rng.laplace(scale=scale, size=shape[0] // 2)
    return np.concatenate([half, -half[::-1]])


def _same_size(rng: Any, scale: float, shape: tuple[int, ...]) -> Array:
    return rng.laplace(scale=scale) * rng.choice([-1.0, 1.0], size=shape)  # type: ignore[no-any-return]


class _Kept:
    """Noise that a mechanism keeps for the next release, turned by one coordinate."""

    def __init__(self) -> None:
        self.last = np.zeros(0)

    def __call__(self, shape: tuple[int, ...]) -> Array:
        fresh = np.random.default_rng().laplace(scale=1.5, size=shape)
        self.last, out = fresh, self.last if len(self.last) and fresh[0] > 0 else fresh
        return out


INHERITED = np.random.default_rng()


def _release_without_zeros(self: Sums, data: Data) -> Array:
    found = Sums.release(self, data)
    return found[self.query(data) != 0] if len(data.units) < 5 else found


MUTANTS: dict[str, tuple[str, Callable[[], Any]]] = {
    "an event of two releases": ("the_event_is_complete", lambda: mutant(
        event=lambda self: LaplaceRelease(noise_multiplier=1.5, count=2, **TRAIN))),
    "an event without privacy": ("the_event_is_complete", lambda: mutant(
        event=lambda self: NonPrivate(what="sums", **TRAIN))),
    "an unregistered event": ("the_event_is_complete", lambda: told(kind="unregistered")),
    "no description": ("the_event_is_complete", lambda: told(describe=lambda self: " ")),
    "fields that nobody checks": ("the_event_survives_json", lambda: told(validate=lambda self: None)),
    "a distribution that ignores the size": ("more_releases_never_cost_less", lambda: told(
        pld=lambda self, grid: LaplaceRelease(noise_multiplier=self.noise_multiplier, **TRAIN).pld(grid))),
    "no Renyi bounds": ("renyi_covers_the_noise", lambda: told(rdp=lambda self, orders: (0.0,) * len(orders))),
    "half the Renyi bounds": ("renyi_covers_the_noise", lambda: told(rdp=lambda self, orders: tuple(
        r / 2 for r in LaplaceRelease(noise_multiplier=self.noise_multiplier, count=self.count, **TRAIN).rdp(orders)))),
    "a noisy query": ("the_query_is_exact", lambda: mutant(
        query=lambda self, data: Sums.query(self, data) + self.draw((WIDTH,)))),
    "a query that changes rows": ("the_query_is_exact", lambda: mutant(
        query=lambda self, data: [data.values.__imul__(0.5), Sums.query(self, data)][1])),
    "no clipping": ("one_unit_moves_no_more_than_the_sensitivity", lambda: mutant(query=_without_clipping)),
    "clipping by row": ("one_unit_moves_no_more_than_the_sensitivity", lambda: mutant(query=_clipped_by_row)),
    "NaN passes": ("one_unit_moves_no_more_than_the_sensitivity", lambda: mutant(query=_not_finite)),
    "rows scaled by the largest": ("one_unit_moves_no_more_than_the_sensitivity", lambda: mutant(
        query=_scaled_by_the_others)),
    "hostile rows are refused": ("one_unit_moves_no_more_than_the_sensitivity", lambda: mutant(query=_refusing)),
    "a sensitivity that is too low": ("one_unit_moves_no_more_than_the_sensitivity", lambda: mutant(sensitivity=0.9)),
    "a query of nothing": ("one_unit_moves_no_more_than_the_sensitivity", lambda: mutant(
        query=lambda self, data: np.zeros(WIDTH))),
    "a length that rows decide": ("shapes_tell_nothing_about_rows", lambda: mutant(release=_release_without_zeros)),
    "a tenth less noise": ("noise_follows_its_law", lambda: mutant(
        draw=_draw(lambda rng, b, shape: _noise(rng, 0.9 * b, shape)))),
    "a tenth more noise": ("noise_follows_its_law", lambda: mutant(
        draw=_draw(lambda rng, b, shape: _noise(rng, 1.1 * b, shape)))),
    "Gaussian for Laplace": ("noise_follows_its_law", lambda: mutant(
        draw=_draw(lambda rng, b, shape: rng.normal(scale=b * 2**0.5, size=shape)))),
    "unrounded noise": ("noise_follows_its_law", lambda: mutant(
        noise=AdditiveNoise(Rounded(stats.laplace(scale=1.5))))),
    "one number for all": ("noise_is_independent", lambda: mutant(draw=_draw(_one_for_all))),
    "mirrored noise": ("noise_is_independent", lambda: mutant(draw=_draw(_mirrored))),
    "signs only": ("noise_is_independent", lambda: mutant(draw=_draw(_same_size))),
    "noise of the release before": ("noise_is_independent", lambda: mutant(draw=_Kept())),
    "noise alone": ("releases_centre_on_the_query", lambda: mutant(
        release=lambda self, data: self.draw((WIDTH,)))),
    "a seed": ("randomness_is_fresh", lambda: mutant(
        draw=lambda self, shape: np.random.default_rng(0).laplace(scale=1.5, size=shape))),
    "the global generator": ("randomness_is_fresh", lambda: mutant(
        draw=lambda self, shape: np.random.laplace(scale=1.5, size=shape))),
    "a generator older than a fork": ("randomness_is_fresh", lambda: mutant(
        draw=lambda self, shape: INHERITED.laplace(scale=1.5, size=shape))),
    "an event with more noise": ("epsilon_covers_the_noise", lambda: mutant(
        event=lambda self: LaplaceRelease(noise_multiplier=1.6, **TRAIN))),
    "an event with less noise": ("epsilon_covers_the_noise", lambda: mutant(
        event=lambda self: LaplaceRelease(noise_multiplier=1.2, **TRAIN))),
    "the noise of another sensitivity": ("epsilon_covers_the_noise", lambda: mutant(sensitivity=2.0)),
    "Gaussian, too much noise told": ("epsilon_is_that_of_the_closed_form", lambda: mutant(
        GaussianSums, event=lambda self: GaussianRelease(noise_multiplier=1.6, **TRAIN))),
    "the wrong relation of scale and deviation": ("epsilon_is_that_of_the_closed_form", lambda: mutant(
        event=lambda self: LaplaceRelease(noise_multiplier=1.5 * 2**0.5, **TRAIN))),
    "composition by the square root": ("composition_covers_many_releases", lambda: told(
        pld=lambda self, grid: LaplaceRelease(
            noise_multiplier=self.noise_multiplier, count=1 + int((self.count - 1) ** 0.5), **TRAIN).pld(grid))),
    "a budget that never ends": ("an_exhausted_budget_refuses", lambda: told(pure_epsilon=lambda self: 1 / 1.5)),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is known to that test only."""
    monkeypatch.setattr(registry, "_added", {})


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_fails_the_check_that_sees_it(name: str) -> None:
    check, make = MUTANTS[name]
    with pytest.raises(Exception, match=r"\w") as caught:
        _CHECKS[check](Case(make(), 0))
    expected = (AssertionError, ValueError) if name == "hostile rows are refused" else (AssertionError,)
    if name != "an unregistered event":
        assert isinstance(caught.value, expected), caught.value


class _OwnLaw(stats.rv_continuous):
    """Laplace noise as a law of one's own."""

    def _cdf(self, x: Array) -> Array:  # type: ignore[override]
        return np.asarray(stats.laplace.cdf(x))

    def _pdf(self, x: Array) -> Array:  # type: ignore[override]
        return np.asarray(stats.laplace.pdf(x))

    def _stats(self) -> Any:  # type: ignore[override]
        raise AssertionError("scipy integrates them, and warns where a density has jumps")


def test_a_law_of_ones_own_needs_no_moments() -> None:
    law = AdditiveNoise(_OwnLaw(name="own")(scale=1.5))
    for check in _CHECKS.values():
        check(Case(mutant(noise=law), 0))


def test_every_check_has_a_mutant() -> None:
    assert {check for check, _ in MUTANTS.values()} == set(_CHECKS)


def test_all_that_fails_is_told_at_once() -> None:
    with pytest.raises(MechanismCheckError) as caught:
        check_mechanism(
            mutant(query=_without_clipping, event=lambda self: LaplaceRelease(noise_multiplier=3.0, **TRAIN))
        )
    failed = caught.value.failures
    assert {"one_unit_moves_no_more_than_the_sensitivity", "epsilon_covers_the_noise"} <= set(failed)
    assert "declared 1" in failed["one_unit_moves_no_more_than_the_sensitivity"]
