"""What a sentence of an evidence pack may rest on beside the record: documents and tests of the source tree, law."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["SOURCES", "Source"]


@dataclass(frozen=True)
class Source:
    """A source: where it is, and what it shows.

    Attributes
    ----------
    where : str
        A path of the source tree, or what the source is called elsewhere.
    shows : str
        What it shows, in a sentence.
    test : bool
        Whether it is a test that can be run.
    """

    where: str
    shows: str
    test: bool = False


def _test(where: str, shows: str) -> Source:
    return Source(where, shows, test=True)


_GUARANTEES: Final = "docs/guarantees.md"
_SHARP: Final = "docs/sharp_edges.md"

SOURCES: Final = {
    "theorem": Source(f"{_GUARANTEES}, The theorem", "The guarantee: mechanism, sensitivity, noise, accounting."),
    "sums": Source(f"{_GUARANTEES}, Noisy sums", "What leaves with noisy sums, and its sensitivities."),
    "additive": Source(f"{_GUARANTEES}, Noisy histograms", "What leaves with noisy histograms, and its sensitivities."),
    "blocks": Source(f"{_GUARANTEES}, Learners that packages bring", "What is enforced of a package's learner."),
    "statistics": Source(f"{_GUARANTEES}, Statistics before training", "What leaves as noisy statistics."),
    "central": Source(f"{_GUARANTEES}, A trusted coordinator", "Towards whom a trusted coordinator's noise protects."),
    "secure": Source(f"{_GUARANTEES}, Secure sums", "On whom the noise of a secure sum counts."),
    "seen": Source(f"{_GUARANTEES}, Who sees what", "What each party sees in a run."),
    "not-protected": Source(f"{_GUARANTEES}, What is not protected", "What no ε covers."),
    "boundary": Source(f"{_GUARANTEES}, The trust boundary", "What a coordinator's bundle can and cannot do."),
    "table-of-tests": Source(f"{_GUARANTEES}, Which test shows it", "The test of every promise."),
    "sharp-edges": Source(_SHARP, "What is easy to get wrong."),
    "policy": Source("docs/how_to/policy.md", "The file in which a participant says what may leave and for which ε."),
    "agree": Source("docs/how_to/agree.md", "Contracts are accepted by hash, and by a signed agreement."),
    "passport": Source("docs/how_to/passport.md", "The signed statement of a run, and how anybody checks it offline."),
    "export": Source("docs/reference/cli.md, budget export", "A participant's ledger as JSON, for an auditor."),
    "leave": Source("docs/how_to/leave.md", "How a participant leaves a run, and what of it stays."),
    "records": Source("docs/reference/records.md", "What each file of a run holds, and whose it is."),
    "explain": Source("docs/how_to/explain.md", "Which columns a released model goes by, with what noise leaves open."),
    "fairness": Source("docs/how_to/fairness.md", "How a released model is measured by group."),
    "evidence": Source("docs/how_to/evidence.md", "How this pack is made and read."),
    "chain-test": _test("tests/privacy/test_chain.py", "Every edit of a ledger's row is found."),
    "ledger-test": _test("tests/privacy/test_ledger.py", "What was not charged does not leave."),
    "refusal-test": _test("tests/consortia/test_participant.py", "Refusals, receive-only, no text of errors leaves."),
    "neighbour-test": _test("tests/consortia/test_neighbour_game.py", "A planted mistake loses the game."),
    "sensitivity-test": _test("tests/privacy/test_sensitivity.py", "A unit's part goes by its own rows alone."),
    "noise-test": _test("tests/privacy/test_noise_laws.py", "Noise: size, shape, tails, independence."),
    "wire-test": _test("tests/consortia/test_wire_capture.py", "What leaves on the wire, field by field."),
    "nothing-private-test": _test("tests/consortia/test_nothing_private.py", "No row in an error, log or page."),
    "metrics-test": _test("tests/consortia/test_dp_metrics.py", "Metrics have their own account, and noise."),
    "fairness-test": _test("tests/consortia/test_fairness.py", "Groups: one charge, noisy counts, intervals."),
    "passport-test": _test("tests/consortia/test_passport_forgeries.py", "Forged passports are found."),
    "bundle-test": _test("tests/consortia/test_launcher.py", "No code of a coordinator runs at a participant."),
    "evidence-test": _test("tests/consortia/test_evidence.py", "A pack has sources, and nothing private."),
    "identifier-test": _test("tests/clients/test_schema.py", "Identifiers never reach a feature."),
    "kills-test": _test("tests/consortia/test_kills.py", "Whatever is killed, nothing is unaccounted."),
    "replies-test": _test("tests/consortia/test_coordinator.py", "Bad replies are dropped by name; waits are bounded."),
    "kairouz": Source(
        "Kairouz, Oh & Viswanath, The Composition Theorem for Differential Privacy, ICML 2015, theorem 2.1",
        "What (ε, δ) leaves of a test whether a unit took part.",
    ),
    "datasheets": Source("Gebru et al., Datasheets for Datasets, CACM 64(12), 2021", "The headings of a data sheet."),
    "gdpr": Source("Regulation (EU) 2016/679 (GDPR), art. 4, 9, 25, 28, 32, 35, 44", "The law that the DPIA answers."),
    "ico": Source(
        "Information Commissioner's Office (UK), sample DPIA template",
        "Its questions, grouped to twelve, are the headings of the DPIA annex.",
    ),
    "ai-act": Source("Regulation (EU) 2024/1689 (AI Act), art. 10 to 15, annex IV", "The fields of the documentation."),
    "hipaa": Source("45 CFR 164.514(a), (b)(1)", "De-identification by expert determination."),
}  # fmt: skip
