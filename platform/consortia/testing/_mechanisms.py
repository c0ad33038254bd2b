"""`check_mechanism`: the conformance suite of privacy mechanisms."""

from __future__ import annotations

from consortia.testing import _mechanism_checks as checks
from consortia.testing import _mechanism_cost_checks as cost
from consortia.testing._mechanism_case import Case
from consortia.testing._suite import SuiteError, run_checks
from privacy.mechanism import Mechanism

_CHECKS = {
    "the_event_is_complete": cost.the_event_is_complete,
    "the_event_survives_json": cost.the_event_survives_json,
    "more_releases_never_cost_less": cost.more_releases_never_cost_less,
    "the_query_is_exact": checks.the_query_is_exact,
    "one_unit_moves_no_more_than_the_sensitivity": checks.one_unit_moves_no_more_than_the_sensitivity,
    "shapes_tell_nothing_about_rows": checks.shapes_tell_nothing_about_rows,
    "noise_follows_its_law": checks.noise_follows_its_law,
    "noise_is_independent": checks.noise_is_independent,
    "releases_centre_on_the_query": checks.releases_centre_on_the_query,
    "randomness_is_fresh": checks.randomness_is_fresh,
    "epsilon_covers_the_noise": cost.epsilon_covers_the_noise,
    "epsilon_is_that_of_the_closed_form": cost.epsilon_is_that_of_the_closed_form,
    "composition_covers_many_releases": cost.composition_covers_many_releases,
    "renyi_covers_the_noise": cost.renyi_covers_the_noise,
    "an_exhausted_budget_refuses": cost.an_exhausted_budget_refuses,
}


class MechanismCheckError(SuiteError):
    """The mechanism breaks at least one promise. `failures` maps each failed check to what it saw."""


def check_mechanism(mechanism: Mechanism, *, seed: int = 0) -> tuple[str, ...]:
    """Hold a mechanism to what it declares: sensitivity, noise, cost, and refusal when the budget is spent.

    What it cannot see: an input that is worse than all those it tries, dependence that no correlation of values or
    sizes shows, and noise that differs from its law by less than some 20,000 numbers tell.

    Returns the names of the checks and raises `MechanismCheckError`, both as every suite of `consortia.testing` does.

    Parameters
    ----------
    mechanism : Mechanism
    seed : int
        Of the checks' own draws and of the example; the mechanism's noise is its own.
    """
    return run_checks(_CHECKS, Case(mechanism, seed), MechanismCheckError, f"mechanism {type(mechanism).__name__}")
