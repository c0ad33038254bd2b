"""Tells the operator of a simulation, whose machine holds all homes, why participants refused or failed."""

from __future__ import annotations

import re

from consortia.common.own_log import troubles
from consortia.engines.base import Job

_FAILED = re.compile(r": (?:refused|incident [0-9a-f]+): (?P<cause>.*)", re.DOTALL)
_PLACE = re.compile(r" at [\w.<> :]+$")


def causes(job: Job) -> list[str]:
    """Return a sentence for each cause in the participants' own logs of this run; nothing outside a simulation.

    A cause that several participants share is listed once, with their names.
    """
    found: dict[str, list[str]] = {}
    for name, home in job.homes.items():
        if not home.simulation:
            continue
        for trouble in troubles(home.log):
            match = _FAILED.search(trouble.text)
            if trouble.run == job.run_id and match:
                cause = _PLACE.sub("", match["cause"])
                if name not in found.setdefault(cause, []):
                    found[cause].append(name)
    return [f"cause at {', '.join(names)}: {cause}" for cause, names in found.items()]
