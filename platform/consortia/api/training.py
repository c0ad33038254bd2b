"""`consortia.train`: from DataFrames to a run, by the way that a deployed participant's rows take."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tomli_w

from clients import registry, tables
from clients.dataset import RECORD
from clients.industry import IndustryClient
from clients.schema import Schema
from consortia.api.participants import Participant, check_columns, check_participants, settle_homes
from consortia.api.running import finished
from consortia.api.runs import Run, Scratch, as_arguments
from consortia.common.errors import ArgumentError
from consortia.engines.options import Options
from consortia.engines.runner import prepare
from consortia.planning.plan import make_plans
from consortia.terms.choice import AUTO
from consortia.terms.contract_fields import WIRE_VERSION
from consortia.terms.learners import GRADIENT
from consortia.terms.scenario import scenario_from_data
from consortia_plugins.arguments import named_arguments

__all__ = ["train"]

#: Rows in a step beyond which a smaller sampling rate is quicker, and still much signal.
_ROWS_A_STEP = 10_000


@named_arguments(ArgumentError)
def train(
    participants: Sequence[Participant],
    target: str | None = None,
    *,
    schema: Schema | str | None = None,
    rounds: int = 20,
    hidden: Sequence[int] = (),
    local_steps: int = 2,
    learning_rate: float = 0.5,
    clip: float = 1.0,
    sampling_rate: float | None = None,
    strategy: str | Mapping[str, Any] = "fedavg",
    split: tuple[float, float, float] = (0.6, 0.1, 0.3),
    seed: int = 0,
    contract: Mapping[str, Any] | None = None,
    folder: str | os.PathLike[str] | None = None,
    receipts: bool = True,
    progress: bool = False,
) -> Run:
    """Train participants with rows in DataFrames together, each at its own ε. A simulation by one person.

    Each frame is written into its participant's own home, with a policy, a split key and a ledger. From there on all is
    as in a deployment: policy check, charge, DP-SGD, release gate, receipt, in this process (engine `embedded`).

    Parameters
    ----------
    participants : sequence of Participant
    target : str, optional
        The column to predict; the schema is then INFERRED FROM THE ROWS OF ALL PARTICIPANTS, WHICH IS NOT PRIVATE and
        for simulation by one person only (`infer_schema`).
    schema : Schema or str, optional
        Instead of a target: public declarations (`declare_schema`), or the name of an installed industry.
    rounds, local_steps : int
        Rounds, and steps of DP-SGD in each. σ is solved for all of them together.
    hidden : sequence of int
        Widths of hidden layers; none is a linear model, which few rows and noisy steps reward.
    learning_rate, clip : float
        Of a step, and the norm bound of one unit's gradient. Features are scaled to [-1, 1] by the schema's bounds.
    sampling_rate : float, optional
        Poisson rate of units in a step. By default 1, or less where a participant declares more than 10 000 units.
    strategy : str or mapping
        Name of a strategy, or the scenario's table: `{"name": "fedprox", "options": {"mu": 0.1}}`.
    split : (train, validation, test)
        Shares of the units. Receipts are measured on test units. A home's split is fixed by its first run.
    seed : int
        Of start and splits; never of noise.
    contract : mapping, optional
        Further keys of a scenario's `[contract]`, such as `{"scopes": {"head": "private"}}`. Beside
        `{"learner": "sums"}`, or another learner without steps, parameters of networks (`rounds`, `clip`, ...)
        stay out.
    folder : path, optional
        Where homes and runs lie. A later call with the same folder goes on with the same ledgers and lifetime budgets.
        Without it they lie in a temporary folder that goes when the run is no longer referred to.
    receipts : bool
        Whether participants compare the model with their own at the end. Without it `Run.receipts` has accounts only.
    progress : bool
        Print the rounds.

    Returns
    -------
    Run

    Raises
    ------
    ArgumentError
        A ValueError that names parameter or key, wanted and got; no round was run.
    RunFailedError
        The run ended without a model; the message says why.

    Examples
    --------
    >>> run = consortia.train(participants, target="outcome", rounds=10)  # doctest: +SKIP
    >>> print(run)  # doctest: +SKIP
    """
    members = check_participants(participants)
    with as_arguments():
        client, inferred = _client(members, target, schema)
        check_columns(members, client.schema)
        if inferred is not None:
            registry.hold(client)
        if len(split) != 3:
            raise ArgumentError(f"split: wanted three shares (train, validation, test), got {len(split)}")
        asked = dict(contract or {})
        steps: dict[str, Any] = {
            "model": {"kind": "mlp" if hidden else "linear", "hidden": list(hidden)},
            "local_steps": local_steps,
            "sampling_rate": _rate(members) if sampling_rate is None else sampling_rate,
            "clip": clip,
            "learning_rate": learning_rate,
        }
        network: dict[str, Any] = {
            "rounds": rounds,
            "strategy": {"name": strategy} if isinstance(strategy, str) else dict(strategy),
        }
        if asked.get("learner", GRADIENT) not in (GRADIENT, AUTO):  # few messages of noisy sums: nothing takes steps
            given = {"local_steps": local_steps, "clip": clip, "learning_rate": learning_rate, "hidden": tuple(hidden)}
            given |= {"rounds": rounds, "sampling_rate": sampling_rate, "strategy": strategy}
            _check_left_out(asked["learner"], given)
            steps, network = {}, {}
        terms = {
            "schema": 1,
            "wire": WIRE_VERSION,
            **network,
            "seed": seed,
            "split": dict(zip(("train", "validation", "test"), split, strict=True)),
            "industries": {client.name: steps | ({"client": client.digest} if client.digest else {})},
            **asked,
        }
        roster = [each.participant(client) for each in members]
        given = {"schema": 1, "name": "frames", "title": "Rows from Python", "contract": terms, "roster": roster}
        data = _plain(given)
        scenario = scenario_from_data(data, "train")
        make_plans(scenario)  # before anything is written
        scratch = Scratch() if folder is None else None
        root = scratch.folder if scratch is not None else Path(folder or "").resolve()
        settle_homes(members, root / "homes", scenario.contract, client)
        file = root / "scenario.toml"
        file.write_text(tomli_w.dumps(data), encoding="utf-8")
        options = Options(scenario=str(file), ledger=root / "homes", out=root / "runs")
        job = prepare(options)
        if not receipts:
            job = replace(job, homes={name: replace(home, control=True) for name, home in job.homes.items()})
        if inferred is not None:
            tables.keep(job.folder, client.schema, labels=_labels(members, client.schema), inferred=inferred)
    return finished(job, options, progress=progress, scratch=scratch)


def _client(
    members: Sequence[Participant], target: str | None, schema: Schema | str | None
) -> tuple[IndustryClient, bool | None]:
    """Return the industry and whether its schema was inferred; None for an installed one."""
    if (target is None) == (schema is None):
        got = "neither" if target is None else "both"
        raise ArgumentError(f"target, schema: wanted one of them, got {got}; a schema names its own target")
    if isinstance(schema, str):
        return registry.get(schema), None
    if schema is not None:
        return tables.industry_of(schema), False
    units = dict.fromkeys(each.unit for each in members if each.unit != RECORD)
    inferred = tables.infer_schema([each.frame for each in members], str(target), identifiers=tuple(units))
    return tables.industry_of(inferred), True


def _check_left_out(learner: object, given: Mapping[str, Any]) -> None:
    """Raise ArgumentError where a parameter of networks is given beside a learner that takes no steps."""
    parameters = inspect.signature(train).parameters
    for name, value in given.items():
        if value != parameters[name].default:
            raise ArgumentError(
                f"{name}: wanted it left out with learner {learner!r}, which takes no steps, got {value!r}"
            )


def _plain(value: Any) -> Any:
    """Return what TOML can hold: numpy's numbers and arrays as Python's own."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, np.generic | np.ndarray):
        return _plain(value.tolist())
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _rate(members: Sequence[Participant]) -> float:
    return min(1.0, _ROWS_A_STEP / max(each.declared_units for each in members))


def _labels(members: Sequence[Participant], schema: Schema) -> str:
    """Return what the target's values are in the frames, whose classes a schema has as text."""
    return tables.sort_of(schema.target.name, pd.concat([each.frame[schema.target.name] for each in members]).dropna())
