"""From files of one's own to receipts: contracts fix the client, deployed runs refuse what is not confirmed, equal rows
in different files train the same model, and synthetic rows charge no budget of real ones."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest
import tomli_w
import torch
from command_line import APP
from typer.testing import CliRunner, Result

from clients import registry
from clients.dataset import prepare
from clients.mapping import ColumnMap
from consortia.common.errors import InputError, RefusedError
from consortia.engines.options import Options
from consortia.engines.runner import prepare as prepare_run
from consortia.participant.data import idle_files
from consortia.participant.home import Home
from consortia.participant.rows import read_rows
from consortia.terms.industries import check_agreed, check_confirmed
from consortia.terms.policy import DatasetTerms
from consortia.terms.scenario import load_scenario
from consortia.terms.statistics_scenario import statistics_scenario

CLIENT = """
schema = 1
name = "clinic"

[target]
name = "ill"
kind = "binary"
classes = ["no", "yes"]

[columns.age]
dtype = "number"
measure = "years"
low = 18
high = 100

[columns.height]
dtype = "number"
measure = "m"
low = 1.2
high = 2.2

[columns.glucose]
dtype = "number"
measure = "mmol/l"
low = 2
high = 20
nullable = true

[columns.sex]
dtype = "flag"

[columns.ward]
dtype = "category"
categories = ["heart", "lung"]
to_confirm = ["categories"]

[recipe]
rounds = 2
local_steps = 1
sampling_rate = 1.0
clip = 1.0
learning_rate = 0.5
"""


def call(*words: str) -> Result:
    return CliRunner().invoke(APP, list(words), env={"COLUMNS": "200"})


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "clients").mkdir()
    (tmp_path / "clients" / "clinic.toml").write_text(CLIENT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def frame(count: int = 80) -> pd.DataFrame:
    """Return rows in the schema's own form, as text."""
    draw = np.random.default_rng(3)
    made = pd.DataFrame(
        {
            "age": [str(x) for x in draw.integers(20, 90, count)],
            "height": [str(x / 100) for x in draw.integers(150, 199, count)],
            "glucose": [str(x / 10) for x in draw.integers(40, 150, count)],
            "sex": draw.choice(["0", "1"], count),
            "ward": draw.choice(["heart", "lung"], count),
            "ill": draw.choice(["no", "yes"], count),
        }
    )
    made["glucose"] = made["glucose"].mask(np.arange(count) % 7 == 2, "")
    return made


def test_files_in_different_forms_train_the_same_model_to_the_bit(place):
    plain = frame()
    plain.to_csv(place / "plain.csv", index=False)
    other = pd.DataFrame(
        {
            "Geburtstag": [f"{'31.12' if n % 2 else '01.01'}.{2025 - int(a)}" for n, a in enumerate(plain["age"])],
            "Größe (cm)": [f"{float(h) * 100:.0f},0" for h in plain["height"]],
            "Glukose": [f"{float(g) * 18.016:.5f}".replace(".", ",") if g else "k.A." for g in plain["glucose"]],
            "Geschlecht": ["w" if s == "0" else "m" for s in plain["sex"]],
            "ICD": ["I21.0" if w == "heart" else "J44" for w in plain["ward"]],
            "krank": ["Ja" if i == "yes" else "Nein" for i in plain["ill"]],
        }
    )
    # Born on the last day of 2025 - age, or the first: in 2025-12-31 both are `age` years old.
    other.to_csv(place / "other.csv", index=False, sep=";", encoding="cp1252")
    mapping = {
        "age": ColumnMap(column="geburtstag", born="%d.%m.%Y", on="2025-12-31"),
        "height": ColumnMap(column="Größe (cm)", measure="cm"),
        "glucose": ColumnMap(column="Glukose", missing=("k.A.",), measure="mg/dl", molar_mass=180.16, decimals=1),
        "sex": ColumnMap(column="Geschlecht", values={"w": "0", "m": "1"}),
        "ward": ColumnMap(column="ICD", prefixes={"I": "heart", "J": "lung"}),
        "ill": ColumnMap(column="krank", values={"ja": "yes", "nein": "no"}),
    }
    # As a workbook and a database have them: dates, numbers, empty cells.
    typed = other.assign(
        Geburtstag=pd.to_datetime(other["Geburtstag"], format="%d.%m.%Y"),
        **{"Größe (cm)": [float(h) * 100 for h in plain["height"]]},
        Glukose=[round(float(g) * 18.016, 5) if g else None for g in plain["glucose"]],
    )
    typed.to_excel(place / "other.xlsx", sheet_name="Station 3", index=False)
    with duckdb.connect(place / "other.duckdb") as connection:
        connection.register("typed", typed)
        connection.execute("CREATE TABLE rows AS SELECT * REPLACE (Geburtstag::DATE AS Geburtstag) FROM typed")
    dates = mapping | {"age": ColumnMap(column="geburtstag", born="%Y-%m-%d", on="2025-12-31")}
    client = registry.get("clinic")
    tables = []
    for source, rules in (
        (f"csv:{place}/plain.csv", {}),
        (f"csv:{place}/other.csv?separator=;&decimal=,&encoding=cp1252", mapping),
        (f"excel:{place}/other.xlsx?sheet=Station 3", dates),
        (f"duckdb:{place}/other.duckdb?table=rows", dates),
    ):
        terms = DatasetTerms(industry="clinic", source=source, declared_units=80, mapping=rules)
        tables.append(prepare(client, read_rows(terms, client), key=b"one key"))
    first = tables[0]
    # What training sees: tensors, order of rows, units, split. Equal bits here are equal bits of every model.
    for other_form in tables[1:]:
        assert torch.equal(first.inputs["features"], other_form.inputs["features"])
        assert torch.equal(first.target, other_form.target)
        assert first.split_keys == other_form.split_keys
        assert first.row_ids == other_form.row_ids
        assert first.unit_ids == other_form.unit_ids
        assert first.quarantine.reasons == other_form.quarantine.reasons == {}
    assert first.n_rows == 80


