"""Checks an industry's rows: schema, generator, identifiers, features."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import random
import re
import warnings
from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch

from clients.errors import ClientError, SchemaError
from clients.schema import Column
from consortia.testing._client_case import KEY, Case, failing_with
from consortia.testing._suite import require

SHORTEST_SECRET = 4  # a shorter identifier would be found in any text by chance
LONG_SECRET = 8
_WORD = re.compile(r"[0-9A-Za-z]+")


def schema_holds(case: Case) -> None:
    """Every synthetic row passes the schema, no column is unknown, and over all sites two classes occur."""
    schema = case.client.schema
    json.dumps(schema.describe())
    seen: set[float] = set()
    for site in case.client.sites:
        with failing_with(f"site {site}"):
            frame = case.frame(site)
            require(len(frame) == case.rows, f"wanted {case.rows} rows, got {len(frame)}")
            good, report = schema.check(frame, key=KEY)
            require(report.rows_kept == report.rows_read, str(report))
            require(not report.ignored_columns, f"columns outside the schema: {report.ignored_columns}")
            seen |= set(schema.labels(good).tolist())
            if schema.unit != "record":
                case.table(frame, unit=schema.unit)
    require(len(seen) > 1, "the target has one value at all sites: nothing can be learned")


def same_seed_same_rows(case: Case) -> None:
    """Synthetic rows come from the generator handed in, and from nothing else."""
    site = case.client.sites[0]
    before = _global_states()
    first = case.draw(site, 1)
    require(before == _global_states(), "synthesise draws from a global generator; use the one it is given")
    require(first.equals(case.draw(site, 1)), "the same seed gave other rows")
    require(not first.equals(case.draw(site, 2)), "another seed gave the same rows")


def identifiers_never_reach_a_feature(case: Case) -> None:
    """Other identifiers, the same features; and what is generalised is really coarser."""
    schema = case.client.schema
    for site in case.client.sites:
        frame = case.frame(site)
        table, other = case.table(frame), case.table(_with_canaries(case, frame))
        for name, tensor in table.inputs.items():
            require(torch.equal(tensor, other.inputs[name]), f"site {site}: input {name!r} follows an identifier")
        require(table.feature_names == other.feature_names, "names of features follow an identifier")
    for column in schema.columns:
        if column.identifier == "generalise" and column.name in (frame := case.frame()):
            raw = frame[column.name].dropna()
            coarse = schema.check(frame, key=KEY)[0][column.name].dropna()
            require(
                coarse.nunique() < raw.nunique(),
                f"column {column.name!r}: generalised, {raw.nunique()} values became {coarse.nunique()}",
            )


def identifiers_never_reach_a_metric(case: Case) -> None:
    """Other identifiers, the same target, predictions and metrics."""
    frame = case.frame()
    table, other = case.table(frame), case.table(_with_canaries(case, frame))
    require(torch.equal(table.target, other.target), "the target follows an identifier")
    module, twin = case.module(), case.module()
    case.train(module, table)
    case.train(twin, other)
    ours, theirs = case.metrics(module, table), case.metrics(twin, other)
    require(ours == theirs, f"metrics follow an identifier: {ours} became {theirs}")
    secrets = _secrets(case, _with_canaries(case, frame))
    require(not _holds("\n".join(theirs), secrets), "a metric's name holds an identifier")


def identifiers_never_reach_a_log(case: Case) -> None:
    """No raw identifier in a log record, on the screen, in a warning, an error, or a table's own ids."""
    frame = _with_canaries(case, case.frame())
    secrets = _secrets(case, frame)
    with _listening() as heard:
        table = case.table(frame)
        module = case.module()
        case.train(module, table)
        case.metrics(module, table)
        heard.append(f"{table} {table.quarantine!r}")
        broken = frame.copy()
        broken[case.client.schema.target.name] = None
        try:
            case.table(broken)
        except ClientError as error:
            heard.append(str(error))
    heard += [*table.unit_ids, *table.row_ids, *table.split_keys, *table.feature_names]
    if case.client.schema.unit != "record":
        heard += case.table(frame, unit=case.client.schema.unit).unit_ids
    text = "\n".join(heard)
    require(not _holds(text, secrets), "a raw identifier was written out")


def preprocessing_is_per_row(case: Case) -> None:
    """A row's features and label are the same alone, in half of the rows, and in reverse order."""
    schema = case.client.schema
    for site in case.client.sites:
        frame = case.frame(site)
        whole, _ = schema.check(frame, key=KEY)
        features, labels = schema.features(whole), schema.labels(whole)
        half = len(frame) // 2
        parts = [[i] for i in range(min(3, len(frame)))]
        parts += [list(range(half)), list(range(len(frame)))[::-1]]
        for rows in parts:
            with failing_with(f"site {site}, {len(rows)} of {len(frame)} rows"):
                part, _ = schema.check(frame.iloc[rows], key=KEY)
                require(len(part) == len(rows), "a row that passes with others is quarantined without them")
                require(
                    np.array_equal(schema.features(part), features[rows]),
                    "features depend on other rows; use public constants instead of a mean or a vocabulary",
                )
                require(np.array_equal(schema.labels(part), labels[rows]), "labels depend on other rows")
                for name, chosen in case.client.filters.items():
                    stays = chosen.rows(frame).to_numpy()[rows]
                    require(
                        np.array_equal(chosen.rows(frame.iloc[rows]).to_numpy(), stays),
                        f"filter {name!r} depends on other rows",
                    )


