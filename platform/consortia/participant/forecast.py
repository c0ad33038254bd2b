"""Keeps what a participant was told to expect from a run, from the first message that it answered.

The forecast comes from the coordinator and is computed from public numbers. It is only compared with the receipt, and
decides nothing. A different forecast in a later message is ignored.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from consortia.common.disk import write_json
from consortia.participant.home import Home
from consortia.terms.forecast import FILE, METRIC, Forecast

__all__ = ["beside", "keep"]

log = logging.getLogger("consortia.participant")


def keep(home: Home, run_id: str, told: Forecast | None) -> None:
    """Keep the first forecast of a run. A failure is only logged, because a reply must not depend on it."""
    file = _file(home, run_id)
    if told is None or file.is_file():
        return
    try:
        write_json(file, told.to_json())
    except OSError as error:
        log.error("%s: no forecast is kept: %s", home.participant, type(error).__name__)


def beside(home: Home, run_id: str, net_gains: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a receipt with the forecast, and whether the measured net gain lies in its interval.

    Returns
    -------
    dict
        `forecast`, with `held`: None if the metric was not measured or has no forecast. Empty without a forecast.
    """
    file = _file(home, run_id)
    if not file.is_file():
        return {}
    told = json.loads(file.read_text(encoding="utf-8"))
    gain, measured = told["gain"], net_gains.get(METRIC)
    held = gain["low"] <= measured["value"] <= gain["high"] if gain and measured else None
    return {"forecast": {**told, "held": held}}


def _file(home: Home, run_id: str) -> Path:
    return home.run_folder(run_id) / FILE
