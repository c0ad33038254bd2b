"""`check_strategy`: what every strategy must hold, in one call, whoever wrote it."""

from __future__ import annotations

from consortia.testing import _strategy_checks as checks
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
    "stays_finite": checks.stays_finite,
    "takes_as_few_as_it_says_and_refuses_fewer": checks.takes_as_few_as_it_says_and_refuses_fewer,
    "withstands_the_attackers_it_names": checks.withstands_the_attackers_it_names,
}


class StrategyCheckError(AssertionError):
    """The strategy breaks at least one promise. `failures` maps each failed check to what it saw."""

    def __init__(self, strategy: str, failures: dict[str, str]) -> None:
        self.failures = failures
        lines = "\n".join(f"  {name}: {reason}" for name, reason in failures.items())
        super().__init__(f"strategy {strategy} fails {len(failures)} of {len(_CHECKS)} checks:\n{lines}")


def check_strategy(strategy: Strategy) -> tuple[str, ...]:
    """Hold a strategy to the promises of the seam (`strategies.base.Strategy`) and of its own `fit`.

    Returns
    -------
    tuple of str
        The names of the checks, all of which passed.

    Raises
    ------
    StrategyCheckError
        Lists every failed check by name, with what it saw. All checks run even so.
    """
    failures: dict[str, str] = {}
    for name, check in _CHECKS.items():
        try:
            check(strategy)
        except Exception as error:  # noqa: BLE001 - a strategy may raise anything, and each check reports
            text = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
            failures[name] = text or "failed without a word"
    if failures:
        raise StrategyCheckError(repr(strategy), failures)
    return tuple(_CHECKS)
