"""Several labels of one row: how sources spell them, what sets a row apart, codes, losses and metrics."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from labelled import CLIENT, SCHEMA, TARGET

from clients import metrics
from clients._labels import bits
from clients.dataset import prepare
from clients.errors import SchemaError
from clients.mapping import ColumnMap, apply
from clients.metrics import compute, get
from clients.models import label_bits, loss_for, predictions
from clients.proposing import propose_mapping
from clients.schema import Schema, Target
from clients.sources import parse_source, read_table

CODES = [0b01, 0b110, 0b000, 0b111]
TEXTS = ["effusion", "nodule|mass", "-", "effusion|nodule|mass"]


def _rows(**columns: object) -> pd.DataFrame:
    return pd.DataFrame({"age": [30.0, 40, 50, 60], "pressure": [100.0, 110, None, 120], **columns})


def _codes(frame: pd.DataFrame) -> list[int]:
    return [int(code) for code in prepare(CLIENT, frame).target]


@pytest.mark.parametrize(
    "columns",
    [
        {"findings": TEXTS},
        {"findings": ["effusion", "mass | nodule", "-", "mass|effusion|nodule|mass"]},
        {"Findings": [["effusion"], np.array(["mass", "nodule"]), [], ("mass", "effusion", "nodule")]},
        {"effusion": [1, 0, 0, 1], "Nodule": ["no", "yes", "no", "yes"], "mass": [False, True, False, True]},
        {"findings.0": [1.0, 0, 0, 1], "findings.1": [0, 1, 0, 1], "findings.2": [0, 1, 0, 1]},
    ],
    ids=["a text", "another order", "a list", "a column each", "an array"],
)
def test_labels_are_the_same_however_a_source_spells_them(columns: dict[str, object]) -> None:
    assert _codes(_rows(**columns)) == CODES


def test_lists_of_a_parquet_file_and_an_array_of_an_npz_file_are_labels(tmp_path: Path) -> None:
    listed = _rows(findings=[["effusion"], ["mass", "nodule"], [], ["effusion", "mass", "nodule"]])
    listed.to_parquet(tmp_path / "rows.parquet")
    assert _codes(read_table(parse_source(f"parquet:{tmp_path / 'rows.parquet'}"))) == CODES
    np.savez(tmp_path / "rows.npz", images=np.zeros((4, 4, 4)), findings=bits(np.array(CODES), 3))
    frame = read_table(parse_source(f"npz:{tmp_path / 'rows.npz'}?values=images&prefix=v"))
    assert _codes(_rows(**{name: frame[name] for name in frame if name.startswith("findings")})) == CODES
    assert len(frame.columns) == 16 + 3


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"findings": ["effusion", "cyst|mass", "-", "mass"]}, "not a class"),
        ({"findings": ["effusion", None, "-", "mass"]}, "missing"),
        ({"findings": [["effusion"], ["mass|nodule"], [], ["mass"]]}, "not a class"),
        ({"effusion": [1, 2, 0, 0], "nodule": [0, 0, 0, 0], "mass": [0, 0, 0, 1]}, "not a class"),
        ({"effusion": [1, None, 0, 0], "nodule": [0, 0, 0, 0], "mass": [0, 0, 0, 1]}, "missing"),
    ],
)
def test_a_row_with_a_label_that_is_none_is_set_apart(columns: dict[str, object], reason: str) -> None:
    table = prepare(CLIENT, _rows(**columns), quarantine_threshold=0.5)
    assert dict(table.quarantine.reasons) == {f"findings: {reason}": 1}
    assert table.target.tolist() == [0b001, 0b000, 0b100]


def test_a_source_without_labels_is_refused() -> None:
    with pytest.raises(SchemaError, match="column 'findings' is missing"):
        prepare(CLIENT, _rows(effusion=[1, 0, 0, 0], nodule=[0, 0, 0, 0]))
    with pytest.raises(SchemaError, match="wanted some of effusion, nodule, mass"):
        prepare(CLIENT, _rows(findings=["a", "b", "c", "d"]))


def test_a_mapping_is_asked_label_by_label() -> None:
    rule = ColumnMap(column="Befund", values={"E": "effusion", "N": "nodule", "M": "mass", "o.B.": "-"})
    frame = apply({"findings": rule}, _rows(Befund=["E", "M|N", "o.B.", "E|M|N"]), SCHEMA, "mapping")
    assert _codes(frame) == CODES
    lists = apply({"findings": rule}, _rows(Befund=[["E"], ["M", "N"], [], ["E", "M", "N"]]), SCHEMA, "mapping")
    assert _codes(lists) == CODES
    strange = apply({"findings": rule}, _rows(Befund=["E", "M|X", "o.B.", "E"]), SCHEMA, "mapping")
    assert prepare(CLIENT, strange, quarantine_threshold=0.5).quarantine.reasons == {"findings: not a class": 1}
    with pytest.raises(SchemaError, match="values: wanted one of effusion, nodule, mass"):
        apply({"findings": ColumnMap(column="Befund", values={"E": "cyst"})}, _rows(Befund=TEXTS), SCHEMA, "mapping")
    named = dataclasses.replace(TARGET, mapping={"E": "effusion", "N": "nodule", "M": "mass", "No Finding": ""})
    client = dataclasses.replace(CLIENT, schema=dataclasses.replace(SCHEMA, target=named))
    assert prepare(client, _rows(findings=["E", "N|M", "No Finding", "E|N|M"])).target.tolist() == CODES


def test_a_proposed_mapping_names_each_label() -> None:
    (line,) = [
        one
        for one in propose_mapping(_rows(findings=["Eff", "mass|nodule", "-", "mass"]), SCHEMA)
        if one.name == "findings"
    ]
    assert line.rule["values"].keys() == {"Eff", "mass", "nodule"}
    each = _rows(effusion=[1, 0, 0, 1], nodule=[0, 1, 0, 1], mass=[0, 1, 0, 1])
    (line,) = [one for one in propose_mapping(each, SCHEMA) if one.name == "findings"]
    assert (line.rule, line.why) == ({}, "a column for each label")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes": ("a",)}, "2 to 32 different labels"),
        ({"classes": ("a", "a")}, "2 to 32 different labels"),
        ({"classes": tuple(map(str, range(33)))}, "2 to 32 different labels"),
        ({"classes": ("a|b", "c")}, r"labels without '\|'"),
        ({"classes": ("-", "c")}, "labels without"),
        ({"classes": ("a", "b"), "prior": (0.5, 1.5)}, "at most one"),
        ({"classes": ("a", "b"), "mapping": {"x": "z"}}, "mapping leads to"),
    ],
)
def test_labels_that_cannot_be_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(SchemaError, match=words):
        Target(name="y", kind="multilabel", **changes)


def test_a_label_is_not_called_as_a_column() -> None:
    with pytest.raises(SchemaError, match="names used twice: \\['age'\\]"):
        Schema(
            name="s",
            version=1,
            columns=SCHEMA.columns,
            target=Target(name="y", kind="multilabel", classes=("age", "mass")),
        )


def test_the_loss_is_the_mean_over_labels_and_each_is_there_or_not() -> None:
    codes, logits = torch.tensor(CODES), torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    there = label_bits(codes, 3)
    assert np.array_equal(there.numpy(), bits(np.array(CODES), 3))
    chance = predictions(TARGET, logits)
    assert torch.equal(chance, torch.sigmoid(logits))
    by_hand = -(there * chance.log() + (1 - there) * (1 - chance).log()).mean(1)
    assert torch.allclose(loss_for(TARGET)(logits, codes), by_hand, atol=1e-6)


def test_metrics_of_labels_are_scikit_learns() -> None:
    from sklearn.metrics import average_precision_score, roc_auc_score

    generator = np.random.default_rng(0)
    codes = generator.integers(0, 8, 300)
    there = bits(codes, 3)
    scores = np.clip(generator.normal(0.4 + 0.2 * there, 0.2), 0, 1)
    found = compute([n for n in metrics.names() if "multilabel" in get(n).kinds], "multilabel", scores, codes)
    assert found == {
        "label_auc": pytest.approx(roc_auc_score(there, scores, average="macro")),
        "label_auprc": pytest.approx(average_precision_score(there, scores, average="macro")),
        "label_accuracy": pytest.approx(((scores >= 0.5) == there).mean()),
        "label_brier": pytest.approx(np.square(scores - there).mean()),
    }
    # A label that every row has counts for nothing there; where all are so, there is no value.
    rest = compute(["label_auc", "label_auprc"], "multilabel", scores, codes | 1)
    assert rest["label_auc"] == pytest.approx(roc_auc_score(there[:, 1:], scores[:, 1:], average="macro"))
    assert compute(["label_auc"], "multilabel", scores, np.full(300, 7))["label_auc"] is None
    gain = get("label_auc").gain(scores, scores[:, ::-1], codes, np.arange(300), np.random.default_rng(1))
    assert gain is not None
    assert gain.low < gain.value < gain.high
