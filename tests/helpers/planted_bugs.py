"""Mistakes on every path that something leaves by, and who should see each: an instrument and a test.

`PLANTED` joins the mistakes of `audit_mutants` (training, ledger, metrics) `path_mutants` (secure sums,
coordinator, FedRep, sizes, vectorised engine, vertical runs), `row_mutants` (one unit's rows decide on another's part),
`statistics_mutants`, `learner_mutants` (histograms, terms by industry, readiness, optimizers, networks) and
`noise_mutants` (how noise is made). `benchmarks/audit_power.py` plants each in a copy of the
source tree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from audit_mutants import (
    CLAIMS,
    DATA,
    DP_SGD,
    FURTHER,
    HISTOGRAM,
    LIFETIMES,
    LISTED,
    LOCAL,
    PARTICIPANT,
    TRAINING,
    WORK,
    Mutant,
)
from learner_mutants import LEARNERS
from noise_mutants import DRAWS, ELSEWHERE, METRICS, NOISE
from path_mutants import BOOKS, PATHS
from row_mutants import APART
from statistics_mutants import STATISTICS


@dataclass(frozen=True)
class Planted:
    """A mistake and who should see it.

    Attributes
    ----------
    scenario : of `audited_scenario.SCENARIOS`.
    instrument : of the audit.
    test : file of the test, or one test of it.
    """

    mutant: Mutant
    scenario: str
    instrument: str
    test: str

    @property
    def name(self) -> str:
        """The mistake in words."""
        return self.mutant.name


_NEAR = {
    DP_SGD: "tests/privacy/test_dp_sgd.py",
    "privacy/_optimizer.py": "tests/privacy/test_dp_sgd.py",
    BOOKS: "tests/privacy/test_bookkeeping.py",
    HISTOGRAM: "tests/privacy/test_histogram.py",
    "privacy/ledger.py": "tests/privacy/test_ledger.py",
    **dict.fromkeys((LIFETIMES, CLAIMS), "tests/privacy/test_ledger.py"),
    "privacy/randomness.py": "tests/privacy/test_randomness.py",
    "privacy/sampling.py": "tests/privacy/test_dp_sgd.py",
    "privacy/plans.py": "tests/consortia/test_participant.py",
    TRAINING: "tests/consortia/test_participant.py",
    **dict.fromkeys((PARTICIPANT, DATA, LOCAL, WORK), "tests/consortia/test_participant.py"),
    "platform/consortia/participant/metrics_release.py": "tests/consortia/test_dp_metrics.py",
}

#: Instruments that see the older mistakes, where it is not the mechanism's law.
_SEEN: Mapping[str, str] = {
    "shuffling instead of Poisson": "sampler",
    "skipped empty draws": "sampler",
    "a fresh accountant each round": "recount",
    "reused noise after a fork": "noise",
    "a private head outside the DP step": "mechanism",
    "half the steps counted": "recount",
    "noise seeded by the round": "noise",
    "noise seeded by participant, run length and round": "noise",
    "noise in the first step only": "noise",
    "sampled more often than charged": "sampler",
    "delta ignored": "recount",
    "the allowance is the proposal times two": "recount",
    "the outbox draws again": "recount",
    "epsilon of a record for a unit": "mechanism",
    "no lifetime": "recount",
    "abandoned reservations forgiven": "recount",
    "the ledger reports the last round": "recount",
    "reserved after training": "recount",
    "draws cut to a batch size": "sampler",
    "a row count in the header": "recount",
    "the first unit is never drawn at low rates": "sampler",
    "secure noise from a stream of the process": "noise",
    "the sampler sees the first half of the units": "mechanism",
}


_NEW = "tests/consortia/test_planted.py"
#: Tests of the older mistakes, where it is not the one nearest to the file.
_TESTS: Mapping[str, str] = {
    "a private head outside the DP step": f"{_NEW}::test_nothing_but_dp_steps_moves_a_parameter",
    "the private head starts from the last run": f"{_NEW}::test_nothing_but_dp_steps_moves_a_parameter",
    "half the steps counted": f"{_NEW}::test_every_step_of_a_round_is_charged",
    "noise in the first step only": f"{_NEW}::test_every_step_has_the_noise_of_its_clip",
    "validation rows train too": f"{_NEW}::test_no_row_is_in_two_partitions",
    "metrics: measured on training rows": f"{_NEW}::test_metrics_are_of_the_rows_that_pay",
    "a row count in the header": "tests/consortia/test_capture.py",
    "secure noise for another clip": f"{_NEW}::test_every_step_has_the_noise_of_its_clip",
    "secure noise from a stream of the process": "tests/privacy/test_noise_key.py",
    "secure noise / 10": "tests/privacy/test_noise_laws.py",
    "the first unit is never drawn at low rates": f"{_NEW}::test_every_unit_is_drawn_at_a_low_rate",
}


def _old(mutant: Mutant) -> Planted:
    instrument = "metrics" if mutant.name.startswith("metrics") else _SEEN.get(mutant.name, "mechanism")
    test = _TESTS.get(mutant.name, _NEAR[mutant.edits[0][0]])
    return Planted(mutant, "one" if instrument == "noise" else "local", instrument, test)


#: Tests of the mistakes in how noise is made, where they are not in `_LAWS`.
_LAWS = "tests/privacy/test_noise_laws.py"
_NOISE_TESTS: Mapping[str, str] = {
    "a noise key of 16 bits": "tests/privacy/test_noise_key.py",
    "a noise key hashed to 16 bits": "tests/privacy/test_noise_key.py",
    "half the entropy of a noise key": "tests/privacy/test_noise_key.py",
    "torch's state from 32 bits": "tests/privacy/test_randomness.py",
    "noise repeats in a second attempt": "tests/privacy/test_noise_key.py",
    "participants of a process share their entropy": "tests/privacy/test_noise_key.py",
    "attempt and ledger are not bound": "tests/privacy/test_noise_key.py",
    "nothing is bound": "tests/privacy/test_noise_key.py",
    "the model is not bound": "tests/consortia/test_noise_on_the_path.py",
    "central noise for one of two models only": "tests/consortia/test_noise_on_the_path.py",
    "all folds of a vertical model share their context": "tests/consortia/test_noise_on_the_path.py",
}
#: The scenarios and instruments of those that are not where the others of their list are.
_WALKED: Mapping[str, tuple[str, str]] = {
    "the model is not bound": ("one", "noise"),
    "participants of a process share their entropy": ("local", "noise"),
    "the second half of a masked sum's noise mirrors the first": ("sums", "sums"),
    "a masked sum's noise is cut off at 3 deviations": ("sums", "sums"),
    "the second half of vertical noise mirrors the first": ("vertical", "vertical"),
    "central noise for one of two models only": ("coordinator", "coordinator"),
    "all folds of a vertical model share their context": ("vertical", "vertical"),
    "shares of keys from a constant": ("sums", "sums"),
}


def _noise() -> tuple[Planted, ...]:
    """Mistakes in how noise is made."""
    lists = ((NOISE, "one", "noise"), (DRAWS, "local", "sampler"), (METRICS, "local", "metrics"), (ELSEWHERE, "", ""))
    return tuple(
        Planted(mutant, *_WALKED.get(mutant.name, where), _NOISE_TESTS.get(mutant.name, _LAWS))
        for listed, *where in lists
        for mutant in listed
    )


PLANTED: tuple[Planted, ...] = (
    *(Planted(*line) for line in (*APART, *PATHS, *STATISTICS, *LEARNERS)),
    *(_old(mutant) for mutant in (*LISTED, *FURTHER)),
    *_noise(),
)
