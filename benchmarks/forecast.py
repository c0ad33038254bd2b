"""Whether the verdict before joining is right: expected net gains beside those that `joining.py` measured.

    python benchmarks/joining.py --data DATA --epsilons 1,2,3,8 --out FILE.jsonl
    python benchmarks/forecast.py FILE.jsonl …

For each set, participant, budget and kind of noise the truth is the mean net gain (AUC of joined less control) over the
seeds of the files, at which its sign and the interval are held. It has an error of its own, which is printed: few seeds
make the truth noisy. Two forecasts are judged: from public numbers alone, and with the participant's own rows, which
stays at home. Both are made before the run that they are judged by; a forecast of own rows goes by each seed's rows.

*sign*: share of cells whose expected net gain is positive exactly where the measured one is. The rule expects no
negative gain, so that is the share of cells in which joining paid; *of verdicts* says more: the mean net gain of the
cells called worth it, little and not worth it. *inside*: share of cells whose truth lies within the interval.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from joining_sets import SETS, install_cards, scenario_of
from scipy import stats

from consortia.learners.sums.forecast import WORDS
from consortia.participant.forecast_at_home import OwnNumbers, forecast
from consortia.terms.forecast import Forecast, forecasts, others_of
from consortia.terms.scenario import Scenario

BASES = ("public", "at home")


@dataclass(frozen=True)
class Cell:
    """One set, kind of noise, budget and participant: what was expected, averaged over seeds, and what was measured.

    Attributes
    ----------
    expected : (value, low, high)
    words : the verdict of each seed.
    measured : net gain of each seed.
    """

    key: tuple[str, str, float, str]
    expected: tuple[float, float, float]
    words: tuple[str, ...]
    measured: tuple[float, ...]

    @property
    def truth(self) -> float:
        """The mean net gain."""
        return float(np.mean(self.measured))

    @property
    def error(self) -> float:
        """The standard error of the truth."""
        many = len(self.measured)
        return float(np.std(self.measured, ddof=1) / math.sqrt(many)) if many > 1 else math.nan

    @property
    def sign(self) -> bool:
        """Whether the expected sign is the measured one."""
        return (self.expected[0] > 0) == (self.truth > 0)

    @property
    def inside(self) -> bool:
        """Whether the truth lies within the interval."""
        return self.expected[1] <= self.truth <= self.expected[2]


@lru_cache(maxsize=512)
def _scenario(name: str, rows: tuple[tuple[str, int], ...], epsilon: float, shared: bool) -> Scenario:
    # A roster is made of names and numbers of rows alone.
    return scenario_of(name, [(who, range(count), None) for who, count in rows], epsilon, shared)  # type: ignore[misc]


@lru_cache(maxsize=512)
def _public(name: str, rows: tuple[tuple[str, int], ...], epsilon: float, shared: bool) -> Mapping[str, Forecast]:
    return forecasts(_scenario(name, rows, epsilon, shared))


def cells(lines: Iterable[Mapping[str, Any]], basis: str) -> list[Cell]:
    """Return the cells of the lines that `joining.py` wrote; those where no seed defines an AUC are left out."""
    found: dict[tuple[str, str, float, str], list[tuple[Forecast, float]]] = defaultdict(list)
    for line in lines:
        rows = tuple((one["participant"], one["rows"]) for one in line["participants"])
        where = (line["set"], rows, line["epsilon"], line["noise"] == "shared")
        for one in line["participants"]:
            net = one["joined"] - one["control"]
            if not math.isfinite(net):
                continue
            who = one["participant"]
            if basis == "public":
                told = _public(*where)[who]
            else:
                told = forecast(OwnNumbers(**one["own"]), others_of(_scenario(*where), who), gain=True)
            found[line["set"], line["noise"], line["epsilon"], who].append((told, net))
    return [_cell(key, both) for key, both in sorted(found.items())]


def _cell(key: tuple[str, str, float, str], both: Sequence[tuple[Forecast, float]]) -> Cell:
    gains = [told.gain for told, _ in both if told.gain is not None]
    value, low, high = np.mean([(gain.value, gain.low, gain.high) for gain in gains], axis=0)
    words, measured = tuple(told.verdict for told, _ in both), tuple(net for _, net in both)
    return Cell(key, (float(value), float(low), float(high)), words, measured)


def summary(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return the calibration by set and in all, in Markdown; gains in thousandths of AUC."""
    heads = ("basis", "set", "noise", "cells", "expected", "measured", "its error", "sign", "inside", "runs inside")
    out = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for basis in BASES:
        every = cells(lines, basis)
        groups: dict[tuple[str, str], list[Cell]] = defaultdict(list)
        for cell in every:
            groups[cell.key[0], cell.key[1]].append(cell)
        for (name, noise), some in [*groups.items(), (("all", "both"), every)]:
            runs = [c.expected[1] <= one <= c.expected[2] for c in some for one in c.measured]
            out.append(
                f"| {basis} | {name} | {noise} | {len(some)} | {1e3 * np.mean([c.expected[0] for c in some]):+.0f} "
                f"| {1e3 * np.mean([c.truth for c in some]):+.0f} | {1e3 * np.nanmean([c.error for c in some]):.0f} "
                f"| {np.mean([c.sign for c in some]):.0%} | {np.mean([c.inside for c in some]):.0%} "
                f"| {np.mean(runs):.0%} |"
            )
    return "\n".join([*out, "", *(_verdicts(cells(lines, basis), basis) for basis in BASES)])


def _verdicts(some: Sequence[Cell], basis: str) -> str:
    """Return how cells with each verdict fared, and the rank correlation of expected and measured net gains."""
    told = []
    for word in WORDS:
        truths = [net for cell in some for said, net in zip(cell.words, cell.measured, strict=True) if said == word]
        if truths:
            paid = np.mean(np.array(truths) > 0)
            told.append(f"{word}: {1e3 * np.mean(truths):+.0f} ({len(truths)} runs, {paid:.0%} > 0)")
    rank = stats.spearmanr([c.expected[0] for c in some], [c.truth for c in some]).statistic
    return f"{basis}: {'; '.join(told)}; rank correlation of cells {rank:.2f}"


def main() -> None:
    """Print the calibration."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("files", nargs="+", type=Path, help="what joining.py wrote")
    options = parser.parse_args()
    lines = [json.loads(text) for file in options.files for text in file.read_text(encoding="utf-8").splitlines()]
    with tempfile.TemporaryDirectory() as scratch:
        install_cards(Path(scratch))
        print(summary([line for line in lines if line["set"] in SETS and _judged(line)]))


def _judged(line: Mapping[str, Any]) -> bool:
    """Return whether a line is of sums, which alone have a forecast, with everybody's own models beside them."""
    return line.get("learner", "sums") == "sums" and all("joined" in one for one in line["participants"])


if __name__ == "__main__":
    main()
