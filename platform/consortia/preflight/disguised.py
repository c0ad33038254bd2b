"""Recognises identifiers in disguise, by their patterns and check digits: no language model, nothing downloaded.

Microsoft Presidio's recognisers come with a language pipeline (spaCy), which columns do not need; what would serve here
is that of `python-stdnum` (check digits) and `phonenumbers` (Google's plans of numbers).
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Sequence
from typing import Final

import phonenumbers
from stdnum import iban, luhn

__all__ = ["KINDS", "day_of", "kind_of", "share_of_text"]

#: Values of a column that are looked at.
_LOOKED_AT: Final = 2000
#: Which share of a column's values makes it one of a kind.
_MOST: Final = 0.5
_EMAIL: Final = re.compile(r"[^@\s]{1,64}@[^@\s.]+(\.[^@\s.]+)+")
_URL: Final = re.compile(r"(https?://|www\.)\S+", re.IGNORECASE)
_ADDRESS: Final = re.compile(r"(\d{1,3}\.){3}\d{1,3}")
_CARD: Final = re.compile(r"\d(?:[ -]?\d){12,18}")
_UUID: Final = re.compile(r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}", re.IGNORECASE)
_PHONE: Final = re.compile(r"(\+|00|0)[\d ()/.-]{6,20}")
_DAYS: Final = ("%Y-%m-%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%Y%m%d", "%Y/%m/%d", "%d-%m-%Y")
_OLDEST: Final = 115
#: More words or letters than a code has.
_WORDS, _LETTERS = 4, 40


def day_of(text: str) -> datetime.date | None:
    """Return the day that a text names; None when it names none."""
    head = text.strip().replace("T", " ").split(" ")[0]
    if not 8 <= len(head) <= 10:
        return None
    for form in _DAYS:
        try:
            return datetime.datetime.strptime(head, form).date()
        except ValueError:
            continue
    return None


def _is_birthday(text: str) -> bool:
    day, today = day_of(text), datetime.date.today()
    return day is not None and today.year - _OLDEST <= day.year <= today.year and day <= today


def _is_phone(text: str) -> bool:
    if not _PHONE.fullmatch(text) or day_of(text) is not None:
        return False
    written = "+" + text[2:] if text.startswith("00") else text
    for region in (None,) if written.startswith("+") else ("DE", "GB", "FR", "IT"):
        try:
            if phonenumbers.is_possible_number(phonenumbers.parse(written, region)):
                return True
        except phonenumbers.NumberParseException:
            continue
    return False


def _is_card(text: str) -> bool:
    return _CARD.fullmatch(text) is not None and luhn.is_valid(re.sub(r"[ -]", "", text))


#: In the order in which they are asked.
KINDS: Final[tuple[tuple[str, Callable[[str], bool]], ...]] = (
    ("e-mail", lambda text: _EMAIL.fullmatch(text) is not None),
    ("IBAN", lambda text: text[:2].isalpha() and bool(iban.is_valid(text))),
    ("UUID", lambda text: _UUID.fullmatch(text) is not None),
    ("web address", lambda text: _URL.fullmatch(text) is not None),
    ("network address", lambda text: _ADDRESS.fullmatch(text) is not None),
    ("payment card", _is_card),
    ("phone number", _is_phone),
    ("date", _is_birthday),
)


def kind_of(values: Sequence[str]) -> tuple[str, float]:
    """Return which kind of identifier most of the values look like, and their share; "" for none."""
    looked = values[:_LOOKED_AT]
    for name, recognises in KINDS:
        share = sum(recognises(value.strip()) for value in looked) / max(1, len(looked))
        if share >= _MOST:
            return name, share
    return "", 0.0


def share_of_text(values: Sequence[str]) -> float:
    """Return the share of values that read as free text: several words, or longer than a code."""
    looked = values[:_LOOKED_AT]
    return sum(len(v.split()) >= _WORDS or len(v) > _LETTERS for v in looked) / max(1, len(looked))
