"""Tests for planted bugs that no other test sees (see `planted_bugs`)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from clients import registry
from clients.industry import effective_schema
from clients.models import build
from clients.spec import ModelSpec
from consortia import side_releases
from privacy.randomness import seeded_generator


def _amplifying() -> tuple[Any, int]:
    """A network whose second layer gives rounding alone, and whose next ones amplify it."""
    client = registry.get("factory")
    width = effective_schema(client, filter="").width
    module = build(client, ModelSpec(kind="mlp", hidden=(64, 64, 64)), width, seeded_generator("planted"))
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    with torch.no_grad():
        layers[0].weight[32:], layers[0].bias[32:] = layers[0].weight[:32].clone(), layers[0].bias[:32].clone()
        row = (torch.rand(32, generator=torch.Generator().manual_seed(3)) * 0.5 + 0.5) * 1e6
        layers[1].weight[:] = torch.cat([row, -row])
        layers[1].bias.zero_()
        for layer in layers[2:]:
            layer.weight.fill_(1e6)
            layer.bias.zero_()
    return module, width


def test_the_score_of_a_row_in_metrics_goes_by_that_row() -> None:
    module, width = _amplifying()
    x = torch.randn(100, width, generator=torch.Generator().manual_seed(7))

    def scores(rows: torch.Tensor) -> torch.Tensor:
        table: Any = SimpleNamespace(inputs={"features": rows}, target=torch.zeros(len(rows)))
        return torch.from_numpy(side_releases._scores(module, table))

    whole = scores(x)
    for n in range(1, 100):  # on some processors two rows round in another way than one or three
        assert torch.equal(scores(x[:n]), whole[:n])
        assert torch.equal(scores(x[n:]), whole[n:])
