"""`consortia demo`: a run in progress and its dashboard, on synthetic rows."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from consortia.common.console import out, tell
from consortia.terms.scenario import load_scenario


def demo(
    scenario: Annotated[str, typer.Option(help="Which scenario runs.")] = "cross-industry",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the dashboard; 0 takes a free one.")] = 0,
    folder: Annotated[Path, typer.Option("--out", help="Where the run is written.")] = Path("runs"),
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
) -> None:
    """Start a run on synthetic rows and the dashboard that shows it, and open the browser. Ctrl-C ends both."""
    load_scenario(scenario)
    from consortia.dashboard.coordinator import CoordinatorView
    from consortia.dashboard.security import token_from_environment
    from consortia.dashboard.serve import listen, serve

    folder.mkdir(parents=True, exist_ok=True)
    listener = listen("127.0.0.1", port)
    token, _ = token_from_environment()
    link = f"http://127.0.0.1:{listener.getsockname()[1]}/sign-in#token={token}"
    view = CoordinatorView(folder, None)
    view.starter.start(scenario)
    tell(f"{scenario} runs on synthetic rows, and is written to {folder}.")
    tell(link)
    out.print("Ctrl-C ends the run and the page.", highlight=False)
    try:
        if browser:
            webbrowser.open(link)
        serve(view, token, listener, None)
    finally:
        view.starter.end()
