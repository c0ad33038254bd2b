"""Errors of the industries. They name the column, file or key, never a value of a row."""

from __future__ import annotations

from clients.masking import masked


class ClientError(Exception):
    """Base of everything that goes wrong between a source of rows and a tensor. Secrets in its text are masked."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(masked(each) if isinstance(each, str) else each for each in arguments))


class SchemaError(ClientError):
    """A column is missing, unknown or wholly of another type, or a schema contradicts itself."""


class TableError(SchemaError, ValueError):
    """No schema can be made of these frames or declarations."""


class QuarantineError(ClientError):
    """Too many rows break the schema for the rest to be trusted, or none is left."""


class SourceError(ClientError):
    """A source is misspelt, missing, empty or cannot be read."""


class UnknownClientError(ClientError):
    """No industry of that name is built in or installed."""


class ClientLoadError(ClientError):
    """A partner's wheel names a client that cannot be loaded, or two wheels name the same one."""


class MetricError(ClientError):
    """No metric of that name is known, the package that brings it is broken, or it measures other targets."""


class ModelError(ClientError):
    """An encoder or head does not have the promised width, or the model's specification is impossible."""
