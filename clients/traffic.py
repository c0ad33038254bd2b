"""The connections of `clients.telecom`. Only ordinary ones are learned; what looks different is called an attack."""

from __future__ import annotations

from dataclasses import replace

from clients import telecom
from clients.industry import IndustryClient
from clients.schema import Schema, Target

__all__ = ["CLIENT", "SCHEMA"]

SCHEMA: Schema = replace(
    telecom.SCHEMA,
    name="traffic",
    target=Target(name="label", kind="anomaly", classes=(telecom.NORMAL, telecom.ATTACK)),
)

CLIENT = IndustryClient(
    name="traffic",
    title="Ordinary traffic",
    schema=SCHEMA,
    read=telecom.read,
    sites=telecom.SITES,
    dataset="telecom/nsl_kdd",
    synthesise=telecom.synthesise,
    metrics=("auc", "auprc"),
    default_rows=1000,
    homes=telecom.CLIENT.homes,
)
