"""Shared parts of the client checks: synthetic rows, a model, a plain training pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch

from clients.dataset import Table, prepare
from clients.industry import IndustryClient, ModelSpec
from clients.metrics import compute
from clients.models import FederatedModule, build, default_encoder, loss_for, predict
from clients.sources import numpy_generator
from consortia.testing._suite import require

KEY = b"check_client: a key for synthetic rows"
LINEAR = ModelSpec()


@dataclass
class Case:
    """A client under test."""

    client: IndustryClient
    spec: ModelSpec
    rows: int
    _frames: dict[str, pd.DataFrame] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.client.schema.target.kind == "anomaly" and self.spec.kind == "mlp":
            self.spec = replace(self.spec, kind="autoencoder")

    @property
    def specs(self) -> tuple[ModelSpec, ...]:
        """The network asked for, and the linear one where the encoder is the platform's own and there are labels."""
        own = self.client.encoder is not default_encoder or self.spec.kind == "autoencoder"
        return (self.spec,) if own else (self.spec, LINEAR)

    def frame(self, site: str | None = None) -> pd.DataFrame:
        """A fresh copy of a site's synthetic rows (the first site's by default)."""
        site = site or self.client.sites[0]
        if site not in self._frames:
            self._frames[site] = self.draw(site, 0)
        return self._frames[site].copy()

    def draw(self, site: str, seed: int, rows: int | None = None) -> pd.DataFrame:
        """Rows from a generator seeded by the site and `seed`."""
        generator = numpy_generator("check_client", self.client.name, site, seed)
        return self.client.synthesise(generator, rows or self.rows, site)

    def table(self, frame: pd.DataFrame, *, unit: str = "record") -> Table:
        """The rows as tensors; none may be set apart."""
        return prepare(self.client, frame, unit=unit, key=KEY, quarantine_threshold=0.0)

    def module(self, spec: ModelSpec | None = None, *, seed: int = 0) -> FederatedModule:
        """A network from a generator of that seed, as a run starts it."""
        generator = torch.Generator().manual_seed(seed)
        return build(self.client, spec or self.spec, self.client.schema.width, generator)

    def stirred(self, spec: ModelSpec | None = None, *, seed: int = 0) -> FederatedModule:
        """The same with a little noise on every parameter.

        A head that starts at zero, as the default one does, gives every row the same output: it would hide
        whatever the layers below it do.
        """
        module = self.module(spec, seed=seed)
        generator = torch.Generator().manual_seed(seed + 1)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
        return module

    def metrics(self, module: FederatedModule, table: Table) -> dict[str, float | None]:
        """The client's metrics, each None or a finite number."""
        kind = self.client.schema.target.kind
        values = compute(self.client.metrics, kind, predict(module, table.inputs).numpy(), table.target.numpy())
        require(
            set(values) == set(self.client.metrics),
            f"wanted metrics {self.client.metrics}, got {set(values)}",
        )
        for name, value in values.items():
            require(value is None or np.isfinite(value), f"metric {name} is {value}; wanted a number or None")
        return values

    def mean_loss(self, module: FederatedModule, table: Table) -> float:
        """Mean loss in evaluation mode."""
        module.eval()
        with torch.no_grad():
            loss = loss_for(self.client.schema.target)(module(table.inputs), table.target)
        module.train()
        require(
            loss.shape == (len(table),),
            f"wanted a loss for each of {len(table)} rows, got {tuple(loss.shape)}",
        )
        return float(loss.mean())

    def train(self, module: FederatedModule, table: Table, batch: int = 16) -> None:
        """One epoch of Adam in a seeded order."""
        loss = loss_for(self.client.schema.target)
        trainable = [p for p in module.parameters() if p.requires_grad]
        require(bool(trainable), "the network has no parameter to train")
        optimizer = torch.optim.Adam(trainable, lr=0.01)
        order = torch.randperm(len(table), generator=torch.Generator().manual_seed(1))
        # A client's dropout draws from torch's global generator: seeded for two equal runs, then put back.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(1)
            for start in range(0, len(table), batch):
                rows = order[start : start + batch]
                optimizer.zero_grad()
                inputs = {name: tensor[rows] for name, tensor in table.inputs.items()}
                loss(module(inputs), table.target[rows]).mean().backward()  # type: ignore[no-untyped-call]
                optimizer.step()


@contextmanager
def failing_with(what: str) -> Iterator[None]:
    """Say during what an exception came."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{what}: {error}") from error
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
