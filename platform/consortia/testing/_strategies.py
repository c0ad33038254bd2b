"""`check_strategy`: the conformance suite of strategies."""

from __future__ import annotations

from consortia.testing import _strategy_checks as checks
from consortia.testing import _strategy_local_checks as local
from consortia.testing._suite import SuiteError, run_checks
from strategies.base import Strategy

_CHECKS = {
    "keeps_names_shapes_and_dtypes": checks.keeps_names_shapes_and_dtypes,
    "unmoved_replies_move_nothing": checks.unmoved_replies_move_nothing,
    "equal_updates_are_a_fixed_point": checks.equal_updates_are_a_fixed_point,
    "order_of_replies_does_not_matter": checks.order_of_replies_does_not_matter,
    "weights_do_what_the_fit_says": checks.weights_do_what_the_fit_says,
    "changes_none_of_its_inputs": checks.changes_none_of_its_inputs,
    "has_no_state_outside_its_memory": checks.has_no_state_outside_its_memory,
    "memory_survives_a_checkpoint": checks.memory_survives_a_checkpoint,
    "control_fits_the_model": checks.control_fits_the_model,
    "stays_finite": checks.stays_finite,
    "takes_as_few_as_it_says_and_refuses_fewer": checks.takes_as_few_as_it_says_and_refuses_fewer,
    "staleness_counts_less_and_less": checks.staleness_counts_less_and_less,
    "withstands_the_attackers_it_names": checks.withstands_the_attackers_it_names,
    "no_half_is_missing": local.no_half_is_missing,
    "local_term_holds_near_the_received_model": local.local_term_holds_near_the_received_model,
    "local_term_is_the_one_declared": local.local_term_is_the_one_declared,
    "correction_is_added_once_to_each_gradient": local.correction_is_added_once_to_each_gradient,
    "participants_do_not_see_each_other": local.participants_do_not_see_each_other,
    "both_halves_come_nearer_to_what_everybody_wants": local.both_halves_come_nearer_to_what_everybody_wants,
    "control_variates_reach_the_optimum_of_all": local.control_variates_reach_the_optimum_of_all,
}


class StrategyCheckError(SuiteError):
    """The strategy breaks at least one promise. `failures` maps each failed check to what it saw."""


def check_strategy(strategy: Strategy) -> tuple[str, ...]:
    """Hold a strategy to the promises of the seam (`strategies.base.Strategy`) and of its own `fit`.

    The server half gets updates of every shape and size. The client half (`attach`, `correct`) takes real optimizer
    steps on quadratics and is compared with the closed form; then both halves play whole rounds.

    Returns the names of the checks and raises `StrategyCheckError`, both as every suite of `consortia.testing` does.
    """
    return run_checks(_CHECKS, strategy, StrategyCheckError, f"strategy {strategy!r}")
