"""The last sections of a report: the glossary, the model card, the environment and hashes."""

from __future__ import annotations

from markupsafe import Markup

from consortia.models.fairness import fairness_of_record
from consortia.reports.glossary import lines as glossary
from consortia.reports.many_participants import first
from consortia.reports.page.facts import Facts
from consortia.reports.page.parts import WORDS, Section, Table
from consortia.reports.proofs import proofs
from consortia.reports.receipt_table import synthetic_for
from consortia.terms.contract_fields import IndustryTerms
from consortia.trust.passport import known_passport

__all__ = ["card_section", "model_words", "origin_section", "proof_section", "words_section"]


def model_words(terms: IndustryTerms) -> str:
    """Return a network in words."""
    hidden = ", ".join(str(width) for width in terms.model.hidden)
    return f"{terms.model.kind}, hidden widths {hidden}" if hidden else terms.model.kind


def words_section(facts: Facts) -> Section:
    """Return a line for every term."""
    del facts
    return Section(WORDS, facts=glossary())


def card_section(facts: Facts) -> Section:
    """Return the model card."""
    contract = facts.run.scenario.contract
    section = Section("Model card")
    how = dict.fromkeys(
        part.contract.strategy.name if part.contract.noisy_sums is None else f"learner {part.contract.learner}"
        for part in facts.run.scenario.parts()
    )
    industries = ", ".join(
        sorted({participant["industry"] for _, participant in first(list(facts.result["participants"].items()))})
    )
    data = "synthetic rows" if facts.result["synthetic"] else "the participants' own rows, which never left them"
    if some := synthetic_for(facts.result):
        data = f"synthetic rows for {some}, own rows for the others"
    section.facts = [
        (
            "model",
            "; ".join(f"{n}: {model_words(t)}" for n, t in contract.industries.items()) or "one model a participant",
        ),
        ("trained by", f"{len(facts.result['participants'])} participants ({industries}), {', '.join(how)}"),
        ("training data", data),
        ("intended use", "decisions of these participants, on rows of the schema that the contract names"),
        (
            "out of scope",
            "rows of other schemas or populations; use by others of a model that its manifest gives no guarantee",
        ),
        ("evaluation", "untouched test rows of each participant, split by a keyed hash of the unit; see above"),
        ("privacy", "per participant, for the unit, δ and horizon of the table above; nothing is promised beyond"),
        (
            "limitations",
            "a gain whose interval includes zero is no gain; in a small group members can infer each other's updates",
        ),
        ("fairness", _fairness(facts)),
        ("how to use", "consortia predict and consortia export, whose manifest carries hashes and guarantee"),
    ]
    return section


def _fairness(facts: Facts) -> str:
    measured = fairness_of_record(facts.result)
    if not measured:
        return "differences between groups of persons were not measured"
    return f"measured for {', '.join(f'{one.industry} by {one.column}' for one in measured)}; see above"


def proof_section(facts: Facts) -> Section | None:
    """Return where the run's passport and evidence pack are; nothing where there is neither."""
    section = Section("Proof")
    for proof in proofs(facts.run.folder, facts.result["run_id"]):
        section.says.append(proof.says)
        more = f", sha256:{proof.sha256}" if proof.sha256 else ""
        section.facts.append((proof.kind, _linked(facts, proof.file, more)))
    return section if section.facts and not facts.whose else None


def _linked(facts: Facts, file: str, more: str) -> str:
    """Return a file of the run's folder, as a link where the report stands beside it."""
    return (
        Markup('<a href="{0}">{0}</a>{1}').format(file, more) if facts.beside else f"{file} of the run's folder{more}"
    )


def origin_section(facts: Facts) -> Section:
    """Return what made the run, and the hashes of its files."""
    section = Section("Environment and hashes")
    section.facts = [("run", facts.run.id), ("contract", f"sha256:{facts.result['contract_sha256']}")]
    section.facts += [("passport", f"sha256:{sha256}") for sha256 in known_passport(facts.run.folder).values()]
    section.facts += list(facts.result.get("environment", {}).items())
    rows = list(facts.result.get("files", {}).items())
    section.tables.append(Table("SHA-256 of the coordinator's files", ("file", "sha256"), rows))
    return section
