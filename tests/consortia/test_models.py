"""A run's models made usable: kept at home, asked for predictions, exported, registered, and refused when altered."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from command_line import APP
from targets import lettered
from typer.testing import CliRunner, Result

from clients import registry as industries
from clients.dataset import prepare
from clients.industry import IndustryClient
from clients.schema import Column, Derived, Schema, Target
from consortia.common.errors import InputError
from consortia.models import onnx_file, registry
from consortia.models.onnx_file import TOLERANCE, largest_difference, predicted_range, run_onnx, to_onnx
from consortia.models.rows import predict, view_of
from consortia.models.source import Found, of_coordinator, of_participant
from consortia.participant.baseline import baseline
from consortia.participant.evaluation import module_scorer
from consortia.participant.own_candidates import ridge
from consortia.participant.own_model import About, OwnModel, constant, from_bytes, keep, to_bytes
from consortia.participant.personal import candidates
from consortia.terms.scenario import committed_scenarios, load_scenario
from consortia.terms.scopes import build_module

ROOT = Path(__file__).resolve().parents[2]
GUARANTEE = {
    "epsilon": 1.0,
    "delta": 1e-5,
    "unit": "record",
    "relation": "add_or_remove_one",
    "horizon": "this run",
    "non_private": False,
}


def _call(*arguments: object) -> Result:
    result = CliRunner().invoke(APP, [str(a) for a in arguments], env={"COLUMNS": "200"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def _model(scenario: str, industry: str) -> tuple[OwnModel, About]:
    """Return a network with a linear part beside it, both at random numbers: no feature is without effect."""
    contract = load_scenario(scenario).contract
    about = About("line-a", "run-1", industry, "federated", "", contract)
    network, width = build_module(contract, industry), view_of(about).width
    target = industries.get(industry).schema.target
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.7, generator=generator)
    slope = torch.randn(width, target.outputs, dtype=torch.float64, generator=generator)
    return OwnModel(target, network, slope, torch.zeros(target.outputs, dtype=torch.float64)), about


def _registered(folder: Path) -> Path:
    model, about = _model("linear", "linear")
    return registry.register(folder, "line", Found(model, about, to_bytes(model, about), GUARANTEE), None)


def test_a_model_comes_back_from_its_file_as_it_was() -> None:
    model, about = _model("cross-industry-network", "bank")
    again, same = from_bytes(to_bytes(model, about), "here")
    assert same == about
    features = torch.randn(5, view_of(about).width)
    assert torch.equal(again(features), model(features))


@pytest.mark.parametrize(
    "kind", ["binary", "multiclass", "one class of three missing", "one class", "multilabel", "regression"]
)
def test_the_local_model_as_data_predicts_what_the_local_model_predicts(kind: str) -> None:
    client = industries.get("linear")
    target = lettered(kind)
    metric = {"regression": "rmse", "multilabel": "label_auc"}.get(kind, "accuracy")
    client = replace(client, schema=replace(client.schema, target=target), metrics=(metric,))
    rng = np.random.default_rng(1)
    x = rng.uniform(-1, 1, 90)
    seen = {"binary": "ab", "one class of three missing": "ac", "one class": "b"}.get(kind, "abc")
    y = np.array(list(seen))[np.digitize(x + rng.normal(0, 0.3, 90), np.linspace(-1, 1, len(seen) + 1)[1:-1])]
    frame = pd.DataFrame({"x": x, "y": 3 * x + 2 if kind == "regression" else y})
    table = prepare(client, frame)
    fitted = ridge(client, table, "line-a")
    found = fitted.model()(table.inputs["features"])
    assert np.allclose(found.numpy(), fitted(table), atol=1e-6)


@pytest.mark.end_to_end
def test_every_candidate_as_data_predicts_what_it_predicts() -> None:
    scenario = load_scenario("cross-industry-network")
    client = industries.get("factory")
    table = prepare(client, client.synthesise(np.random.default_rng(0), 120, "L"))
    part = table.take(range(80)), table.take(range(80, 120))
    module = build_module(scenario.contract, "factory")
    base = baseline(scenario.contract, "factory", part[0], "factory-a")
    offered = candidates(module, "factory", base.alone, "factory-a")
    assert {candidate.kind for candidate in offered} == {"local", "federated", "centred", "fine-tuned"}
    for candidate in offered:
        fitted = candidate.ready or candidate.fit(part[0])
        found = fitted.model()(part[1].inputs["features"])
        assert np.allclose(found.numpy(), fitted(part[1]), atol=1e-6), candidate.kind


def test_a_constant_of_zero_or_one_stays_one() -> None:
    target = industries.get("bank").schema.target
    for value in (0.0, 0.25, 1.0):
        assert float(constant(target, 3, np.array([value]))(torch.zeros(1, 3))) == pytest.approx(value, abs=1e-7)


def test_a_row_that_breaks_the_schema_gets_no_prediction() -> None:
    model, about = _model("cross-industry-network", "hospital")
    rows = industries.get("hospital").synthesise(np.random.default_rng(5), 6, "va").drop(columns=["num", "patient_id"])
    whole, report = predict(model, about, rows, "rows")
    assert report.share == 0
    rows["age"] = rows["age"].astype(object)
    rows.loc[2, "age"] = "old"
    rows.loc[4, "cp"] = "9"
    found, report = predict(model, about, rows, "rows")
    assert found["p(disease)"].isna().tolist() == [False, False, True, False, True, False]
    kept = [0, 1, 3, 5]
    assert np.array_equal(found.to_numpy()[kept], whole.to_numpy()[kept])  # no row looks at another
    assert report.reasons == {"age: not a number": 1, "cp: not one of its categories": 1}


def test_a_registered_version_is_whole_numbered_and_checked(tmp_path: Path) -> None:
    first, second = _registered(tmp_path), _registered(tmp_path)
    assert [first.name, second.name] == ["1", "2"]
    _, about, manifest = registry.load(second)
    assert manifest["guarantee"] == GUARANTEE
    assert manifest["run_id"] == about.run_id == "run-1"
    assert manifest["inputs"] == ["x"]
    assert {path.name for path in second.iterdir()} == {"model.safetensors", "manifest.json"}
    assert [path.name for path in (tmp_path / "line").iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("damage", ["weights", "missing", "manifest", "schema", "other run"])
def test_an_altered_version_is_refused(tmp_path: Path, damage: str) -> None:
    folder = _registered(tmp_path)
    weights, manifest = folder / "model.safetensors", folder / "manifest.json"
    data = json.loads(manifest.read_text())
    if damage == "weights":
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(bytes(content))
    elif damage == "missing":
        weights.unlink()
    elif damage == "manifest":
        manifest.write_text("{")
    elif damage == "schema":
        manifest.write_text(json.dumps(data | {"schema": 99}))
    else:
        manifest.write_text(json.dumps(data | {"run_id": "run-2"}))
    with pytest.raises(InputError):
        registry.load(folder)
    result = _call("models", tmp_path)
    assert result.exit_code == 1
    rows = tmp_path / "rows.csv"
    rows.write_text("x\n0.5\n")
    if damage != "missing":
        assert _call("predict", folder, rows).exit_code == 2


def test_models_are_listed_with_their_guarantee_and_predict(tmp_path: Path) -> None:
    folder = _registered(tmp_path / "models")
    result = _call("models", tmp_path / "models")
    assert result.exit_code == 0, result.output
    assert "ε = 1.000, δ = 1e-05, unit: record, add or remove one, horizon: this run" in result.output
    rows = tmp_path / "rows.csv"
    rows.write_text("x,extra\n0.5,a\n9x,b\n-0.25,c\n")
    result = _call("predict", folder, rows, "--out", tmp_path / "out.csv")
    assert result.exit_code == 0, result.output
    assert "2 of 3 rows" in result.output
    table = pd.read_csv(tmp_path / "out.csv")
    assert table["row"].tolist() == [1, 2, 3]
    wanted = _model("linear", "linear")[0](torch.tensor([[0.5], [-0.25]]))
    assert np.allclose(table["y"].dropna(), wanted, atol=1e-6)
    assert bool(table["y"].isna()[1])
    result = _call("predict", tmp_path / "none" / "run-1", rows)
    assert result.exit_code == 2
    assert "wanted the folder of a run, got nothing there" in result.output


def test_a_deployed_participant_names_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, about = _model("linear", "linear")
    folder = tmp_path / "homes" / "line-a" / "runs" / "run-1"
    hashes = keep(folder / "models", {"kept": (model, replace(about, kind="centred")), "federated": (model, about)})
    account = {"run": 0.5, "delta": 1e-5, "unit": "record", "non_private": False}
    (folder / "receipt.json").write_text(json.dumps({"schema": 1, "models": hashes, "epsilon": account}))
    monkeypatch.setenv("CONSORTIA_HOME", str(tmp_path / "homes"))
    (tmp_path / "rows.csv").write_text("x\n0.5\n")
    result = _call("predict", "run-1", tmp_path / "rows.csv", "--participant", "line-a")
    assert result.exit_code == 0, result.output
    assert of_participant("run-1", "line-a", "federated").guarantee["epsilon"] == 0.5
    assert of_participant("run-1", "line-a", "kept").guarantee["non_private"] is True  # it never was made private
    assert (folder / "models").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["predict", "NOWHERE", "rows.csv"], "wanted the folder of a run, got nothing"),
        (["predict", "run-1", "rows.csv"], "--participant"),
        (["predict", "NOWHERE", "rows.csv", "--participant", "bank-a"], "wanted the folder of a run, got nothing"),
        (["predict", "NOWHERE", "rows.csv", "--participant", "bank-a", "--model", "best"], "kept, federated"),
        (["export", "NOWHERE"], "got neither"),
        (["export", "NOWHERE", "--participant", "a", "--industry", "b"], "got both"),
        (["export", "NOWHERE", "--industry", "bank"], "wanted the folder of a finished run"),
        (["models", "NOWHERE"], "wanted a folder of models"),
    ],
)
def test_bad_input_is_named(tmp_path: Path, arguments: list[str], said: str) -> None:
    result = _call(*(str(tmp_path / a) if a == "NOWHERE" else a for a in arguments))
    assert result.exit_code == 2
    assert said in result.output


def test_nothing_reads_or_writes_pickles() -> None:
    pickles = (
        r"\bimport (pickle|dill|cloudpickle|joblib|shelve)\b|(?<!safetensors\.)\btorch\.(load|save)\(|allow_pickle=T"
    )
    found = [
        f"{path.relative_to(ROOT)}"
        for folder in ("platform", "clients", "privacy", "strategies")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(pickles, path.read_text())
    ]
    # The audit reads what its own fork tells it through a pipe.
    assert found == ["platform/consortia/audit/probe.py"]


def _as_text(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the cells as a CSV file has them."""
    return frame.astype(object).where(frame.notna(), "").map(str)


