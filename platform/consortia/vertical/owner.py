"""The steps of the label owner: blind, label, stack."""

from __future__ import annotations

import csv
import json
import logging
import math
import time
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clients.dataset import assign
from consortia.common.errors import RefusedError
from consortia.messages.envelope import Envelope, encode
from consortia.vertical import label_message, psi
from consortia.vertical.grid import MISSING, Grid
from consortia.vertical.masks import add_up
from consortia.vertical.participant import SECOND_HALF, Work
from consortia.vertical.receipt import write_receipt
from consortia.vertical.stacking import Decision, decide
from privacy.events import Event, RandomizedResponse
from privacy.ledger import Budget, Ledger
from privacy.randomized_response import respond
from privacy.randomness import KeyStream

__all__ = ["Owner"]

log = logging.getLogger("consortia.participant")


class Owner(Work):
    """See `Work`."""

    def blind(self, ledger: Ledger) -> bytes:
        """Send every partner our identifiers, blinded, in a secret order of our rows."""
        partners = self._present()
        order = self.order()
        if self.step.batch == 0:
            self._check_labelled()
        power = self.store.once("power", psi.new_power)
        reservation, plan = self.charge_intersection(ledger)
        points = psi.blind(self.context, self.identifiers(order), power, self.store.progress("blind: own points"))
        tensors = {f"sealed/{name}": self.sealed(name, points) for name in partners}
        return self.send(ledger, reservation, plan, "intersection", tensors, greet=True)

    def label(self, ledger: Ledger) -> bytes:
        """Send each partner its own points raised to our power, and everybody the same noisy labels, once."""
        partners = self._present()
        power = self.store.read("power")
        cap = self.step.terms.largest_set
        note = self.store.progress("label: partners' points")
        raised = {}
        for name in partners:
            try:
                raised[name] = psi.raise_points(self.opened(name, "match"), power, cap, note)
            except ValueError as error:
                raise RefusedError("BAD_MESSAGE", f"{name}: {error}") from None
        if self.step.batch:
            return self._points_only(ledger, raised)
        allowance, epsilon = self._allowance(ledger)
        event: Event
        if allowance is None:
            event = self.disclosed("exact labels")
        else:
            event = RandomizedResponse(
                what="label", epsilon=epsilon, classes=2, partition="train", unit=self.terms.unit
            )
        plan = self.plan("labels", (event,), allowance)
        life = self.policy.budget.lifetime.epsilon if allowance is not None else math.inf
        reservation = self.reserve(ledger, plan, Budget(life, 0.0))
        labelled = self._parts() == "train"
        labels = np.full(len(labelled), MISSING, dtype=np.uint8)
        labels[labelled] = respond(
            self._labels[labelled], 2, epsilon, entropy=KeyStream(reservation.noise("labels")).bytes
        )
        # Whoever crafts on: from here the true labels have touched nothing that leaves but these bits.
        self.store.once("epsilon", lambda: repr(epsilon).encode())
        tensors = {
            f"sealed/{name}": self.sealed(name, label_message.pack(epsilon, points, labels.tobytes()))
            for name, points in raised.items()
        }
        return self.send(ledger, reservation, plan, "labels", tensors)

    def stack(self, ledger: Ledger) -> bytes:
        """Stack at home, once: later the rows may be others; answer only that it is done."""
        if self.store.has("stacked"):
            return encode(Envelope(self.header("DONE", None)))
        started = time.perf_counter()
        torch.set_num_threads(1)
        epsilon = float(self.trained.read("epsilon"))
        scores, known = self._scores(Grid.for_epsilon(epsilon))
        own = self.rows.features[self.order()].astype(np.float64)
        if self.step.batch == 0:
            parts = self._parts()
            train = parts == "train"
            truth = self._labels
            note = self.store.progress("stack: models")
            decision: Decision = self.store.objects(
                "stack", lambda: decide(own[train], scores[train], truth[train], progress=note)
            )
            write_receipt(self, ledger, decision, own, scores, known, parts, self._labels, epsilon, started)
        else:
            self._write_predictions(own, scores)
        self.store.once("stacked", lambda: b"")
        return encode(Envelope(self.header("DONE", None)))

    def _points_only(self, ledger: Ledger, raised: dict[str, bytes]) -> bytes:
        """Answer a batch of new persons: no label is in it, and it is part of the intersection's account."""
        plan = self.plan("intersection", (self.disclosed(SECOND_HALF),))
        reservation = self.reserve(ledger, plan, Budget(math.inf, 0.0))
        epsilon = float(self.trained.read("epsilon"))
        tensors = {
            f"sealed/{name}": self.sealed(name, label_message.pack(epsilon, points)) for name, points in raised.items()
        }
        return self.send(ledger, reservation, plan, "intersection", tensors)

    def _check_labelled(self) -> None:
        """Refuse, before anything is charged, when no partner could have enough labelled rows."""
        fewest, labelled = self.step.terms.minimum_rows, int((self._parts() == "train").sum())
        if labelled < fewest:
            raise RefusedError(
                "TOO_FEW_ROWS",
                f"contract.vertical.minimum_rows = {fewest}: wanted so many training rows with a label, got "
                f"{labelled}; is {self.step.terms.label!r} in the source, in the right coding?",
            )

    def _present(self) -> list[str]:
        """Return the partners whose keys came with the message."""
        present = [name for name in self.step.terms.partners if name in self.step.greetings]
        if not present:
            raise RefusedError("TOO_FEW_PARTNERS", "no partner answered")
        return present

    @cached_property
    def _labels(self) -> NDArray[np.int64]:
        return self.rows.labels[self.order()]

    def _parts(self) -> NDArray[Any]:
        """Return "train", "test" or "" (no label) of each row: a keyed hash of the identifier decides, never the
        label."""
        shares = self.step.contract.split
        ids = [self.rows.ids[int(i)] for i in self.order()]
        part = assign(ids, self.home.split_key(), {"train": shares.train + shares.validation, "test": shares.test})
        return np.where(self._labels >= 0, part, "")

    def _allowance(self, ledger: Ledger) -> tuple[Budget | None, float]:
        """Return what the labels may cost: the least of proposal, run and what the lifetime leaves; pure, delta = 0."""
        proposal, budget = self.step.proposal, self.policy.budget
        if proposal.epsilon is None:
            return None, math.inf
        stored = ledger.plan(self.account("labels"))
        if stored is not None:
            return stored.allowance, stored.allowance.epsilon
        left = ledger.lifetime_left(f"{self.dataset}/labels", Budget(budget.lifetime.epsilon, 0.0))
        epsilon = min(proposal.epsilon, budget.run.epsilon, left.epsilon)
        if epsilon <= 1e-9:
            raise RefusedError("BUDGET_EXHAUSTED", "the lifetime budget of these labels is spent")
        return Budget(epsilon, 0.0), epsilon

    def _scores(self, grid: Grid) -> tuple[NDArray[np.float64], dict[str, int]]:
        """Return one column of scores for each partner of the training (or their sum), and how many rows each knows.

        Who does not take part in a later batch knows none of its rows.
        """
        n = len(self.rows)
        width = 4 if self.step.terms.secure_sum else 1
        parts = {name: self.opened(name, "assist") for name in self.step.terms.partners if name in self.step.sealed}
        wrong = [name for name, data in parts.items() if len(data) != width * n]
        if not parts or (wrong and self.step.terms.secure_sum):
            raise RefusedError(
                "BAD_MESSAGE", f"wanted one score for each row, got another length of {', '.join(wrong) or 'nobody'}"
            )
        if not self.step.terms.secure_sum:
            if wrong:
                log.warning("%s: wanted one score for each row, none of %s counts", self.home.participant, wrong)
            nobody = np.full(n, MISSING, dtype=np.uint8).tobytes()
            columns = json.loads(self.trained.once("columns", lambda: json.dumps([*parts]).encode()))
            right = {name: data for name, data in parts.items() if name not in wrong}
            codes = {name: np.frombuffer(right.get(name, nobody), dtype=np.uint8) for name in columns}
            known = {name: int((column != MISSING).sum()) for name, column in codes.items()}
            return np.column_stack([grid.decode(column) for column in codes.values()]), known
        total, count = add_up({name: np.frombuffer(data, dtype="<u4") for name, data in parts.items()})
        if count.max() > len(parts):
            raise RefusedError("BAD_MESSAGE", "the masks do not cancel: a part is missing, or of another attempt")
        values = total * grid.step - grid.bound * count
        return np.where(count > 0, values, np.nan)[:, None], {"sum": int((count > 0).sum())}

    def _write_predictions(self, own: NDArray[np.float64], scores: NDArray[np.float64]) -> None:
        """Score new persons by whichever model the decision keeps; their file stays at home."""
        decision: Decision = self.trained.objects("stack", _never)
        alone = decision.alone.predict(own, np.empty((len(own), 0)))
        assisted = decision.assisted.predict(own, scores)
        file = self.home.run_folder(self.step.run_id) / f"scored-{self.step.batch}.csv"
        with file.open("w", newline="", encoding="utf-8") as out:
            writer = csv.writer(out)
            writer.writerow(["person", "score", "score_alone", "score_assisted", "partners"])
            known = (~np.isnan(scores)).sum(1)
            ids = [self.rows.ids[int(i)] for i in self.order()]
            for row in range(len(own)):
                kept = assisted[row] if decision.joins else alone[row]
                writer.writerow([ids[row], *(repr(float(v)) for v in (kept, alone[row], assisted[row])), known[row]])


def _never() -> Any:
    raise RefusedError("NOT_TRAINED", "new persons were asked about before training")
