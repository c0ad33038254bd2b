"""A participant of a simulation: a name, a frame with its rows, and the privacy budget that its owner sets."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tomli_w

from clients.dataset import RECORD
from clients.industry import IndustryClient
from clients.schema import Schema
from clients.tables import rows_of
from consortia.common.disk import settled, write_text
from consortia.common.errors import ArgumentError
from consortia.common.strict import listed
from consortia.deploy.homes import make_home
from consortia.participant.home import Home
from consortia.participant.identity import pin_each_other
from consortia.terms.contract import Contract
from consortia.terms.policy import policy_or_input_error

__all__ = ["Participant", "check_columns", "check_participants", "settle_homes"]

DATASET = "rows"
_NAME = re.compile(r"[a-z][a-z0-9-]{0,40}")
#: How many runs at `epsilon` a data set's lifetime holds, unless its owner says otherwise.
LIFETIME_RUNS = 4
#: A run's delta is at most one over so many times the number of units.
_PER_UNIT = 100
_NOTE = "Written by consortia.train for simulations; a deployment refuses it."


@dataclass(frozen=True, kw_only=True, eq=False)
class Participant:
    """One organisation of a simulation: its rows and its own privacy budget.

    Parameters
    ----------
    name : str
        Lower case letters, digits and hyphens, such as "hospital-a".
    frame : DataFrame (n_rows, any columns)
        Its rows. They are written into the participant's own home and read from there.
    epsilon : float
        What one run may spend, for adding or removing one unit; `math.inf` is non-private, and is called so everywhere.
    delta : float, optional
        Of one run. By default the smaller of 1e-5 and 1/(100 units).
    unit : str
        "record", or the column whose value says whose row it is (a patient, a machine): what ε protects.
    lifetime_epsilon : float, optional
        What all runs on these rows may spend together; four runs by default. With `folder=` a later run goes on with
        what is left. The lifetime's δ grows in proportion.
    units : int, optional
        Public number of units. By default it is counted in the frame, which is right only where that number is public.
    max_rows_per_unit : int, optional
        A unit with more rows keeps so many.
    synthetic : bool, optional
        The rows are made up, and every output says so. By default what `frame.attrs["synthetic"]` says.

    Raises
    ------
    ArgumentError
        A ValueError that names the parameter, wanted and got.
    """

    name: str
    frame: pd.DataFrame = field(repr=False)
    epsilon: float
    delta: float | None = None
    unit: str = RECORD
    lifetime_epsilon: float | None = None
    units: int | None = None
    max_rows_per_unit: int | None = None
    synthetic: bool | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ArgumentError(
                "name: wanted a participant's name of lower case letters, digits and hyphens that begins with a "
                f"letter, got {self.name!r}"
            )
        where = f"participant {self.name}"
        if not isinstance(self.frame, pd.DataFrame) or self.frame.empty:
            got = "an empty one" if isinstance(self.frame, pd.DataFrame) else type(self.frame).__name__
            raise ArgumentError(f"{where}: frame: wanted a DataFrame with rows, got {got}")
        for key in ("epsilon", "lifetime_epsilon"):
            value = getattr(self, key)
            if value is not None and not (_is_number(value) and value > 0):
                raise ArgumentError(f"{where}: {key}: wanted a number > 0 or math.inf (non-private), got {value!r}")
        if self.units is not None and not (isinstance(self.units, int | np.integer) and self.units >= 1):
            raise ArgumentError(f"{where}: units: wanted a whole number >= 1, got {self.units!r}")
        if self.unit != RECORD and self.unit not in self.frame:
            raise ArgumentError(f"{where}: unit: wanted 'record' or a column of its frame, got {self.unit!r}")
        if self.lifetime_epsilon is not None and self.lifetime_epsilon < self.epsilon < math.inf:
            raise ArgumentError(
                f"{where}: lifetime_epsilon: wanted at least epsilon = {self.epsilon:g}, got {self.lifetime_epsilon:g}"
            )
        if self.delta is not None and not (_is_number(self.delta) and 0 < self.delta < 1 / self.declared_units):
            raise ArgumentError(
                f"{where}: delta: wanted a number between 0 and 1/units = {1 / self.declared_units:.3g}, got "
                f"{self.delta!r}; a larger delta allows publishing whole rows"
            )

    @property
    def declared_units(self) -> int:
        """The public number of units."""
        if self.units is not None:
            return int(self.units)
        return len(self.frame) if self.unit == RECORD else max(1, int(self.frame[self.unit].nunique()))

    @property
    def run_delta(self) -> float:
        """The δ of one run."""
        return min(1e-5, 1 / (_PER_UNIT * self.declared_units)) if self.delta is None else self.delta

    @property
    def made_up(self) -> bool:
        """Whether the rows are synthetic."""
        return bool(self.frame.attrs.get("synthetic", False)) if self.synthetic is None else self.synthetic

    @property
    def non_private(self) -> bool:
        """Whether epsilon is infinite."""
        return math.isinf(self.epsilon)

    def participant(self, client: IndustryClient) -> dict[str, Any]:
        """Return the participant's line of a roster."""
        return {
            "name": self.name,
            "industry": client.name,
            "dataset": DATASET,
            "site": client.sites[0],
            "units": self.declared_units,
            "epsilon": float(self.epsilon),
            "delta": self.run_delta,
        }

    def policy(
        self, contract: Contract, client: IndustryClient, source: Path, lifetime: dict[str, float] | None
    ) -> dict[str, Any]:
        """Return the participant's own policy, which a deployment refuses.

        Parameters
        ----------
        source : Path
            Of its rows.
        lifetime : dict, optional
            The lifetime budget of an earlier run; it stays unless the owner names another.
        """
        run = {"epsilon": 1.0 if self.non_private else float(self.epsilon), "delta": self.run_delta}
        if lifetime is None or self.lifetime_epsilon is not None:
            whole = float(self.lifetime_epsilon or LIFETIME_RUNS * run["epsilon"])
            runs = LIFETIME_RUNS if math.isinf(whole) else whole / run["epsilon"]
            most = (1 - 1e-9) / self.declared_units
            lifetime = {"epsilon": runs * run["epsilon"], "delta": max(run["delta"], min(runs * run["delta"], most))}
        for key in ("epsilon", "delta"):
            if lifetime[key] < run[key]:
                raise ArgumentError(
                    f"participant {self.name}: {key}: wanted at most what its lifetime holds, {lifetime[key]:g}, got "
                    f"{run[key]:g}; set lifetime_epsilon to raise it, which its ledger records"
                )
        data: dict[str, Any] = {
            "industry": client.name,
            "source": f"parquet:{source}",
            "site": client.sites[0],
            "unit": self.unit,
            "declared_units": self.declared_units,
            "synthetic": self.made_up,
        }
        if self.max_rows_per_unit is not None:
            data["max_rows_per_unit"] = self.max_rows_per_unit
        return {
            "schema": 1,
            "participant": self.name,
            "demo": True,
            "dataset": {DATASET: data},
            "budget": {"run": run, "lifetime": lifetime},
            "allow": {
                "releases": list(contract.releases),
                "exact_metrics": "metrics" in contract.releases and contract.evaluation.metrics != "dp",
                "non_private": self.non_private,
                "contracts": "any",
            },
        }


