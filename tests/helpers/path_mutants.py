"""Mistakes on the paths beside local training: (mistake, scenario, instrument, test) for each, see `planted_bugs`.

`instrument` is the one of the audit that should see it, `test` a test that should fail.
"""

from __future__ import annotations

from audit_mutants import DATA, HISTOGRAM, LOCAL, TRAINING, WORK, Mutant, one

BOOKS = "privacy/bookkeeping.py"
STACKED = "privacy/stacked.py"
HISTOGRAMS = "platform/consortia/learners/additive/histograms.py"
FIXED = "privacy/secure_sum/fixed_point.py"
SUMMED = "privacy/secure_sum/gradient.py"
PROTOCOL = "platform/consortia/trust/secure_sum/protocol.py"
CENTRAL = "privacy/central.py"
LOGISTIC = "privacy/dp_logistic.py"
RESPONSE = "privacy/randomized_response.py"
SIZE = "platform/consortia/messages/size_release.py"
PHASES = "platform/consortia/participant/alternating.py"
PARTNER = "platform/consortia/vertical/partner.py"
OWNER = "platform/consortia/vertical/owner.py"
MODEL = "platform/consortia/vertical/private_model.py"

_ADDITIVE = "tests/consortia/additive/test_mathematics.py"
_GAME = "tests/consortia/test_neighbour_game.py"
_PLANTED = "tests/consortia/test_audited_paths.py"
_NEW = "tests/consortia/test_planted.py"

_SHARE = "        whole += noise\n"
_CHARGE = "reservation = ledger.reserve(run_id, number, key, events, lifetime=lifetime, claims=claims)"
_SENT = "        if sent is not None:\n            return sent\n        last_round"
_OLDER = "if request.round < last_round or ("
_MASKS = 'return {part: where == part for part in ("train", "validation", "test")}'
_PLAIN = "        if plan.non_private:\n            plain = PlainPlan(steps=steps"

