"""What a run is asked for: by `consortia run`, by a sweep, by a control."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `consortia run` was asked for."""

    scenario: str
    data: Path | None = None
    rounds: int | None = None
    seed: int | None = None
    split_seed: int | None = None
    epsilon: tuple[str, ...] = ()
    engine: str = "embedded"
    secure_noise: bool = False
    ledger: Path | None = None
    out: Path = Path("runs")
    dump: Path | None = None
    resume: Path | None = None
    batches: int | None = None
    placebo: bool = False
    uncompressed: bool = False
    draws: int = 3
    compressed: bool = True
