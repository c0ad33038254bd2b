"""The command line: `consortia check|run|report|predict|export|models|dashboard|audit|budget|new|compose|...`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn, TypeVar

# Flower reads these when it is imported: a run needs no network.
# One thread per participant: small matrices lose more than they gain by two.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION", "1")

import click
import typer
from rich.console import Console

from clients.errors import ClientError
from clients.masking import masked
from consortia.disk import no_room
from consortia.errors import ConsortiaError, InputError
from consortia.logs import tolerant_streams
from privacy.errors import PrivacyError

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


def say(sentence: str) -> None:
    """Print a sentence in red to standard error, its secrets masked."""
    err.print(masked(sentence), style="red", markup=False, highlight=False, soft_wrap=True)


def _unexpected(error: Exception) -> NoReturn:
    if os.environ.get("CONSORTIA_TRACEBACK") == "1":
        raise error
    from consortia.answers import describe

    say(
        f"failed: an error of the program: {describe(error)}; its text is not shown, for it may hold a value of a row. "
        "CONSORTIA_TRACEBACK=1 shows all of it"
    )
    raise typer.Exit(1) from None


def build_app() -> typer.Typer:
    """Return the typer application with every command."""
    from consortia.cli import (
        audit,
        budget,
        check,
        compose,
        dashboard,
        models,
        new,
        participant,
        preflight,
        receipt,
        report,
        run,
        secure,
    )

    app = typer.Typer(
        name="consortia",
        help="Organisations of different industries train models together, each under its own privacy budget.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
    )
    app.command("check", epilog=check.EXAMPLE)(friendly(check.check))
    app.command("audit", epilog=audit.EXAMPLE)(friendly(audit.audit))
    app.command("run", epilog=run.EXAMPLE)(friendly(run.run))
    app.command("predict", epilog=models.PREDICT_EXAMPLE)(friendly(models.predict))
    app.command("export", epilog=models.EXPORT_EXAMPLE)(friendly(models.export))
    app.command("models", epilog=models.MODELS_EXAMPLE)(friendly(models.models))
    app.command("report", epilog=report.EXAMPLE)(friendly(report.report))
    app.command("compose", epilog=compose.EXAMPLE)(friendly(compose.compose))
    app.command("receipt", epilog=receipt.EXAMPLE)(friendly(receipt.receipt))
    app.command("dashboard", epilog=dashboard.EXAMPLE)(friendly(dashboard.dashboard))
    app.command("preflight", epilog=preflight.EXAMPLE)(friendly(preflight.preflight))
    app.add_typer(participant.app, name="participant")
    app.add_typer(budget.app, name="budget")
    app.add_typer(new.app, name="new")
    app.add_typer(secure.app, name="secure")
    return app


def check_packages() -> None:
    """Refuse to run when a folder of the same name elsewhere stands in for one of the four packages.

    `privacy` and `clients` are words that other folders have too; whoever is first on the path wins.
    """
    import clients
    import consortia
    import privacy
    import strategies

    here = Path(str(consortia.__file__)).resolve().parent.parent
    roots = {here, here.parent if here.name == "platform" else here}
    for package in (clients, privacy, strategies):
        found = Path(str(package.__file__)).resolve().parent.parent
        if found not in roots:
            raise InputError(
                f"package {package.__name__!r}: wanted the one beside consortia in {here}, got one in {found}; "
                "start from another folder or with `python -P`"
            )


def main() -> None:
    """Entry point of the console script."""
    tolerant_streams()
    try:
        check_packages()
    except InputError as error:
        say(f"error: {error}")
        raise SystemExit(2) from None
    build_app()(prog_name="consortia")
