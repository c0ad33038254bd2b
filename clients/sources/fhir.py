"""Reads FHIR R4 resources as NDJSON, as a hospital's bulk export has them: one row a patient.

https://hl7.org/fhir/R4/nd-json.html: each line is a resource, or a Bundle of resources.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import pandas as pd

from clients.sources.table import ManyFiles, WrongRowsError

__all__ = ["Fhir"]

#: Names of columns that are of the patient; any other one is the code of an observation.
_OF_PATIENT: Final = {"patient_id": "id", "gender": "gender", "birthDate": "birthDate"}
_CONDITION: Final = "condition:"
#: An observation that was withdrawn or never made is not read.
_VOID: Final = {"entered-in-error", "cancelled", "registered", "refuted"}
#: Kinds of results that are a single value; a range or a series is not.
_SINGLE: Final = ("Integer", "Boolean", "String", "DateTime", "Time")


@dataclass(frozen=True, kw_only=True)
class Fhir(ManyFiles):
    """Patients of one NDJSON file, or of all those of a folder or a pattern, with observations and conditions.

    Parameters
    ----------
    columns : str
        With commas between them: `patient_id`, `gender`, `birthDate`; the code of an observation or of one of its
        components (`8480-6`, or with its system `http://loinc.org|8480-6`), which is the patient's last one by its
        date; and `condition:PREFIX`, which is 1 where a patient has a condition with such a code, else 0.
    """

    columns: str
    form = "fhir:PATH?columns=patient_id,gender,birthDate,CODE,condition:PREFIX"
    wanted = "NDJSON files of FHIR R4 with Patient, Observation and Condition resources"
    endings = (".ndjson",)

    def __post_init__(self) -> None:
        names = self._names()
        if not all(names) or len(set(names)) < len(names) or _CONDITION in names:
            raise ValueError("option columns: wanted different names with commas between them, got others")

    def _names(self) -> list[str]:
        return [name.strip() for name in self.columns.split(",")]

    def read(self) -> pd.DataFrame:
        """See `TableSource.read`."""
        names = self._names()
        export = _Export([name for name in names if name not in _OF_PATIENT and not name.startswith(_CONDITION)])
        for path in self.paths():
            with path.open("rb") as lines:
                for number, line in enumerate(lines, 1):
                    if line.strip():
                        export.take(line, f"{path.name}, line {number}")
        return pd.DataFrame(export.rows(names), columns=pd.Index(names), dtype=object)


@dataclass
class _Export:
    """What the lines held so far. Observations may come before their patient."""

    codes: list[str]
    patients: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: By code and patient: date and value of the last observation.
    last: dict[str, dict[str, tuple[str, Any]]] = field(default_factory=dict)
    conditions: dict[str, set[str]] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    #: In Bundles references may name a resource by its address there.
    addresses: dict[str, str] = field(default_factory=dict)

    def take(self, line: bytes, where: str) -> None:
        """Add a line; WrongRowsError with its number, never its text."""
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if not isinstance(found, dict) or "resourceType" not in found:
            raise WrongRowsError(f"{where}: wanted a FHIR resource as JSON, got something else")
        for resource, address in _resources(found):
            kind = resource.get("resourceType")
            if kind == "Patient":
                self._patient(resource, address, where)
            elif kind == "Observation" and resource.get("status") not in _VOID:
                self._observation(resource, where)
            elif kind == "Condition" and not _VOID & {code for _, code in _codings(resource, "verificationStatus")}:
                codes = self.conditions.setdefault(_subject(resource, where), set())
                codes.update(code for _, code in _codings(resource, "code"))

    def _patient(self, resource: dict[str, Any], address: str, where: str) -> None:
        own = resource.get("id") or _tail(address)
        if not own:
            raise WrongRowsError(f"{where}: wanted an id of the Patient, got none")
        if own in self.patients:
            raise WrongRowsError(f"{where}: wanted each Patient once, got one a second time")
        self.patients[own] = resource | {"id": own}
        if self.addresses.setdefault(_tail(address), own) != own and _tail(address):
            raise WrongRowsError(f"{where}: wanted an address of its own for each Patient, got one of another")

    def _observation(self, resource: dict[str, Any], where: str) -> None:
        parts = [resource, *resource.get("component", ())]
        for code in self.codes:
            system, _, plain = code.rpartition("|")
            for part in parts:
                if not any(plain == each and system in {"", of} for of, each in _codings(part, "code")):
                    continue
                value = self._value(part, code, where)
                known = self.last.setdefault(code, {})
                who, when = _subject(resource, where), _date(resource)
                if value is not None and when >= known.get(who, ("", None))[0]:
                    known[who] = (when, value)

    def _value(self, part: dict[str, Any], code: str, where: str) -> Any:
        if quantity := part.get("valueQuantity"):
            if "value" not in quantity:
                return None
            unit = str(quantity.get("code") or quantity.get("unit") or "")
            if self.units.setdefault(code, unit) != unit:
                # The unit is not repeated: it is text of the export.
                raise WrongRowsError(f"{where}: wanted one unit of measure for each code, got another one than before")
            # "< 5" is no number: its row is set apart.
            return f"{quantity['comparator']} {quantity['value']}" if "comparator" in quantity else quantity["value"]
        if "valueCodeableConcept" in part:
            first = next((found for _, found in _codings(part, "valueCodeableConcept")), None)
            return part["valueCodeableConcept"].get("text") if first is None else first
        for kind in _SINGLE:
            if f"value{kind}" in part:
                return part[f"value{kind}"]
        if any(key.startswith("value") for key in part):
            raise WrongRowsError(f"{where}: wanted a single value of the observation, got a range, a ratio or a series")
        return None

    def rows(self, names: list[str]) -> Iterator[list[Any]]:
        """Yield a row for each patient; WrongRowsError where something is of a patient who is not there."""
        held = {code: self._by_patient(found) for code, found in self.last.items()}
        conditions = self._by_patient(self.conditions)
        for own, patient in self.patients.items():
            row: list[Any] = []
            for name in names:
                if name in _OF_PATIENT:
                    row.append(patient.get(_OF_PATIENT[name]))
                elif name.startswith(_CONDITION):
                    prefix = name.removeprefix(_CONDITION)
                    row.append(int(any(code.startswith(prefix) for code in conditions.get(own, ()))))
                else:
                    row.append(held.get(name, {}).get(own, ("", None))[1])
            yield row

    def _by_patient(self, found: dict[str, Any]) -> dict[str, Any]:
        if any(named in self.patients and own != named for named, own in self.addresses.items()):
            # Otherwise it would depend on the other patients whose observation this is.
            raise WrongRowsError("wanted an address of its own for each Patient, got one that is another's id")
        by_patient = {who if who in self.patients else self.addresses.get(who): what for who, what in found.items()}
        if None in by_patient:
            raise WrongRowsError("wanted the Patient of each Observation and Condition, got some without; add the file")
        return {str(who): what for who, what in by_patient.items()}


def _resources(found: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield a resource, or those of a Bundle, each with its address there."""
    if found["resourceType"] != "Bundle":
        yield found, ""
        return
    for entry in found.get("entry", ()):
        if "resource" in entry:
            yield entry["resource"], entry.get("fullUrl", "")


def _codings(resource: dict[str, Any], key: str) -> list[tuple[str, str]]:
    """Return system and code of each coding of a CodeableConcept."""
    return [(each.get("system", ""), each.get("code", "")) for each in resource.get(key, {}).get("coding", ())]


def _subject(resource: dict[str, Any], where: str) -> str:
    named = _tail(resource.get("subject", {}).get("reference", ""))
    if not named:
        raise WrongRowsError(f"{where}: wanted a reference to the Patient, got none")
    return named


def _tail(address: str) -> str:
    """Return the id of `Patient/7`, `https://host/fhir/Patient/7` or `urn:uuid:7`."""
    return address.partition("/_history/")[0].rpartition("/")[2].removeprefix("urn:uuid:")


def _date(resource: dict[str, Any]) -> str:
    """Return the date of an observation as text in UTC that sorts by time; a part of a date sorts first in it."""
    period = resource.get("effectivePeriod", {})
    text = resource.get("effectiveDateTime") or resource.get("effectiveInstant") or period.get("end")
    text = str(text or period.get("start") or resource.get("issued") or "")
    try:
        at = datetime.datetime.fromisoformat(text)
    except ValueError:
        return text
    return at.astimezone(datetime.UTC).isoformat() if at.tzinfo else text
