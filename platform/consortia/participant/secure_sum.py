"""A participant's part in a secure sum: keys, draw, ledger and outbox."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clients import registry
from clients.models import FederatedModule, loss_for
from consortia.common.errors import InputError, RefusedError
from consortia.messages.blocks import block_noise, scaled, unscaled
from consortia.messages.envelope import Envelope, encode
from consortia.participant import sums
from consortia.participant.identity import load_identity
from consortia.participant.own_sums import Sent, keep
from consortia.participant.partitions import Partitions
from consortia.participant.training import ready_module
from consortia.terms.recipe import blocks_of
from consortia.terms.scopes import State, group_of, state_of
from consortia.terms.settle import fixed_point, layout, sizes
from consortia.terms.tensors import frozen_names
from consortia.trust.secure_sum.models import hash_of
from consortia.trust.secure_sum.protocol import Member, Rules, SumRequest
from consortia.trust.secure_sum.recovery import OpenRequest, confirm, unmask
from privacy.egress import Release, gate
from privacy.errors import PrivacyError
from privacy.events import Event
from privacy.ledger import Ledger, Reservation, RunPlan
from privacy.noise_context import NoiseContext
from privacy.observation import tell
from privacy.randomness import fresh_generator
from privacy.secure_sum.fixed_point import FixedPoint, Word
from privacy.secure_sum.gradient import ClippedSum, clipped_sum
from privacy.secure_sum.store import KeyStore

if TYPE_CHECKING:
    from consortia.participant.context import Work
    from consortia.terms.contract import Contract

_KIND = "masked"


def answer(work: Work, ledger: Ledger, plan: RunPlan, parts: Partitions) -> bytes:
    """Answer `run-key` with a signed run key, and `train` with this participant's masked part."""
    request = work.request
    with _member(work, ledger) as member:
        if request.kind == "run-key":
            key, signature = member.hello()
            return _told(work, plan, {"run_key": key.hex(), "signature": signature.hex()})
        asked = SumRequest.from_json(request.secure)
        _check_round(work, asked)
        _check_models(asked, request.model, request.contract, request.industry)
        rules = _rules(work)
        if request.contract.noisy_sums is not None:
            return _blocks(work, ledger, plan, parts, member, asked, rules)
        module = ready_module(
            request.contract, request.industry, plan, parts.train, request.model, work.private_state()
        )
        work.note_progress(module, parts)
        book = _Book(work, ledger, plan, (plan.round_event(),))
        return member.masked(asked, rules, book, lambda noise: _sums(work, plan, parts, module, noise))


def _blocks(
    work: Work,
    ledger: Ledger,
    plan: RunPlan,
    parts: Partitions,
    member: Member,
    asked: SumRequest,
    rules: Rules,
) -> bytes:
    """Answer a message of noisy sums with its blocks as one scaled vector. Keep the own words if they are needed
    later."""
    request = work.request
    sums.check_received(work)
    rule = blocks_of(request.contract, request.industry)

    def scaled_blocks(noise: NoiseContext) -> dict[str, NDArray[np.float64]]:
        started = time.perf_counter()
        vector = scaled(rule, request.round, sums.exact_blocks(work, parts), plan.clip)
        work.log_round(f"{rule.shares.what}, message {request.round}", time.perf_counter() - started)
        return {request.industry: vector}

    def keep_own(context: bytes, words: Word, cohort: int) -> None:
        if sums.kept_at_home(work):
            blocks = tuple(unscaled(rule, request.round, rules.code.decode(words)))
            noise = block_noise(rule, request.round, rules.code.share_std(cohort) * rules.code.step)
            keep(work.home, request.run_id, Sent(context, blocks, noise))

    book = _Book(work, ledger, plan, sums.events_of(work, plan))
    return member.masked(asked, rules, book, scaled_blocks, keep_own)


def opening(work: Work, ledger: Ledger, plan: RunPlan) -> bytes:
    """Answer `confirm` with a signature of the set of the living, and `unmask` with shares."""
    with _member(work, ledger) as member:
        asked = OpenRequest.from_json(work.request.secure)
        _check_round(work, asked.sum)
        parts = (member, asked, _rules(work), _Book(work, ledger, plan, ()))
        if work.request.kind == "confirm":
            return _told(work, plan, {"signature": confirm(*parts).hex()})
        return _told(work, plan, {"shares": unmask(*parts).hex()})


def _told(work: Work, plan: RunPlan, constants: Mapping[str, str]) -> bytes:
    header = {**work.header(plan, "OK"), **constants}
    return encode(Envelope(header, gate([], header, allowed=(), charged=(), shared=())))


@contextmanager
def _member(work: Work, ledger: Ledger) -> Iterator[Member]:
    request = work.request
    with closing(KeyStore.open(ledger.path)) as store:
        identity = load_identity(work.home)
        yield Member(work.home.participant, identity, store, request.run_id, request.contract.sha256())


def _check_round(work: Work, asked: SumRequest) -> None:
    if asked.round != work.request.round:
        raise RefusedError("BAD_MESSAGE", "the sum is asked for another round than the message's")


