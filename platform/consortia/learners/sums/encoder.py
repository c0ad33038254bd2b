"""A frozen network below the sums: its outputs, cut off at [-1, 1], take the place of a schema's columns.

Formal guarantee
----------------
The network is a public constant: it follows from the contract (seed, model, the hash of its file). What it makes of a
row is a function of this row alone, to the bit (`privacy.rowwise`). So the bounds of `learners.sums.statistics`, which
hold for any rows, hold for its outputs as they do for columns, and nothing more is charged.

* Whatever the numbers of a row are, its outputs are cut off at [-1, 1].
* A row on which the network raises, or gives no number or another shape, has outputs that are no numbers, so it adds 0
  to every block; no other row's outputs change a bit. The error stays at home, without its text.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clients.models import FederatedModule
from privacy.rowwise import outputs

__all__ = ["Encoder", "encoder_of"]

log = logging.getLogger("consortia.participant")


@dataclass(frozen=True, eq=False)
class Encoder:
    """A network without its last layer.

    Attributes
    ----------
    network : features (n_rows, n_features) to (n_rows, width); no parameter of it trains.
    width : public number of outputs.
    """

    network: FederatedModule
    width: int

    def outputs(self, features: Tensor) -> Tensor:
        """Return what becomes columns (n_rows, width), float64; NaN for a row on which the network fails."""
        if not len(features):
            return torch.zeros(0, self.width, dtype=torch.float64)
        try:
            return self._of(features)
        except (Exception, SystemExit):  # noqa: BLE001 - of some row: each by itself, so that the others' stay as they are
            return self._one_by_one(features)

    def _of(self, features: Tensor) -> Tensor:
        found = outputs(self.network, {"features": features}, cut_off)
        if found.shape != (len(features), self.width):
            raise ValueError(f"network: wanted {self.width} outputs a row, got another shape")
        return found

    def _one_by_one(self, features: Tensor) -> Tensor:
        found = torch.full((len(features), self.width), torch.nan, dtype=torch.float64)
        failed: Counter[str] = Counter()
        for row in range(len(features)):
            try:
                found[row] = self._of(features[row : row + 1])[0]
            except (Exception, SystemExit) as error:  # noqa: BLE001 - it met a row: neither text nor failure may show
                failed[type(error).__name__] += 1
        told = ", ".join(f"{count} {why}" for why, count in failed.items())
        log.warning("encoder: rows on which the network fails, which add nothing: %s", told or "none")
        return found


def cut_off(found: Tensor) -> Tensor:
    """Return a network's outputs cut off at [-1, 1], float64; what is no number stays none."""
    return found.double().clamp(-1.0, 1.0)


def encoder_of(network: FederatedModule, width: int) -> Encoder:
    """Return the network without its head, frozen, in evaluation mode; the module is taken over."""
    network.head = nn.Identity()
    return Encoder(network.requires_grad_(False).eval(), width)
