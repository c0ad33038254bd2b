"""Keeps a participant's last message of noisy sums at home, exactly as it was sent, until the run ends.

With it the participant subtracts its own part from the released sums. In a secure sum it is secret (the words before
the masks). Only its owner can read it, no dump includes it, and it is deleted after the receipt is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray

from clients.dataset import Table
from consortia.common import disk
from consortia.learners.blocks.rows import Rows
from consortia.participant.home import OWN_SUMS, Home

__all__ = ["FILE", "Sent", "forget", "keep", "rows_of", "sent"]

Array = NDArray[np.float64]
FILE: Final = OWN_SUMS


def rows_of(table: Table) -> Rows:
    """Return the rows of a table in the form that a learner of noisy sums takes."""
    return Rows(table.inputs["features"], table.target, table.unit_index)


@dataclass(frozen=True)
class Sent:
    """This participant's part of the last message exactly as it was sent, with noise and rounding.

    Attributes
    ----------
    key : 32 bytes that identify it for the coordinator: a hash of the blocks, or the context of a secure sum.
    blocks : blocks of the message, in its order.
    deviations : standard deviation of the noise in each block.
    """

    key: bytes
    blocks: tuple[Array, ...]
    deviations: tuple[float, ...]


def keep(home: Home, run_id: str, part: Sent) -> None:
    """Keep the own part at home, readable only by its owner. The next one replaces it."""
    numbers = {
        "key": torch.frombuffer(bytearray(part.key), dtype=torch.uint8),
        **{f"block-{place}": torch.from_numpy(block) for place, block in enumerate(part.blocks)},
        "noise": torch.tensor(part.deviations, dtype=torch.float64),
    }
    draft, file = (home.run_folder(run_id) / name for name in (FILE + ".tmp", FILE))
    disk.write_secret(draft, safetensors.torch.save(numbers))
    draft.replace(file)


def sent(home: Home, run_id: str) -> Sent | None:
    """Return the own part; None if none was sent or the run is over."""
    file = home.run_folder(run_id) / FILE
    if not file.is_file():
        return None
    found = safetensors.torch.load(file.read_bytes())
    noise = tuple(found["noise"].tolist())
    blocks = tuple(found[f"block-{place}"].numpy() for place in range(len(noise)))
    return Sent(found["key"].numpy().tobytes(), blocks, noise)


def forget(home: Home, run_id: str) -> None:
    """Delete the own part at the end of the run."""
    (home.run_folder(run_id) / FILE).unlink(missing_ok=True)
