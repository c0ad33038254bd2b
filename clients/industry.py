"""Defines an industry: schema, reader, generator of synthetic rows, encoder, head and metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from clients import metrics as _metrics
from clients._pandas import pd
from clients.errors import SchemaError
from clients.invented import inventor
from clients.models import default_encoder, default_head
from clients.schema import Schema, Target
from clients.spec import ModelSpec

__all__ = ["Filter", "IndustryClient", "ModelSpec", "effective_schema"]

Encoder = Callable[[int, ModelSpec], nn.Module]
Head = Callable[[int, ModelSpec, Target], nn.Module]
SplitFunction = Callable[[NDArray[Any], str], NDArray[Any]]


def _same_schema(schema: Schema) -> Schema:
    return schema


def _of_the_schema(generator: np.random.Generator, rows: int, site: str) -> pd.DataFrame:
    raise NotImplementedError  # stands for `inventor(schema)`, which needs the schema


@dataclass(frozen=True, kw_only=True)
class Filter:
    """A named choice of rows and features, so that a published benchmark can be repeated.

    Parameters
    ----------
    rows : callable
        Raw text frame (None where blank) -> bool series: which rows stay. It must judge each row alone.
    view : callable
        Schema -> schema: which features they give.
    """

    rows: Callable[[pd.DataFrame], pd.Series[bool]]
    view: Callable[[Schema], Schema] = _same_schema


@dataclass(frozen=True, kw_only=True)
class IndustryClient:
    """Everything that the platform needs to know about an industry.

    Parameters
    ----------
    name, title : str
        The word in a scenario, and the one for people.
    schema : Schema
        The rows' public form.
    read : callable
        (folder, site) -> frame: the public data set in its own format.
    sites : tuple of str
        The parts that the public data set falls into.
    dataset : str
        Sub-folder of the public data, such as "heart"; with a slash, such as "hospital/ecg5000", of the whole folder
        that `--data` names, where the data set lies in another industry's.
    installed : str
        The package in which the public data set lies, where one brings it: then `public:installed` reads it.
    synthesise : callable, optional
        (generator, rows, site) -> frame on the same schema, target and identifiers included, with realistic
        rates, missing values and differences between sites. Only that generator may be used. Without one, rows are
        made of the schema alone: values within its bounds and categories, a target that depends on them.
    encoder : callable
        (n_features, spec) -> module. It must give `spec.width(n_features)` outputs a row.
    head : callable
        (width, spec, target) -> module with `target.outputs` outputs a row.
    metrics : tuple of str
        Names of metrics (`clients.metrics`), built in or installed. Receipts lead with the first one that is defined.
    splits : mapping
        Named fixed splits: (labels (n_rows,), site) -> array of "train", "validation", "test".
    filters : mapping
        Named `Filter`s.
    default_rows : int
        How many synthetic rows a site gets when nobody says.
    homes : mapping
        Into how many small participants a site's rows can be dealt; each is a site `SITE/NUMBER`, from 1 on.
    digest : str
        SHA-256 of what a client's file says (`clients.declared`), which a contract fixes; empty for a client in Python.
    unconfirmed : tuple of str
        What was read from somebody's rows and is not confirmed as public knowledge, such as "age (low, high)": a
        deployed run refuses it.
    recipe : mapping
        From a client's file: model, steps, rate and clip of the industry, for a contract that does not say them.
    """

    name: str
    title: str
    schema: Schema
    read: Callable[[Path, str], pd.DataFrame]
    sites: tuple[str, ...]
    dataset: str
    metrics: tuple[str, ...]
    synthesise: Callable[[np.random.Generator, int, str], pd.DataFrame] = _of_the_schema
    encoder: Encoder = default_encoder
    head: Head = default_head
    splits: Mapping[str, SplitFunction] = field(default_factory=dict)
    filters: Mapping[str, Filter] = field(default_factory=dict)
    default_rows: int = 400
    homes: Mapping[str, int] = field(default_factory=dict)
    installed: str = ""
    digest: str = ""
    unconfirmed: tuple[str, ...] = ()
    recipe: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.sites or len(set(self.sites)) != len(self.sites):
            raise SchemaError(f"client {self.name!r}: wanted distinct sites, got {self.sites}")
        if not self.metrics:
            raise SchemaError(f"client {self.name!r}: metrics: wanted at least one, got none")
        for name in self.metrics:
            _metrics.of_kind(name, self.schema.target.kind, f"client {self.name!r}: metrics")
        if self.synthesise is _of_the_schema:
            object.__setattr__(self, "synthesise", inventor(self.schema))
        if self.default_rows < 1:
            raise SchemaError(f"client {self.name!r}: default_rows: wanted >= 1, got {self.default_rows}")

    def measuring(self, names: tuple[str, ...], where: str = "metrics") -> IndustryClient:
        """The same client with more metrics in front; MetricError names `where` for one that does not fit."""
        for name in names:
            _metrics.of_kind(name, self.schema.target.kind, where)
        return replace(self, metrics=tuple(dict.fromkeys((*names, *self.metrics))))

    def check_site(self, site: str) -> None:
        """Raise a SchemaError that lists the sites when there is none of that name."""
        period, slash, number = site.partition("/")
        if slash and number.isascii() and number.isdigit() and 1 <= int(number) <= self.homes.get(period, 0):
            return
        if site not in self.sites:
            raise SchemaError(f"client {self.name!r}: site: wanted one of {', '.join(self.sites)}; got {site!r}")


def effective_schema(client: IndustryClient, *, filter: str | None = None, columns: tuple[str, ...] = ()) -> Schema:
    """The schema whose features a run uses, known before any row is read: its `width` sizes the model.

    Parameters
    ----------
    filter : str, optional
        One of `client.filters`; "" and None mean none.
    columns : tuple of str
        Only these columns give features; empty means all.
    """
    schema = client.schema
    if filter:
        if filter not in client.filters:
            known = ", ".join(client.filters) or "none"
            raise SchemaError(f"client {client.name!r}: filter: wanted one of {known}; got {filter!r}")
        schema = client.filters[filter].view(schema)
    if columns:
        schema = schema.select(tuple(columns), indicators=schema.indicators, drop_first=schema.drop_first)
    return schema
