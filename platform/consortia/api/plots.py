"""A run's figures, made with matplotlib (the extra `plot`). A title says where rows are synthetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from consortia.common.errors import ArgumentError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["budget", "gains", "metrics"]


def budget(history: pd.DataFrame, participants: Sequence[str], title: str) -> Figure:
    """See `consortia.Run.plot_budget`."""
    _check_rounds(history)
    figure, (axes,) = _figure(title, 1)
    private = history[history["epsilon"] < math.inf]
    for index, (name, lines) in enumerate(private.groupby("participant", sort=False)):
        axes.plot(lines["round"], lines["epsilon"], marker="o", markersize=3, color=f"C{index}", label=str(name))
        axes.axhline(lines["budget"].iloc[-1], color=f"C{index}", linestyle="--", linewidth=1)
    deltas = ", ".join(f"{delta:g}" for delta in sorted(set(private["delta"])))
    units = ", ".join(sorted({str(unit) for unit in private["unit"]}))
    infinite = [name for name in participants if name not in set(private["participant"])]
    note = f"\nwithout ε here (non-private, ∞, or no rounds): {', '.join(infinite)}" if infinite else ""
    axes.set_xlabel("round")
    axes.set_ylabel(f"ε of this run (δ = {deltas or '-'})")
    axes.set_title(f"add or remove one {units or 'unit'}; dashed: what each allows one run{note}", fontsize=8)
    axes.set_ylim(bottom=0)
    _legend(axes)
    return figure


def metrics(history: pd.DataFrame, title: str) -> Figure:
    """See `consortia.Run.plot_metrics`."""
    _check_rounds(history)
    known = history[history["value"].notna()]
    names = list(dict.fromkeys(known["metric"])) or ["metric"]
    figure, every = _figure(title, len(names))
    for axes, metric in zip(every, names, strict=True):
        for name, lines in known[known["metric"] == metric].groupby("participant", sort=False):
            axes.plot(lines["round"] - 1, lines["value"], marker="o", markersize=3, label=str(name))
        axes.set_xlabel("rounds trained")
        axes.set_ylabel(f"{metric} on own validation rows")
        axes.set_title("seen by a simulation's operator only; nothing of it leaves a participant", fontsize=8)
        _legend(axes)
    return figure


def gains(receipts: pd.DataFrame, title: str) -> Figure:
    """See `consortia.Run.plot_gains`."""
    gain = "net_gain" if receipts["net_gain"].notna().any() else "gain"  # vertical runs have no joined model
    known = receipts[receipts[gain].notna()]
    figure, (axes,) = _figure(title, 1)
    ends = [known[gain] - known[f"{gain}_low"], known[f"{gain}_high"] - known[gain]]
    axes.errorbar(range(len(known)), known[gain], yerr=ends, fmt="o", capsize=4)
    axes.axhline(0, color="0.5", linewidth=1)
    axes.set_xticks(range(len(known)), [f"{name}\n{metric}" for name, metric in known["metric"].items()])
    axes.set_ylabel("joined over control" if gain == "net_gain" else "federated over the best local model")
    axes.set_title("above 0 joining paid; 95 % interval over the units of the test rows", fontsize=8)
    return figure


def _check_rounds(history: pd.DataFrame) -> None:
    if "epsilon" not in history:
        raise ArgumentError("plot: wanted a run with rounds, got a vertical one, whose steps have no ε by round")


def _figure(title: str, panels: int) -> tuple[Figure, list[Axes]]:
    """Return a figure that notebooks show, with the run's name and what its rows are."""
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise ArgumentError("plot: wanted matplotlib, got none installed; pip install 'consortia[plot]'") from None
    figure, axes = plt.subplots(panels, 1, figsize=(7, 4 * panels), layout="constrained", squeeze=False)
    plt.close(figure)  # pyplot would keep it, and a notebook show it twice
    figure.suptitle(title, fontsize=10)
    return figure, list(axes[:, 0])


def _legend(axes: Any) -> None:
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=8)