SCENARIO = {
    "schema": 1,
    "name": "clinic",
    "title": "Two clinics",
    "contract": {"schema": 1, "wire": 1, "rounds": 2, "industries": {"clinic": {}}},
    "roster": [
        {"name": f"clinic-{site}", "industry": "clinic", "dataset": "clinic", "site": site, "units": 80, "epsilon": 2.0}
        for site in ("north", "south")
    ],
}


def scenario(place: Path) -> Path:
    file = place / "scenarios" / "clinic.toml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(tomli_w.dumps(SCENARIO))
    return file


def test_a_contract_fixes_the_clients_columns_and_takes_its_recipe(place):
    loaded = load_scenario(str(scenario(place)))
    terms = loaded.contract.industries["clinic"]
    client = registry.get("clinic")
    assert terms.client == client.digest
    assert terms.learning_rate == 0.5
    check_agreed(client, terms)
    (place / "clients" / "clinic.toml").write_text(CLIENT.replace("low = 1.2", "low = 1.3"))
    with pytest.raises(RefusedError, match="wanted the file with sha256"):
        check_agreed(registry.get("clinic"), terms)
    assert load_scenario(str(scenario(place))).contract.sha256() != loaded.contract.sha256()


@pytest.mark.parametrize("learner", ["sums", "additive", "auto", "statistics"])
def test_other_learners_than_networks_take_no_recipe_of_an_industrys_file(place, learner):
    file = scenario(place)
    if learner == "statistics":
        contract = statistics_scenario(load_scenario(str(file))).contract
    else:
        text = tomli_w.dumps({**SCENARIO, "contract": {**SCENARIO["contract"], "learner": learner}})
        file.write_text(text.replace("rounds = 2\n", ""))
        contract = load_scenario(str(file)).contract
    assert contract.industries["clinic"].client == registry.get("clinic").digest
    assert contract.industries["clinic"].learning_rate != 0.5


def test_a_deployed_run_refuses_what_is_not_confirmed_naming_it(place):
    scenario(place)
    with pytest.raises(RefusedError, match=r"clinic: wanted bounds .* ward \(categories\)\. Correct"):
        check_confirmed(registry.get("clinic"))
    with pytest.raises(InputError, match=r"ward \(categories\)"):
        prepare_run(Options(scenario="clinic", engine="flower"))
    old = place / "old.toml"
    old.write_text(CLIENT)
    result = call("client", "confirm", "clinic")
    assert result.exit_code == 0, result.output
    assert "confirmed ward: categories = ['heart', 'lung']" in result.output
    assert "1 confirmed, 0 left" in result.output
    check_confirmed(registry.get("clinic"))
    result = call("client", "diff", str(old), "clinic")
    assert result.exit_code == 1
    assert "- columns.ward.to_confirm = ['categories']" in result.output
    assert "a contract takes either of them" in result.output


