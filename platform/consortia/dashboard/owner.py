"""A participant's own view: what its budget was spent on, whether joining paid, what its policy says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import Response
from markupsafe import Markup

from clients.metrics import sign
from consortia.common.words import epsilon_text
from consortia.dashboard import owner_changes
from consortia.dashboard.app import Pages
from consortia.dashboard.background import Background
from consortia.dashboard.certificates import certificates
from consortia.dashboard.changes import Changes
from consortia.dashboard.own import Own, OwnRun, lifetimes, open_home
from consortia.dashboard.owner_contracts import Contracts
from consortia.dashboard.owner_metrics import OwnerCollector
from consortia.reports.accounts import left_in_words, state_of
from consortia.reports.charts import Level, Line, dot_chart, gauge, line_chart
from consortia.reports.decision import decide_alone, verdict_of
from consortia.reports.forecasts import told_and_measured
from consortia.reports.gain_chart import gain_chart
from consortia.reports.glossary import lines as glossary
from consortia.reports.receipt_table import interval, metric_name

_NAV = (("/", "Budget"), ("/ledger", "Ledger"), ("/runs", "Receipts"), ("/policy", "Policy"))
_LINES = 200
_SHOWN = ("local", "control", "federated", "joined")
_BUDGET_WORDS = ("runs left", "reserved by the filter", "estimate", "run budget", "lifetime", "ε", "δ", "unit", "σ")
_RECEIPT_WORDS = ("alone", "control", "federated", "joined", "net gain", "gain", "clearly, perhaps, not", "N_eff")
_WORDS = {
    "interval": interval,
    "metric_name": metric_name,
    "told_and_measured": told_and_measured,
    "verdict": verdict_of,
}


class OwnerView:
    """Pages over one home."""

    def __init__(self, own: Own, pki: Path | None, scenarios: Sequence[Path] = ()) -> None:
        self._own = own
        self._contracts = Contracts(own.home, scenarios)
        self._pki = pki
        self.participant = own.home.participant
        self.name = self.participant
        self.pages = Pages(f"{self.participant}, own view", _NAV, "Policy")
        self.collector = OwnerCollector(own, pki)

    @classmethod
    def of(cls, folder: Path, pki: Path | None, scenarios: Sequence[Path] = ()) -> OwnerView:
        """Return the view of the home in `folder`; contracts of `scenarios` can be accepted from it, too."""
        return cls(Own(open_home(folder), Background()), pki, scenarios)

    def version(self, about: str) -> str:
        """Return what changes with the home."""
        del about
        return self._own.version()

    def add_pages(self, app: FastAPI) -> None:
        """Add the pages."""

        @app.get("/")
        async def budget(request: Request) -> Response:
            version = self.version("")
            accounts, problem = self._own.accounts()
            lives = [{**life, **_gauged(life)} for life in lifetimes(accounts)] if accounts else []
            newest = next((run for run in self._own.runs() if run.receipt), None)
            say = "; ".join(f"{life['dataset']}: {life['text']}" for life in lives)
            return self._page(
                "budget.html", "/", version, say, lives=lives, accounts=accounts, problem=problem,
                newest=newest, sentences=self._sentences(newest), words=glossary(*_BUDGET_WORDS),
                may_change=request.state.may_change,
            )  # fmt: skip

        @app.get("/ledger")
        async def ledger() -> Response:
            version = self.version("")
            lines, problem = self._own.history()
            say = f"{len(lines or [])} lines"
            shown = (lines or [])[: -_LINES - 1 : -1]
            return self._page(
                "ledger.html", "/ledger", version, say, lines=shown, counted=lines is not None,
                older=len(lines or []) - len(shown), problem=problem,
            )  # fmt: skip

        @app.get("/runs")
        async def receipts() -> Response:
            version = self.version("")
            runs = self._own.runs()
            caption, gains = gain_chart({run.id: run.receipt for run in reversed(runs) if run.receipt}, by_value=False)
            return self._page(
                "receipts.html", "/runs", version, f"{len(runs)} runs", runs=runs, gain_caption=caption, gains=gains,
                participant=self.participant, words=glossary(*_RECEIPT_WORDS), **_WORDS,
            )  # fmt: skip

        @app.get("/runs/{run_id}")
        async def receipt(run_id: str) -> Response:
            version = self.version("")
            run = next((one for one in self._own.runs() if one.id == run_id), None)
            if run is None:
                raise HTTPException(404)
            say = f"{len(run.progress)} rounds" + (", receipt written" if run.receipt else "")
            return self._page(
                "receipt.html", "/runs", version, say, run=run, charts=_charts(run), sentences=self._sentences(run),
                participant=self.participant, words=glossary(*_RECEIPT_WORDS), **_WORDS,
            )  # fmt: skip

        @app.get("/policy")
        def policy(request: Request) -> Response:  # in a thread: contracts are read
            version = self.version("")
            terms, text = self._own.policy()
            change = request.state.may_change
            return self._page(
                "policy.html", "/policy", version, "", policy=terms, text=text, certificates=certificates(self._pki),
                may_change=change, fields=owner_changes.fields(terms), accepted=self._contracts.listed(terms),
                scenarios=self._contracts.names if change else (),
            )  # fmt: skip

        changes = Changes(app, self.pages)
        changes.offer(
            "budget", "/policy", lambda given: owner_changes.budget(self._own.home, self._own.policy()[0], given)
        )
        changes.offer("contract", "/policy", self._contracts.accept)
        changes.offer("withdraw", "/policy", self._contracts.withdraw)

    def _sentences(self, run: OwnRun | None) -> list[str]:
        if run is None or not run.receipt:
            return []
        return decide_alone({**run.receipt, "participant": self.participant}).sentences

    def _page(self, template: str, here: str, version: str, say: str, **values: Any) -> Response:
        return self.pages(template, here=here, version=version, live="/live", say=say, **values)


def _gauged(account: dict[str, Any]) -> dict[str, Any]:
    """Return the fuel gauge of a lifetime: what the filter reserved of the budget, and how many runs are left."""
    if account["non_private"]:
        return {"bar": Markup(""), "text": "∞ (non-private)", "says": "", "state": ""}
    reserved, budget, state = account["reserved"], account["budget"], state_of(account)
    text = f"ε {epsilon_text(reserved)} of {epsilon_text(budget)} reserved"
    bar = gauge(reserved or 0.0, budget, f"lifetime budget: {text}", state)
    return {"bar": bar, "text": text, "says": left_in_words(account), "state": state}


def _charts(run: OwnRun) -> list[tuple[str, Markup]]:
    charts = []
    known = [line for line in run.progress if line["value"] is not None]
    if known:
        metric = known[-1]["metric"]
        points = [(line["round"] - 1, line["value"], None, None) for line in known]
        chart = line_chart(
            f"{metric} of the shared model by round",
            "rounds done",
            f"{metric}, validation rows",
            [Line("shared", points)],
        )
        charts.append(("The shared model on your validation rows", chart))
    if run.metric:
        charts.append(("On your test rows, beside what you could have alone", _tested(run, run.metric)))
    return charts


def _tested(run: OwnRun, metric: str) -> Markup:
    """Draw the models; the interval is that of joined over control, or of federated over alone where there is none."""
    values = run.values
    shown, base, key = ("joined", "control", "net_gain") if run.compares else ("federated", "local", "gain")
    gain, start = run.receipt.get(key), values.get(base)
    ends: tuple[float | None, float | None] = (None, None)
    if gain and start is not None:
        low, high = sorted(start + sign(metric) * gain[end] for end in ("low", "high"))
        ends = (low, high)
    dots = [
        ("alone" if name == "local" else name, value, *(ends if name == shown else (None, None)))
        for name in _SHOWN
        if (value := values.get(name)) is not None
    ]
    base_name = "alone" if base == "local" else base
    levels = [Level(base_name, start)] if start is not None else []
    title = f"{metric_name(metric)} on test rows; the interval is of {shown} over {base_name}"
    return dot_chart(title, f"{metric_name(metric)}, test rows", dots, levels)