@pytest.mark.end_to_end
@pytest.mark.parametrize("industry", industries.names())
def test_onnx_equals_torch_on_a_thousand_raw_rows(industry: str) -> None:
    scenario = next(n for n in committed_scenarios() if industry in load_scenario(n).contract.industries)
    model, about = _model(scenario, industry)
    data = to_onnx(model, about)
    client = industries.get(industry)
    frames = [client.synthesise(np.random.default_rng(site), 1000, name) for site, name in enumerate(client.sites)]
    rows = (
        pd.concat(frames).sample(1000, random_state=0).reset_index(drop=True).drop(columns=[client.schema.target.name])
    )
    allowed = TOLERANCE * predicted_range(client.schema.target)
    assert largest_difference(data, model, about, rows) <= allowed
    # As text, with every spelling of "missing" where a value may be missing, and some rows broken.
    text, rng = _as_text(rows), np.random.default_rng(1)
    spellings = ["", "?", "NA", "nan", "NULL", "<NA>"]
    for column in client.schema.columns:
        if column.nullable and column.is_feature:
            hit = rng.random(len(text)) < 0.2
            text.loc[hit, column.name] = rng.choice(spellings + list(column.missing_values), hit.sum())
    first = next(c for c in client.schema.columns if c.is_feature)
    text.loc[:9, first.name] = ["no number", "1e999", "--1", "1_0", "inf", "0x10", "\0", "9" * 70, "é", "abc"]
    wanted, _ = predict(model, about, text, "rows")
    found = run_onnx(data, about, text)
    assert np.isnan(found[:10]).all()
    ours = np.isfinite(found[:, 0])
    assert ours[10:].sum() == np.isfinite(wanted.to_numpy()[10:, 0]).sum() > 900
    assert np.abs(found[ours] - wanted.to_numpy()[ours]).max() <= allowed