def features_within_bounds(case: Case) -> None:
    """float32 in [-1, 1] and finite: for usual rows, for missing values, and at the edge of the possible."""
    for site in case.client.sites:
        for what, frame in (
            ("usual rows", case.frame(site)),
            ("missing values", _all_missing(case, case.frame(site))),
            ("lowest values", _extreme(case, case.frame(site), lowest=True)),
            ("highest values", _extreme(case, case.frame(site), lowest=False)),
        ):
            with failing_with(f"site {site}, {what}"):
                schema = case.client.schema
                good, _ = schema.check(frame, key=KEY)
                features = schema.features(good)
                wanted = (len(good), len(schema.feature_names))
                require(
                    features.shape == wanted and features.dtype == np.float32,
                    f"wanted float32 of shape {wanted}, got {features.dtype} {features.shape}",
                )
                inside = np.isfinite(features) & (np.abs(features) <= 1)
                wrong = [n for i, n in enumerate(schema.feature_names) if not inside[:, i].all()]
                require(not wrong, f"features outside [-1, 1] or not finite: {', '.join(wrong)}")


def names_a_missing_column(case: Case) -> None:
    """Without a required column the error names it; without an optional one all goes on."""
    schema = case.client.schema
    frame = case.frame()
    required = [c.name for c in schema.columns if c.required] + [schema.target.name]
    for name in required:
        try:
            case.table(frame.drop(columns=name))
        except SchemaError as error:
            require(name in str(error), f"the error for a missing {name!r} does not name it: {error}")
        else:
            raise AssertionError(f"without the column {name!r} nothing was said")
    optional = [c.name for c in schema.columns if not c.required and c.name in frame]
    with failing_with(f"without the optional columns {optional}"):
        case.table(frame.drop(columns=optional))


def _global_states() -> tuple[object, ...]:
    """The states of the three generators that a careless function draws from."""
    numpy_state = np.random.get_state(legacy=False)
    return str(numpy_state), random.getstate(), torch.random.get_rng_state().tolist()


def _identifiers(case: Case, frame: pd.DataFrame) -> list[Column]:
    return [c for c in case.client.schema.columns if c.identifier is not None and c.name in frame]


def _with_canaries(case: Case, frame: pd.DataFrame) -> pd.DataFrame:
    """Every dropped or hashed identifier replaced by one that occurs nowhere else."""
    frame = frame.copy()
    for place, column in enumerate(_identifiers(case, frame)):
        if column.identifier != "generalise":
            first = 7_000_000_000 + place * 10_000_000
            numbers = [first + 7919 * i for i in range(len(frame))]
            text = column.dtype in {"text", "category"}
            frame[column.name] = [f"canary-{n}" for n in numbers] if text else numbers
    return frame


def _secrets(case: Case, frame: pd.DataFrame) -> set[str]:
    """The raw identifiers of a frame, without those that are what their column is generalised to."""
    secrets: set[str] = set()
    for column in _identifiers(case, frame):
        raw = {str(value) for value in frame[column.name].dropna()}
        if column.identifier == "generalise":
            coarse = case.client.schema.check(frame, key=KEY)[0][column.name]
            raw -= {str(value) for value in coarse}
        secrets |= {value for value in raw if len(value) >= SHORTEST_SECRET}
    return secrets


def _holds(text: str, secrets: set[str]) -> bool:
    """Whether a secret stands in a text; a short one as a word of its own, since a hash may hold its digits."""
    words = set(_WORD.findall(text))
    return any(s in words if len(s) < LONG_SECRET and _WORD.fullmatch(s) else s in text for s in secrets)


def _all_missing(case: Case, frame: pd.DataFrame) -> pd.DataFrame:
    for column in case.client.schema.columns:
        if column.nullable and column.name in frame:
            frame[column.name] = None
    return frame


def _extreme(case: Case, frame: pd.DataFrame, *, lowest: bool) -> pd.DataFrame:
    """Numbers at the edge of what is possible, or far outside the bounds where nothing is impossible."""
    for column in case.client.schema.columns:
        if column.dtype not in {"number", "integer"} or column.name not in frame or not column.is_feature:
            continue
        if column.identifier is not None or column.low is None or column.high is None:
            continue
        far = 1000 * (column.high - column.low)
        edge = max(column.valid_low, column.low - far) if lowest else min(column.valid_high, column.high + far)
        frame[column.name] = np.trunc(edge) if column.dtype == "integer" else edge
    return frame


@contextlib.contextmanager
def _listening() -> Iterator[list[str]]:
    """Everything that is logged (whatever handlers there are), printed or warned."""
    heard: list[str] = []
    factory, level = logging.getLogRecordFactory(), logging.root.level

    def record(*args: object, **kwargs: object) -> logging.LogRecord:
        made = factory(*args, **kwargs)
        heard.append(f"{made.getMessage()} {made.exc_info or ''}")
        return made

    screen = io.StringIO()
    logging.setLogRecordFactory(record)
    logging.root.setLevel(logging.DEBUG)
    try:
        with (
            warnings.catch_warnings(record=True) as caught,
            contextlib.redirect_stdout(screen),
            contextlib.redirect_stderr(screen),
        ):
            warnings.simplefilter("always")
            yield heard
    finally:
        logging.setLogRecordFactory(factory)
        logging.root.setLevel(level)
    heard += [str(w.message) for w in caught] + [screen.getvalue()]
