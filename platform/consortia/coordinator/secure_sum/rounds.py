"""The coordinator's half of secure sums: one message in each round, a fixed cohort, all or nothing.

The coordinator sees masked words and their sum. A lost or refused reply ends the attempt. In mode `two` this happens
only if more members are lost than the noise covers (see `consortia.coordinator.secure_sum.opening`). The next attempt
runs without that member, with new draws and new noise, and every member is charged for it. The coordinator can check
two public facts: everybody answered under one context, and the sum is not longer than the sum of honest members can be.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Mapping

import numpy as np

from consortia.common import disk
from consortia.common.disk import write_json
from consortia.common.errors import RunFailedError, WireError
from consortia.coordinator.checkpoint import Checkpoint
from consortia.coordinator.mailbox import Correspondence, check_same, is_refusal
from consortia.coordinator.secure_sum.opening import Attempt, Part, open_two
from consortia.coordinator.secure_sum.step import OpenSum, by_group, step
from consortia.coordinator.sums import secure_step
from consortia.messages.envelope import decode
from consortia.messages.reply import FINAL, check_account
from consortia.terms.scenario import Scenario
from consortia.terms.scopes import State, for_participant
from consortia.terms.settle import fixed_point, sizes, units_drawn
from consortia.trust.secure_sum.models import ANCHOR_BYTES, hash_of
from consortia.trust.secure_sum.protocol import SumRequest, context_of, group_of, roster_hash, unpack
from consortia.trust.secure_sum.recovery import OpenRequest
from privacy.ledger import Anchor
from privacy.secure_sum.fixed_point import Word
from privacy.secure_sum.masks import sum_words
from privacy.secure_sum.sharing import box_bytes, threshold
from strategies.base import Strategy

#: A member that was lost in so many rounds in a row is not asked again: each loss is a charge for everybody.
_LOST = 2
#: Refusals that concern one attempt only. The member can take part in the next attempt.
_OF_THE_ATTEMPT = {"REPLAY", "UNKNOWN_ATTEMPT", "ALREADY_VOTED", "ALREADY_UNMASKED", "VIEW_CHANGED", "NO_AGREEMENT"}


class SecureRounds:
    """Secure sums of one run.

    Parameters
    ----------
    scenario : that of the run, or of one industry's part of it.
    desk : the mailbox of the whole run.
    industry : the industry that has these sums, with its own keys; empty if the whole run shares them.
    """

    def __init__(self, scenario: Scenario, desk: Correspondence, industry: str = "") -> None:
        self.scenario = scenario
        self.contract = scenario.contract
        self.terms = scenario.contract.secure_terms
        self.run_id = desk.run_id
        self._desk = desk
        self._participants = {one.name: desk.participants[one.name] for one in scenario.roster}
        self._heads = desk.heads
        self._fail = desk.fail
        self._file = desk.folder / f"secure-roster{industry and '-'}{industry}.json"
        self._code = fixed_point(scenario.contract)
        self._roster: dict[str, tuple[bytes, bytes]] = {}
        self._stored: set[str] = set()
        self._lost: dict[str, int] = {}

    # Keys

    def enrol(self) -> None:
        """Ask every participant for a signed run key, once in a run. A participant without a key is not a member.

        Raises
        ------
        RunFailedError
            Too few participants for one cohort answered.
        """
        if self._file.is_file():  # a resumed run is bound to its keys
            for name, kept in json.loads(self._file.read_text(encoding="utf-8")).items():
                self._roster[name] = (bytes.fromhex(kept["key"]), bytes.fromhex(kept["signature"]))
                self._participants[name].header = kept["header"]
            return
        for attempt, names in self._desk.attempts(lambda: self._open_names(self._participants, self._roster)):
            envelopes = {name: self._desk.envelope("run-key", 1, name, {}, {}) for name in names}
            for name, data in self._ask(envelopes, 1, attempt).items():
                self._enter(name, data, attempt)
            if len(self._roster) >= max(self.terms.least, self.contract.round.quorum * len(self._participants)):
                break
        if len(self._roster) < self.terms.least:
            raise RunFailedError(
                f"secure sum: wanted signed keys of at least {self.terms.least} participants, got "
                f"{len(self._roster)} ({self._reasons()})"
            )
        entered = {
            name: {"key": key.hex(), "signature": signature.hex(), "header": self._participants[name].header}
            for name, (key, signature) in self._roster.items()
        }
        with disk.kept(self._file.parent):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_json(self._file, entered)

    def _enter(self, name: str, data: bytes, attempt: int) -> None:
        try:
            header = self._refused(name, data, 1, attempt)
            if header is None:
                return
            wanted = {"status": "OK", "kind": "run-key", "run": self.run_id, "contract": self.contract.sha256()}
            check_same(header, wanted)
            check_account(header)
            if header["non_private"] != "false":
                raise ValueError("non_private: wanted 'false' in a secure sum")
            key, signature = bytes.fromhex(header["run_key"]), bytes.fromhex(header["signature"])
            if len(key) != 32 or len(signature) > 200:
                raise ValueError("run_key: wanted 32 bytes and a signature")
        except (WireError, ValueError, KeyError) as error:
            self._fail(name, 1, attempt, "BAD_REPLY", str(error))
            return
        self._heads.take(name, header)
        self._participants[name].header = {k: v for k, v in header.items() if k not in {"run_key", "signature"}}
        self._roster[name] = (key, signature)

    # Sums

    def round(
        self, strategy: Strategy, state: Checkpoint, number: int
    ) -> tuple[dict[str, State], dict[str, State], list[str]]:
        """Run one round. Return the next groups, the strategy's memory and who contributed.

        Raises
        ------
        RunFailedError
            A sum did not open in any attempt, or is longer than the sum of honest members can be.
        """
        models = {group: hash_of(named) for group, named in state.groups.items()}
        opened: dict[str, OpenSum] = {}
        todo = self._cohorts(state)
        for attempt in range(self.terms.attempts):
            request = SumRequest(number, attempt, todo, models)
            parts, gone, context = self._parts(request, state)
            for label, (names, words) in self._opened(request, parts, context).items():
                opened[label] = OpenSum(names, self._code.decode(words), len(request.cohorts[label]), context)
            left = {label: tuple(n for n in names if n not in gone) for label, names in todo.items()}
            todo = {label: n for label, n in left.items() if label not in opened and len(n) >= self.terms.least}
            if not todo:
                break
        good = self._checked(opened, number)
        groups: dict[str, State] = {}
        memory: dict[str, State] = {}
        for group in state.groups:
            totals = by_group(good, group)
            if not totals:
                raise RunFailedError(f"round {number}: no sum of {group!r} opened within range ({self._reasons()})")
            groups[group], memory[group] = self._step(strategy, state, group, totals, number)
        done = sorted({name for one in good.values() for name in one.names})
        for name in done:
            self._participants[name].rounds_contributed += 1
            self._lost.pop(name, None)
        return groups, memory, done

    def _cohorts(self, state: Checkpoint) -> dict[str, tuple[str, ...]]:
        """Return the cohorts: the members of every group, split into `cohorts` parts if there are enough."""
        out: dict[str, tuple[str, ...]] = {}
        for group in state.groups:
            names = sorted(
                name
                for name in self._roster
                if self._participants[name].state not in FINAL
                and self._lost.get(name, 0) < _LOST
                and group in sizes(self.contract, self._participants[name].participant.industry)
            )
            count = max(1, min(self.terms.cohorts, len(names) // self.terms.least))
            if len(names) < self.terms.least:
                raise RunFailedError(
                    f"secure sum of {group!r}: wanted at least {self.terms.least} members, got {len(names)} "
                    f"({self._reasons()})"
                )
            for index in range(count):
                out[group if count == 1 else f"{group}#{index}"] = tuple(names[index::count])
        return out

    def _opened(
        self, request: SumRequest, parts: Mapping[str, Part], context: bytes
    ) -> dict[str, tuple[tuple[str, ...], Word]]:
        """Return members and sum of every cohort whose sum was opened."""
        if self._code.drops:
            return open_two(Attempt(request, context, parts, self._code, len(self._roster)), self._tell)
        return {
            label: (names, sum_words([parts[name].words[label] for name in names]))
            for label, names in request.cohorts.items()
            if all(name in parts for name in names)
        }

    def _tell(self, kind: str, asked: Mapping[str, OpenRequest]) -> dict[str, bytes]:
        """Request the signatures or shares that open a sum. Return those that came."""
        field = "signature" if kind == "confirm" else "shares"
        told: dict[str, bytes] = {}
        number = next(iter(asked.values())).sum.round
        for attempt, names in self._desk.attempts(lambda: self._open_names(asked, told)):
            envelopes = {
                name: self._desk.envelope(kind, number, name, {}, {}, {"secure": asked[name].to_json()})
                for name in names
            }
            for name, data in self._ask(envelopes, number, attempt).items():
                try:
                    header = self._refused(name, data, number, attempt)
                    if header is not None:
                        told[name] = bytes.fromhex(header[field])
                except (WireError, ValueError, KeyError) as error:
                    self._fail(name, number, attempt, "BAD_REPLY", str(error))
            if len(told) >= threshold(len(self._roster), self._code.colluders):
                break
        return told

    def _parts(self, request: SumRequest, state: Checkpoint) -> tuple[dict[str, Part], set[str], bytes]:
        """Send one attempt. Return each member's words, the members that the next attempt leaves out, and this
        attempt's context."""
        names = request.everybody
        first = SumRequest(request.round, request.attempt, request.cohorts, request.models, self._roster)
        envelopes = {
            name: self._desk.envelope(
                "train",
                request.round,
                name,
                for_participant(state.groups, self._participants[name].participant.industry),
                {},
                {"secure": (request if name in self._stored else first).to_json()},
            )
            for name in names
        }
        bits = max(self._code.bits(len(cohort)) for cohort in request.cohorts.values())
        roster = roster_hash(self._roster)
        context = context_of(self.run_id, self.contract.sha256(), roster, request, self._code, bits)
        parts: dict[str, Part] = {}
        gone = set(names)
        for name, data in self._ask(envelopes, request.round, request.attempt + 1).items():
            read = self._read(name, data, request, context, bits)
            if read is not None:
                parts[name] = read
                self._stored.add(name)
                gone.discard(name)
            elif self._participants[name].failures and self._participants[name].failures[-1]["code"] == "REPLAY":
                gone.discard(name)  # it lost this attempt, for example by a restart, and can make the next one
        for name in gone:
            self._lost[name] = self._lost.get(name, 0) + 1
        return parts, gone, context

    def _read(self, name: str, data: bytes, request: SumRequest, context: bytes, bits: int) -> Part | None:
        """Return one member's words and boxes. Otherwise record a failure of the member and return None."""
        number, attempt = request.round, request.attempt + 1
        found = unpack(data)
        if found is None:
            try:
                if self._refused(name, data, number, attempt) is not None:
                    self._fail(name, number, attempt, "BAD_REPLY", "wanted masked words")
            except (WireError, ValueError) as error:
                self._fail(name, number, attempt, "BAD_REPLY", str(error))
            return None
        dimensions = sizes(self.contract, self._participants[name].participant.industry, number)
        labels = sorted(label for label, names in request.cohorts.items() if name in names)
        counts = [dimensions[group_of(label)] for label in labels]
        length = sum(counts) * bits // 8
        boxes = len(request.everybody) * box_bytes(len(request.everybody)) if self._code.drops else 0
        if found[0] != context[: len(found[0])] or len(found[1]) != length + boxes + ANCHOR_BYTES:
            self._fail(name, number, attempt, "BAD_REPLY", "the masked words are of another context or length")
            return None
        body, tail = found[1][:length], found[1][length + boxes :]
        self._heads.learn({name: Anchor(int.from_bytes(tail[:8], "big"), tail[8:].hex())})
        words = np.frombuffer(body, "<u4" if bits == 32 else "<u8").astype(np.uint32 if bits == 32 else np.uint64)
        split = np.split(words, np.cumsum(counts)[:-1])
        return Part(dict(zip(labels, split, strict=True)), found[1][length : length + boxes])

    def _step(
        self, strategy: Strategy, state: Checkpoint, group: str, totals: Mapping[str, OpenSum], number: int
    ) -> tuple[State, State]:
        """Return a group's next parameters and memory, by a step with the mean gradient or from sums of statistics."""
        if self.contract.noisy_sums is None:
            return step(
                self.contract, strategy, state, group, totals, {n: m.participant for n, m in self._participants.items()}
            )
        ((_, one),) = totals.items()
        weights = {name: self._clip(name) for name in one.names}
        units = {
            name: float(self.contract.split.training_units(self._participants[name].participant.units))
            for name in one.names
        }
        return secure_step(self.contract, state, group, number, one, self._code, weights, units)

    def _checked(self, opened: Mapping[str, OpenSum], number: int) -> dict[str, OpenSum]:
        """Return the sums that honest members can have made. The others are left out and recorded."""
        good = {}
        for label, one in opened.items():
            clipped = sum(self._units(name) * self._clip(name) for name in one.names)
            if float(np.linalg.norm(one.total)) <= self._code.largest_norm(clipped, one.asked, len(one.total)):
                good[label] = one
                continue
            for name in one.names:
                detail = f"the sum of {label} is longer than honest members can make it"
                self._fail(name, number, 0, "SUM_OUT_OF_RANGE", detail)
        return good

    # Helpers

    def _open_names(self, names: Iterable[str], done: Container[str]) -> list[str]:
        return [name for name in names if name not in done and self._participants[name].state not in FINAL]

    def _ask(self, envelopes: Mapping[str, bytes], number: int, attempt: int) -> dict[str, bytes]:
        """Send, and wait within the deadline. Return the answers to this attempt."""
        came: dict[str, bytes] = {}
        for answer in self._desk.post("train", number, attempt, envelopes):
            if answer.data is None:
                self._fail(answer.participant, number, attempt, answer.code)
            else:
                self._desk.heard(answer.participant, answer.data, "train", number)
                came[answer.participant] = answer.data
        return came

    def _refused(self, name: str, data: bytes, number: int, attempt: int) -> Mapping[str, str] | None:
        """Return the header of a reply that is not a refusal. For a refusal record the failure and return None."""
        envelope = decode(data)
        header = envelope.header
        if not is_refusal(envelope, name):
            if envelope.tensors:
                raise ValueError("the reply carries parameters")
            return header
        status = header["status"]
        if status in FINAL:
            code = header.get("code", status)[:40]
            if code not in _OF_THE_ATTEMPT:
                self._participants[name].state = status
            self._fail(name, number, attempt, code)
        else:
            self._fail(name, number, attempt, "PARTICIPANT_ERROR", f"incident {header.get('incident', '')[:16]}")
        return None

    def _units(self, name: str) -> int:
        return units_drawn(self.contract, self._participants[name].participant)

    def _clip(self, name: str) -> float:
        """Return C_i = S / sigma_i for the declared sigma_i, at most the largest clip of the contract."""
        return min(self._code.clip, self._code.noise / float(self._participants[name].header["noise_multiplier"]))

    def _reasons(self) -> str:
        return ", ".join(self._desk.last_codes(self._participants)) or "nobody else is there"