#: (mistake, scenario, instrument, test)
PATHS = (
    (
        one(
            "the histogram's rows of a unit have no limit",
            HISTOGRAM,
            " & (_place_in_unit(unit_index) < rows_per_unit)",
            "",
        ),
        "local",
        "neighbours",
        f"{_GAME}::test_a_unit_moves_a_histogram_by_its_limit",
    ),
    (
        one(
            "units are clipped by the mean norm of the batch",
            BOOKS,
            "torch.add(norms, 1e-6, out=out)",
            "torch.add(norms.mean() + 0 * norms, 1e-6, out=out)",
        ),
        "local",
        "neighbours",
        "tests/privacy/test_bookkeeping.py",
    ),
    (
        one(
            "vectorised: rows are clipped by the mean norm",
            STACKED,
            "(norms + 1e-6).recip",
            "(norms.mean() + 0 * norms + 1e-6).recip",
        ),
        "local",
        "vectorised",
        f"{_GAME}::test_a_row_moves_its_own_participant",
    ),
    (
        one(
            "vectorised: noise / 2",
            STACKED,
            "randomness.noise(gradients, deviation / normaliser)",
            "randomness.noise(gradients, deviation / normaliser / 2)",
        ),
        "local",
        "vectorised",
        "tests/privacy/test_stacked.py",
    ),
    (
        one("vectorised: a broken row breaks the sum", STACKED, "broken = ~norms.isfinite()", "broken = norms < 0"),
        "local",
        "neighbours",
        f"{_GAME}::test_a_row_moves_its_own_participant",
    ),
    (
        one("additive: gradients are not clipped", HISTOGRAMS, "(clip / lengths(slope).clamp(min=clip))", "1.0"),
        "additive",
        "neighbours",
        f"{_ADDITIVE}::test_no_unit_moves_a_block_by_more_than_its_bound",
    ),
    (
        one(
            "additive: noise for one column",
            "platform/consortia/learners/additive/model.py",
            "math.sqrt(len(self.cells.terms))",
            "1.0",
        ),
        "additive",
        "neighbours",
        f"{_ADDITIVE}::test_no_unit_moves_a_block_by_more_than_its_bound",
    ),
    (
        one(
            "additive: every row counts whole",
            HISTOGRAMS,
            "on_grid(clipped * rows.shares() * SHORT, _STEPS)",
            "on_grid(clipped * SHORT, _STEPS)",
        ),
        "additive",
        "neighbours",
        f"{_ADDITIVE}::test_no_unit_moves_a_block_by_more_than_its_bound",
    ),
    (
        one("secure sums: no share of noise", FIXED, _SHARE, ""),
        "sums",
        "sums",
        "tests/consortia/secure/test_protocol.py",
    ),
    (
        one("secure sums: shares for two members more", FIXED, "/ math.sqrt(counted)", "/ math.sqrt(counted + 2)"),
        "sums",
        "sums",
        "tests/consortia/secure/test_protocol.py",
    ),
    (
        one(
            "secure sums: who may drop out counts",
            FIXED,
            "counted = cohort - self.colluders - self.drops",
            "counted = cohort - self.colluders",
        ),
        "sums",
        "neighbours",
        "tests/consortia/secure/test_terms.py",
    ),
    (
        one("secure sums: twice the clip", SUMMED, "short = clip / (1 + SLACK)", "short = 2 * clip"),
        "sums",
        "neighbours",
        f"{_GAME}::test_a_unit_moves_a_members_sum_by_its_clip",
    ),
    (
        Mutant(
            "secure sums: a part that is asked for again is drawn again",
            ((PROTOCOL, _SENT, "        last_round"), (PROTOCOL, _OLDER, "if False and (")),
        ),
        "sums",
        "sums",
        "tests/consortia/secure",
    ),
    (
        one(
            "sizes: noise / 2",
            SIZE,
            'HistogramNoise("laplace", event.noise_multiplier)',
            'HistogramNoise("laplace", event.noise_multiplier / 2)',
        ),
        "local",
        "sizes",
        "tests/consortia/test_noised_sizes.py::test_the_noise_is_laplace_and_never_below_one",
    ),
    (
        one(
            "sizes: a size in every round",
            SIZE,
            "return () if ledger.entries(plan.run_id) else plan.once_events",
            "return plan.once_events",
        ),
        "local",
        "sizes",
        "tests/consortia/test_noised_sizes.py",
    ),
    (
        one(
            "sizes: of other units than those that pay",
            LOCAL,
            "size_release.release(once, parts.train, ",
            "size_release.release(once, parts.test, ",
        ),
        "local",
        "sizes",
        f"{_NEW}::test_a_noised_size_is_that_of_the_units_that_train",
    ),
    (
        one("the ledger takes the first event only", WORK, _CHARGE, _CHARGE.replace("events,", "events[:1],")),
        "local",
        "sizes",
        "tests/consortia/test_noised_sizes.py",
    ),
    (
        one(
            "FedRep: the head moves without DP",
            TRAINING,
            _PLAIN,
            _PLAIN.replace("plan.non_private:", "plan.non_private or (rules.private_steps and not reports):"),
        ),
        "local",
        "phases",
        f"{_PLANTED}::test_every_step_that_moves_a_parameter_is_noised_and_charged",
    ),
    (
        one("FedRep: the head's steps are not charged", PHASES, "(False, steps - private_steps)", "(False, steps)"),
        "local",
        "phases",
        f"{_PLANTED}::test_every_step_that_moves_a_parameter_is_noised_and_charged",
    ),
    (
        one(
            "training rows are evaluated too",
            DATA,
            _MASKS,
            'return {"train": where == "train", "validation": where == "validation", "test": where != "validation"}',
        ),
        "local",
        "neighbours",
        f"{_NEW}::test_no_row_is_in_two_partitions",
    ),
    (
        one(
            "the quarantine's count in the header",
            WORK,
            '            "unit": plan.unit,\n',
            '            "unit": plan.unit,\n'
            '            "scopes": str(load_partitions(self.home, self.terms, self.dataset, request.contract, '
            "request.run_id).quarantine),\n",
        ),
        "local",
        "recount",
        "tests/consortia/test_capture.py",
    ),
    (
        one(
            "coordinator: it trusts the participants' clip",
            CENTRAL,
            "total += clipped(change.view(1, -1), plan.clip)[0]",
            "total += change.double()",
        ),
        "coordinator",
        "coordinator",
        f"{_GAME}::test_a_participant_moves_the_mean_by_its_clip",
    ),
    (
        one(
            "coordinator: a mean over those who answered",
            CENTRAL,
            "return total / plan.denominator",
            "return total / max(count, 1)",
        ),
        "coordinator",
        "coordinator",
        "tests/privacy/test_central.py",
    ),
    (
        one(
            "coordinator: it asks more often than it says",
            CENTRAL,
            "poisson_sample(participants, plan.sampling_rate, generator)",
            "poisson_sample(participants, min(1.0, 1.3 * plan.sampling_rate), generator)",
        ),
        "coordinator",
        "coordinator",
        f"{_PLANTED}::test_a_coordinator_draws_at_the_contracts_rate",
    ),
    (
        one(
            "coordinator: a broken change breaks the mean",
            CENTRAL,
            "torch.where(norms.isfinite(), doubled * factors, 0.0)",
            "doubled * factors",
        ),
        "coordinator",
        "neighbours",
        f"{_GAME}::test_a_participant_moves_the_mean_by_its_clip",
    ),
    (
        one(
            "coordinator: participants do not shorten",
            "platform/consortia/trust/trusted_coordinator.py",
            "contract.central.clip)[0]",
            "1e9)[0]",
        ),
        "coordinator",
        "coordinator",
        "tests/consortia/test_central.py",
    ),
    (
        one(
            "vertical: labels are kept more often",
            RESPONSE,
            "int(keep * _SAFETY * 2**64)",
            "int((1 + keep) / 2 * _SAFETY * 2**64)",
        ),
        "vertical",
        "vertical",
        "tests/privacy/test_randomized_response.py",
    ),
    (
        one(
            "vertical: labels of test persons leave",
            OWNER,
            'labelled = self._parts() == "train"\n        labels',
            'labelled = self._parts() != ""\n        labels',
        ),
        "vertical",
        "vertical",
        "tests/consortia/test_vertical_run.py",
    ),
    (
        one(
            "vertical: gradients count twice", LOGISTIC, "gradients = error[:, None]", "gradients = 2 * error[:, None]"
        ),
        "vertical",
        "vertical",
        f"{_GAME}::test_a_row_moves_a_partners_model_by_two_clips",
    ),
    (
        Mutant(
            "vertical: noise for adding a row",
            (
                (LOGISTIC, "Grid(2 * clip, len(weights))", "Grid(clip, len(weights))"),
                (LOGISTIC, "deviation=noise_multiplier * 2 * clip", "deviation=noise_multiplier * clip"),
                (LOGISTIC, "noise * noise_multiplier * 2 * clip", "noise * noise_multiplier * clip"),
            ),
        ),
        "vertical",
        "vertical",
        f"{_GAME}::test_a_row_moves_a_partners_model_by_two_clips",
    ),
    (
        one(
            "vertical: a row is in every fold's model",
            MODEL,
            "inside = labelled & (fold != number)",
            "inside = labelled & (fold >= 0)",
        ),
        "vertical",
        "vertical",
        f"{_NEW}::test_a_row_is_in_every_folds_model_but_its_own",
    ),
    (
        one("vertical: hardly any noise on scores", PARTNER, "BINS, self.step.terms.score_epsilon,", "BINS, 9.0,"),
        "vertical",
        "vertical",
        f"{_PLANTED}::test_scores_have_the_charged_noise",
    ),
)
