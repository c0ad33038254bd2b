"""The steps of a partner: greet, match, assist."""

from __future__ import annotations

import json
import math
import secrets
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from consortia.common.errors import RefusedError
from consortia.messages.envelope import Envelope, encode
from consortia.participant.receipt import RECEIPT_SCHEMA
from consortia.vertical import label_message, psi
from consortia.vertical.assistance import Assistance, assist
from consortia.vertical.grid import MISSING, Grid
from consortia.vertical.masks import masked
from consortia.vertical.participant import Work, as_tensor
from consortia.vertical.private_model import assist_privately, model_event
from privacy.events import RandomizedResponse
from privacy.ledger import Budget, Ledger, Reservation, RunPlan
from privacy.randomized_response import respond
from privacy.randomness import KeyStream

__all__ = ["Partner"]

#: Values that a score is made coarse to before local noise: more values would need more noise.
BINS = 4


class Partner(Work):
    """See `Work`."""

    def hello(self, ledger: Ledger) -> bytes:
        """Send a fresh key, signed: no row is read."""
        del ledger
        header = self.header("GREETED", None)
        return encode(Envelope(header, {f"greeting/{self.home.participant}": as_tensor(self.greeting.public())}))

    def match(self, ledger: Ledger) -> bytes:
        """Keep the label owner's list raised to our power; send our own, blinded and shuffled."""
        owner = self.step.terms.label_owner
        theirs = self.opened(owner, "blind")
        if not psi.distinct(theirs):
            # One person as many rows would pass `minimum_rows` alone, and DP training counts a person as one row.
            raise RefusedError("BAD_MESSAGE", "points: wanted every point once, got one twice")
        order = self.order()
        power = self.store.once("power", psi.new_power)
        reservation, plan = self.charge_intersection(ledger)
        cap = self.step.terms.largest_set
        try:
            self.store.once(
                "theirs", lambda: psi.raise_points(theirs, power, cap, self.store.progress("match: their points"))
            )
        except ValueError as error:
            raise RefusedError("BAD_MESSAGE", str(error)) from None
        mine = psi.blind(self.context, self.identifiers(order), power, self.store.progress("match: own points"))
        return self.send(ledger, reservation, plan, "intersection", {f"sealed/{owner}": self.sealed(owner, mine)})

    def assist(self, ledger: Ledger) -> bytes:
        """Fit on the noisy labels (batch 0) or use the stored model, and send one coarse score a row."""
        step, owner = self.step, self.step.terms.label_owner
        if step.batch and not self.trained.has("model"):
            raise RefusedError("NOT_TRAINED", "new persons were asked about before training")
        epsilon, twice, labels = label_message.unpack(self.opened(owner, "label"))
        matched = self._matched(twice)
        if step.batch == 0 and len(labels) != len(matched):
            raise RefusedError("BAD_MESSAGE", "wanted a label or 'none' for each row")
        said = repr(epsilon).encode()
        if self.trained.once("epsilon", lambda: said) != said:
            # Another grid for each batch would tell more than six bits of a person.
            raise RefusedError("BAD_MESSAGE", "epsilon: wanted that of the labels of the training")
        others = [name for name in step.greetings if name in step.terms.partners and name != self.home.participant]
        if step.terms.secure_sum and not others:
            raise RefusedError("TOO_FEW_PARTNERS", "a sum of one partner's scores is its scores")
        if step.batch == 0:
            self._same_label_message(ledger, labels.tobytes() + repr(epsilon).encode())
        known = np.flatnonzero(matched >= 0)
        x = self.rows.features[matched[known]]
        sent = labels[known].astype(np.int64) if step.batch == 0 else np.array([], dtype=np.int64)
        sent[sent == MISSING] = -1
        fewest = max(self.own.minimum_rows, step.terms.minimum_rows)
        if step.batch == 0 and int((sent >= 0).sum()) < fewest:
            raise RefusedError("TOO_FEW_ROWS", f"minimum_rows = {fewest}")
        plan = self._scores_plan()
        life = Budget(math.inf, 0.0) if plan.non_private else self.policy.budget.lifetime.budget()
        # The model is charged once: it stays for the run, and one that a crash lost never left.
        reservation = self.reserve(ledger, plan, life, once=not ledger.entries(self.account("scores")))
        # The first attempt's models and codes stay: a repeated attempt sends the same scores under other masks.
        fitted: Assistance = self.trained.objects("model", lambda: self._fit(x, sent, epsilon, reservation))
        grid = Grid.for_epsilon(epsilon)
        made = self.store.once("codes", lambda: self._codes(grid, fitted, x, matched, known, reservation).tobytes())
        codes = np.frombuffer(made, dtype=np.uint8)
        if step.terms.secure_sum:
            # Both sides of a pair must spell the purpose alike: the attempt and everybody in the sum.
            purpose = f"mask {step.attempt} {','.join(sorted([*others, self.home.participant]))}"
            keys = {name: self.key_with(name, purpose) for name in others}
            payload = masked(codes, self.home.participant, keys).astype("<u4").tobytes()
        else:
            payload = codes.tobytes()
        self._receipt(plan, fitted, sent, known)
        return self.send(ledger, reservation, plan, "scores", {f"sealed/{owner}": self.sealed(owner, payload)})

    def _matched(self, twice_mine: bytes) -> NDArray[np.int64]:
        """Return for each row of the label owner our row, or -1."""
        order = self.order()
        if len(twice_mine) != len(order) * psi.POINT:
            raise RefusedError("BAD_MESSAGE", "wanted our own list back, got another length")
        theirs = self.store.read("theirs")

        def match() -> NDArray[np.int64]:
            places = np.array(psi.match(theirs, twice_mine), dtype=np.int64)
            return np.where(places >= 0, order[np.clip(places, 0, None)] if len(order) else -1, -1)

        return self.store.places("matched", match)

    def _same_label_message(self, ledger: Ledger, labels: bytes) -> None:
        """Take one label message per run, and as many in the data set's life as its owner allows."""
        self._bound_label_messages(ledger)
        if self.store.once("labels", lambda: labels) != labels:
            raise RefusedError("LABEL_MESSAGES_EXHAUSTED", "another label message in the same run")

    def _bound_label_messages(self, ledger: Ledger) -> None:
        """Refuse when other runs have used up the label messages; attempts of this run have the same labels."""
        accounts = ledger.sharing(f"{self.dataset}/scores")
        runs = {entry.run_id for name in accounts for entry in ledger.entries(dataset=name)}
        most = self.own.label_messages
        if len(runs - {self.account("scores")}) >= most:
            raise RefusedError("LABEL_MESSAGES_EXHAUSTED", f"the policy allows {most} for the life of this data set")

    def _scores_plan(self) -> RunPlan:
        """Return what the scores cost: the model once, noisy scores for each batch.

        Local noise covers a row's own score, DP training its influence on the others' scores. Only both together are
        a guarantee; with one of them, or none, the scores are disclosed as they are and the event says so. A person's
        noise is drawn once, so that charging each batch is more than the truth.
        """
        terms = self.step.terms
        if (total := terms.scores_epsilon) is None:
            if not self.own.exact_scores:
                raise RefusedError(
                    "SCORES_NOT_ALLOWED", "vertical.exact_scores = false, and the contract has no DP scores"
                )
            return self.plan("scores", (self.disclosed("one coarse score for each matched row"),))
        assert terms.score_epsilon is not None
        assert terms.model_privacy is not None
        score = RandomizedResponse(
            what="score", epsilon=terms.score_epsilon, classes=BINS, partition="train", unit=self.terms.unit
        )
        model = terms.model_privacy
        budget = self.policy.budget.run
        if total > budget.epsilon or model.delta > budget.delta:
            raise RefusedError("BUDGET_EXHAUSTED", "the scores cost more than budget.run of the policy")
        once = (model_event(model, self.terms.unit),)
        return self.plan("scores", (score,), Budget(total, model.delta), once)

    def _fit(self, x: NDArray[Any], sent: NDArray[Any], epsilon: float, charged: Reservation) -> Assistance:
        terms = self.step.terms
        torch.set_num_threads(1)
        if terms.model_privacy is not None:
            return assist_privately(x, sent, terms.model_privacy, charged.noise("model"))
        del epsilon
        return assist(x, sent, self.own.models, progress=self.store.progress("assist: models"))

    def _codes(
        self,
        grid: Grid,
        fitted: Assistance,
        x: NDArray[Any],
        matched: NDArray[Any],
        known: NDArray[Any],
        charged: Reservation,
    ) -> NDArray[np.uint8]:
        """Return one code for each row of the label owner; noise is drawn once a person and kept."""
        terms = self.step.terms
        logits = fitted.logits if self.step.batch == 0 else fitted.score(x)
        codes = grid.encode(logits)
        if terms.score_epsilon is not None:
            codes = self._with_noise(grid, codes, matched[known], charged)
        out = np.full(len(matched), MISSING, dtype=np.uint8)
        out[known] = codes
        if terms.hide_membership:
            # Unknown rows get a fixed draw from the known rows' scores: nobody can tell who is known.
            rest = np.flatnonzero(out == MISSING)
            if len(codes):
                out[rest] = codes[[secrets.randbelow(len(codes)) for _ in rest]]
        return out

    def _with_noise(
        self, grid: Grid, codes: NDArray[np.uint8], rows: NDArray[Any], charged: Reservation
    ) -> NDArray[np.uint8]:
        """Make scores coarse and pass them through randomised response; asked for a person again: the same answer.

        Fresh noise for each question would average out: 16 draws at epsilon 4 correlate .97 with the exact score.
        """
        assert self.step.terms.score_epsilon is not None
        stream = KeyStream(charged.noise("scores"))
        coarse = codes.astype(int) * BINS // grid.levels
        fresh = respond(coarse, BINS, self.step.terms.score_epsilon, entropy=stream.bytes)
        kept: dict[str, int] = {}
        for batch in range(self.step.batch):
            file = self.home.run_folder(self.step.run_id) / f"vertical-{batch}" / "noise"
            if file.is_file():
                kept |= json.loads(file.read_text(encoding="utf-8"))
        names = [self.rows.ids[int(row)] for row in rows]
        bins = [kept.get(name, int(value)) for name, value in zip(names, fresh, strict=True)]
        own = json.dumps(dict(zip(names, bins, strict=True))).encode()
        bins = [json.loads(self.store.once("noise", lambda: own))[name] for name in names]
        middle = (np.array(bins, dtype=np.int64) * 2 + 1) * grid.levels // (2 * BINS)
        return middle.astype(np.uint8)

    def _receipt(self, plan: Any, fitted: Assistance, sent: NDArray[Any], known: NDArray[Any]) -> None:
        """Write the partner's own record: what it gave, to whom, for what."""
        if self.step.batch:
            self.note(f"receipt-{self.step.batch}.json", {"scored": len(known)})
            return
        terms = self.step.terms
        private = not plan.non_private
        self.note(
            "receipt.json",
            {
                "schema": RECEIPT_SCHEMA,
                "participant": self.home.participant,
                "run_id": self.step.run_id,
                "industry": self.step.industry,
                "contract_sha256": self.step.contract.sha256(),
                "role": "partner",
                "synthetic": self.rows.synthetic,
                "units": {"own": len(self.rows)},
                "rows": len(self.rows),
                "matched": len(known),
                "labelled": int((sent >= 0).sum()),
                "label": terms.label,
                "purpose": terms.purpose,
                "label_owner": terms.label_owner,
                "model": fitted.model,
                "classes": None,
                "headline": "",
                "metrics": {},
                "keeps": None,
                "gain": None,
                "local_model": fitted.model,
                "epsilon": {
                    "run": plan.allowance.epsilon if private else None,
                    "lifetime": None,
                    "budget": plan.allowance.epsilon if private else None,
                    "delta": plan.allowance.delta,
                    "lifetime_delta": None,
                    "unit": self.terms.unit,
                    "relation": "replace_one_row",
                    "non_private": not private,
                    "metrics_non_private": False,
                    "metrics": None,
                },
                "evaluate_seconds": 0.0,
            },
        )
