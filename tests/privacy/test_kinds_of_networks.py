"""The kinds of networks that contracts name, each with the clipped sum of brute force."""

from __future__ import annotations

import pytest
import torch
from clipped_sums import check_network
from shaped_rows import ITEMS, network, of, rows_of, shape_of

from clients import networks
from clients.models import check_norm_names, loss_for
from clients.networks.lora import adapt, freeze
from privacy._engines import RowEngine
from privacy._rows import Rows
from privacy.bookkeeping import BookKeeping


@pytest.mark.parametrize("kind", networks.NAMES)
def test_clipped_sums_of_every_kind_are_those_of_brute_force(kind: str) -> None:
    client = of(shape_of(kind))
    table, module, loss = rows_of(client), network(client, kind), loss_for(client.schema.target)
    check_norm_names(module, "beat")
    check_network(module, table, loss, BookKeeping if kind in {"cnn", "tcn", "two-tower"} else RowEngine, atol=1e-4)


#: Of each kind the dense layers that get adapters.
ADAPTED = {"cnn": "encoder.*", "gru": "encoder.*.states", "transformer": "encoder.*.queries", "mlp": "encoder.*"}


@pytest.mark.parametrize("kind", ADAPTED)
def test_clipped_sums_with_adapters_and_a_frozen_trunk_are_those_of_brute_force(kind: str) -> None:
    client = of(shape_of(kind))
    module = network(client, kind, hidden=(6, 5))
    adapt(module, [ADAPTED[kind]], rank=2, scale=0.7, generator=torch.Generator().manual_seed(3))
    freeze(module, ["trunk.*"])
    with torch.no_grad():  # adapters that start at zero would hide `down`
        for name, parameter in module.named_parameters():
            if name.endswith("up.weight"):
                parameter.normal_(0, 0.5, generator=torch.Generator().manual_seed(4))
    table, loss = rows_of(client), loss_for(client.schema.target)
    wanted = BookKeeping if kind in {"cnn", "mlp"} else RowEngine
    check_network(module, table, loss, wanted, atol=1e-4)
    assert {name.partition(".")[0] for name, p in module.named_parameters() if p.requires_grad} == {"encoder", "head"}


def test_users_of_several_rows_are_clipped_once_each_as_by_brute_force() -> None:
    client = of(ITEMS)
    table, module, loss = rows_of(client), network(client, "two-tower"), loss_for(client.schema.target)
    parameters = list(module.parameters())
    users = torch.arange(40) % 7
    (piece,) = Rows(table.inputs, table.target, users, 7).draws(torch.arange(7), 100)
    sums = []
    for user in range(7):
        rows = users == user
        losses = loss(module({"features": table.inputs["features"][rows]}), table.target[rows])
        sums.append(torch.cat([one.flatten() for one in torch.autograd.grad(losses.sum(), parameters)]))
    norms = torch.stack(sums).norm(dim=1)
    clip = float(norms.median())
    engine = BookKeeping(module, parameters)
    with engine.attached():
        found = engine.add(piece, loss, clip)
        total = engine.take()
    assert bool((found >= norms * (1 - 1e-6)).all())  # never too short: what rows cancel is counted a little
    assert torch.allclose(found, norms, rtol=0.02)
    wanted = (torch.stack(sums) * (clip / norms).clamp(max=1).unsqueeze(1)).sum(0)
    assert torch.allclose(total, wanted, rtol=0.02, atol=1e-2 * clip)
    assert not engine.views[module.encoder[1].items.weight][0].any()  # the place of no item
