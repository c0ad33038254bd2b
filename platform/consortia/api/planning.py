"""`consortia.plan`: whether joining is worth it, before anybody joins."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from consortia.api.runs import as_arguments
from consortia.common.errors import ArgumentError
from consortia.participant.forecast_at_home import at_home
from consortia.participant.home import Home
from consortia.planning.plan import make_plans
from consortia.terms.forecast import Forecast, forecasts
from consortia.terms.scenario import load_scenario
from consortia_plugins.arguments import named_arguments

__all__ = ["plan"]

_COLUMNS = ("industry", "units", "epsilon", "delta", "n_eff")
_GAIN = ("net_gain", "net_gain_low", "net_gain_high")


@named_arguments(ArgumentError)
def plan(
    scenario: str | os.PathLike[str],
    *,
    epsilon: float | Mapping[str, float] | None = None,
    home: str | os.PathLike[str] | None = None,
) -> pd.DataFrame:
    """Return what each participant can expect of joining, as `consortia budget plan` does. Nothing runs.

    Parameters
    ----------
    scenario : str
        Name of a committed scenario, or path of a TOML file.
    epsilon : float or mapping, optional
        Other proposals: for everybody, or by participant.
    home : path, optional
        Home of one participant, named like it: its line then counts its own training rows, too. **That line stays at
        home**: it saw rows without noise, and a choice made by it is not charged.

    Returns
    -------
    DataFrame
        Index: participant. `units` train, at the proposed `epsilon` and `delta` of one run, adding or removing one
        unit (a record, or what the participant's policy names). `n_eff`: to how many further rows of its own the
        others amount. `net_gain` with `net_gain_low` and `net_gain_high`: expected net gain in `metric`, NaN where the
        target is not binary. `verdict`: "worth it", "little" or "not worth it". `basis` says what the line was made
        from. Only the learner `sums` has a verdict.

    Raises
    ------
    ArgumentError
        A ValueError that names key, wanted and got.
    """
    given = {} if epsilon is None else epsilon if isinstance(epsilon, Mapping) else {"": epsilon}
    with as_arguments():
        loaded = load_scenario(os.fspath(scenario)).with_overrides(
            epsilon=[f"{name}={value}" if name else f"{value}" for name, value in given.items()]
        )
        plans, found = make_plans(loaded), forecasts(loaded)
        if home is not None:
            folder = Path(home).resolve()
            found = {**found, folder.name: at_home(Home(folder, folder.name), loaded)}
    lines = {
        each.name: {
            "industry": each.industry,
            "units": each.training_units,
            "epsilon": loaded.participant(each.name).epsilon,
            "delta": each.delta,
            **_line(found.get(each.name)),
        }
        for each in plans
    }
    names = [*_COLUMNS, *_GAIN, "verdict", "metric", "basis"]
    table = pd.DataFrame.from_dict(lines, orient="index", columns=names)
    table.index.name = "participant"
    return table.astype(dict.fromkeys(("n_eff", *_GAIN), float))


def _line(forecast: Forecast | None) -> dict[str, object]:
    if forecast is None:
        return {}
    gain = forecast.gain
    ends = (None,) * 3 if gain is None else (gain.value, gain.low, gain.high)
    return {
        "units": forecast.units,
        "n_eff": forecast.effective_rows,
        **dict(zip(_GAIN, ends, strict=True)),
        "verdict": forecast.verdict,
        "metric": forecast.to_json()["metric"],
        "basis": forecast.basis,
    }
