"""From events to epsilon. The privacy loss distributions (PLD) of dp-accounting are the authority.

Meiser & Mohammadi 2018, *Tight on Budget?*; Doroshenko et al. 2022, *Connect the Dots*: the discretised PLD
used here is pessimistic, so epsilon is an upper bound at every grid. Opacus PRV (Gopi et al. 2021) is a
cross-check only; Renyi DP (Mironov 2017) feeds the lifetime filter. Gaussian DP is never used: its limit
theorem under-counts (3.72 where the answer is 5.80).
"""

import math
import warnings
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

import dp_accounting
import numpy as np
from dp_accounting import pld
from opacus.accountants import PRVAccountant
from opacus.accountants.analysis.rdp import compute_rdp

from privacy.errors import PlanError, UnknownEventError
from privacy.events import (
    Event,
    GaussianRelease,
    LaplaceRelease,
    NonPrivate,
    PoissonGaussian,
    RandomizedResponse,
    ReplaceGaussian,
    event_size,
    relation_of,
    resized,
)

__all__ = [
    "RDP_ORDERS",
    "check_delta",
    "epsilon",
    "merge",
    "prv_epsilon",
    "rdp",
    "rdp_to_epsilon",
    "solve_noise_multiplier",
]

# More grid points than this cost seconds and gigabytes; tiny noise then gets a coarser, still sound, grid.
_MAX_POINTS: Final = 2e6
_SIGMA_RANGE: Final = (0.05, 1e5)
_TOLERANCE: Final = 8e-4
# Orders of the Renyi bounds: fixed in advance, for the lifetime filter's proof rests on that.
RDP_ORDERS: Final = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 128)


def check_delta(delta: float, declared_units: int) -> None:
    """Refuse a delta that would permit publishing one whole unit: wanted 0 < delta < 1 / declared_units."""
    if isinstance(declared_units, bool) or not isinstance(declared_units, int) or declared_units < 1:
        raise PlanError(f"declared_units: wanted a whole number >= 1, got {declared_units!r}")
    if not 0 < delta < 1 / declared_units:
        raise PlanError(
            f"delta: wanted 0 < delta < 1/declared_units = {1 / declared_units:.3g}, got {delta!r}; "
            "lower delta in the policy"
        )


_KNOWN: Final = (
    PoissonGaussian,
    GaussianRelease,
    LaplaceRelease,
    NonPrivate,
    RandomizedResponse,
    ReplaceGaussian,
)


def merge(events: Iterable[Event]) -> tuple[Event, ...]:
    """Add up equal mechanisms, so that 1000 rounds of one plan are one event (order is immaterial).

    Raises
    ------
    UnknownEventError
        For anything that is no event: what cannot be counted is refused.
    PlanError
        When the events have more than one privacy unit: these cannot be composed.
    """
    sizes: dict[Event, int] = {}
    for event in events:
        if type(event) not in _KNOWN:
            raise UnknownEventError(f"event: cannot count a {type(event).__name__}")
        kind = resized(event, 1)
        sizes[kind] = sizes.get(kind, 0) + event_size(event)
    units = {event.unit for event in sizes}
    if len(units) > 1:
        raise PlanError(f"unit: wanted one privacy unit in a composition, got {sorted(units)}")
    relations = {relation_of(event) for event in sizes if not isinstance(event, NonPrivate)}
    if len(relations) > 1:
        raise PlanError(f"relation: wanted one relation in a composition, got {sorted(relations)}")
    return tuple(sorted((resized(kind, size) for kind, size in sizes.items()), key=repr))


# A mechanism freed of partition and unit: (kind, noise multiplier, sampling rate, size). Caches share these.
_Mechanism = tuple[str, float, float, int]


def _by_partition(events: Iterable[Event]) -> list[tuple[_Mechanism, ...]]:
    parts: dict[str, list[_Mechanism]] = {}
    for event in merge(events):
        part = parts.setdefault(event.partition, [])
        if isinstance(event, NonPrivate):
            part.append(("non_private", 0.0, 1.0, 1))
        elif isinstance(event, PoissonGaussian):
            # Without subsampling DP-SGD is the Gaussian mechanism, which composes in closed form.
            kind = "gaussian" if event.sampling_rate == 1 else "poisson_gaussian"
            part.append((kind, float(event.noise_multiplier), float(event.sampling_rate), event.steps))
        elif isinstance(event, RandomizedResponse):
            part.append(("pure", float(event.epsilon) * event.rows_per_unit, 1.0, event.count))
        else:
            kind = "laplace" if isinstance(event, LaplaceRelease) else "gaussian"
            part.append((kind, float(event.noise_multiplier), 1.0, event.count))
    return [tuple(sorted(part)) for part in parts.values()]


