"""Statistics before training, at home: compares the own rows with the rest after the last message.

**The result saw own rows without noise, so it never leaves**: `statistics.json` in the run's folder stays with the
participant. It is not charged, because it is not released. The reply to the last message is constant.
"""

from __future__ import annotations

import logging
from typing import Any

from consortia.common.disk import write_json
from consortia.common.errors import RefusedError, describe
from consortia.learners.statistics.differ import sites_differ
from consortia.learners.statistics.estimates import Released, statistics_of
from consortia.messages.statistics import Together
from consortia.messages.sums import NO_PART
from consortia.participant import own_sums, receipt
from consortia.participant.context import Work
from consortia.participant.unpaid_requests import Measurement
from consortia.terms.recipe import layout
from privacy.ledger import Ledger, RunPlan

__all__ = ["FILE", "close"]

FILE = "statistics.json"
log = logging.getLogger("consortia.participant")


def close(work: Work, ledger: Ledger, once: Measurement) -> bytes:
    """Compare the own rows with the rest, write the result at home, and answer with constants."""
    request = work.request
    plan = ledger.plan(request.run_id)
    if plan is None:
        raise RefusedError("NOT_TRAINED", "the end of a run of statistics that took no part of this participant")
    if once.due:
        try:
            write_json(work.home.run_folder(request.run_id) / FILE, _compared(work, ledger, plan))
            own_sums.forget(work.home, request.run_id)
            once.done()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - it depends on rows, so the reply must not
            log.error("%s: no statistics at home: %s", work.home.participant, describe(error))
    return work.sealed(work.header(plan, "EVALUATED"), [])


def _compared(work: Work, ledger: Ledger, plan: RunPlan) -> dict[str, Any]:
    """Return the own exact statistics, those of the rest, and the verdict on each column."""
    request, parts = work.request, work.partitions(ledger)
    rule = layout(request.contract, request.industry)
    came = Together.from_tensors(rule, request.control)
    own = Released(rule, rule.vector(own_sums.rows_of(parts.train)), 0.0)
    rest = came.released
    if came.key != NO_PART:
        part = own_sums.sent(work.home, request.run_id)
        if part is None or part.key != came.key:
            raise ValueError("statistics: the part that was counted is not the one that this participant sent last")
        rest = rest.less(Released(rule, part.blocks[0] / came.scale, part.deviations[0] / came.scale))
    verdicts = sites_differ(rule, {work.home.participant: (own, rest)})
    policy, dataset = work.policy, request.proposal.dataset
    return {
        "schema": 1,
        "participant": work.home.participant,
        "run_id": request.run_id,
        "industry": request.industry,
        "contract_sha256": request.contract.sha256(),
        "synthetic": parts.synthetic,
        "training_units": parts.train.n_units,
        "rows": len(parts.train),
        "own": statistics_of(own),
        "rest": statistics_of(rest),
        "differ": {column: verdict.to_json() for column, verdict in verdicts.items()},
        "epsilon": receipt.spent(plan, ledger, dataset, request.run_id, policy, request.contract),
    }
