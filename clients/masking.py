"""Hides secrets in text. Whatever prints a source, a URL or a foreign error calls `masked` first."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["SourceText", "masked"]

_HIDDEN: Final = "…"
#: From "://" to the last "@" before a space or a quote: a password may itself hold "/" and "@".
_USER: Final = re.compile(r"(?<=://)[^\s'\"<>]*@")
_KEY: Final = (
    r"[\w.-]*(?:passw(?:or)?d|pwd|passphrase|secret|token|credential|api[_-]?key|access[_-]?key|account[_-]?key|"
    r"sharedaccess|signature|(?<![a-z])sig|(?<![a-z])sas|(?<![a-z])auth(?:orization)?)[\w.-]*"
)
_VALUE: Final = r"(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[^\s&;,'\"<>)\]}]+)"
_PAIR: Final = re.compile(rf"(?P<name>{_KEY})(?P<is>\s*=\s*|(?:%3D)|['\"]\s*:\s*)(?P<value>{_VALUE})", re.IGNORECASE)


def masked(text: str) -> str:
    """Return `text` without the user and password of URLs and without the values of keys such as `password=`.

    It hides rather too much than too little: what stands before the last "@" of a URL is gone, whatever it is.
    """
    return _PAIR.sub(rf"\g<name>\g<is>{_HIDDEN}", _USER.sub(f"{_HIDDEN}@", text))


class SourceText(str):
    """A source as the policy has it. It reads and compares as its text; printed, formatted or shown it is masked."""

    __slots__ = ()

    def __str__(self) -> str:
        return masked(str.__str__(self))

    def __repr__(self) -> str:
        return repr(str(self))

    def __format__(self, specification: str) -> str:
        return format(str(self), specification)