def _rules(work: Work) -> Rules:
    terms, contract = work.policy.secure, work.request.contract
    return Rules(
        peers=terms.keys(),
        min_cohort=max(terms.min_cohort, contract.secure_terms.min_cohort),
        colluders=terms.colluders,
        max_attempts=min(terms.max_attempts, contract.secure_terms.attempts),
        groups=frozenset(sizes(contract, work.request.industry)),
        code=_code(contract),
    )


def end(work: Work, ledger: Ledger) -> None:
    """Delete the run key when the final evaluation is requested: the run is over."""
    with closing(KeyStore.open(ledger.path)) as store:
        store.end(work.request.run_id)


def _code(contract: Contract) -> FixedPoint:
    try:
        return fixed_point(contract)
    except InputError as error:
        raise RefusedError("CONTRACT_NOT_ALLOWED", str(error)) from None


def _check_models(asked: SumRequest, model: Mapping[str, Tensor], contract: Contract, industry: str) -> None:
    """Refuse unless the received parameters have the hashes that all members agree on."""
    groups: dict[str, State] = {}
    for name, tensor in model.items():
        groups.setdefault(group_of(name, industry, contract), {})[name] = tensor
    for group, named in groups.items():
        if asked.models.get(group) != hash_of(named):
            raise RefusedError("MODEL_MISMATCH", f"the model of {group} is another than the one that members agree on")


class _Book:
    """The participant's ledger, as the protocol's outbox."""

    def __init__(self, work: Work, ledger: Ledger, plan: RunPlan, events: tuple[Event, ...]) -> None:
        self._work = work
        self._ledger = ledger
        self.plan = plan
        self._events = events
        self._reservation: Reservation | None = None

    def reply(self, round_number: int, context: str) -> bytes | None:
        """See `consortia.trust.secure_sum.protocol.Outbox`."""
        return self._ledger.reply(self._work.request.run_id, round_number, context)

    def reserve(self, round_number: int, context: str) -> NoiseContext:
        """See `consortia.trust.secure_sum.protocol.Outbox`."""
        self._work.key = context
        self._reservation = self._work.reserve(
            self._ledger, self._work.request.run_id, self._events, self._work.lifetime(self.plan.non_private)
        )
        return self._reservation.noise("secure sum")

    def commit(self, round_number: int, context: str, data: bytes) -> bytes:
        """See `consortia.trust.secure_sum.protocol.Outbox`. The ledger's anchor (40 bytes) is added."""
        reservation = self._reservation
        if reservation is None:
            raise RefusedError("BAD_MESSAGE", "nothing was reserved")
        masked = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        terms = self._work.request.contract.noisy_sums
        kind, name = ("update", _KIND) if terms is None else (terms.shares.what, f"{terms.shares.what}.{_KIND}")
        gate(
            # One vector holds everything that the events paid for.
            [Release(kind, {f"{name}{place or ''}": masked}, event) for place, event in enumerate(self._events)],
            {},
            allowed=self._work.policy.allow.releases,
            charged=self._events,
            shared=[_KIND],
        )
        anchor = reservation.anchor
        if anchor is None:
            raise PrivacyError("the reservation has no link in the ledger's chain; nothing is sent")
        self._ledger.commit(reservation, data + anchor.counter.to_bytes(8, "big") + bytes.fromhex(anchor.head))
        return self._work.sent(self._ledger, self._work.request.run_id)


def _sums(
    work: Work, plan: RunPlan, parts: Partitions, module: FederatedModule, noise: NoiseContext
) -> dict[str, NDArray[np.float64]]:
    """Make new draws. Return the clipped sum by group, and make the private parameters' step with its own noise."""
    started = time.perf_counter()
    request, train = work.request, parts.train
    generator = fresh_generator(noise.to("train"))
    made = clipped_sum(
        module,
        train.inputs,
        train.target,
        train.unit_index,
        train.n_units,
        loss_for(registry.get(request.industry).schema.target),
        sampling_rate=plan.sampling_rate,
        clip=plan.clip,
        generator=generator,
        single=plan.unit == "record",
    )
    work.keep_private(_private_step(work, plan, module, made, generator))
    work.log_round(made.report, time.perf_counter() - started)
    return {
        group: torch.cat([made.by_name[name].flatten() for name, _ in parts]).numpy()
        for group, parts in layout(request.contract, request.industry).items()
    }


def _private_step(
    work: Work, plan: RunPlan, module: FederatedModule, made: ClippedSum, generator: torch.Generator
) -> State:
    """Return the private parameters after one DP-SGD step with full sigma, because nobody else adds noise to them.

    They were clipped jointly with the summed parameters, and get noise of sigma C in every coordinate. So shared and
    private parts together are one Gaussian mechanism.
    """
    request = work.request
    rate = request.contract.industries[request.industry].learning_rate
    state = state_of(module)
    own = state.keys() - request.model.keys() - frozen_names(module)
    private = {name: state[name] for name in sorted(own)}
    for name, tensor in private.items():
        if name in made.by_name:
            noise = torch.randn(tensor.shape, dtype=torch.float64, generator=generator)
            deviation = plan.noise_multiplier * plan.clip
            tell("private step", made.by_name[name], deviation=deviation)
            noisy = made.by_name[name] + deviation * noise
            step = rate * noisy / (plan.sampling_rate * plan.declared_units)
            private[name] = (tensor.double() - step).to(tensor.dtype)
    return private
