"""`consortia dashboard`: shows runs to the coordinator, or a home to its participant."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from consortia.common.console import err, tell
from consortia.common.errors import InputError

if TYPE_CHECKING:
    from consortia.dashboard.app import View
    from consortia.dashboard.oidc import SignIn


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
    oidc_issuer: Annotated[
        str,
        typer.Option(
            metavar="URL",
            envvar="CONSORTIA_OIDC_ISSUER",
            help="Browsers sign in at this OpenID Connect provider, not with a token.",
        ),
    ] = "",
    oidc_client_id: Annotated[
        str, typer.Option(envvar="CONSORTIA_OIDC_CLIENT_ID", help="What the provider calls this dashboard.")
    ] = "",
    oidc_secret_file: Annotated[
        Path | None,
        typer.Option(
            envvar="CONSORTIA_OIDC_SECRET_FILE",
            help="File with its secret there; else $CONSORTIA_OIDC_SECRET; neither: PKCE alone.",
        ),
    ] = None,
    oidc_address: Annotated[
        str,
        typer.Option(
            metavar="URL",
            envvar="CONSORTIA_OIDC_ADDRESS",
            help="Where browsers find this dashboard; default http://HOST:PORT.",
        ),
    ] = "",
    oidc_roles: Annotated[
        str,
        typer.Option(
            metavar="CLAIM",
            envvar="CONSORTIA_OIDC_ROLES",
            help="Claim of the ID token that holds the roles; a point leads into it.",
        ),
    ] = "roles",
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
    if not oidc_issuer and (oidc_client_id or oidc_secret_file is not None or oidc_address):
        raise InputError("--oidc-issuer: wanted the provider's address with the other --oidc options, got none")
    if oidc_issuer and not oidc_client_id:
        raise InputError("--oidc-client-id: wanted what the provider calls this dashboard, got none")
    from consortia.dashboard.security import CHANGE_VARIABLE, TOKEN_VARIABLE, token_from_environment
    from consortia.dashboard.serve import listen, serve

    if home is not None and not _is_loopback(host):
        err.print(f"{host} can be called from elsewhere: this view is {participant}'s own", style="yellow")
    acts = _acts(home or runs or Path("runs"), changes=allow_changes)
    if oidc_issuer:
        scrape = token_from_environment()[0] if os.environ.get(TOKEN_VARIABLE) else ""
        secret = _secret(oidc_secret_file)
        with contextlib.closing(listen(host, port)) as listener:
            address = oidc_address.rstrip("/") or _address(host, listener)
            provider = _provider(
                participant,
                issuer=oidc_issuer,
                client_id=oidc_client_id,
                secret=secret,
                address=address,
                claim=oidc_roles,
            )
            tell(f"{address}/")
            tell(f"sign-in: {oidc_issuer}, with the role {provider.settings.look} or {provider.settings.change}")
            tell(f"token for /metrics: {f'${TOKEN_VARIABLE}' if scrape else f'none; set ${TOKEN_VARIABLE}'}")
            serve(view, scrape, listener, participant, provider=provider, changes=allow_changes, acts=acts)
        return
    token, made = token_from_environment()
    change_token, change_made = token_from_environment(CHANGE_VARIABLE) if allow_changes else ("", False)
    if token == change_token:
        raise InputError(f"${CHANGE_VARIABLE}: wanted another token than ${TOKEN_VARIABLE}, got the same")
    listener = listen(host, port)
    tell(f"{_address(host, listener)}/")
    tell(f"token: {token}" if made else f"token: ${TOKEN_VARIABLE}")
    if allow_changes:
        told = change_token if change_made else f"${CHANGE_VARIABLE}"
        tell(f"token for changes: {told}")
    serve(view, token, listener, participant, change_token, acts=acts)


def _acts(folder: Path, *, changes: bool) -> Path | None:
    """Return where acts are noted; a folder that cannot be written gets none, and then nothing may be changed."""
    if os.access(folder, os.W_OK):
        return folder
    if changes:
        raise InputError(f"--allow-changes: wanted a folder that can be written, got {folder}; acts are noted in it")
    err.print(f"{folder} cannot be written: no sign-in is noted", style="yellow")
    return None


def _address(host: str, listener: socket.socket) -> str:
    return f"http://{host}:{listener.getsockname()[1]}"


def _provider(participant: str | None, **settings: str) -> SignIn:
    """Return the provider; a participant's roles carry its name, because one provider may serve several dashboards."""
    try:
        from consortia.dashboard.oidc import Settings, SignIn, check_address
    except ImportError:
        raise InputError("--oidc-issuer: wanted the package authlib, got none; pip install 'consortia[oidc]'") from None
    check_address("--oidc-address", settings["address"])
    look, change = (
        ("viewer", "coordinator") if participant is None else (f"viewer:{participant}", f"owner:{participant}")
    )
    return SignIn(Settings(look=look, change=change, **settings))


def _secret(file: Path | None) -> str:
    if file is None:
        return os.environ.get("CONSORTIA_OIDC_SECRET", "")
    try:
        found = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--oidc-secret-file {file}: wanted text, got {type(error).__name__}") from None
    if not found:
        raise InputError(f"--oidc-secret-file {file}: wanted the client's secret, got an empty file")
    return found


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