@pytest.mark.end_to_end
def test_onnx_has_every_kind_of_column(monkeypatch: pytest.MonkeyPatch) -> None:
    """One schema with what the industries do not have: imputed and generalised columns, three classes, derived ones."""
    client = _everything()
    about = About("a", "run-1", "linear", "local", "", load_scenario("linear").contract)
    monkeypatch.setattr(industries, "get", lambda _: client)
    width = client.schema.width
    model = OwnModel(client.schema.target, None, torch.randn(width, 3, dtype=torch.float64), torch.zeros(3).double())
    rows = client.synthesise(np.random.default_rng(3), 1000, "one")
    data = to_onnx(model, about)
    assert largest_difference(data, model, about, rows) <= TOLERANCE
    assert str(ROOT).encode() not in data  # nor any other path of the machine that exported it
    assert b"site-packages" not in data


def test_what_onnx_cannot_repeat_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    client = _everything()
    rolling = Derived(name="rolling", low=0, high=1, function=lambda frame: frame["amount"].rolling(3).mean())
    client = replace(client, schema=replace(client.schema, derived=(rolling,)))
    monkeypatch.setattr(industries, "get", lambda _: client)
    about = About("a", "run-1", "linear", "local", "", load_scenario("linear").contract)
    with pytest.raises(InputError, match="rolling"):
        to_onnx(constant(client.schema.target, client.schema.width, np.full(3, 1 / 3)), about)


