"""`check_client`: the conformance suite of industries (after scikit-learn's `check_estimator`)."""

from __future__ import annotations

from collections.abc import Callable

import torch

from clients.industry import IndustryClient, ModelSpec
from consortia.common.errors import ArgumentError
from consortia.testing import _client_model_checks as model_checks
from consortia.testing import _client_row_checks as row_checks
from consortia.testing._client_case import Case
from consortia.testing._suite import SuiteError, run_checks
from consortia_plugins.arguments import named_arguments

DEFAULT_SPEC = ModelSpec(kind="mlp", hidden=(16, 8))

_CHECKS = {
    "schema_holds": row_checks.schema_holds,
    "same_seed_same_rows": row_checks.same_seed_same_rows,
    "identifiers_never_reach_a_feature": row_checks.identifiers_never_reach_a_feature,
    "identifiers_never_reach_a_metric": row_checks.identifiers_never_reach_a_metric,
    "identifiers_never_reach_a_log": row_checks.identifiers_never_reach_a_log,
    "preprocessing_is_per_row": row_checks.preprocessing_is_per_row,
    "features_within_bounds": row_checks.features_within_bounds,
    "names_a_missing_column": row_checks.names_a_missing_column,
    "only_declared_scopes": model_checks.only_declared_scopes,
    "model_does_not_mix_rows": model_checks.model_does_not_mix_rows,
    "one_epoch_lowers_the_loss": model_checks.one_epoch_lowers_the_loss,
    "works_with_one_row": model_checks.works_with_one_row,
    "works_with_one_class": model_checks.works_with_one_class,
    "survives_the_round_trip": model_checks.survives_the_round_trip,
    "imports_nothing_forbidden": model_checks.imports_nothing_forbidden,
}


class ClientCheckError(SuiteError):
    """The client breaks at least one promise. `failures` maps each failed check to what it saw."""


@named_arguments(ArgumentError)
def check_client(
    client: IndustryClient,
    *,
    spec: ModelSpec = DEFAULT_SPEC,
    rows: int = 240,
    tell: Callable[[str], None] | None = None,
) -> tuple[str, ...]:
    """Hold an industry to the promises of the seam, on its own synthetic rows.

    Returns the names of the checks and raises `ClientCheckError`, both as every suite of `consortia.testing` does.

    Parameters
    ----------
    client : IndustryClient
    spec : ModelSpec
        The network to build; a client with an encoder of its own may need other widths than the default.
    rows : int
        Synthetic rows for each site.
    tell : callable, optional
        Hears a line as each check begins; a wide schema takes a minute.
    """
    torch.set_num_threads(1)
    return run_checks(_CHECKS, Case(client, spec, rows), ClientCheckError, f"client {client.name!r}", tell)
