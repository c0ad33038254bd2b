"""Seconds of a round on real Flower processes: a secure sum beside the same scenario with local noise.

    python benchmarks/secure_rounds.py [--rounds 12]

Six participants, a SuperLink and SuperNodes with TLS and node keys, the participants' own launcher. The median
leaves the first round out, in which noise is solved and rosters are checked. At most 1.3 is wanted.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import tomllib
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import tomli_w

from consortia.cli.budget import init
from consortia.engines.options import Options
from consortia.engines.runner import execute, prepare
from consortia.terms.scenario import find_scenario


def measure(rounds: int) -> dict[str, Any]:
    """Return the median seconds of a round on Flower, secure and plain, six participants."""
    out = {}
    for trust in ("local", "aggregate"):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            source = find_scenario("secure-banks-network")
            terms = tomllib.loads(source.read_text(encoding="utf-8"))
            terms["contract"] |= {"rounds": rounds, "trust": trust}
            if trust == "local":
                del terms["contract"]["secure"]
            terms["roster"].append({**terms["roster"][-1], "name": "other-2"})
            (folder / "six.toml").write_text(tomli_w.dumps(terms), encoding="utf-8")
            policies = folder / "policies" / "six"
            policies.mkdir(parents=True)
            for file in (source.parent / "policies" / source.stem).glob("*.toml"):
                (policies / file.name).write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
            other = (policies / "other.toml").read_text(encoding="utf-8")
            (policies / "other-2.toml").write_text(
                other.replace('participant = "other"', 'participant = "other-2"'), encoding="utf-8"
            )
            environment = {"CONSORTIA_HOME": str(folder / "homes")}
            with mock.patch.dict(os.environ, environment), mock.patch("consortia.cli.budget.out"):
                init("", scenario=str(folder / "six.toml"))
                options = Options(scenario=str(folder / "six.toml"), engine="flower", out=folder / "runs")
                result = execute(prepare(options), options).result
            seconds = [line["seconds"] for line in result["history"]]
            out[trust] = {
                "status": result["status"],
                "median_seconds": float(np.median(seconds[1:])),
                "first_seconds": seconds[0],
                "rounds": rounds,
                "bytes_sent": result["participants"]["other"]["bytes"]["sent"],
            }
    out["ratio"] = out["aggregate"]["median_seconds"] / out["local"]["median_seconds"]
    return out


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    print(json.dumps(measure(parser.parse_args().rounds), indent=1))


if __name__ == "__main__":
    main()
