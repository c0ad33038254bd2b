"""What a participant sent in the last message of noisy sums, exactly as it was sent: kept at home until the run ends.

With it the participant takes its own part off the released sums. In a secure sum it is a secret (the words before the
masks): it is written for its owner's eyes only, dumped nowhere, and deleted once the receipt is written.
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
from consortia.participant.home import Home

__all__ = ["FILE", "Sent", "forget", "keep", "rows_of", "sent"]

Array = NDArray[np.float64]
FILE: Final = "own-sums.safetensors"


def rows_of(table: Table) -> Rows:
    """Return the rows of a table as a learner of noisy sums sees them."""
    return Rows(table.inputs["features"], table.target, table.unit_index)


@dataclass(frozen=True)
class Sent:
    """This participant's part of the last message exactly as it was sent, noise and rounding included.

    Attributes
    ----------
    key : 32 bytes by which the coordinator names it: a hash of the blocks, or the context of a secure sum.
    blocks : of the message, in its order.
    deviations : of the noise in each.
    """

    key: bytes
    blocks: tuple[Array, ...]
    deviations: tuple[float, ...]


def keep(home: Home, run_id: str, part: Sent) -> None:
    """Keep one's own part at home, for its owner's eyes only; the next one replaces it."""
    numbers = {
        "key": torch.frombuffer(bytearray(part.key), dtype=torch.uint8),
        **{f"block-{place}": torch.from_numpy(block) for place, block in enumerate(part.blocks)},
        "noise": torch.tensor(part.deviations, dtype=torch.float64),
    }
    draft, file = (home.run_folder(run_id) / name for name in (FILE + ".tmp", FILE))
    disk.write_secret(draft, safetensors.torch.save(numbers))
    draft.replace(file)


def sent(home: Home, run_id: str) -> Sent | None:
    """Return one's own part, None where none was sent or the run is over."""
    file = home.run_folder(run_id) / FILE
    if not file.is_file():
        return None
    found = safetensors.torch.load(file.read_bytes())
    noise = tuple(found["noise"].tolist())
    blocks = tuple(found[f"block-{place}"].numpy() for place in range(len(noise)))
    return Sent(found["key"].numpy().tobytes(), blocks, noise)


def forget(home: Home, run_id: str) -> None:
    """Delete one's own part: the run is over."""
    (home.run_folder(run_id) / FILE).unlink(missing_ok=True)
