"""Recount an exported ledger with nothing of consortia: its chain with SHA-256, every ε with dp-accounting.

    consortia budget export hospital-a > ledger.json
    python benchmarks/recount_ledger.py ledger.json

Prints one line per account and exits 1 when a link does not follow or an ε differs by more than .01.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import dp_accounting
from dp_accounting.pld import PLDAccountant

TOLERANCE = 0.01
_COUNTED = ("poisson_gaussian", "gaussian", "laplace", "replace_gaussian", "randomized_response", "non_private")


def recount_chain(data: dict[str, Any]) -> int:
    """Return how many links there are; ValueError names the first that does not follow."""
    rows: dict[tuple[str, str], list[Any]] = {("created", ""): [data["participant"], data["salt"]]}
    for run in data["runs"]:
        rows["run", run["run_id"]] = run["chained"]
    for entry in data["entries"]:
        fields = [entry[name] for name in ("seq", "run_id", "dataset", "round", "key")]
        claims = [entry["claims"]] if "claims" in entry else []
        rows["reserved", str(entry["seq"])] = [*fields, json.dumps(entry["events"], sort_keys=True), *claims]
        if entry["state"] == "committed":
            rows["committed", str(entry["seq"])] = [entry["seq"], entry["reply_sha256"]]
    for note in data["notes"]:
        rows["note", str(note["id"])] = [note["id"], json.dumps(note["note"], sort_keys=True)]
    head = bytes(32)
    for place, link in enumerate(data["chain"], start=1):
        fields = rows.pop((link["kind"], link["ref"]), None)
        text = json.dumps([place, link["kind"], *(fields or [])], separators=(",", ":"))
        head = hashlib.sha256(head + text.encode()).digest()
        if fields is None or head.hex() != link["head"]:
            raise ValueError(f"link {place} ({link['kind']} {link['ref']}) does not follow from the rows")
    if rows:
        raise ValueError(f"{len(rows)} rows have no link")
    return len(data["chain"])


def recount_epsilon(events: list[dict[str, Any]], delta: float) -> float:
    """Return the joint PLD ε of all events; partitions hold different units, so the largest counts."""
    worst = 0.0
    for partition in {event["partition"] for event in events}:
        accountant = PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
        merged, pure = Counter(), 0.0
        for event in events:
            if event["partition"] == partition:
                if event["kind"] == "non_private":
                    return math.inf
                if event["kind"] not in _COUNTED:
                    raise ValueError(f"event kind: wanted one of {', '.join(_COUNTED)}, got {event['kind']!r}")
                if event["kind"] == "randomized_response":
                    pure += event["epsilon"] * event["rows_per_unit"] * event["count"]
                    continue
                kind = (event["kind"], event["noise_multiplier"], event.get("sampling_rate", 1))
                merged[kind] += event.get("steps") or event["count"]
        for (kind, noise, rate), times in merged.items():
            one = dp_accounting.LaplaceDpEvent(noise) if kind == "laplace" else dp_accounting.GaussianDpEvent(noise)
            accountant.compose(one if rate == 1 else dp_accounting.PoissonSampledDpEvent(rate, one), times)
        worst = max(worst, pure + (accountant.get_epsilon(delta) if merged else 0.0))
    return worst


def by_cohort(entries: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Return the events of each kind of unit: of entries without claims, and of one run that claimed its units."""
    runs = {entry["run_id"] for entry in entries if "claims" in entry} or {None}
    return [
        [event for entry in entries if "claims" not in entry or entry["run_id"] == run for event in entry["events"]]
        for run in sorted(runs, key=str)
    ]


def main(arguments: list[str] | None = None) -> int:
    """Compare every account; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=Path)
    data = json.loads(parser.parse_args(arguments).export.read_text(encoding="utf-8"))
    try:
        print(f"chain: {recount_chain(data)} links follow; head {data['head'][:16]}")
    except ValueError as error:
        print(f"chain: {error}")
        return 1
    wrong = 0
    for account in data["accounts"]:
        shared = {account["dataset"], *account.get("shares_with", ())}
        mine = [entry for entry in data["entries"] if entry["dataset"] in shared]
        if account["horizon"].startswith("run "):
            mine = [entry for entry in mine if f"run {entry['run_id']}" == account["horizon"]]
        # Data sets of one lifetime add up over cohorts: their units cannot be compared.
        kinds = by_cohort(mine) if len(shared) == 1 else [[event for entry in mine for event in entry["events"]]]
        try:
            counted = max(recount_epsilon(events, account["delta"]) for events in kinds)
        except ValueError as error:
            print(f"{account['dataset']}, {account['horizon']}: {error}")
            wrong += 1
            continue
        claimed = math.inf if account["non_private"] else account["epsilon"]
        agrees = counted == claimed or abs(counted - claimed) <= TOLERANCE
        wrong += not agrees
        print(
            f"{account['dataset']}, {account['horizon']}: ε {claimed:.4f}, recounted {counted:.4f} at δ "
            f"{account['delta']:g}, unit {account['unit']}{'' if agrees else ' DIFFERS'}"
        )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
