"""Clients that break a promise of the seam, and the check of that name, which must say so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pytest

from clients.hospital import CLIENT
from clients.industry import IndustryClient
from clients.schema import Schema
from consortia.testing import ClientCheckError, check_client
from consortia.testing._clients import _CHECKS

Spoiled = Callable[[], IndustryClient]


def as_class(cls: type[Schema]) -> IndustryClient:
    """The hospital with a schema class of one's own: the only way round what the seam forbids by itself."""
    schema = CLIENT.schema
    fields = {name: getattr(schema, name) for name in schema.__dataclass_fields__}
    return replace(CLIENT, schema=cls(**fields))


def only(patch: pytest.MonkeyPatch, check: str) -> None:
    """Run one check of the suite, so that a mutant costs what its own check costs."""
    patch.setattr("consortia.testing._clients._CHECKS", {check: _CHECKS[check]})


def each(mutants: Mapping[str, Sequence[Spoiled]]) -> pytest.MarkDecorator:
    """Try every mutant, under the name of its check."""
    pairs = [(check, mutant) for check, made in mutants.items() for mutant in made]
    return pytest.mark.parametrize(
        ("check", "mutant"), pairs, ids=lambda value: value if isinstance(value, str) else value.__name__
    )


def rejected(patch: pytest.MonkeyPatch, check: str, mutant: Spoiled) -> None:
    """Assert that the check of that name, and it alone, rejects the mutant."""
    only(patch, check)
    with pytest.raises(ClientCheckError) as caught:
        check_client(mutant(), rows=60)
    assert set(caught.value.failures) == {check}
    assert f"  {check}: " in str(caught.value)
