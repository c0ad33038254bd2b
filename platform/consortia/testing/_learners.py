"""`check_learner`: the conformance suite of learners of noisy sums."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from consortia.common.errors import ArgumentError
from consortia.common.logs import quieter
from consortia.learners.own import Learner
from consortia.terms import learners
from consortia.testing import _learner_checks as checks
from consortia.testing import _learner_run_checks as runs
from consortia.testing._learner_case import Case
from consortia.testing._suite import SuiteError, run_checks
from consortia_plugins.arguments import named_arguments

_CHECKS = {
    check.__name__: check
    for check in (
        checks.its_options_survive_a_contract,
        checks.refuses_with_a_sentence,
        checks.blocks_follow_from_options_and_schema,
        checks.a_unit_adds_what_its_blocks_say,
        checks.sensitivities_fit_the_rows,
        checks.a_unit_adds_the_same_in_any_company,
        checks.leaves_its_inputs_and_the_process_alone,
        checks.starts_the_same_everywhere,
        checks.advances_any_sums_to_a_model,
        runs.no_unit_moves_a_block_further_than_it_says,
        runs.a_model_that_is_not_finite_is_refused,
        runs.a_run_gives_the_same_model_twice,
        runs.own_noise_costs_the_budget,
        runs.secure_sums_cost_the_budget,
    )
}


class LearnerCheckError(SuiteError):
    """The learner breaks at least one promise. `failures` maps each failed check to what it saw."""


@named_arguments(ArgumentError)
def check_learner(learner: Learner, *, industry: str = "bank") -> tuple[str, ...]:
    """Hold a learner to the promises of the seam (`consortia.learners.own`).

    It plays neighbour games on the real path, from a message to the noised block, with hostile rows and models, and
    whole runs of three participants, with noise of their own and with secure sums. A wrong sensitivity cannot break
    epsilon: the platform clips (`consortia.learners.blocks.clipped`). It is found where it costs accuracy. What breaks
    epsilon is code that remembers other units: that is found where another order of units shows it, and not where the
    code hides it.

    Returns the names of the checks and raises `LearnerCheckError`, both as every suite of `consortia.testing` does.

    Parameters
    ----------
    learner : frozen dataclass
        With the options to try it with.
    industry : str
        Whose synthetic rows it is tried on: one whose target it can learn.
    """
    with tempfile.TemporaryDirectory() as folder, quieter(logging.CRITICAL, "consortia.participant"):
        case = Case(learner, industry, Path(folder))
        with learners.lent(case.name, type(learner)):
            return run_checks(_CHECKS, case, LearnerCheckError, f"learner {learner!r}")
