"""What a report is made of: sections of sentences, facts, tables and plots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

__all__ = ["WORDS", "Chart", "Section", "Table"]

#: The title of the glossary.
WORDS = "The words of this report"


@dataclass(frozen=True)
class Table:
    """A table; the first cell of a row names it."""

    caption: str
    heads: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


@dataclass(frozen=True)
class Chart:
    """A plot with its caption."""

    caption: str
    drawing: Markup


@dataclass
class Section:
    """One heading and what stands below it."""

    title: str
    says: list[str] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)

    @property
    def words(self) -> bool:
        """Whether its facts are a glossary."""
        return self.title == WORDS
