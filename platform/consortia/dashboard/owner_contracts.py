"""What an owner may accept from its own view, and take back: contracts, as `consortia budget allow` and `agree` do."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from consortia.common.errors import ConsortiaError, InputError, RefusedError
from consortia.common.strict import read_toml
from consortia.dashboard.changes import Proposal
from consortia.participant import contract_list
from consortia.participant.agreeing import (
    agreement_of,
    sign_and_list,
    take_back,
    terms_in_words,
    terms_of,
    wants_metrics_budget,
)
from consortia.participant.agreement import agreed_contracts, read
from consortia.participant.home import Home
from consortia.terms.many_participants import with_crowds
from consortia.terms.policy import Policy, parse_policy
from consortia.terms.scenario import committed_scenarios, find_scenario, load_scenario

_PREFIX = "sha256:"
_MOST = 2**63 - 1


@dataclass(frozen=True)
class Listed:
    """A contract that the policy lists, or to which an agreement lies in the home.

    `purpose` and `until` are what was signed; empty where nothing was, `purpose` also where it cannot be read.
    """

    entry: str
    name: str
    signed: bool
    purpose: str = ""
    until: str = ""


class Contracts:
    """The contracts that one home's pages offer.

    Parameters
    ----------
    home : Home
    files : sequence of Path
        Scenarios that whoever started the server named. A page names no file: it chooses one of the list.
    """

    def __init__(self, home: Home, files: Sequence[Path] = ()) -> None:
        self._home = home
        self._files = {file.name: file.resolve() for file in files}

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """The scenarios whose roster names this participant: those given, then those that come with the platform."""
        known = [*self._files, *(name for name in committed_scenarios() if name not in self._files)]
        return tuple(name for name in known if self._is_in(name))

    def listed(self, policy: Policy) -> list[Listed]:
        """Return what can be taken back."""
        entries = [] if policy.allow.contracts == "any" else list(policy.allow.contracts)
        agreed = {f"{_PREFIX}{sha256}" for sha256 in agreed_contracts(self._home)}
        return [self._listed(entry, signed=entry in agreed) for entry in [*entries, *sorted(agreed - set(entries))]]

    def _listed(self, entry: str, *, signed: bool) -> Listed:
        name = self._named.get(entry, "")
        try:
            found = read(self._home, entry.removeprefix(_PREFIX)) if signed else None
        except RefusedError:
            found = None
        return Listed(entry, name, signed, found.purpose if found else "", str(found.until or "") if found else "")

    def accept(self, given: dict[str, str]) -> Proposal:
        """Check a contract and say what a run of it may take; with a purpose it is signed.

        Raises
        ------
        InputError
            For a scenario that is not of the list, and for a contract that the policy accepts already or cannot serve.
        """
        name = given.get("scenario", "")
        if name not in self.names:
            raise InputError("scenario: wanted one of the list, got another name")
        loaded = load_scenario(self._path(name)).with_overrides(
            rounds=_whole(given, "rounds", 1), seed=_whole(given, "seed", 0)
        )
        home, text, policy = self._home, *self._policy()
        entry = f"{_PREFIX}{loaded.contract.sha256()}"
        purpose = given.get("purpose", "").strip()
        more = []
        if purpose or policy.allow.signed:
            agreement = agreement_of(home, policy, loaded, purpose, given.get("until", "").strip())
            terms = agreement.model_dump(mode="json")
            others = sum(not one.signed for one in self.listed(policy))
            if not policy.allow.signed:
                more.append("From then on signed contracts alone count (allow.signed = true in the policy).")
                more += [f"{others} listed without a signature: refused until signed, too."] if others else []

            def make() -> object:
                return sign_and_list(home, agreement, shown=text)

        else:
            if policy.allow.contracts == "any" or entry in policy.allow.contracts:
                raise InputError(f"wanted a contract that the policy does not accept yet, got {entry[:19]}…")
            terms = terms_of(home, policy, loaded)

            def make() -> object:
                contract_list.accept(home, entry, shown=text)
                return None

        if wants_metrics_budget(policy, loaded.contract):
            more.append("It wants metrics with noise, and the policy has no budget for them: change the budget first.")
        signs = "purpose" in terms
        return Proposal(
            heading=f"{'Sign' if signs else 'Accept'} the contract of {loaded.name}?",
            lines=[*terms_in_words(terms, policy, loaded), f"contract: {entry}", *more],
            effect="The policy lists it, and the ledger notes that. It costs no budget until a run of it begins.",
            button="Sign and accept" if signs else "Accept",
            back="/policy",
            make=make,
        )

    def withdraw(self, given: dict[str, str]) -> Proposal:
        """Say what follows from taking a contract back.

        Raises
        ------
        InputError
            For a contract that is neither listed nor agreed to.
        """
        home, text, policy = self._home, *self._policy()
        found = next((one for one in self.listed(policy) if one.entry == given.get("contract", "")), None)
        if found is None:
            raise InputError("contract: wanted one of the list, got another")

        def make() -> None:
            if found.signed:
                take_back(home, found.entry.removeprefix(_PREFIX), shown=text)
            else:
                contract_list.remove(home, found.entry, shown=text)

        return Proposal(
            heading="Take the contract back?",
            lines=[
                f"contract: {found.entry}{f' ({found.name})' if found.name else ''}",
                "A run of it that goes on gets nothing further from you; a later one is refused.",
                *(["Your signed agreement to it is deleted, and the ledger notes that."] if found.signed else []),
                "What was released before cannot be called back, and stays charged.",
            ],
            effect="It costs nothing. To be taken out of a finished run's model, ask its coordinator "
            "(`consortia leave`).",
            button="Take it back",
            back="/policy",
            make=make,
        )

    def _policy(self) -> tuple[str, Policy]:
        text = self._home.policy.read_text(encoding="utf-8-sig")
        return text, parse_policy(text, str(self._home.policy))

    def _path(self, name: str) -> str:
        return str(self._files[name]) if name in self._files else name

    def _is_in(self, name: str) -> bool:
        """Return whether a roster names this participant; the roster alone is read, which loads no library."""
        try:
            path = find_scenario(self._path(name))
            roster = with_crowds(read_toml(path), str(path)).get("roster", [])
        except ConsortiaError:
            return False
        return any(isinstance(line, dict) and line.get("name") == self._home.participant for line in roster)

    @functools.cached_property
    def _named(self) -> dict[str, str]:
        """Names by the hash of the contract as its file says it."""
        return {f"{_PREFIX}{load_scenario(self._path(name)).contract.sha256()}": name for name in self.names}


def _whole(given: dict[str, str], name: str, least: int) -> int | None:
    text = given.get(name, "").strip()
    if not text:
        return None
    if not text.isdecimal() or not text.isascii() or not least <= int(text[:20]) <= _MOST:
        raise InputError(f"{name}: wanted a whole number from {least} on, got another text")
    return int(text)
