"""Commands that train nothing load no library that trains: modules are counted, no clock is asked."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from consortia.cli import build_app
from consortia.cli.commands import COMMANDS
from consortia.terms.scenario import find_scenario

HEAVY = ("torch", "opacus", "flwr", "pandas", "dp_accounting", "numpy", "scipy", "sklearn", "pyarrow", "matplotlib")
CODE = """
import json, sys
from consortia.cli import main
for words in json.load(sys.stdin):
    before, status = set(sys.modules), 0
    sys.argv = ["consortia", *words.split()]
    try:
        main()
    except SystemExit as end:
        status = end.code or 0
    loaded = sorted({name.partition(".")[0] for name in set(sys.modules) - before})
    print("@@", json.dumps([words, status, loaded]))
"""

#: Standard error that ends a command with status 99 at its first line: what is loaded after it does not count.
ENDS = """
class Ends:
    encoding = "utf-8"
    def isatty(self): return False
    def flush(self): pass
    def write(self, text): raise SystemExit(99 if text.rstrip().endswith("…") else 98)
import sys
sys.stderr = Ends()
"""

#: Commands that take seconds. RUN is the folder of a run; nothing of it is read before the first line.
SLOW = [
    "run banks",
    "run shared-customers",
    "run smart-home --engine vectorized",
    "run banks --engine flower",
    "run --resume RUN",
    "statistics banks",
    "check cross-industry",
    "audit banks",
    "report RUN",
    "explain RUN",
    "contributions RUN",
    "fairness RUN",
    "predict RUN rows.csv --participant bank-a",
    "edit RUN --participant bank-a --out shapes.csv",
    "export RUN --industry bank",
    "evidence RUN",
    "leave RUN --participant bank-a",
    "budget plan banks",
    "budget sweep banks",
    "data check --rows rows.csv --client bank",
    "data check furniture",
]

#: Commands with the exit status they owe; the first one is alone in the process so far.
SAID = {
    "--help": 0,
    "budget --help": 0,
    "nonsense": 2,
    "run nonsense": 2,
    "run linear --engine bogus": 2,
    "run banks --rounds 0": 2,
    "run banks --epsilon nobody=1": 2,
    "run banks --engine flower": 2,
    "run banks --data nowhere": 2,
    "run banks --resume nowhere": 2,
    "run banks --track nonsense": 2,
    "run linear --placebo": 2,
    "run linear --uncompressed": 2,
    "check nonsense": 2,
    "check banks --rounds 0": 2,
    "audit nonsense": 2,
    "demo --scenario nonsense": 2,
    "statistics nonsense": 2,
    "predict nowhere rows.csv --participant bank-a": 2,
    "export nowhere --participant bank-a": 2,
    "export nowhere --industry bank": 2,
    "models nowhere": 2,
    "report nowhere": 2,
    "explain nowhere": 2,
    "contributions nowhere": 2,
    "fairness nowhere": 2,
    "passport nowhere --key nowhere": 2,
    "verify nothing.json --keys nowhere": 2,
    "compose nonsense": 2,
    "kubernetes nonsense": 2,
    "receipt nobody": 2,
    "dashboard --runs nowhere": 2,
    "preflight nobody": 2,
    "preflight nobody --scenario nonsense": 2,
    "participant list": 0,
    "participant list --scenario nonsense": 2,
    "budget init": 2,
    "budget init nobody --policy nothing.toml": 2,
    "budget init --scenario nonsense": 2,
    "budget migrate nobody": 2,
    "budget allow nobody banks": 2,
    "budget show": 2,
    "budget show nobody": 2,
    "budget history nobody": 2,
    "budget set nobody --run 1": 2,
    "budget plan nonsense": 2,
    "budget plan banks --participant nobody": 2,
    "budget sweep nonsense": 2,
    "budget export nobody": 2,
    "client check nobody": 2,
    "client confirm nobody": 2,
    "client diff nobody nothing": 2,
    "data map nothing.csv --client nobody": 2,
    "data check nobody": 2,
    "data get nonsense": 2,
    "home init --scenario nonsense": 2,
    "home backup nobody --to file": 2,
    "home log nobody": 2,
    "new --help": 0,
    "new strategy fedavg": 2,
    "new metric auc": 2,
    "new source csv": 2,
    "new tracker mlflow": 2,
    "secure key nobody": 2,
}


def _run(words: list[str], folder: Path, before: str = "", **further: str) -> dict[str, tuple[int, list[str]]]:
    """What each command did, one after the other in one process: exit status, and packages loaded for it."""
    done = subprocess.run(
        [sys.executable, "-c", before + CODE],
        input=json.dumps(words),
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
        env={"CONSORTIA_HOME": str(folder), "PATH": "", "PYTHONPATH": ":".join(sys.path), **further},
    )
    lines = [json.loads(line[3:]) for line in done.stdout.splitlines() if line.startswith("@@ ")]
    return {words: (status, loaded) for words, status, loaded in lines}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, list[str]]]:
    return _run(list(SAID), tmp_path_factory.mktemp("commands"))


@pytest.mark.parametrize("words", SAID)
def test_no_heavy_library_is_loaded(words: str, found: dict[str, tuple[int, list[str]]]) -> None:
    status, loaded = found[words]
    assert (status, sorted({*loaded} & {*HEAVY})) == (SAID[words], [])
    assert len(loaded) < 200


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, list[str]]]:
    folder = tmp_path_factory.mktemp("begun")
    (folder / "RUN").mkdir()
    own = folder / "RUN" / "participants" / "bank-a" / "runs" / "RUN"
    own.mkdir(parents=True)
    for file in (*(folder / "RUN" / f"{name}.json" for name in ("result", "scenario", "job")), own / "receipt.json"):
        file.write_text("{}")
    (folder / "rows.csv").write_text("")
    for policy in (find_scenario("banks").parent / "policies" / "banks").iterdir():
        home = folder / policy.stem
        home.mkdir()
        shutil.copyfile(policy, home / "policy.toml")
        (home / "ledger.db").touch()
    return _run(SLOW, folder, ENDS)


@pytest.mark.parametrize("words", SLOW)
def test_a_slow_command_says_what_it_does_before_it_loads_a_heavy_library(
    words: str, begun: dict[str, tuple[int, list[str]]]
) -> None:
    status, loaded = begun[words]
    assert (status, sorted({*loaded} & {*HEAVY})) == (99, [])


@pytest.mark.parametrize("words", [["--help"], ["budget", "--help"]])
def test_help_says_what_the_commands_say(words: list[str]) -> None:
    # Without words every command is imported, and speaks for itself.
    short = CliRunner().invoke(build_app(words), words).output
    assert short == CliRunner().invoke(build_app(), words).output
    assert all(name in short for name in (COMMANDS if words == ["--help"] else COMMANDS["budget"].inside))


def test_only_the_command_that_is_named_is_there() -> None:
    named = build_app(["budget", "show", "--help"])
    assert "--json" in CliRunner().invoke(named, ["budget", "show", "--help"]).output
    assert "--json" not in CliRunner().invoke(named, ["run", "--help"]).output


def test_importing_consortia_loads_nothing_heavy() -> None:
    code = "import sys, consortia; dir(consortia); consortia.ArgumentError; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {name.partition(".")[0] for name in done.stdout.split()} & set(HEAVY)


def test_a_launcher_that_waits_has_loaded_nothing_that_trains() -> None:
    code = "import sys, consortia.deploy.launcher, consortia.deploy.courier; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {name.partition(".")[0] for name in done.stdout.split()} & {"torch", "opacus", "pandas", "sklearn"}


@pytest.mark.parametrize(
    ("words", "most"),
    [
        ("check banks", {"torch", "numpy"}),
        pytest.param("check secure-banks", {"torch", "numpy"}, marks=pytest.mark.end_to_end),
        pytest.param("check banks-network", {"torch", "numpy"}, marks=pytest.mark.end_to_end),
        pytest.param("check digits", {"torch", "numpy"}, marks=pytest.mark.end_to_end),
        pytest.param("check shared-heart", {"torch", "numpy"}, marks=pytest.mark.end_to_end),
    ],
)
def test_a_plan_that_was_shown_before_needs_no_accountant_no_frames_and_no_opacus(
    words: str, most: set[str], tmp_path: Path
) -> None:
    made = CliRunner().invoke(build_app(words.split()), words.split(), env={"XDG_CACHE_HOME": str(tmp_path)})
    assert made.exit_code == 0
    status, loaded = _run([words], tmp_path, XDG_CACHE_HOME=str(tmp_path))[words]
    assert (status, {*loaded} & {*HEAVY}) == (0, most)
