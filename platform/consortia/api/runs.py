"""A run as a data scientist looks at it: receipts, ledgers and history as DataFrames, predictions, plots."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import Console

from clients import registry, tables
from clients._labels import NONE, SEPARATOR
from clients.errors import ClientError
from clients.schema import Schema
from consortia.api import frames
from consortia.common.environment import default_root
from consortia.common.errors import ArgumentError, InputError
from consortia.common.strict import read_record
from consortia.models.rows import outputs_of, predict
from consortia.models.source import Found, of_coordinator, of_participant
from consortia.participant.home import Home
from consortia.reports.page.facts import Facts, gather
from consortia.reports.page.render import write
from consortia.reports.tables import print_result
from consortia.terms.scenario import Scenario, scenario_from_json
from consortia_plugins.arguments import named_arguments

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Run", "Scratch", "as_arguments"]


#: Sentences that the command line shares name its options.
_OPTION = re.compile(r"--([a-z][a-z-]*)")


class Scratch:
    """A folder that lasts as long as this object, and is readable by its owner only."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="consortia-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)


@named_arguments(ArgumentError)
class Run:
    """A finished run.

    Parameters
    ----------
    folder : path
        Of the run: `consortia run` prints it, `run.folder` is it. It holds `result.json`.

    Attributes
    ----------
    folder : Path
    scenario : Scenario
        Contract and roster.
    result : dict
        The record, as `result.json` has it.

    Raises
    ------
    InputError
        There is no finished run.
    """

    def __init__(self, folder: str | os.PathLike[str], *, scratch: Scratch | None = None) -> None:
        self.folder = Path(folder)
        self._scratch = scratch
        self._table = tables.known_from(self.folder)
        if not (self.folder / "result.json").is_file():
            raise InputError(f"{self.folder}: wanted the folder of a finished run with result.json, got none")
        self.scenario: Scenario = scenario_from_json((self.folder / "scenario.json").read_text(encoding="utf-8"))
        self.result: dict[str, Any] = read_record(self.folder / "result.json")

    def __repr__(self) -> str:
        return f"<Run {self.folder.name}: {self.status}, {len(self.participants)} participants>"

    def __str__(self) -> str:
        """Return the tables that `consortia run` prints, with what every ε means."""
        text = io.StringIO()
        print_result(Console(file=text, width=140, no_color=True, highlight=False), self.result)
        said = text.getvalue()
        if self._scratch is not None:
            said += "Ledgers and records lie in a temporary folder, which goes with this object; folder= keeps them.\n"
        return said + (f"Schema: {frames.INFERRED}.\n" if self.inferred else "")

    @property
    def participants(self) -> list[str]:
        """The participants' names, in the order of the roster."""
        return [participant.name for participant in self.scenario.roster]

    @property
    def status(self) -> str:
        """What became of it: "completed", or why not."""
        return str(self.result["status"])

    @property
    def synthetic(self) -> bool:
        """Whether any participant's rows were made up."""
        return bool(self.result["synthetic"])

    @property
    def inferred(self) -> bool:
        """Whether the schema was read off the rows: for simulation by one person only, and not private."""
        return bool(self._table.get("inferred", False))

    @property
    def schema(self) -> Schema:
        """The schema of a run on tables; ArgumentError where there are several industries."""
        return registry.get(self._industry(None)).schema

    def receipts(self, metric: str | None = None) -> pd.DataFrame:
        """Return what joining paid and cost: one line a participant.

        Parameters
        ----------
        metric : str, optional
            Instead of the one that each receipt leads with. Of several classes accuracy and macro AUC have net gains.

        Returns
        -------
        DataFrame
            Index: participant. `metric` on untouched test rows of `majority` (a constant), `local` (the best model of
            its own, without DP), `control` (that one stacked with a second own model), `federated`, `joined` (the best
            own model stacked with the federated one), `personal` and `kept` (the model that it `keeps`). `net_gain` is
            joined over control with its 95 % interval, positive where joining paid, and `verdict` says clearly,
            perhaps, not or unknown; `gain` is federated over local. `quarantined` rows broke the schema and were set
            apart; the participant's own log says why. `epsilon_run` and `budget_run` hold for this run at
            `delta_run`, `epsilon_lifetime` and `budget_lifetime` for all runs on the rows at `delta_lifetime`; all of
            them for the `unit` and `relation` named, infinite for a non-private run. With placebo partners there is
            `transfer`. NaN is what was not measured or not released.
        """
        return frames.receipts(self.result, self._facts.receipts, metric)

    def ledger(self, participant: str) -> pd.DataFrame:
        """Return the participant's ledger, recounted, oldest first: runs, charges, releases, changes of the budget.

        Each line's `epsilon_alone` is that of its release alone at `delta`, infinite for a non-private one; together
        they cost less than their sum, see `spent`.
        """
        return frames.ledger(self._home(participant))

    def spent(self) -> pd.DataFrame:
        """Return every account of every ledger: each run and each lifetime, with ε, δ, unit, relation, budget, left."""
        return frames.spent([self._home(name) for name in self.participants])

    def history(self) -> pd.DataFrame:
        """Return one line for each round and participant.

        `value` is the `metric` on its own validation rows of the model that the round began with (only a simulation's
        operator sees it); `epsilon` is what the run has spent up to and with this round, at `delta`, adding or removing
        one `unit`; infinite for a non-private run. Of a vertical run: its steps.
        """
        return frames.history(self._facts)

    def model(self, participant: str | None = None, *, industry: str | None = None, choice: str = "federated") -> Found:
        """Return a model with its guarantee: `.model` is a torch module, `.guarantee` says what is promised about it.

        Parameters
        ----------
        participant : str, optional
            Whose; without one it is the shared model as the coordinator has it, released values only.
        industry : str, optional
            Whose shared model, where there are several industries.
        choice : {"federated", "kept"}
            The shared model as it came to the participant, or the one that it keeps, which was fitted to its own rows.
        """
        with as_arguments():
            if participant is None and choice == "federated":
                return of_coordinator(str(self.folder), self._industry(industry))
            return of_participant(str(self.folder), self._known(participant), choice)

    def predict_proba(self, frame: pd.DataFrame, participant: str | None = None, **which: Any) -> pd.DataFrame:
        """Return the probability of every class, or of every label.

        Parameters
        ----------
        frame : DataFrame (n_rows, any columns)
            Raw rows with the schema's columns.
        participant, **which
            See `model`.

        Returns
        -------
        DataFrame (n_rows, n_classes)
            One column a class. NaN for a row that breaks the schema: it gets no prediction rather than a wrong one.
        """
        found = self.model(participant, **which)
        target = found.model.target
        if target.kind in {"regression", "anomaly"}:
            raise ArgumentError(f"predict_proba: wanted a model of classes, got one of {target.kind}; take `predict`")
        with as_arguments():
            scores, _ = predict(found.model, found.about, frame, "frame")
        if target.kind == "binary":
            scores.insert(0, "other", 1 - scores[outputs_of(target)[0]])
        return scores.set_axis(self._labels(target.classes), axis=1)

    def predict(self, frame: pd.DataFrame, participant: str | None = None, **which: Any) -> pd.Series[Any]:
        """Return the most probable class of each row, or the number or anomaly score that is predicted.

        Of several labels the row's text, `effusion|nodule`, of those that are more probable than not.

        See `predict_proba`.
        """
        found = self.model(participant, **which)
        target = found.model.target
        if target.kind in {"regression", "anomaly"}:
            with as_arguments():
                return predict(found.model, found.about, frame, "frame")[0][outputs_of(target)[0]]
        shares = self.predict_proba(frame, participant, **which)
        known = shares.notna().all(axis=1)
        if target.kind == "multilabel":
            told = [SEPARATOR.join(shares.columns[row]) or NONE for row in shares[known].to_numpy() >= 0.5]
            return pd.Series(told, shares.index[known], dtype=object).reindex(shares.index).rename(target.name)
        return shares[known].idxmax(axis=1).reindex(shares.index).rename(target.name)

    def plot_budget(self) -> Figure:
        """Return a matplotlib figure: ε of this run by round, against each participant's budget."""
        from consortia.api import plots

        return plots.budget(self.history(), self.participants, self._title())

    def plot_metrics(self) -> Figure:
        """Return a matplotlib figure: the metric on each participant's own validation rows, by round."""
        from consortia.api import plots

        return plots.metrics(self.history(), self._title())

    def plot_gains(self) -> Figure:
        """Return a matplotlib figure: what joining gave each participant over its own model, with 95 % intervals."""
        from consortia.api import plots

        return plots.gains(self.receipts(), self._title())

    def report(self, folder: str | os.PathLike[str] | None = None) -> list[Path]:
        """Write `report.html` (one file, no network) and `report.md`; return their paths."""
        return write(self._facts, self.folder if folder is None else Path(folder))

    def _title(self) -> str:
        rows = "SYNTHETIC rows, simulation" if self.synthetic else self.result["observer"]
        return f"{self.scenario.title} ({rows})"

    def _industry(self, industry: str | None) -> str:
        names = sorted({participant.industry for participant in self.scenario.roster})
        if industry is None and len(names) == 1:
            return names[0]
        if industry not in names:
            raise ArgumentError(f"industry: wanted one of {', '.join(names)}, got {industry!r}")
        return str(industry)

    def _labels(self, classes: tuple[str, ...]) -> list[Any]:
        """Return the classes as they stood in the frames: a schema has them as text."""
        kind = self._table.get("labels")
        if kind == "number":
            return [int(each) if each.lstrip("-").isdigit() else float(each) for each in classes]
        return [each == "1" for each in classes] if kind == "flag" else list(classes)

    def _known(self, participant: str | None) -> str:
        if participant not in self.participants:
            raise ArgumentError(f"participant: wanted one of {', '.join(self.participants)}, got {participant!r}")
        return str(participant)

    def _home(self, participant: str) -> Home:
        self._known(participant)
        if self.result["engine"] == "vectorized":
            raise ArgumentError("ledger: wanted a run with ledgers, got engine vectorized, which keeps none")
        if self.result["observer"] != "simulation":
            return Home(default_root() / participant, participant)
        ledgers = self._job["ledger"]
        own = Path(ledgers) / participant if ledgers else None
        return Home(self.folder / "participants" / participant, participant, simulation=True, ledger_folder=own)

    @cached_property
    def _facts(self) -> Facts:
        return gather(self.folder)

    @cached_property
    def _job(self) -> dict[str, Any]:
        data: dict[str, Any] = json.loads((self.folder / "job.json").read_text(encoding="utf-8"))
        return data


@contextmanager
def as_arguments() -> Iterator[None]:
    """Raise what the caller can put right as an `ArgumentError`, which is a ValueError."""
    try:
        yield
    except (InputError, ClientError) as error:
        if isinstance(error, ValueError):
            raise
        raise ArgumentError(_OPTION.sub(lambda found: found[1].replace("-", "_"), str(error))) from None
