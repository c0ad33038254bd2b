"""Sentences about a vertical run, before it and after it."""

from __future__ import annotations

from typing import Final

#: The cost of `hide_membership`, from `benchmarks/vertical.py --part overlap` with 10 split seeds (cards: 3).
HIDDEN: Final = (
    "Who is matched is hidden from the label owner: rows that a partner does not know get drawn scores. Measured cost "
    "in AUC at 30 / 60 % overlap: heart .032 / .033, AI4I .042 / .046 (labels at ε = 2), cards .008 / .011."
)
