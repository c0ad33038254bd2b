"""Reads the node config, which the participant itself sets. It loads nothing large, because a waiting launcher uses
it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from consortia.common.logs import OwnFile
from consortia.participant.home import Home

if TYPE_CHECKING:
    from flwr.app import Context


def log_at_home(home: Home) -> None:
    """Write the participant's own log to its folder, unless this process already does (a simulation)."""
    logger = logging.getLogger("consortia.participant")
    if not logger.handlers:
        logger.propagate = False
        logger.addHandler(OwnFile(home.log, home.participant))


def home_of(context: Context) -> Home:
    """Return the participant's folder from the node config, which only the participant itself sets."""
    ledger = _text(context, "ledger")
    return Home(
        Path(_text(context, "home")),
        _text(context, "participant"),
        # Flower may pass a flag as text; "false" must not count as true.
        simulation=context.node_config.get("simulation", False) is True,
        ledger_folder=Path(ledger) if ledger else None,
        control=context.node_config.get("control", False) is True,
    )


def source_of(context: Context) -> str | None:
    """Return the source that replaces the policy's own; the participant itself sets it."""
    return _text(context, "source") or None


def _text(context: Context, key: str) -> str:
    value = context.node_config.get(key, "")
    if not isinstance(value, str):
        raise TypeError(f"node config {key}: wanted text")
    return value
