"""`consortia dashboard`: shows runs to the coordinator, or a home to its participant."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from consortia.common.console import err, tell
from consortia.common.errors import InputError

if TYPE_CHECKING:
    from consortia.dashboard.app import View


def dashboard(
    runs: Annotated[Path | None, typer.Option(help="Coordinator's view of this folder of runs; default runs.")] = None,
    home: Annotated[Path | None, typer.Option(help="A participant's own view of its home; stays on its side.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8050,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    pki: Annotated[Path, typer.Option(help="Folder of certificates whose expiry is shown.")] = Path("pki"),
    allow_changes: Annotated[
        bool,
        typer.Option(
            "--allow-changes",
            help="Whoever signs in with the second token may change: an owner its budget and contracts; the "
            "coordinator starts runs.",
        ),
    ] = False,
    scenario: Annotated[
        list[Path] | None,
        typer.Option(help="With --home and --allow-changes: a scenario whose contract can be accepted; repeatable."),
    ] = None,
) -> None:
    """Serve live pages, read-only by default. A token is printed once; $CONSORTIA_DASHBOARD_TOKEN sets it."""
    if runs is not None and home is not None:
        raise InputError(
            "--runs and --home: wanted one of them, got both; what is a participant's own is never served beside the "
            "coordinator's view: start two"
        )
    if scenario and (home is None or not allow_changes):
        raise InputError("--scenario: wanted --home and --allow-changes with it, got it without")
    for file in scenario or []:
        if not file.is_file():
            raise InputError(f"--scenario {file}: wanted a TOML file, got nothing there; check the path")
    view, participant = _view(runs or Path("runs"), home, pki, scenario or [])
    from consortia.dashboard.security import CHANGE_VARIABLE, TOKEN_VARIABLE, token_from_environment
    from consortia.dashboard.serve import listen, serve

    token, made = token_from_environment()
    change_token, change_made = token_from_environment(CHANGE_VARIABLE) if allow_changes else ("", False)
    if token == change_token:
        raise InputError(f"${CHANGE_VARIABLE}: wanted another token than ${TOKEN_VARIABLE}, got the same")
    listener = listen(host, port)
    tell(f"http://{host}:{listener.getsockname()[1]}/")
    tell(f"token: {token}" if made else f"token: ${TOKEN_VARIABLE}")
    if allow_changes:
        told = change_token if change_made else f"${CHANGE_VARIABLE}"
        tell(f"token for changes: {told}")
    if home is not None and not _is_loopback(host):
        err.print(f"{host} can be called from elsewhere: this view is {participant}'s own", style="yellow")
    serve(view, token, listener, participant, change_token)


def _view(runs: Path, home: Path | None, pki: Path, scenarios: list[Path]) -> tuple[View, str | None]:
    if home is None:
        if not runs.is_dir():
            raise InputError(f"--runs {runs}: wanted a folder of runs, got nothing there; `consortia run` makes it")
        from consortia.dashboard.coordinator import PAGES, CoordinatorView

        if not PAGES.is_file():
            raise InputError("--runs: wanted the coordinator's image, got a participant's, which has --home alone")
        return CoordinatorView(runs, pki), None
    from consortia.dashboard.owner import OwnerView

    view = OwnerView.of(home, pki, scenarios)
    return view, view.participant


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
