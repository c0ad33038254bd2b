"""`/metrics` of a participant, on its own side: what its ledger and its receipts say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from consortia.dashboard.certificates import expiry_metric
from consortia.dashboard.own import Own, lifetimes

_NEWEST = 5


class OwnerCollector(Collector):
    """Reads the home when it is scraped."""

    def __init__(self, own: Own, pki: Path | None) -> None:
        self._own = own
        self._pki = pki

    def describe(self) -> list[Metric]:
        """Nothing: what is told depends on the home."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the lifetime accounts, then the newest receipts."""
        texts = {
            "epsilon": "Spent over the lifetime of the data set (PLD estimate, add/remove one unit).",
            "budget": "What the policy allows over the lifetime.",
            "left": "What the lifetime filter grants a new run for certain.",
            "releases": "Releases that were charged.",
            "abandoned": "Charged releases that never left.",
        }
        families = {
            name: GaugeMetricFamily(f"consortia_ledger_{name}", text, labels=["dataset"])
            for name, text in texts.items()
        }
        accounts, _ = self._own.accounts()
        for life in lifetimes(accounts) if accounts else []:
            for name, family in families.items():
                if life[name] is not None:
                    family.add_metric([life["dataset"]], life[name])
        yield from families.values()
        yield from self._receipts()
        yield expiry_metric(self._pki)

    def _receipts(self) -> Iterator[Metric]:
        values = GaugeMetricFamily(
            "consortia_receipt_metric", "The headline metric on test rows.", labels=["run", "metric", "model"]
        )
        quarantined = GaugeMetricFamily("consortia_quarantined_rows", "Rows set aside.", labels=["run"])
        for run in self._own.runs()[:_NEWEST]:
            for model, value in run.values.items():
                if value is not None:
                    values.add_metric([run.id, run.metric or "", model], value)
            if run.set_aside is not None:
                quarantined.add_metric([run.id], run.set_aside)
        yield from (values, quarantined)