def _check(delta: float) -> None:
    if not 0 < delta < 1:
        raise PlanError(f"delta: wanted a number in (0, 1), got {delta!r}")


def epsilon(events: Iterable[Event], delta: float, *, grid: float = 1e-4) -> float:
    """Smallest known epsilon for which the composition of `events` is (epsilon, delta)-DP.

    Parameters
    ----------
    events : any order; partitions compose in parallel (the largest counts).
    delta : in (0, 1); 0 where every event is pure (randomised response).
    grid : discretisation of the privacy loss; a coarser one is quicker and a little larger, never smaller.

    Returns
    -------
    float
        0.0 for no events, `math.inf` as soon as anything left without noise.
    """
    parts = _by_partition(events)
    if delta != 0 or not parts or any(kind not in {"pure", "non_private"} for part in parts for kind, *_ in part):
        _check(delta)
    return max((_pld_epsilon(part, delta, grid) for part in parts), default=0.0)


@lru_cache(maxsize=4096)
def _pld_epsilon(part: tuple[_Mechanism, ...], delta: float, grid: float) -> float:
    if any(kind == "non_private" for kind, *_ in part):
        return math.inf
    # Pure epsilons add up exactly, whatever delta (Dwork & Roth 2014, Theorem 3.14); the rest is added on top.
    pure = math.fsum(noise * size for kind, noise, _, size in part if kind == "pure")
    part = tuple(mechanism for mechanism in part if mechanism[0] != "pure")
    if not part:
        return pure
    grid = max(grid, sum(map(_loss_span, part)) / _MAX_POINTS)
    total = _pld(part[0], grid)
    for mechanism in part[1:]:
        total = total.compose(_pld(mechanism, grid))
    return pure + max(float(total.get_epsilon_for_delta(delta)), 0.0)


def _loss_span(mechanism: _Mechanism) -> float:
    """Rough width of the composed privacy loss, in nats: it only chooses the grid, never epsilon."""
    kind, noise, rate, size = mechanism
    if kind == "laplace":
        return min(size, 10 * math.sqrt(size)) * 2 / noise
    spread = rate if rate < 1 else 1.0
    return size * spread**2 / (2 * noise**2) + 20 * math.sqrt(size) * spread / noise + 1 / noise**2


@lru_cache(maxsize=512)
def _pld(mechanism: _Mechanism, grid: float) -> Any:
    kind, noise, rate, size = mechanism
    relation = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
    make = pld.privacy_loss_distribution
    if kind == "laplace":
        return make.from_laplace_mechanism(parameter=noise, value_discretization_interval=grid).self_compose(size)
    if kind == "gaussian":
        # n equal Gaussian releases are one with sigma / sqrt(n): exact, and cheaper than convolving.
        return make.from_gaussian_mechanism(
            standard_deviation=noise / math.sqrt(size),
            value_discretization_interval=grid,
            neighboring_relation=relation,
        )
    return make.from_gaussian_mechanism(
        standard_deviation=noise,
        value_discretization_interval=grid,
        sampling_prob=rate,
        neighboring_relation=relation,
    ).self_compose(size)


def prv_epsilon(events: Iterable[Event], delta: float) -> float:
    """Opacus PRV upper bound for Gaussian events (cross-check only; it adds its error of 0.01 on purpose).

    Raises
    ------
    UnknownEventError
        For Laplace events, which PRV cannot count.
    """
    _check(delta)
    worst = 0.0
    for part in _by_partition(events):
        accountant = PRVAccountant()
        for kind, noise, rate, size in part:
            if kind == "non_private":
                return math.inf
            if kind in {"laplace", "pure"}:
                raise UnknownEventError(
                    "Opacus PRV counts Gaussian events only, got a Laplace or randomised-response release"
                )
            accountant.history.append((noise, rate, size))
        # At q = 1 Opacus takes log(1 - q) = -inf, which is the limit it needs.
        with warnings.catch_warnings(), np.errstate(divide="ignore"):
            # Opacus sizes its grid with RDP and warns when that bound could be tighter: it changes no result.
            warnings.filterwarnings("ignore", message="Optimal order is the (largest|smallest) alpha")
            worst = max(worst, float(accountant.get_epsilon(delta)))
    return worst


