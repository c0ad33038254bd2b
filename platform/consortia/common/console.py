"""Prints for the commands, and turns errors into sentences and exit statuses."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Callable
from functools import wraps
from typing import Any, NoReturn, TypeVar

import click
import typer
from rich.console import Console

from clients.errors import ClientError
from clients.masking import masked
from consortia.common.disk import no_room
from consortia.common.errors import ConsortiaError, InputError, describe
from privacy.errors import PrivacyError

__all__ = ["begin", "err", "friendly", "out", "say", "shown", "tell"]

F = TypeVar("F", bound=Callable[..., Any])

out = Console(width=None if sys.stdout.isatty() else 120)
err = Console(stderr=True)


def friendly(function: F) -> F:
    """Turn errors into sentences and exit statuses: 1 a run failed or was interrupted, 2 bad input.

    Of an error that is not the platform's own only kind and place are printed, for pandas, SQLAlchemy and others quote
    rows and URLs. `CONSORTIA_TRACEBACK=1` lets it through, for whoever may see both.
    """

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except InputError as error:
            for problem in error.problems:
                say(f"error: {problem}")
            raise typer.Exit(2) from None
        except (ConsortiaError, ClientError, PrivacyError) as error:
            say(f"failed: {error}")
            raise typer.Exit(1) from None
        except OSError as error:
            if reason := no_room(error):
                say(f"failed: {reason}")
                raise typer.Exit(1) from None
            if error.filename is None:
                _unexpected(error)
            say(
                f"error: {error.filename}: wanted a place that can be read and written as the command needs it, got: "
                f"{error.strerror}; check the path and its permissions"
            )
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            err.print("interrupted; nothing that was committed is lost. The same command starts again.")
            raise typer.Exit(1) from None
        except (click.exceptions.Exit, click.ClickException, click.Abort):
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, its text may hold a value of a row
            _unexpected(error)

    return wrapped  # type: ignore[return-value]


def shown(text: str) -> str:
    """Return a text with what could steer a terminal written out: a file may hold it, and a forged one would use it."""
    steers = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
    return "".join(
        each if each in "\n\t" or unicodedata.category(each) not in steers else each.encode("unicode_escape").decode()
        for each in text
    )


def tell(text: str) -> None:
    """Print a text to standard output as it is: no markup, no colours, no broken line, nothing that steers."""
    out.print(shown(text), markup=False, emoji=False, highlight=False, soft_wrap=True)


def say(sentence: str) -> None:
    """Print a sentence in red to standard error, its secrets masked."""
    err.print(shown(masked(sentence)), style="red", markup=False, emoji=False, highlight=False, soft_wrap=True)


def begin(text: str, *, as_json: bool = False) -> None:
    """Print on standard error what a command does, before it loads what takes seconds; nothing for a program."""
    if not as_json:
        err.print(f"{shown(text)} …", markup=False, emoji=False, highlight=False, soft_wrap=True)


def _unexpected(error: Exception) -> NoReturn:
    if os.environ.get("CONSORTIA_TRACEBACK") == "1":
        raise error
    say(
        f"failed: an error of the program: {describe(error)}; its text is not shown, for it may hold a value of a row. "
        "CONSORTIA_TRACEBACK=1 shows all of it"
    )
    raise typer.Exit(1) from None