def check_participants(participants: Sequence[Participant]) -> list[Participant]:
    """Return the participants; ArgumentError where there are none, or two of one name."""
    found = list(participants)
    if not found or not all(isinstance(each, Participant) for each in found):
        raise ArgumentError("participants: wanted a list of consortia.Participant, got none or something else in it")
    names = [each.name for each in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ArgumentError(f"participants: wanted every name once, got {', '.join(twice)} more than once")
    return found


def check_columns(participants: Sequence[Participant], schema: Schema) -> None:
    """Raise ArgumentError where a frame lacks what the schema requires, or a unit is no identifier of it."""
    wanted = [*(column.name for column in schema.columns if column.required), schema.target.name]
    units = [RECORD, *(column.name for column in schema.columns if column.identifier == "hash")]
    for each in participants:
        if lacking := [name for name in wanted if name not in each.frame.rename(columns=str)]:
            raise ArgumentError(
                f"participant {each.name}: frame: wanted the columns of schema {schema.name!r}, got none called "
                f"{listed(lacking)}; rename or add them"
            )
        if each.unit not in units:
            raise ArgumentError(
                f"participant {each.name}: unit: wanted {' or '.join(units)}, got {each.unit!r}; name it in "
                "identifiers= of declare_schema"
            )


def settle_homes(participants: Sequence[Participant], root: Path, contract: Contract, client: IndustryClient) -> None:
    """Write each participant's rows and policy into its own home; a ledger and a split key that lie there stay.

    Parameters
    ----------
    root : Path
        Holds one folder for each participant.

    Raises
    ------
    ArgumentError
        A budget that the lifetime does not hold; nothing was written.
    """
    homes = {each.name: Home((root / each.name).resolve(), each.name, simulation=True) for each in participants}
    policies = {}
    for each in participants:
        home = homes[each.name]
        known = policy_or_input_error(home.policy, simulation=True) if home.policy.is_file() else None
        lifetime = known.budget.lifetime.model_dump() if known else None
        policies[each.name] = each.policy(contract, client, _rows(home), lifetime)
    for each in participants:
        home, policy = homes[each.name], policies[each.name]
        if home.policy.is_file():  # a ledger that is gone since is missed before the run: there is no fresh start
            write_text(home.policy, f"# {_NOTE}\n{tomli_w.dumps(policy)}")
        else:
            home.create(split_seed=contract.seed)
            make_home(home, policy, _NOTE)
        draft = _rows(home).with_suffix(".tmp")
        with settled(draft, _rows(home)):
            rows_of(client.schema, each.frame).to_parquet(draft, index=False)
    if contract.trust == "aggregate":
        pin_each_other(homes)


def _rows(home: Home) -> Path:
    return home.folder / "rows.parquet"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and not math.isnan(value)
