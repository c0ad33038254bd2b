"""A small FHIR R4 export, as bulk files and as Bundles: last values, withdrawn ones, units, and a policy's mapping."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clients import mapping
from clients.dataset import prepare
from clients.errors import SourceError
from clients.hospital import CLIENT
from clients.mapping_rules import ColumnMap
from clients.sources import parse_source, read_table

SECRET = "Lovelace-4711"
COLUMNS = "patient_id,gender,birthDate,8480-6,2093-3,http://loinc.org|72166-2,condition:I25"


def observation(who: str, code: str, when: str = "2024-01-01", /, **rest: Any) -> dict[str, Any]:
    coding = [{"system": "urn:local", "code": "7"}, {"system": "http://loinc.org", "code": code}]
    made = {"resourceType": "Observation", "status": "final", "code": {"coding": coding}, "effectiveDateTime": when}
    return made | {"subject": {"reference": f"Patient/{who}"}} | rest


def quantity(value: float, unit: str = "mm[Hg]", **rest: Any) -> dict[str, Any]:
    return {"valueQuantity": {"value": value, "code": unit, **rest}}


def condition(who: str, code: str, status: str = "confirmed") -> dict[str, Any]:
    verified = {"coding": [{"code": status}]}
    made = {"resourceType": "Condition", "code": {"coding": [{"code": code}]}, "verificationStatus": verified}
    return made | {"subject": {"reference": f"https://host/fhir/Patient/{who}"}}


PANEL = {"component": [{"code": {"coding": [{"code": "8480-6"}]}, **quantity(141)}]}
PATIENTS = [
    {"resourceType": "Patient", "id": "007", "gender": "female", "birthDate": "1950-06-01", "name": [{"text": SECRET}]},
    {"resourceType": "Patient", "id": "b", "gender": "male", "birthDate": "1961-01-31"},
]
REST = [
    observation("007", "8480-6", "2024-03-01T23:30:00-05:00", **quantity(150)),  # in UTC it is the day after
    observation("007", "8480-6", "2024-03-02T01:00:00Z", **quantity(120)),
    observation("007", "8480-6", "2024-05-01", **quantity(999), status="entered-in-error"),
    observation("b", "85354-9", **PANEL),
    observation("007", "2093-3", **quantity(5, "mmol/L", comparator="<")),
    observation("b", "2093-3", **quantity(5.25, "mmol/L")),
    observation("b", "72166-2", valueCodeableConcept={"coding": [{"code": "smoker"}]}),
    condition("007", "I25.1"),
    condition("b", "I25.1", "refuted"),
    condition("b", "I10"),
]
ROWS = [
    ["007", "female", "1950-06-01", 150, "< 5", None, 1],
    ["b", "male", "1961-01-31", 141, 5.25, "smoker", 0],
]


def written(path: Path, resources: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in resources))
    return path


def rows(place: Path, columns: str = COLUMNS) -> list[list[Any]]:
    return read_table(parse_source(f"fhir:{place}?columns={columns}")).to_numpy(object).tolist()


def test_each_patient_is_a_row_with_the_last_values(tmp_path: Path) -> None:
    written(tmp_path / "Observation.ndjson", REST)
    written(tmp_path / "Patient.ndjson", PATIENTS)
    assert rows(tmp_path) == ROWS


def test_bundles_refer_by_address(tmp_path: Path) -> None:
    def entry(each: dict[str, Any]) -> dict[str, Any]:
        text = json.dumps(each).replace("https://host/fhir/Patient/", "urn:uuid:").replace("Patient/", "urn:uuid:")
        return {"resource": json.loads(text)}

    own = [{"resource": each | {"id": f"x{each['id']}"}, "fullUrl": f"urn:uuid:{each['id']}"} for each in PATIENTS]
    bundles = [{"resourceType": "Bundle", "entry": part} for part in ([entry(each) for each in REST], own)]
    found = rows(written(tmp_path / "all.ndjson", bundles))
    assert found == [[f"x{row[0]}", *row[1:]] for row in ROWS]


@pytest.mark.parametrize("taken", ["7", "8"])
def test_an_observation_is_of_one_patient_whoever_else_is_there(tmp_path: Path, taken: str) -> None:
    """Else it would be another patient's once that one is left out, and one unit less would change another's row."""
    one = {"resource": {"resourceType": "Patient", "id": "a"}, "fullUrl": "urn:uuid:7"}
    other = {"resource": {"resourceType": "Patient", "id": "8"}, "fullUrl": f"https://host/fhir/Patient/{taken}"}
    seen = {"resource": observation("7", "2093-3", **quantity(2, "mmol/L"))}
    bundle = {"resourceType": "Bundle", "entry": [one, other, seen]}
    if taken == "8":
        assert rows(written(tmp_path / "all.ndjson", [bundle]), "patient_id,2093-3") == [["a", 2], ["8", None]]
        one["fullUrl"] = "urn:uuid:8"
    with pytest.raises(SourceError, match="wanted an address of its own for each Patient"):
        rows(written(tmp_path / "all.ndjson", [bundle]))


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (observation("b", "2093-3", **quantity(200, "mg/dL")), "line 13: wanted one unit of measure for each code"),
        (observation("b", "2093-3", valueRange={"low": 1}), "line 13: wanted a single value of the observation"),
        (observation(SECRET, "2093-3", **quantity(2, "mmol/L")), "wanted the Patient of each Observation"),
        (condition(SECRET, "I10"), "wanted the Patient of each Observation"),
        (PATIENTS[0], "line 13: wanted each Patient once, got one a second time"),
        ({"resourceType": "Patient"}, "line 13: wanted an id of the Patient"),
        (observation("b", "2093-3", **quantity(2, "mmol/L")) | {"subject": {}}, "line 13: wanted a reference"),
        ({"name": SECRET}, "line 13: wanted a FHIR resource as JSON"),
    ],
)
def test_what_does_not_fit_is_told_by_its_line(tmp_path: Path, more: dict[str, Any], told: str) -> None:
    file = written(tmp_path / "all.ndjson", [*PATIENTS, *REST, more])
    with pytest.raises(SourceError, match=told) as caught:
        rows(file)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("columns", ["", "a,,b", "a,a", "condition:"])
def test_columns_are_named_once(columns: str) -> None:
    with pytest.raises(SourceError, match="wanted fhir:PATH"):
        parse_source(f"fhir:/x?columns={columns}")


def test_a_policys_mapping_makes_the_hospitals_rows_of_an_export(tmp_path: Path) -> None:
    people = [
        {
            "resourceType": "Patient",
            "id": f"p{n}",
            "gender": ("male", "female")[n % 2],
            "birthDate": f"19{50 + n}-01-01",
        }
        for n in range(20)
    ]
    more = [observation(f"p{n}", "2093-3", **quantity(4.0 + n / 10, "mmol/L")) for n in range(20)]
    more += [observation(f"p{n}", "cp", valueString=str(1 + n % 4)) for n in range(20)]
    more += [condition(f"p{n}", "I25.1") for n in range(0, 20, 3)]
    place = written(tmp_path / "all.ndjson", [*people, *more])
    optional = ("trestbps", "fbs", "restecg", "thalach", "exang", "oldpeak", "slope", "ca", "thal")
    rules = {
        "age": ColumnMap(column="birthDate", born="%Y-%m-%d", on="2024-06-01"),
        "sex": ColumnMap(column="gender", values={"male": "1", "female": "0"}),
        "chol": ColumnMap(column="2093-3", measure="mmol/l", molar_mass=386.65),
        "num": ColumnMap(column="condition:I25", values={"0": "0", "1": "1"}),
        **{name: ColumnMap(constant="") for name in optional},
    }
    source = f"fhir:{place}?columns=patient_id,gender,birthDate,2093-3,cp,condition:I25"
    frame = mapping.apply(rules, read_table(parse_source(source)), CLIENT.schema, "dataset.heart.mapping")
    table = prepare(CLIENT, frame, unit="patient_id")
    assert (len(table), table.n_units, int(table.target.sum())) == (20, 20, 7)
