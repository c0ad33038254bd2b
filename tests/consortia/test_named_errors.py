"""Every error of the API is named: no bare ValueError, KeyError or IndexError is raised, nor comes from inside."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from consortia.common.errors import ArgumentError, ConsortiaError
from consortia.vertical import masks
from consortia.vertical.assistance import assist
from consortia.vertical.stacking import simplest
from privacy.errors import PlanError, PrivacyError
from privacy.ledger import Budget
from privacy.secure_sum.masks import add_mask, sum_words
from privacy.secure_sum.sharing import combine, open_box

ROOT = Path(__file__).resolve().parents[2]
BARE = {"ValueError", "KeyError", "IndexError", "TypeError", "RuntimeError", "Exception"}
#: Caught in the same file, by the name of the reply's sender; a validator, whose errors pydantic collects; and the
#: check of a package's value, whose errors `consortia_plugins` names.
CAUGHT = {"coordinator.py", "request.py", "contract.py", "registry.py"}
WORDS = np.zeros(3, dtype=np.uint32)


def test_no_bare_error_is_raised() -> None:
    bare = []
    for folder in ("privacy", "platform/consortia/vertical"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and path.name not in CAUGHT:
                    name = getattr(node.exc.func, "id", "")
                    bare += [f"{path.relative_to(ROOT)}:{node.lineno}: {name}"] if name in BARE else []
    assert not bare


CALLS: dict[str, Callable[[], Any]] = {
    "no partner": lambda: masks.masked(np.zeros(3, dtype=np.uint8), "a", {}),
    "no words": lambda: masks.add_up({}),
    "other lengths": lambda: masks.add_up({"a": WORDS, "b": WORDS[:2]}),
    "no candidate": lambda: simplest({}),
    "no number": lambda: simplest({"a": np.full(5, np.nan)}),
    "no model": lambda: assist(np.zeros((20, 2)), np.arange(20) % 2, ()),
    "few shares": lambda: combine({1: b"\1" * 33}, 2),
    "another box": lambda: open_box(b"k" * 32, b"x" * 60, 1),
    "short key": lambda: add_mask(WORDS.copy(), b"k", subtract=False),
    "nobody's words": lambda: sum_words([]),
    "text for a number": lambda: Budget("1", 1e-5),  # type: ignore[arg-type]
    "no delta": lambda: Budget(1.0, None),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", sorted(CALLS))
def test_what_cannot_be_used_is_named(name: str) -> None:
    with pytest.raises((ConsortiaError, PrivacyError), match="wanted") as caught:
        CALLS[name]()
    assert isinstance(caught.value, (ArgumentError, PlanError))
