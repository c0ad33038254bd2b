"""How fast the dashboard's pages answer, and what being watched costs the coordinator.

    python benchmarks/dashboard.py [--participants 20] [--rounds 500] [--requests 100] [--json]

A run is written by the real coordinator, whose participants answer at once with the model that they got and a metric,
each at its own noise: nothing is waited for, so the coordinator's own work is all of its time and what it writes for
the dashboard weighs most. Then once more while `consortia dashboard` serves it, in a process of its own, to a follower
who loads the run's page whenever it changed. At last the pages of the finished run are loaded one by one.

Printed: the share of the coordinator's time that the event file takes; the run's wall time when nobody looks and when
somebody does; of every page the median and the 95th percentile in milliseconds, its bytes, and those that were sent.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import torch

from consortia.coordinator.event_file import EventFile
from consortia.coordinator.rounds import Coordinator
from consortia.messages.envelope import Envelope, decode, encode
from consortia.messages.exchange import Answer
from consortia.terms.scenario import Scenario, load_scenario, scenario_from_json

TOKEN = "a-token-of-this-benchmark"
ROOT = Path(__file__).resolve().parents[1]


def crowd(participants: int, rounds: int) -> Scenario:
    """Return the banks' contract for many participants that release an exact metric after every round."""
    data = json.loads(load_scenario("banks-network").to_json())
    data["contract"] |= {"rounds": rounds, "releases": ["update", "metrics"]}
    data["contract"]["evaluation"] = {"metrics": "exact", "every": 1}
    participant = data["roster"][0]
    data["roster"] = [{**participant, "name": f"bank-{number:02d}"} for number in range(participants)]
    return scenario_from_json(json.dumps(data))


def answers(scenario: Scenario, kind: str, envelopes: Mapping[str, bytes]) -> Iterator[Answer]:
    """Answer at once."""
    for index, (name, data) in enumerate(envelopes.items()):
        message = decode(data)
        number = int(message.header["round"])
        header = {
            "status": "OK" if kind == "train" else "EVALUATED",
            **{key: message.header[key] for key in ("kind", "participant", "run", "round")},
            "contract": scenario.contract.sha256(), "noise_multiplier": repr(40.0 + index), "epsilon_budget": "3.0",
            "delta": "1e-05", "unit": "record", "non_private": "false",
        }  # fmt: skip
        tensors = dict(message.tensors) if kind == "train" else {}
        if due := scenario.contract.evaluation.due(kind, number):
            header |= {"metrics_partition": due, "metrics_non_private": "true"}
            tensors["metrics.auc"] = torch.tensor(0.5 + 0.3 * number / (number + 50) + 0.002 * index)
        yield Answer(name, encode(Envelope(header, tensors)))


def play(scenario: Scenario, folder: Path) -> tuple[float, float]:
    """Return seconds of a whole run, and of them those in the event file."""
    folder.mkdir(parents=True)
    (folder / "scenario.json").write_text(scenario.to_json(), encoding="utf-8")
    spent = 0.0
    plain = EventFile.__call__

    def timed(self: EventFile, *args: Any, **values: Any) -> None:
        nonlocal spent
        started = time.perf_counter()
        plain(self, *args, **values)
        spent += time.perf_counter() - started

    EventFile.__call__ = timed  # type: ignore[method-assign]
    try:
        started = time.perf_counter()
        Coordinator(scenario, folder.name, folder, lambda kind, sent, _: answers(scenario, kind, sent)).run()
        return time.perf_counter() - started, spent
    finally:
        EventFile.__call__ = plain  # type: ignore[method-assign]


def follow(client: httpx.Client, path: str, done: threading.Event) -> None:
    """Load a page whenever it changed, at most once a second, as a browser does."""
    with client.stream("GET", f"/live?about={path}") as stream:
        for line in stream.iter_lines():
            if done.is_set():
                return
            if line.startswith("data:"):
                client.get(f"/runs/{path}")
                time.sleep(1)


def load(client: httpx.Client, path: str, requests: int) -> dict[str, float]:
    """Return first, median, 95th percentile of a page in milliseconds."""
    times = []
    for _ in range(requests + 1):
        started = time.perf_counter()
        answer = client.get(path)
        times.append(1000 * (time.perf_counter() - started))
        assert answer.status_code == 200, (path, answer.status_code)
    first, rest = times[0], sorted(times[1:])
    return {
        "first": first,
        "median": statistics.median(rest),
        "p95": rest[int(0.95 * len(rest))],
        "bytes": len(answer.content),
        "sent": answer.num_bytes_downloaded,
    }


def measure(participants: int, rounds: int, requests: int) -> dict[str, Any]:
    """Return everything that is printed."""
    scenario = crowd(participants, rounds)
    found: dict[str, Any] = {"participants": participants, "rounds": rounds}
    with tempfile.TemporaryDirectory() as name:
        runs = Path(name) / "runs"
        seconds, events = play(scenario, runs / "alone")
        environment = {**os.environ, "CONSORTIA_DASHBOARD_TOKEN": TOKEN, "PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}"}
        command = [sys.executable, "-P", "-m", "consortia.cli", "dashboard", "--runs", str(runs), "--port", "0"]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60) as client:
                while True:
                    try:
                        client.get("/")
                        break
                    except httpx.ConnectError:
                        time.sleep(0.1)
                done = threading.Event()
                follower = threading.Thread(target=follow, args=(client, "watched", done), daemon=True)
                follower.start()
                watched, watched_events = play(scenario, runs / "watched")
                done.set()
                paths = [
                    "/",
                    "/runs/watched",
                    "/runs/watched/bank-07",
                    "/participants",
                    "/compare?run=watched&run=alone",
                    "/metrics",
                ]
                found["pages"] = {path: load(client, path, requests) for path in paths}
            server.terminate()
        size = (runs / "watched" / "events.jsonl").stat().st_size
    found["coordinator"] = {
        "seconds": seconds, "watched_seconds": watched, "event_seconds": events,
        "event_share": events / seconds, "watched_event_share": watched_events / watched,
        "event_microseconds_a_line": 1e6 * events / (2 * participants * rounds + rounds), "event_bytes": size,
    }  # fmt: skip
    return found


def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--participants", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = measure(given.participants, given.rounds, given.requests)
    if given.json:
        print(json.dumps(found, indent=1))
        return
    print(f"{found['participants']} participants, {found['rounds']} rounds")
    for key, value in found["coordinator"].items():
        print(f"  {key:28} {value:12.4g}")
    print(f"  {'page':34} {'first':>8} {'median':>8} {'p95':>8} ms {'bytes':>9} {'sent':>8}")
    for path, times in found["pages"].items():
        spent = "".join(f" {times[kind]:8.1f}" for kind in ("first", "median", "p95"))
        print(f"  {path:34}{spent}    {times['bytes']:9} {times['sent']:8}")


if __name__ == "__main__":
    main()
