"""`consortia.train` and `consortia.run`: the real path from DataFrames, its tables and plots, what it refuses."""

from __future__ import annotations

import ast
import json
import math
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from doc_blocks import ROOT, blocks
from own_learners import centres

import consortia
from clients import registry
from consortia import ArgumentError, Participant
from consortia.api import runs
from consortia.common.errors import RefusedError
from consortia.models import source
from consortia.reports import live_runs
from consortia.terms import learners
from consortia.terms.policy import load_policy
from privacy.accounting import epsilon
from privacy.ledger import Ledger

ROUNDS = 2
SECRET = "Ada Lovelace 4711"


def frame(rows: int, seed: int, **attrs: Any) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    x = random.normal(size=rows)
    made = pd.DataFrame({"x": x, "town": random.choice(["a", "b"], rows), "who": [f"p{i // 2}" for i in range(rows)]})
    made["y"] = 3 * x + random.normal(size=rows)
    made.attrs.update(attrs)
    return made


DECLARED = consortia.declare_schema({"x": (-3, 3)}, "y", bounds=(-9, 9))


def members(**changes: Any) -> list[Participant]:
    """Three participants, each at its own ε; the second's unit is a person, the third is non-private."""
    rest = {"epsilon": 2.0, "delta": 1e-3} | changes
    return [
        Participant(name="first", frame=frame(40, 1, synthetic=True), **rest | {"epsilon": 0.5}),
        Participant(name="second", frame=frame(40, 2), **rest | {"unit": "who"}),
        Participant(name="third", frame=frame(40, 3), **rest | {"epsilon": math.inf}),
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("api") / "town"


@pytest.fixture(scope="module")
def run(folder: Path) -> Iterator[consortia.Run]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield consortia.train(members(), target="y", rounds=ROUNDS, folder=folder)
    assert torch.get_num_threads() == 2, "a run leaves the process as it was"
    torch.set_num_threads(threads)


def test_names_are_sorted_documented_and_all_there_is() -> None:
    assert consortia.__all__ == sorted(consortia.__all__)
    listed = [name for names in consortia._NAMES.values() for name in names]
    assert sorted(listed) == consortia.__all__
    for name in consortia.__all__:
        assert getattr(consortia, name).__doc__, name
    assert set(dir(consortia)) == {*consortia.__all__, "__version__"}
    with pytest.raises(AttributeError, match="it has ArgumentError"):
        _ = consortia.nonsense  # type: ignore[attr-defined]


@pytest.mark.end_to_end
def test_every_participant_pays_by_its_own_budget_from_its_own_home(run: consortia.Run, folder: Path) -> None:
    spent = {}
    for name, unit in (("first", "record"), ("second", "who")):
        with Ledger.open(folder / "homes" / name / "ledger.db", name) as ledger:
            entries = ledger.entries(run.folder.name)
            assert len(entries) == ROUNDS
            assert {entry.state for entry in entries} == {"committed"}
            events = [event for entry in entries for event in entry.events]
            assert {event.unit for event in events} == {unit}
        spent[name] = epsilon(events, 1e-3)
    receipts = run.receipts()
    assert receipts.loc["first", "epsilon_run"] == pytest.approx(spent["first"])
    assert spent["first"] <= 0.5 < spent["second"] <= 2
    assert receipts.loc["second", ["unit", "units"]].tolist() == ["who", 20]
    assert receipts.loc["third", ["epsilon_run", "budget_run", "epsilon_lifetime"]].tolist() == [math.inf] * 3
    assert (receipts["delta_run"] == 1e-3).all()
    assert receipts["relation"].eq("add_or_remove_one").all()
    own = json.loads((run.folder / "participants" / "first" / "runs" / run.folder.name / "receipt.json").read_text())
    assert receipts.loc["first", "federated"] == own["metrics"]["rmse"]["federated"]
    gain = own["gain"]["value"] if own["gain"] else math.nan
    assert receipts.loc["first", "gain"] == pytest.approx(gain, nan_ok=True)
    mae = run.receipts("mae")
    assert mae.loc["first", "federated"] == own["metrics"]["mae"]["federated"]
    assert mae["gain"].isna().all()
    with pytest.raises(ArgumentError, match="metric: wanted one of mae, r2, rmse, got 'auc'"):
        run.receipts("auc")


@pytest.mark.end_to_end
def test_made_up_rows_and_an_inferred_schema_are_called_so(run: consortia.Run) -> None:
    assert run.receipts()["synthetic"].tolist() == [True, False, False]
    assert run.synthetic
    assert run.inferred
    said = str(run)
    assert "synthetic" in said
    assert "not private" in said
    assert "non-private, without a guarantee (ε = ∞)" in said
    assert run.plot_gains().get_suptitle().startswith("Rows from Python (SYNTHETIC")


def test_a_declared_schema_is_not_inferred_and_a_temporary_folder_goes_with_its_run() -> None:
    own = [Participant(name="a", frame=frame(30, 4), epsilon=1)]
    plain = consortia.train(own, schema=DECLARED, rounds=1, receipts=False)
    assert not plain.inferred
    assert "not private" not in str(plain)
    assert "temporary folder" in str(plain)
    place = plain.folder
    assert place.parents[1].stat().st_mode & 0o077 == 0
    del plain
    assert not place.exists()


def test_ledger_history_and_accounts_are_tables(run: consortia.Run) -> None:
    ledger = run.ledger("first")
    released = ledger[ledger["what"] == "released"]
    assert released["round"].tolist() == [1, 2]
    assert released["unit"].eq("record").all()
    assert (released["epsilon_alone"] < 0.5).all()
    assert run.ledger("third")["epsilon_alone"].max() == math.inf
    history = run.history()
    assert len(history) == 3 * ROUNDS
    first = history[history["participant"] == "first"].set_index("round")
    assert 0 < first.loc[1, "epsilon"] < first.loc[2, "epsilon"] <= first.loc[2, "budget"] == 0.5
    assert first.loc[2, "epsilon"] == pytest.approx(run.receipts().loc["first", "epsilon_run"], rel=2e-3)
    assert first["metric"].eq("rmse").all()
    accounts = run.spent().set_index(["participant", "horizon"])
    assert accounts.loc[("first", f"run {run.folder.name}"), "budget"] == 0.5
    assert accounts.loc[("first", "lifetime (PLD estimate)"), "budget"] == 2.0
    assert accounts[["delta", "unit", "relation"]].notna().all(axis=None)
    with pytest.raises(ArgumentError, match="wanted one of first, second, third, got 'fourth'"):
        run.ledger("fourth")


def test_a_row_that_breaks_the_schema_gets_no_prediction(run: consortia.Run) -> None:
    rows = frame(3, 9).assign(town=["a", SECRET, "b"])
    assert run.predict(rows).isna().tolist() == [False, True, False]
    kept = run.predict(rows, "first", choice="kept")
    assert kept.name == "y"
    assert run.model("first", choice="kept").guarantee["non_private"] in (True, False)
    assert run.model().guarantee["participants"]["first"]["horizon"] == "this run"
    with pytest.raises(ArgumentError, match="regression"):
        run.predict_proba(rows)
    with pytest.raises(ArgumentError, match="column 'x' is missing"):
        run.predict(rows.drop(columns="x"))
    with pytest.raises(ArgumentError, match="participant: wanted one of"):
        run.predict(rows, choice="kept")


def test_plots_are_figures_and_the_report_is_written(run: consortia.Run, tmp_path: Path) -> None:
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    budget, metrics, gains = run.plot_budget(), run.plot_metrics(), run.plot_gains()
    assert plt.get_fignums() == before
    axes = budget.axes[0]
    assert [line.get_label() for line in axes.get_lines()][::2] == ["first", "second"]
    assert "third" in axes.get_title()
    assert "δ = 0.001" in axes.get_ylabel()
    assert "who" in axes.get_title()
    assert metrics.axes[0].get_ylabel() == "rmse on own validation rows"
    assert gains.axes[0].get_ylabel() == "joined over control"
    assert [file.name for file in run.report(tmp_path)] == ["report.html", "report.md"]


def test_the_same_folder_goes_on_with_its_ledgers(run: consortia.Run, folder: Path, tmp_path: Path) -> None:
    home = folder / "homes" / "first"
    key = (home / "split.key").read_bytes()
    again = consortia.train(members(), target="y", rounds=ROUNDS, folder=folder, receipts=False)
    assert (home / "split.key").read_bytes() == key
    line = again.spent().query("participant == 'first' and horizon.str.startswith('lifetime')").iloc[0]
    assert line["releases"] == 2 * ROUNDS
    assert line["left"] == pytest.approx(1.0)
    assert again.receipts()["epsilon_run"].tolist()[:2] == pytest.approx(run.receipts()["epsilon_run"].tolist()[:2])
    # Another owner's word on the lifetime is a link of the ledger.
    copy = shutil.copytree(folder, tmp_path / "copy")
    with pytest.raises(ArgumentError, match="participant first: epsilon: wanted at most what its lifetime holds, 2,"):
        consortia.train([Participant(name="first", frame=frame(40, 1), epsilon=3, delta=1e-3)], "y", folder=copy)
    (copy / "homes" / "first" / "ledger.db").unlink()
    with pytest.raises(ArgumentError, match="wanted the ledger of first"):
        consortia.train(members()[:1], target="y", rounds=ROUNDS, folder=copy)
    assert not (copy / "homes" / "first" / "ledger.db").exists()


def test_an_exhausted_lifetime_says_so_and_what_to_do(tmp_path: Path) -> None:
    one = [Participant(name="a", frame=frame(30, 4), epsilon=1, lifetime_epsilon=1)]
    consortia.train(one, target="y", rounds=1, folder=tmp_path, receipts=False)
    with pytest.raises(consortia.RunFailedError, match=r"BUDGET_EXHAUSTED.*\n.*lifetime_epsilon"):
        consortia.train(one, target="y", rounds=1, folder=tmp_path, receipts=False)


def test_a_deployment_refuses_what_python_wrote(run: consortia.Run, folder: Path) -> None:
    with pytest.raises(RefusedError, match="DEMO_POLICY"):
        load_policy(folder / "homes" / "first" / "policy.toml", simulation=False)


def test_another_process_opens_the_run(run: consortia.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Callable[[], Any]] = [
        lambda: consortia.Run(run.folder).receipts(),
        lambda: live_runs.Run(run.folder),
        lambda: source.of_participant(str(run.folder), "first", "kept"),
        lambda: source.of_coordinator(str(run.folder), run.scenario.roster[0].industry),
    ]
    for opens in opened:
        monkeypatch.setattr(registry, "_held", {})
        opens()
    assert consortia.Run(run.folder).receipts().equals(run.receipts())
    assert consortia.Run(run.folder).schema == run.schema
    with pytest.raises(consortia.InputError, match=r"result\.json"):
        consortia.Run(run.folder / "model")


@pytest.mark.parametrize("labels", [{True: True, False: False}, {True: 7, False: -2}])
def test_labels_come_back_as_they_were(labels: dict[bool, Any]) -> None:
    rows = frame(60, 5)[["x"]].sort_values("x", ignore_index=True)
    own = [Participant(name="a", frame=rows.assign(y=(rows["x"] > 0).map(labels)), epsilon=math.inf)]
    made = consortia.train(own, "y", rounds=4, receipts=False)
    assert made.predict(rows).iloc[[0, -1]].tolist() == [labels[False], labels[True]]
    shares = made.predict_proba(rows)
    assert list(shares) == sorted(labels.values())
    assert shares.sum(axis=1).to_numpy() == pytest.approx(1)


@pytest.mark.end_to_end
def test_a_scenario_runs_with_a_budget_for_one(tmp_path: Path) -> None:
    made = consortia.run("linear", rounds=2, epsilon={"line-a": 1.0}, out=tmp_path)
    assert made.receipts()["epsilon_run"].tolist() == [pytest.approx(1, abs=0.01), math.inf]
    assert made.synthetic
    assert not made.inferred
    assert consortia.run(resume=made.folder).folder == made.folder


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"name": "Hospital A"}, "name: wanted"),
        ({"frame": pd.DataFrame()}, "frame: wanted a DataFrame with rows"),
        ({"epsilon": 0}, "epsilon: wanted a number > 0"),
        ({"epsilon": math.nan}, "epsilon: wanted"),
        ({"epsilon": "1"}, "epsilon: wanted"),
        ({"delta": 0.5}, "delta: wanted a number between 0 and 1/units"),
        ({"unit": "patient"}, "unit: wanted 'record' or a column"),
        ({"units": 0}, "units: wanted"),
        ({"lifetime_epsilon": 0.5}, "lifetime_epsilon: wanted at least epsilon"),
    ],
)
def test_a_participant_that_is_none_is_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=re.escape(named)) as error:
        Participant(**{"name": "a", "frame": frame(10, 1), "epsilon": 1.0} | change)
    assert isinstance(error.value, ArgumentError)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"target": None}, "target, schema: wanted one of them, got neither"),
        ({"target": "z"}, "target: wanted a column of every frame"),
        ({"rounds": 0}, "contract.rounds: wanted greater than or equal to 1, got 0"),
        ({"strategy": "fedavgg"}, "did you mean 'fedavg'?"),
        ({"split": (0.5, 0.5)}, "split: wanted three shares"),
        ({"contract": {"scops": {}}}, "contract.scops: unknown key; did you mean 'scopes'?"),
        ({"target": None, "schema": "bank"}, "participant first: frame: wanted the columns of schema 'german_credit'"),
        ({"participants": []}, "participants: wanted"),
        ({"target": None, "schema": DECLARED}, "participant second: unit: wanted record, got 'who'"),
        ({"participants": [Participant(name="a", frame=frame(9, 1), epsilon=1e-9)]}, "roster.a: "),
        ({"participants": [*members(), members()[0]]}, "got first more than once"),
        ({"contract": {"learner": "sums"}, "rounds": 5}, "rounds: wanted it left out with learner 'sums', which takes"),
        ({"contract": {"learner": "sums"}, "hidden": [4]}, "hidden: wanted it left out with learner 'sums', which"),
        ({"contract": {"learner": "summs"}}, "did you mean 'sums'?"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_a_round(change: dict[str, Any], named: str, tmp_path: Path) -> None:
    wanted = {"participants": members(), "target": "y", "folder": tmp_path / "new"} | change
    with pytest.raises(ValueError, match=re.escape(named)):
        consortia.train(**wanted)
    assert not (tmp_path / "new").exists()


@pytest.mark.end_to_end
@pytest.mark.parametrize(("learner", "chosen"), [("sums", "sums"), ("auto", "sums"), ("lent", "blocks")])
def test_a_learner_by_name_has_its_constants_as_in_a_file(learner: str, chosen: str) -> None:
    rows = [frame(40, seed)[["x", "y"]] for seed in range(3)]
    banks = [Participant(name=f"a-{i}", frame=each.assign(y=each.y > 0), epsilon=2) for i, each in enumerate(rows)]
    with learners.lent("lent", centres().Centres):
        run = consortia.train(banks, "y", contract={"learner": learner}, receipts=False)
        contract = run.scenario.contract
    assert (contract.learner, contract.releases, contract.rounds) == (chosen.replace("blocks", "lent"), (chosen,), 2)
    spent = run.spent().query("horizon.str.startswith('run')")["epsilon"]
    assert len(spent) == 3
    assert spent.between(1.9, 2.0).all()


def test_no_error_shows_a_value_of_a_row() -> None:
    rows = frame(30, 1)
    declared = consortia.declare_schema({"x": (-3, 3), "town": ["c"]}, "y", bounds=(-9, 9))
    with pytest.raises(consortia.RunFailedError, match="wanted one of c") as error:
        consortia.train([Participant(name="a", frame=rows.assign(town=SECRET), epsilon=1)], schema=declared, rounds=1)
    assert SECRET not in str(error.value)


def test_options_of_the_command_line_are_parameters_here() -> None:
    with pytest.raises(ArgumentError, match=r"^engine: wanted one of"):
        consortia.run("banks-network", engine="nonsense")
    with runs.as_arguments():
        pass


PYTHON = re.compile(r"^\s*(?:from|import)\s+(consortia|clients|privacy|strategies)\b", flags=re.MULTILINE)


def public_only(source: str) -> list[str]:
    """Return the imports of ours that are not `consortia` itself, or a name that it exports."""
    wrong = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            wrong += [a.name for a in node.names if PYTHON.match(f"import {a.name}") and a.name != "consortia"]
        elif isinstance(node, ast.ImportFrom) and PYTHON.match(f"from {node.module}"):
            names = {a.name for a in node.names}
            if node.module != "consortia" or not names <= set(consortia.__all__):
                wrong.append(str(node.module))
    return wrong


@pytest.mark.parametrize("page", ["README.md", "docs/tutorials/data_scientist.md", "docs/how_to/python.md"])
def test_pages_for_data_scientists_use_the_public_names_only(page: str) -> None:
    sources = [block.text for block in blocks(ROOT / page) if block.language == "python"]
    assert sources
    assert not public_only("\n".join(sources))


def test_the_notebook_uses_the_public_names_only() -> None:
    notebook = nbformat.read(ROOT / "docs" / "a_run_from_python.ipynb", as_version=4)
    source = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert "consortia.train" in source
    assert not public_only(source)
    assert public_only("from consortia.engines import runner\nimport clients.schema\nfrom consortia import run") == [
        "consortia.engines",
        "clients.schema",
    ]


def test_from_three_frames_to_receipts_in_twelve_lines() -> None:
    first = next(b.text for b in blocks(ROOT / "docs/tutorials/data_scientist.md") if b.language == "python")
    assert len([line for line in first.splitlines() if line.strip()]) <= 12
    assert "print(run.receipts()" in first
    assert first.count("Participant(") == 3