def _everything() -> IndustryClient:
    columns = (
        Column(name="amount", dtype="number", low=1, high=50, nullable=True, impute=7.0, missing_values=("-9",)),
        Column(name="count", dtype="integer", low=0, high=9, valid_low=0),
        Column(name="born", dtype="number", low=1900, high=2020, identifier="generalise", generalise=10.0),
        Column(name="member", dtype="flag", nullable=True, impute=1),
        Column(name="grade", dtype="category", categories=("1", "2", "3"), scores=(-1, 0, 1), nullable=True),
        Column(name="colour", dtype="category", categories=("red", "green"), nullable=True, impute="green"),
        Column(name="shape", dtype="category", categories=("round", "flat"), nullable=True, required=False),
    )
    derived = (
        Derived(name="log", low=0, high=4, function=lambda f: np.log(f["amount"].clip(lower=1, upper=40))),
        Derived(
            name="mix",
            low=-9,
            high=9,
            function=lambda f: (2 - f["count"]) / (f["amount"].fillna(3) + 1) - f["count"] ** 2 / 9,
        ),
        Derived(
            name="rule",
            low=-1,
            high=1,
            function=lambda f: ((f["grade"] != "2") & ~(f["amount"] > 9) | f["count"].isna()).astype(float),
        ),
    )
    target = Target(name="kind", kind="multiclass", classes=("a", "b", "c"))

    def rows(generator: np.random.Generator, count: int, _: str) -> pd.DataFrame:
        frame = pd.DataFrame(
            {
                "amount": generator.uniform(-5, 60, count).round(2),
                "count": generator.integers(0, 12, count),
                "born": generator.uniform(1890, 2030, count).round(1),
                "member": generator.choice(["yes", "FALSE", "1", "0"], count),
                "grade": generator.integers(1, 4, count).astype(float),
                "colour": generator.choice(["red", "green"], count),
                "kind": generator.choice(["a", "b", "c"], count),
            }
        )
        for name in ("amount", "member", "grade", "colour"):
            frame[name] = frame[name].mask(generator.random(count) < 0.2)
        frame.loc[generator.random(count) < 0.1, "amount"] = -9
        return frame

    schema = Schema(name="everything", version=1, columns=columns, target=target, derived=derived)
    return replace(industries.get("linear"), schema=schema, synthesise=rows, sites=("one",), metrics=("accuracy",))


