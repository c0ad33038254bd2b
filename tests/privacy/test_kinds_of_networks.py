"""The kinds of networks that contracts name, each with the clipped sum of brute force."""

from __future__ import annotations

import pytest
import torch
from shaped_rows import network, of, rows_of, shape_of

from clients import networks
from clients.models import check_norm_names, loss_for
from privacy._engines import RowEngine, engine_for
from privacy._rows import Rows
from privacy.bookkeeping import BookKeeping
from privacy.dp_sgd import check_module


@pytest.mark.parametrize("kind", networks.NAMES)
def test_clipped_sums_of_every_kind_are_those_of_brute_force(kind: str) -> None:
    client = of(shape_of(kind))
    table, module, loss = rows_of(client), network(client, kind), loss_for(client.schema.target)
    check_norm_names(module, "beat")
    steps = check_module(module, table.inputs, table.target, loss)
    parameters = list(module.parameters())
    engine = engine_for(module, parameters, steps)
    assert isinstance(engine, BookKeeping if kind in {"cnn", "tcn"} else RowEngine)
    (piece,) = Rows(table.inputs, table.target, torch.arange(40), 40, single=True).draws(torch.arange(40), 100)
    each = []
    for row in range(40):
        losses = loss(module({"features": table.inputs["features"][row : row + 1]}), table.target[row : row + 1])
        each.append(torch.cat([one.flatten() for one in torch.autograd.grad(losses.sum(), parameters)]))
    norms = torch.stack(each).norm(dim=1)
    clip = float(norms.median())
    with engine.attached():
        assert torch.allclose(engine.add(piece, loss, clip), norms, rtol=1e-4)
        wanted = (torch.stack(each) * (clip / norms).clamp(max=1).unsqueeze(1)).sum(0)
        assert torch.allclose(engine.take(), wanted, atol=1e-4)