def rdp(events: Iterable[Event], orders: tuple[int, ...]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Renyi divergence bound of the composition at each order, shape (n_orders,), largest over partitions.

    Gaussian: alpha / (2 sigma^2) (Mironov 2017, Prop. 7); Laplace: Prop. 6 there; subsampled Gaussian:
    Mironov, Talwar & Zhang 2019, *Renyi DP of the Sampled Gaussian Mechanism* (as computed by Opacus).
    """
    totals = [
        np.sum(
            [np.asarray(_rdp_of_one(kind, noise, rate, orders)) * size for kind, noise, rate, size in part],
            axis=0,
        )
        for part in _by_partition(events)
    ]
    return np.max(totals, axis=0) if totals else np.zeros(len(orders))


@lru_cache(maxsize=4096)
def _rdp_of_one(kind: str, noise: float, rate: float, orders: tuple[int, ...]) -> tuple[float, ...]:
    if kind == "non_private":
        return (math.inf,) * len(orders)
    if kind == "gaussian":
        return tuple(a / (2 * noise**2) for a in orders)
    if kind == "pure":  # Bun & Steinke 2016, Prop. 3.3
        return tuple(min(noise, a * noise**2 / 2) for a in orders)
    if kind == "laplace":
        return tuple(
            float(
                np.logaddexp(math.log(a / (2 * a - 1)) + (a - 1) / noise, math.log((a - 1) / (2 * a - 1)) - a / noise)
                / (a - 1)
            )
            for a in orders
        )
    values = compute_rdp(q=rate, noise_multiplier=noise, steps=1, orders=list(orders))
    return tuple(float(value) for value in values)


def rdp_to_epsilon(divergence: float, order: int, delta: float) -> float:
    """(epsilon, delta)-DP from a Renyi bound at one order: Canonne, Kamath & Steinke 2020, Prop. 12."""
    return divergence + math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1)


@lru_cache(maxsize=1024)
def solve_noise_multiplier(
    *, epsilon: float, delta: float, sampling_rate: float, steps: int, besides: tuple[Event, ...] = ()
) -> float:
    """Smallest noise multiplier (within 0.1 %, rounded up) whose PLD epsilon is at most `epsilon`.

    Parameters
    ----------
    epsilon, delta : the budget of the whole plan, epsilon finite and > 0.
    sampling_rate : public rate of the Poisson draws.
    steps : draws of the whole plan (rounds x steps per round).
    besides : what else the plan releases about the training units (record, train), counted jointly and paid first.

    Raises
    ------
    PlanError
        For parameters out of range, a delta too small to count, or when no noise in (0.05, 1e5) meets the budget.
    """
    _check(delta)
    if not 0 < epsilon < math.inf:
        raise PlanError(f"epsilon: wanted a finite number > 0, got {epsilon!r}")

    def spent(sigma: float, grid: float) -> float:
        event = PoissonGaussian(
            noise_multiplier=sigma, sampling_rate=sampling_rate, steps=steps, partition="train", unit="record"
        )
        (part,) = _by_partition([event, *besides])
        return _pld_epsilon(part, delta, grid)

    low, high = _SIGMA_RANGE

    def renyi(sigma: float) -> float:
        event = PoissonGaussian(
            noise_multiplier=sigma, sampling_rate=sampling_rate, steps=steps, partition="train", unit="record"
        )
        bounds = rdp([event, *besides], RDP_ORDERS)
        return min(rdp_to_epsilon(float(r), a, delta) for r, a in zip(bounds, RDP_ORDERS, strict=True))

    # Renyi DP is loose but quick: it gives a start that is a little too large.
    while high / low > 1.02:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if renyi(middle) <= epsilon else (middle, high)
    sigma, slope = high, 1.3
    # Then secants on the local power law epsilon ~ sigma^-slope; the authority's grid has the last word.
    for grid in (1e-3, 1e-4):
        last: tuple[float, float] | None = None
        for _ in range(30):
            if not math.isfinite(found := spent(sigma, grid)):
                raise PlanError(
                    f"delta: no noise multiplier gives a finite epsilon at delta {delta!r} over {steps} steps: "
                    "the tails of the privacy loss that are cut off weigh more; take a larger delta"
                )
            gap = math.log(epsilon / max(found, 1e-9))
            if 0 <= gap <= slope * _TOLERANCE:
                break
            if last is not None and sigma != last[0]:
                slope = min(max((gap - last[1]) / math.log(sigma / last[0]), 0.3), 10.0)
            last = (sigma, gap)
            factor = math.exp((slope * _TOLERANCE / 2 - gap) / slope)
            sigma = _round_up(min(max(sigma * min(max(factor, 0.5), 2.0), _SIGMA_RANGE[0]), _SIGMA_RANGE[1]))
    for _ in range(100):
        if spent(sigma, 1e-4) <= epsilon:
            return sigma
        sigma = _round_up(sigma * (1 + _TOLERANCE / 2))
    raise PlanError(
        f"epsilon: no noise multiplier up to {_SIGMA_RANGE[1]:g} gives {epsilon!r} at delta {delta!r} over "
        f"{steps} steps; take fewer steps or a larger budget"
    )


def _round_up(sigma: float) -> float:
    """Round up to six significant digits: the plan that is printed is the plan that runs."""
    unit = 10.0 ** (math.floor(math.log10(sigma)) - 5)
    return round(math.ceil(sigma / unit) * unit, 12)