@pytest.mark.end_to_end
def test_a_runs_models_are_predicted_with_and_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = _call("run", "banks-network", "--rounds", "1", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    (run,) = tmp_path.iterdir()
    client = industries.get("bank")
    rows = client.synthesise(np.random.default_rng(9), 50, client.sites[0]).drop(columns=["class"])
    rows.to_csv(tmp_path / "rows.csv", index=False)
    models = tmp_path / "models"
    result = _call("export", run, "--participant", "used-car", "--to", models)
    assert result.exit_code == 0, result.output
    assert "ε = " in result.output
    folder = models / "used-car" / "1"
    _, about, manifest = registry.load(folder)
    assert manifest["files"].keys() == {"model.safetensors", "model.onnx"}
    for choice in ("federated", "kept", "joined"):
        result = _call("predict", run, tmp_path / "rows.csv", "--participant", "used-car", "--model", choice)
        wanted = [float(line.split(",")[1]) for line in result.stdout.splitlines()[1:51]]
        assert len(wanted) == 50
        if choice != "federated":
            continue
        assert _call("predict", folder, tmp_path / "rows.csv").stdout == result.stdout
        scores = run_onnx((folder / "model.onnx").read_bytes(), about, pd.read_csv(tmp_path / "rows.csv", dtype=str))
        assert np.allclose(scores[:, 0], wanted, atol=TOLERANCE)
    # The coordinator's copy of the shared model is the participant's federated one.
    shared, own = of_coordinator(str(run), "bank"), of_participant(str(run), "used-car", "federated")
    assert set(shared.guarantee["participants"]) == {"new-car", "used-car", "furniture", "radio-tv", "other"}
    features = torch.randn(4, view_of(own.about).width)
    assert torch.equal(shared.model(features), own.model(features))
    # Where ONNX fails the model itself is still written.
    monkeypatch.setattr(onnx_file, "largest_difference", lambda *_: 1.0)
    result = _call("export", run, "--participant", "used-car", "--to", models)
    assert result.exit_code == 1
    assert "without ONNX: export: the ONNX file differs from torch by 1.0e+00" in " ".join(result.output.split())
    assert registry.load(models / "used-car" / "2")[2]["files"].keys() == {"model.safetensors"}
    kept = run / "participants" / "used-car" / "runs" / run.name / "models" / "kept.safetensors"
    kept.write_bytes(kept.read_bytes()[:-1] + bytes([kept.read_bytes()[-1] ^ 1]))
    result = _call("predict", run, tmp_path / "rows.csv", "--participant", "used-car")
    assert result.exit_code == 2
    assert "altered" in result.output


def test_module_scorers_network_is_a_copy() -> None:
    module = build_module(load_scenario("linear").contract, "linear")
    model = module_scorer(module).model()
    with torch.no_grad():
        next(module.parameters()).fill_(99.0)
    assert float(model(torch.ones(1, 1))) != 99.0
