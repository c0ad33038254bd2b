#!/usr/bin/env bash
# Makes the files of tests/compatibility/v0.1 with the version of consortia that is checked out at commit 03fade5.
# The files are committed and never made again: they stand for what people have on their disks.
#
# Usage, in a checkout of 03fade5 whose environment is active:  make_v0_1.sh TARGET
# TARGET holds scenarios/ (written by hand) already. Absolute paths become @FIXTURES@ at the end.
set -euo pipefail
target=$(realpath "$1")
cd "$target"
export COLUMNS=200 OMP_NUM_THREADS=1
rm -rf homes finished interrupted models pki members kits wheel contracts expected rows.csv

# Run `consortia ARGUMENTS…` and die in round N, as a machine that loses its power would.
dies_in_round() {
  python -P - "$@" <<'PYTHON'
import sys
from consortia.cli import main
from consortia.coordinator import Coordinator

number, real = int(sys.argv.pop(1)), Coordinator._round

def dies(self, state):
    if state.round + 1 >= number:
        raise KeyboardInterrupt
    return real(self, state)

Coordinator._round = dies
main()
PYTHON
}
latest() { echo "$1"/"$2"-*; }  # the folder of a run is called as its id

# Durable ledgers: a finished run, a changed budget, and a run that died in its third round.
for name in hungarian va; do
  consortia budget init "$name" --policy "scenarios/policies/few-hospitals/$name.toml" --home homes
done
consortia run scenarios/few-hospitals.toml --rounds 3 --ledger homes --out finished
consortia budget set va --lifetime 6 --home homes
dies_in_round 3 run scenarios/few-hospitals.toml --ledger homes --out interrupted || true

# Scratch ledgers in the run's folder: secure sums, a trusted coordinator, a vertical run that waits for a batch.
dies_in_round 2 run scenarios/few-banks.toml --out interrupted || true
dies_in_round 3 run scenarios/few-homes.toml --out interrupted || true
consortia run scenarios/few-homes.toml --engine vectorized --rounds 2 --out finished
consortia run scenarios/few-customers.toml --batches 0 --out finished

# Models, a participant's own and the coordinator's, and what they say about rows. Without ONNX: torch writes the paths
# of the machine into it.
consortia export "$(latest finished few-hospitals)" --participant va --to models --no-onnx
consortia export "$(latest finished few-hospitals)" --industry hospital --to models --no-onnx
python -P - <<'PYTHON'
import numpy as np
from clients import registry
frame = registry.get("hospital").synthesise(np.random.default_rng(5), 60, "va")
frame.to_csv("rows.csv", index=False)
PYTHON

# A coordinator's folder with one participant that joined, and the kit that it got. Private keys are not kept.
python -P - <<'PYTHON'
from pathlib import Path
from consortia.deploy import pki, pki_folder
pki_folder.ensure(Path("pki"), pki_folder.pairs("fed.example.org:8443"))
pki.write_node_key(Path("node"), "own.key")
PYTHON
consortia participant add hospital-c --industry hospital --dataset heart --site va --units 60 --epsilon 1 \
  --address fed.example.org:8443 --public-key "$(ls node/*.pub)"
rm -rf node pki/*.key pki/superlink.pem

# A partner's package, from source to wheel.
mkdir wheel
(cd wheel && consortia new client insurer --wheel && cd consortia-insurer && python -m hatchling build -t wheel)

# Contracts: every committed scenario, and one scenario for each strategy with its options.
python -P - <<'PYTHON'
import json
from pathlib import Path

import tomllib
import tomli_w

from consortia.scenario import committed_scenarios, load_scenario
from strategies.registry import NAMES

options = {
    "fedprox": {"mu": 1}, "norm-bound": {"norm": 5.0}, "trimmed-mean": {"attackers": 2}, "qfedavg": {"q": 0.5},
    "server-optimizer": {"optimizer": "adam", "eps": 1e-3, "betas": [0.9, 0.99], "amsgrad": True},
    "fedbuff": {"buffer_size": 2}, "clustered": {"after": 3},
}
base = tomllib.loads(Path("scenarios/few-hospitals.toml").read_text())
seat = base["roster"][0]
Path("contracts").mkdir()
for name in NAMES:
    data = json.loads(json.dumps(base))
    data["name"] = f"with-{name}"
    data["roster"] = [seat | {"name": f"site-{n}", "epsilon": float("inf")} for n in range(7)]
    data["contract"]["strategy"] = {"name": name, "options": options.get(name, {})}
    if name in ("median", "geometric-median", "krum", "multi-krum", "bulyan", "trimmed-mean"):
        data["contract"]["strategy"]["weighting"] = "equal"
    if name == "fedsgd":
        data["contract"]["industries"]["hospital"]["local_steps"] = 1
    if name == "qfedavg":
        data["contract"]["releases"] = ["update", "metrics"]
    Path(f"contracts/with-{name}.toml").write_text(tomli_w.dumps(data))
files = {path.stem: path.stem for path in sorted(Path(p) for p in committed_scenarios())}
files |= {str(path): str(path) for folder in ("contracts", "scenarios") for path in sorted(Path(folder).glob("*.toml"))}
hashes = {name: load_scenario(name).contract.sha256() for name in files}
Path("contracts.json").write_text(json.dumps(hashes, indent=1) + "\n")
PYTHON

# What this version says about these files; a later one may say more, and never less.
mkdir expected
for name in hungarian va; do
  consortia budget show "$name" --home homes --json > "expected/show-$name.json"
  consortia budget history "$name" --home homes --json > "expected/history-$name.json"
  consortia budget export "$name" --home homes > "expected/export-$name.json"
done
for run in hospitals customers homes; do
  consortia receipt finished/few-$run-*/participants/* --json > "expected/receipt-$run.json"
done
consortia models models --json > expected/models.json
consortia predict "$(latest finished few-hospitals)" rows.csv --participant va --out expected/predict-va.csv
consortia participant list --json > expected/participants.json

# Nothing of the machine that made them.
find . \( -name '*.lock' -o -name '__pycache__' -o -name '.gitignore' \) -prune -exec rm -rf {} +
grep -rlIZ --exclude-dir=scenarios "$target" . | xargs -0 -r sed -i "s#$target#@FIXTURES@#g"
if grep -rlIE "$target|$HOME/|/tmp/" . || grep -rlI "$HOSTNAME" homes finished interrupted models kits expected; then echo "left: names of this machine" >&2; exit 1; fi
du -sh .
