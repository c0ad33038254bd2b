"""A client whose rows are images, sequences or items, and a network of each kind for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from clients.arrays import array_columns, array_frame, item_columns
from clients.dataset import Table, prepare
from clients.industry import IndustryClient, ModelSpec
from clients.models import FederatedModule, build
from clients.schema import Schema, Target
from clients.shapes import Image, Items, Sequence, Shape
from clients.sources import numpy_generator

IMAGE = Image(channels=2, height=4, width=4)
ITEMS = Items(vocabulary=9, earlier=3)
STEPS = Sequence(length=6, channels=3, mask=True)
OPTIONS: dict[str, dict[str, Any]] = {
    "cnn": {"channels": [3, 4], "norm": True},
    "tcn": {"channels": [3, 4], "norm": True, "activation": "relu"},
    "gru": {"state": 4},
    "lstm": {"state": 4},
    "transformer": {"state": 4, "hidden": 6, "layers": 2},
}


def of(shape: Shape, **terms: Any) -> IndustryClient:
    """A client with rows of that shape, of three classes; of items, with a value from -2 to 2."""
    target = Target(name="y", kind="multiclass", classes=("a", "b", "c"))
    columns = () if isinstance(shape, Items) else array_columns(shape, "v", low=-2, high=2)
    if isinstance(shape, Items):
        target = Target(name="y", kind="regression", low=-2, high=2)
        columns = item_columns(shape, "v", low=-2, high=2)
    schema = Schema(name="beat", version=1, columns=columns, target=target, shape=shape)

    def judged(generator: np.random.Generator, rows: int, site: str) -> Any:
        assert isinstance(shape, Items)
        ids = generator.integers(0, shape.vocabulary + 1, (rows, 1 + shape.earlier))
        ids[:, 0] = ids[:, 0].clip(1)
        values = np.where(ids[:, 1:] > 0, generator.uniform(-2, 2, (rows, shape.earlier)), 0)
        liked = np.clip(0.3 * ids[:, 0] - 1.5 + values.mean(1) + generator.normal(0, 0.3, rows), -2, 2)
        return array_frame(shape, "v", np.column_stack([ids, values]), y=liked)

    def synthesise(generator: np.random.Generator, rows: int, site: str) -> Any:
        label = generator.integers(3, size=rows)
        values = generator.normal(label.reshape(-1, *[1] * len(shape.sizes)) - 1, 0.7, (rows, *shape.sizes))
        if isinstance(shape, Sequence) and shape.mask:
            lengths = generator.integers(1, shape.length + 1, (rows, 1))
            values[:, -1] = np.arange(shape.length) < lengths
        return array_frame(shape, "v", values, y=np.array(target.classes)[label])

    return IndustryClient(
        name=terms.pop("name", "beat"),
        title="Beat",
        schema=schema,
        read=lambda folder, site: None,  # type: ignore[arg-type, return-value]
        sites=("one", "two"),
        dataset="beat",
        synthesise=judged if isinstance(shape, Items) else synthesise,
        metrics=("rmse",) if isinstance(shape, Items) else ("accuracy",),
        **terms,
    )


def rows_of(client: IndustryClient, rows: int = 40) -> Table:
    return prepare(client, client.synthesise(numpy_generator("beat"), rows, "one"))


def network(client: IndustryClient, kind: str, **spec: Any) -> FederatedModule:
    chosen = ModelSpec(
        kind=kind, **{"hidden": (6 if kind == "two-tower" else 5,), "options": OPTIONS.get(kind, {}), **spec}
    )
    module = build(client, chosen, client.schema.width, torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():  # a head of zeros would hide what is below it
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return module


def shape_of(kind: str) -> Shape:
    return {"cnn": IMAGE, "two-tower": ITEMS}.get(kind, STEPS)
