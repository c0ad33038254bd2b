"""Rows that a schema alone gives: for a client that brings no generator of its own."""

from __future__ import annotations

import dataclasses

import pytest

from clients import registry
from clients.industry import IndustryClient
from clients.sources import numpy_generator, parse_source, read


def _without_generator(client: IndustryClient) -> IndustryClient:
    fields = {f.name: getattr(client, f.name) for f in dataclasses.fields(client) if f.name != "synthesise"}
    return IndustryClient(**fields)


@pytest.mark.parametrize("name", ["bank", "factory", "hospital", "linear", "smart_home"])
def test_a_client_without_a_generator_gets_rows_of_its_schema(name: str) -> None:
    client = _without_generator(registry.get(name))
    site = client.sites[0]
    frame = read(parse_source("synthetic:60"), client, site=site, key="k")
    assert frame.attrs["synthetic"] is True
    good, report = client.schema.check(frame, key=b"k")
    assert (report.rows_read, report.rows_kept) == (60, 60)
    assert len(set(client.schema.labels(good).tolist())) > 1
    first, again = (client.synthesise(numpy_generator(7), 20, site) for _ in range(2))
    assert first.equals(again)
    assert not first.equals(client.synthesise(numpy_generator(8), 20, site))