def test_four_commands_make_homes_with_policies_for_real_rows(place):
    data = place / "data"
    data.mkdir()
    rows = frame().replace("", "5.5")
    rows[:40].to_csv(data / "ward-a.csv", index=False)
    rows[40:].rename(columns=str.upper).to_csv(data / "ward-b.csv", index=False, sep=";")
    made = call("new", "client", "ward", "--from", str(data), "--target", "ill", "--epsilon", "1,4")
    assert made.exit_code == 0, made.output
    assert call("client", "confirm", "ward").exit_code == 0
    made = call("home", "init", "--scenario", "ward", "--data", str(data), "--home", str(place / "homes"))
    assert made.exit_code == 0, made.output
    assert made.output.count("40 of 40 rows fit the schema 'ward'") == 2
    policy = tomllib.loads((place / "homes" / "ward-b" / "policy.toml").read_text())
    assert policy["dataset"]["ward"]["source"] == f"csv:{data}/ward-b.csv?separator=;"
    assert policy["budget"]["run"]["epsilon"] == 4
    assert policy["allow"]["contracts"] == [f"sha256:{load_scenario('ward').contract.sha256()}"]
    assert "demo" not in policy
    again = call("home", "init", "--scenario", "ward", "--data", str(data), "--home", str(place / "homes"))
    assert again.exit_code == 2
    assert "a ledger is never replaced" in again.output
    shown = call("data", "map", str(data / "ward-b.csv"), "--client", "ward")
    assert shown.exit_code == 0, shown.output
    assert "?separator=;" in shown.output
    pd.read_csv(data / "ward-b.csv", sep=";").to_excel(data / "ward-b.xlsx", index=False)
    shown = call("data", "map", str(data / "ward-b.xlsx"), "--client", "ward")
    assert shown.exit_code == 0, shown.output
    assert "40 of 40 rows fit" in shown.output


def test_a_ledger_of_real_rows_takes_no_synthetic_ones_nor_the_reverse(tmp_path):
    home = Home(tmp_path / "a", "a")
    home.create()
    home.pin_rows("heart", synthetic=False)
    home.pin_rows("heart", synthetic=False)
    with pytest.raises(RefusedError, match=r"dataset\.heart\.source: wanted real rows, which this ledger counts"):
        home.pin_rows("heart", synthetic=True)
    home.pin_rows("other", synthetic=True)
    with pytest.raises(RefusedError, match="consortia home init a --data FILE"):
        home.pin_rows("other", synthetic=False)


def test_files_beside_a_synthetic_policy_name_the_line(tmp_path):
    assert idle_files(tmp_path / "policy.toml", "heart", tmp_path / "data") is None
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / ".keep").touch()
    assert idle_files(tmp_path / "policy.toml", "heart", tmp_path / "data") is None
    (tmp_path / "data" / "rows.csv").touch()
    problem = idle_files(tmp_path / "policy.toml", "heart", tmp_path / "data")
    assert problem is not None
    assert "policy.toml: dataset.heart.source: wanted the rows in" in problem
    assert "rows.csv" in problem


def test_the_steps_to_containers_are_printed_and_policies_see_what_a_container_sees(place):
    rows = frame().replace("", "5.5")
    for name, part in (("ward-a", rows[:40]), ("ward-b", rows[40:])):
        for file in (place / "data" / name / "rows.csv", place / "given" / f"{name}.csv"):
            file.parent.mkdir(parents=True, exist_ok=True)
            part.to_csv(file, index=False, sep=";")
    words = ("new", "client", "ward", "--from", "given", "--target", "ill", "--compose")
    refused = call(*words)
    assert refused.exit_code == 2
    assert "wanted a checkout of consortia" in refused.output
    assert not (place / "clients" / "ward.toml").exists()
    (place / "platform").mkdir()
    (place / "platform" / "Dockerfile").write_text("")
    made = call(*words)
    assert made.exit_code == 0, made.output
    assert "ward-a-app:" in (place / "scenarios" / "ward.compose.yml").read_text()
    first = (place / "scenarios" / "ward.toml").read_text()
    for written in ("clients/ward.toml", "scenarios/ward.toml", "scenarios/ward.compose.yml"):
        (place / written).unlink()
    shutil.rmtree(place / "scenarios" / "policies")
    # The files where containers want them name the same participants.
    again = call("new", "client", "ward", "--from", "data", "--target", "ill", "--compose")
    assert again.exit_code == 0, again.output
    assert (place / "scenarios" / "ward.toml").read_text() == first
    init = "consortia home init --scenario ward --data data --home homes --containers"
    assert f"{init} && make up SCENARIO=ward" in made.output
    wrong = call("home", "init", "--scenario", "ward", "--data", "given", "--home", "homes", "--containers")
    assert wrong.exit_code == 2
    assert "wanted the file of ward-a in data/ward-a/" in " ".join(wrong.output.split())
    assert call(*init.split()[1:]).exit_code == 0
    policy = tomllib.loads((place / "homes" / "ward-b" / "policy.toml").read_text())
    assert policy["dataset"]["ward"]["source"] == "csv:/data/rows.csv?separator=;"
    assert policy["dataset"]["ward"]["unit"] == "record"
