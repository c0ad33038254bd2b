"""What commands print with, and how their errors become sentences and exit statuses."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import typer
from rich.console import Console

from consortia.disk import no_room
from consortia.errors import InputError, RunFailedError

__all__ = ["err", "friendly", "out"]

F = TypeVar("F", bound=Callable[..., Any])

out = Console(width=None if sys.stdout.isatty() else 120)
err = Console(stderr=True)


def friendly(function: F) -> F:
    """Turn the platform's errors into sentences and exit statuses: 1 a run failed or was interrupted, 2 bad input."""

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except InputError as error:
            for problem in error.problems:
                err.print(f"error: {problem}", style="red", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(2) from None
        except RunFailedError as error:
            err.print(f"failed: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(1) from None
        except OSError as error:
            if reason := no_room(error):
                err.print(f"failed: {reason}", style="red", markup=False, highlight=False, soft_wrap=True)
                raise typer.Exit(1) from None
            if error.filename is None:
                raise
            problem = (
                f"{error.filename}: wanted a place that can be read and written as the command needs it, got: "
                f"{error.strerror}; check the path and its permissions"
            )
            err.print(f"error: {problem}", style="red", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            err.print("interrupted; nothing that was committed is lost. The same command starts again.")
            raise typer.Exit(1) from None

    return wrapped  # type: ignore[return-value]
