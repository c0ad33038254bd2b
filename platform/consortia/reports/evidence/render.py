"""Renders an evidence pack: documents in Markdown whose every sentence carries a link, facts, Croissant metadata.

A sentence is written by `say`, with what it rests on; what nobody here can know is written by `ask`, with whom to ask.
A link into `facts.json` is a JSON pointer (RFC 6901) that leads somewhere, else the pack is not made.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from consortia.common.disk import write_json, write_text
from consortia.common.words import epsilon_text, number
from consortia.reports.decision import listed
from consortia.reports.evidence.card import front_matter
from consortia.reports.evidence.schema import croissant
from consortia.reports.evidence.sources import SOURCES
from consortia.reports.fairness import WORDS as FAIRNESS
from consortia.reports.many_participants import first, rest
from consortia.trust.trusted_coordinator import sentence

__all__ = ["write"]

FACTS: Final = "facts.json"
#: The documents of a run, then those of each industry.
_DOCUMENTS: Final = {"dpia.md": "DPIA annex", "ai_act.md": "EU AI Act", "hipaa.md": "HIPAA expert determination"}
#: What leaves, by the contract's word for it; another word stands for itself.
_LEAVING: Final = {
    "update": "model updates of each round",
    "sums": "two messages of sums",
    "additive": "messages of histograms",
    "blocks": "blocks of a package's learner",
    "statistics": "one message of statistics",
    "metrics": "metrics on evaluation rows",
    "size": "a noisy number of units, once",
}
_BY_INDUSTRY: Final = {"model_card": "Model card", "data_sheet": "Data sheet"}


@dataclass
class Part:
    """A heading of a document: how many sentences stand below it, and what is open."""

    title: str
    said: int = 0
    asked: int = 0


@dataclass
class Document:
    """A document while it is written.

    Attributes
    ----------
    facts : mapping
        What links into `facts.json` may point at.
    parts : list of Part
        Its headings, in order.
    questions : list of tuple of str
        The open questions: heading, question, whom to ask.
    """

    facts: Mapping[str, Any]
    parts: list[Part] = field(default_factory=list)
    questions: list[tuple[str, str, str]] = field(default_factory=list)

    def head(self, title: str) -> str:
        """Begin a part."""
        self.parts.append(Part(title))
        return f"## {title}"

    def say(self, text: str, *links: str) -> str:
        """Return a sentence with the links to what it rests on, one at least."""
        if not links:
            raise ValueError(f"wanted what the sentence rests on, got nothing: {text}")
        if self.parts:
            self.parts[-1].said += 1
        return f"* {plain(text)} {' '.join(self._link(link) for link in links)}"

    def ask(self, question: str, who: str) -> str:
        """Return an open question."""
        title = self.parts[-1].title if self.parts else ""
        if self.parts:
            self.parts[-1].asked += 1
        self.questions.append((title, question, who))
        return f"* **Open question** for {who}: {plain(question)}"

    def _link(self, link: str) -> str:
        word, _, pointer = link.partition(":")
        if word in {"record", "contract"}:
            path = f"/contract{pointer}" if word == "contract" else pointer
            resolve(self.facts, path)
            return f"[{word}]({FACTS}#{path})"
        source = SOURCES[link]
        return f"[{'test' if source.test else 'source'}](sources.md#{link})"


def resolve(facts: Any, pointer: str) -> Any:
    """Return what a JSON pointer (RFC 6901) leads to; LookupError when it leads nowhere."""
    found = facts
    for word in pointer.split("/")[1:]:
        name = word.replace("~1", "/").replace("~0", "~")
        found = found[int(name)] if isinstance(found, list) else found[name]
    return found


def plain(text: object) -> str:
    """Return text that Markdown takes as text: what a scenario says can be no tag, link, cell or line of its own."""
    shown = html.escape(str(text), quote=False).replace("\n", " ").replace("|", "\\|")
    return shown.replace("[", "\\[").replace("]", "\\]")


def write(facts: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the pack into a folder and return its files."""
    folder.mkdir(parents=True, exist_ok=True)
    texts: dict[str, str] = {}
    made: dict[str, tuple[str, Document]] = {}
    for file, title in _DOCUMENTS.items():
        document = Document(facts)
        texts[file], made[file] = _render(file, document), (title, document)
    for name, industry in facts["industries"].items():
        for kind, title in _BY_INDUSTRY.items():
            document = Document(facts)
            file = f"{kind}-{name}.md"
            text = _render(f"{kind}.md", document, name=name, industry=industry)
            if kind == "model_card":
                head = yaml.safe_dump(front_matter(facts, name), sort_keys=False, allow_unicode=True)
                text = f"---\n{head}---\n{text}"
            texts[file], made[file] = text, (f"{title}: {name}", document)
    texts["sources.md"] = _render("sources.md", Document(facts), sources=SOURCES)
    texts["README.md"] = _render("README.md", Document(facts), documents=made)
    for file, text in texts.items():
        write_text(folder / file, text)
    data: dict[str, Any] = {FACTS: dict(facts)}
    for name, industry in facts["industries"].items():
        data[f"croissant-{name}.json"] = croissant(name, industry["title"], industry["schema"])
    for file, content in data.items():
        write_json(folder / file, content)
    return [folder / file for file in sorted({*texts, *data})]


def _render(page: str, document: Document, **more: Any) -> str:
    written = {"head": document.head, "say": document.say, "ask": document.ask, "facts": document.facts}
    return _environment().get_template(page).render(**written, **more)


@cache
def _environment() -> Environment:
    made = Environment(  # noqa: S701 - Markdown; `plain` escapes what is not ours
        loader=PackageLoader("consortia.reports.evidence", "pages"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {"plain": plain, "listed": lambda names: listed(list(names)), "number": number}
    made.globals |= {
        "account": account_words,
        "central": sentence,
        "shown": lambda items: first(list(items)),
        "rest": rest,
        "fairness_words": FAIRNESS,
        "loop_index": lambda items, one: items.index(one),
        "leaving": lambda words: listed([_LEAVING.get(word, word) for word in words]),
    }
    return made


def account_words(name: str, line: Mapping[str, Any]) -> str:
    """Return what a run cost a participant's units, with δ, unit, relation and horizon."""
    account = line["epsilon"]
    if account["non_private"]:
        return f"{name}: ε = ∞ in this run. It is non-private: nothing is promised to any unit."
    if account["run"] is None or account["delta"] is None:
        return f"{name}: no ε, since no release of it was taken in this run."
    budget = "" if account["budget"] is None else f" of a run budget of {epsilon_text(account['budget'])}"
    return (
        f"{name}: ε = {epsilon_text(account['run'])}{budget}, δ = {account['delta']:g}, unit: {account['unit']}, "
        f"counted for adding or removing one unit, horizon: {account['horizon']}."
    )
