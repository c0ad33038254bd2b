"""Whether a planted mistake still finds the text that it replaces."""

from __future__ import annotations

from pathlib import Path

from audit_mutants import Mutant


def check_text(mutant: Mutant, root: Path) -> None:
    """Assert that each text stands once in its file below `root`, and that what replaces it is Python."""
    for file, old, new in mutant.edits:
        text = (root / file).read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{mutant.name}: rewrite it, {file} has changed"
        compile(text.replace(old, new), file, "exec")
