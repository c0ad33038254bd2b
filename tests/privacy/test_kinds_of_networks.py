"""The kinds of networks that contracts name, each with the clipped sum of brute force."""

from __future__ import annotations

import pytest
from clipped_sums import check_network
from shaped_rows import network, of, rows_of, shape_of

from clients import networks
from clients.models import check_norm_names, loss_for
from privacy._engines import RowEngine
from privacy.bookkeeping import BookKeeping


@pytest.mark.parametrize("kind", networks.NAMES)
def test_clipped_sums_of_every_kind_are_those_of_brute_force(kind: str) -> None:
    client = of(shape_of(kind))
    table, module, loss = rows_of(client), network(client, kind), loss_for(client.schema.target)
    check_norm_names(module, "beat")
    check_network(module, table, loss, BookKeeping if kind in {"cnn", "tcn"} else RowEngine, atol=1e-4)
