"""Errors of the platform. Every message names the parameter, what was wanted, what was got, and what to do."""

from __future__ import annotations

import os
import traceback
from pathlib import Path
from typing import Final

import clients
import privacy
from clients.errors import ClientError
from clients.masking import masked
from privacy.errors import PrivacyError

_PACKAGES: Final = (Path(__file__).parents[1], *(Path(str(one.__file__)).parent for one in (clients, privacy)))


class ConsortiaError(Exception):
    """Base of everything that the command line turns into one clear sentence. Secrets in its text are masked."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(masked(each) if isinstance(each, str) else each for each in arguments))


class InputError(ConsortiaError):
    """The user's input cannot be used (exit status 2). Nothing was started and nothing was lost."""

    def __init__(self, *problems: str) -> None:
        self.problems = tuple(masked(problem) for problem in problems)
        super().__init__("\n".join(self.problems))


class RunFailedError(ConsortiaError):
    """A run ended without a model, for a named reason (exit status 1)."""


class RunRefusedError(InputError):
    """A run that cannot succeed was not started: nobody trained, and nobody was charged (exit status 2)."""


class WireError(ConsortiaError):
    """Bytes that came over the wire are not an envelope of this version."""


class ArgumentError(ConsortiaError, ValueError):
    """A function was given what it cannot work with: parameter, wanted, got. No message holds a row's value."""


class PointsError(ArgumentError):
    """Identifiers or blinded points that a private set intersection cannot use. No message holds one of them."""


class SharedUnitsError(ConsortiaError):
    """Rows that another data set of this participant has, too, and that do not share its lifetime."""


class RefusedError(ConsortiaError):
    """A participant does not take part. `code` is all that crosses; the sentence stays at home.

    Parameters
    ----------
    code : str
        One of `consortia.messages.envelope.REFUSALS`.
    detail : str
        What the participant's own log says.
    """

    def __init__(self, code: str, detail: str) -> None:
        self.code = code
        self.detail = masked(detail)
        super().__init__(f"{code}: {self.detail}")

    def __reduce__(self) -> tuple[type[RefusedError], tuple[str, str]]:
        """Let it cross to another process (`consortia.common.jobs`)."""
        return type(self), (self.code, self.detail)


def describe(error: BaseException) -> str:
    """Return kind and place of an error; its text only where the platform or the system itself wrote it.

    Who raised it counts, not its class: a partner's module may raise an error of ours with a row's value in its text.
    """
    frames = traceback.extract_tb(error.__traceback__)
    where = " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames[-4:]))
    ours = isinstance(error, (ConsortiaError, PrivacyError, ClientError)) and (not frames or _own(frames[-1].filename))
    text = f": {error}" if ours else ""
    if isinstance(error, OSError) and error.errno is not None:
        text = f": {os.strerror(error.errno)}"
    return f"{type(error).__name__}{text} at {where}"


def _own(file: str) -> bool:
    """Return whether a file is of the platform's own packages."""
    return any(Path(file).is_relative_to(folder) for folder in _PACKAGES)
