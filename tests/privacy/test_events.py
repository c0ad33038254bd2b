"""Events survive JSON exactly; anything that cannot be counted is refused."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.accounting import epsilon
from privacy.errors import PlanError, UnknownEventError
from privacy.events import (
    Event,
    GaussianRelease,
    LaplaceRelease,
    NonPrivate,
    PoissonGaussian,
    event_from_json,
    event_to_json,
)

positive = st.floats(min_value=1e-3, max_value=1e6)
partitions = st.sampled_from(["train", "evaluation"])
units = st.sampled_from(["record", "patient_id"])
counts = st.integers(1, 10_000)
events: st.SearchStrategy[Event] = st.one_of(
    st.builds(
        PoissonGaussian,
        noise_multiplier=positive,
        sampling_rate=st.floats(1e-6, 1),
        steps=counts,
        partition=partitions,
        unit=units,
    ),
    st.builds(GaussianRelease, noise_multiplier=positive, count=counts, partition=partitions, unit=units),
    st.builds(LaplaceRelease, noise_multiplier=positive, count=counts, partition=partitions, unit=units),
    st.builds(NonPrivate, what=st.just("update"), partition=partitions, unit=units),
)


@given(events)
def test_an_event_survives_json(event: Event) -> None:
    assert event_from_json(json.loads(json.dumps(event_to_json(event), allow_nan=False))) == event


GOOD = event_to_json(GaussianRelease(noise_multiplier=2.0, count=1, partition="train", unit="record"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"schema": 2}, "wanted 1, got 2"),
        ({"schema": True}, "wanted 1, got True"),
        ({"kind": "exponential"}, "got 'exponential'"),
        ({"kind": ["gaussian"]}, "got \\['gaussian'\\]"),
        ({"relation": "replace_one"}, "got 'replace_one'"),
        ({"sigma": 2.0}, "'sigma'"),
        ({"noise_multiplier": 0.0}, "got 0.0"),
        ({"noise_multiplier": math.nan}, "got nan"),
        ({"noise_multiplier": math.inf}, "got inf"),
        ({"noise_multiplier": "2"}, "got '2'"),
        ({"noise_multiplier": True}, "got True"),
        ({"count": 0}, "got 0"),
        ({"count": 1.5}, "got 1.5"),
        ({"partition": "test"}, "got 'test'"),
        ({"unit": ""}, "unit"),
    ],
)
def test_what_cannot_be_counted_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(UnknownEventError, match=named):
        event_from_json({**GOOD, **change})


@pytest.mark.parametrize("key", sorted(GOOD))
def test_a_missing_key_is_refused(key: str) -> None:
    with pytest.raises(UnknownEventError):
        event_from_json({name: value for name, value in GOOD.items() if name != key})


def test_unknown_objects_are_never_counted_as_free() -> None:
    with pytest.raises(UnknownEventError, match="str"):
        epsilon(["free lunch"], 1e-5)  # type: ignore[list-item]
    with pytest.raises(UnknownEventError, match="str"):
        event_to_json("free lunch")  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", [0.0, 1.5, -0.1, math.nan])
def test_sampling_rates_outside_the_unit_interval_are_refused(rate: float) -> None:
    with pytest.raises(PlanError, match="sampling_rate"):
        PoissonGaussian(noise_multiplier=1.0, sampling_rate=rate, steps=1, partition="train", unit="record")
